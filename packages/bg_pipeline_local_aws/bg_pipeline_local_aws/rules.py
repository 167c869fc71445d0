"""The rules a test may lay down: faults, quotas, latencies, what a model is, how it answers."""

from collections import deque
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bg_pipeline_local_aws.wire import Call


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Rule(_Settings):
    operation: str = ""
    model: str = ""
    region: str = ""

    def meets(self, call: Call) -> bool:
        """True if the call is what the rule names; an empty field names everything."""
        return (
            self.operation in ("", call.operation)
            and self.model in ("", call.model)
            and self.region in ("", call.region)
        )


TOO_MANY = "Too many requests, please wait before trying again."


class Fault(_Rule):
    """Something that goes wrong for the next ``times`` calls it matches (0: for ever).

    ``match`` is a text in the request's body, ``image`` the SHA-256 of its picture, ``skip`` lets that many calls
    pass first, ``share`` strikes only that part of them. What happens:

    * ``error``: refused with ``code``, ``message``, ``status`` (default: the code's own), ``headers`` and further
      ``members`` of the body.
    * ``delay``: answered ``seconds`` later.
    * ``reset``: the connection is cut after the request was read; with ``after_work`` the model did, and billed, its
      work before, as when an answer is lost on its way.
    * ``block``: refused by content policy because of ``where``: prompt, image, output or some of several outputs.
    """

    task: str = ""
    match: str = ""
    image: str = ""
    times: Annotated[int, Field(ge=0)] = 1
    skip: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    action: Literal["error", "delay", "reset", "block"] = "error"
    code: str = "ThrottlingException"
    message: str = ""
    status: int | None = None
    headers: dict[str, str] = {}
    members: dict[str, Any] = {}
    seconds: float = 0.0
    after_work: bool = True
    where: Literal["prompt", "image", "output", "some"] = "prompt"

    @property
    def words(self) -> str:
        """What the refusal says."""
        default = (
            TOO_MANY if self.code == "ThrottlingException" else f"{self.code}: this fault was asked for."
        )
        return self.message or default

    def meets(self, call: Call) -> bool:
        """True if the call is one the rule speaks of."""
        return (
            super().meets(call)
            and self.task in ("", call.task)
            and self.image in ("", call.image)
            and self.match.encode() in call.body
        )


class Quota(_Rule):
    """At most ``per_minute`` calls a minute in each Region, enforced in one of the shapes a service may use.

    ``bucket``: a token bucket that holds ``depth`` calls; ``fixed`` and ``rolling``: a window of ``window`` seconds.
    ``per_day`` refuses everything after that many calls.
    """

    per_minute: Annotated[float, Field(gt=0)]
    shape: Literal["bucket", "fixed", "rolling"] = "bucket"
    depth: Annotated[float, Field(ge=1)] = 1.0
    window: Annotated[float, Field(gt=0)] = 60.0
    per_day: int | None = None


class Meter:
    """One quota's count in one Region. Times are seconds of a monotonic clock."""

    def __init__(self, quota: Quota, now: float) -> None:
        self._quota = quota
        self._rate = quota.per_minute / 60
        self._opened = self._seen = now
        self._tokens = quota.depth
        self._taken: deque[float] = deque()
        self._today = 0

    def refuses(self, now: float) -> Literal["", "minute", "day"]:
        """Which allowance the next call would exceed, or nothing."""
        quota = self._quota
        if quota.per_day is not None and self._today >= quota.per_day:
            return "day"
        if quota.shape == "bucket":
            self._tokens = min(quota.depth, self._tokens + (now - self._seen) * self._rate)
            self._seen = now
            return "" if self._tokens > 1 - 1e-9 else "minute"
        start = now - quota.window
        if quota.shape == "fixed":
            start = now - (now - self._opened) % quota.window
        while self._taken and self._taken[0] < start:
            self._taken.popleft()
        return "" if len(self._taken) < self._rate * quota.window else "minute"

    def take(self, now: float) -> None:
        """Count an admitted call."""
        self._today += 1
        if self._quota.shape == "bucket":
            self._tokens -= 1
        else:
            self._taken.append(now)


class Latency(_Rule):
    """Answers come ``seconds`` after the request, or lognormally spread around that median with ``sigma``."""

    seconds: Annotated[float, Field(ge=0)]
    sigma: Annotated[float, Field(ge=0)] = 0.0


class Switches(_Settings):
    """How pictures are made.

    ``canned``: no picture work at all, each answer a fixed picture of the right size whose file has at least
    ``canned_bytes``; ``note``: whether painted pictures carry the visible note.
    """

    canned: bool = False
    canned_bytes: Annotated[int, Field(ge=0)] = 0
    note: bool = True


class ModelState(_Settings):
    """What a catalogue entry is in one Region, or in all of them (``region`` empty).

    ``access`` is what becomes of a call:

    * ``granted``: it is answered. ``denied``: nobody asked for access. ``unused-legacy``: as AWS takes LEGACY models
      from accounts that do not use them.
    * ``pending``: a Marketplace subscription is being set up and never gets ready.
    * ``unsubscribed``: the first call subscribes, which takes ``seconds``; until then calls are refused, but for that
      first one if ``first_call_passes``.
    * ``no-marketplace-rights``: nobody with the right to subscribe called yet. ``payment``: the subscription fails
      for want of a payment instrument. ``scp-denied``: the organization denies it in another Region of the profile.
      ``unverified``: AWS does not let the account call it at all.

    ``authorized`` is told as ``authorizationStatus``, whatever the calls find; None is as ``access`` suggests.
    """

    model: str
    region: str = ""
    lifecycle: Literal["ACTIVE", "LEGACY", "RETIRED"] = "ACTIVE"
    access: Literal[
        "granted",
        "denied",
        "pending",
        "unused-legacy",
        "unsubscribed",
        "no-marketplace-rights",
        "payment",
        "scp-denied",
        "unverified",
    ] = "granted"
    seconds: Annotated[float, Field(ge=0)] = 0.0
    first_call_passes: bool = False
    authorized: bool | None = None
    legacy_since: date | None = None
    extended_access: date | None = None
    end_of_life: date | None = None


class AppliedQuota(_Settings):
    """What Service Quotas tells of a quota of the account; ``quota`` is its code or its name. It is not enforced."""

    quota: str
    value: Annotated[float, Field(ge=0)]
    region: str = ""


class CustomModel(_Settings):
    """A Custom Labels model version: how long it takes to start and to stop, and what it sees.

    ``fails``: STARTING ends in FAILED. ``labels`` empty: what DetectLabels sees.
    """

    arn: str
    start_seconds: Annotated[float, Field(ge=0)] = 0.0
    stop_seconds: Annotated[float, Field(ge=0)] = 0.0
    fails: bool = False
    labels: list[str] = []


class Window:
    """A Custom Labels model version's life. Times are seconds of a monotonic clock."""

    def __init__(self, model: CustomModel) -> None:
        self.model = model
        self.units = 0
        self._started: float | None = None
        self._stopped: float | None = None

    def start(self, now: float, units: int) -> None:
        """Begin to start."""
        self.units, self._started, self._stopped = units, now, None

    def stop(self, now: float) -> None:
        """Begin to stop."""
        self._stopped = now

    def status(self, now: float) -> str:
        """Rekognition's word for the state it is in."""
        if self._stopped is not None:
            return "STOPPING" if now < self._stopped + self.model.stop_seconds else "STOPPED"
        if self._started is None:
            return "TRAINING_COMPLETED"
        if now < self._started + self.model.start_seconds:
            return "STARTING"
        return "FAILED" if self.model.fails else "RUNNING"
