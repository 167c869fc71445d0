"""Rules that a test sets through the control routes: faults, quotas, latencies, model states, kind of answers."""

from collections import deque
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bg_pipeline_local_aws.protocol import Call


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Rule(_Settings):
    operation: str = ""
    model: str = ""
    region: str = ""

    def matches(self, call: Call) -> bool:
        """True if the rule applies to the call; an empty field matches every call."""
        return (
            self.operation in ("", call.operation)
            and self.model in ("", call.model)
            and self.region in ("", call.region)
        )


TOO_MANY_REQUESTS = "Too many requests, please wait before trying again."


class Fault(_Rule):
    """A fault of the next ``times`` matching calls (0: all).

    ``match`` is a text that the body contains, ``image`` the SHA-256 of the picture, ``skip`` the number of matching
    calls that pass first, ``share`` the probability that a matching call is affected. ``action`` is one of:

    * ``error``: an error response with ``code``, ``message``, ``status`` (default: that of the code), ``headers`` and
      further ``members`` of the body.
    * ``delay``: the answer is delayed by ``seconds``.
    * ``reset``: the connection is cut after the request was read; with ``after_work`` only after the model did its
      work, which is billed, as if the answer was lost on the network.
    * ``block``: content policy refuses the call because of ``where``: prompt, image, output, or some of the outputs.
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
    def error_message(self) -> str:
        """The message of the error response."""
        default = (
            TOO_MANY_REQUESTS
            if self.code == "ThrottlingException"
            else f"{self.code}: this fault was asked for."
        )
        return self.message or default

    def matches(self, call: Call) -> bool:
        """True if the rule applies to the call."""
        return (
            super().matches(call)
            and self.task in ("", call.task)
            and self.image in ("", call.image)
            and self.match.encode() in call.body
        )


class Quota(_Rule):
    """At most ``per_minute`` calls per minute in each Region.

    ``shape`` is the enforcement: ``bucket`` is a token bucket of ``depth`` calls; ``fixed`` and ``rolling`` count
    calls in a window of ``window`` seconds. After ``per_day`` calls every further call is refused.
    """

    per_minute: Annotated[float, Field(gt=0)]
    shape: Literal["bucket", "fixed", "rolling"] = "bucket"
    depth: Annotated[float, Field(ge=1)] = 1.0
    window: Annotated[float, Field(gt=0)] = 60.0
    per_day: int | None = None


class QuotaMeter:
    """Counts the calls of one quota in one Region. Times are seconds of a monotonic clock."""

    def __init__(self, quota: Quota, now: float) -> None:
        self._quota = quota
        self._rate = quota.per_minute / 60
        self._first_window = self._refilled = now
        self._tokens = quota.depth
        self._call_times: deque[float] = deque()
        self._today = 0

    def exceeded(self, now: float) -> Literal["", "minute", "day"]:
        """The limit that one more call would exceed, or an empty string."""
        quota = self._quota
        if quota.per_day is not None and self._today >= quota.per_day:
            return "day"
        if quota.shape == "bucket":
            self._tokens = min(quota.depth, self._tokens + (now - self._refilled) * self._rate)
            self._refilled = now
            return "" if self._tokens > 1 - 1e-9 else "minute"
        start = now - quota.window
        if quota.shape == "fixed":
            start = now - (now - self._first_window) % quota.window
        while self._call_times and self._call_times[0] < start:
            self._call_times.popleft()
        return "" if len(self._call_times) < self._rate * quota.window else "minute"

    def take(self, now: float) -> None:
        """Counts an admitted call."""
        self._today += 1
        if self._quota.shape == "bucket":
            self._tokens -= 1
        else:
            self._call_times.append(now)


class Latency(_Rule):
    """Answers come ``seconds`` after the request; with ``sigma``, lognormally distributed with that median."""

    seconds: Annotated[float, Field(ge=0)]
    sigma: Annotated[float, Field(ge=0)] = 0.0


class Switches(_Settings):
    """How pictures are generated.

    ``canned``: no image operations; every answer is a fixed picture of the requested size with a file of at least
    ``canned_bytes`` bytes. ``note``: painted pictures carry the visible `painting.NOTE`.
    """

    canned: bool = False
    canned_bytes: Annotated[int, Field(ge=0)] = 0
    note: bool = True


class ModelState(_Settings):
    """State of a catalogue model in one Region, or in all Regions (``region`` empty).

    ``access`` decides how calls are answered:

    * ``granted``: normally. ``denied``: access was never requested. ``unused-legacy``: refused as AWS refuses LEGACY
      models to accounts that have not used them recently.
    * ``pending``: a Marketplace subscription is in progress and never completes.
    * ``unsubscribed``: the first call subscribes, which takes ``seconds``; until then calls are refused, except that
      first one if ``first_call_passes``.
    * ``no-marketplace-rights``: no caller had the right to subscribe yet. ``payment``: the subscription fails because
      the account has no payment instrument. ``scp-denied``: a service control policy denies the model in another
      Region of the profile. ``unverified``: AWS does not allow the account to call the model.

    ``authorized`` overrides ``authorizationStatus``; None derives it from ``access``.
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
    """The value that Service Quotas returns for a quota; ``quota`` is its code or name. It is not enforced."""

    quota: str
    value: Annotated[float, Field(ge=0)]
    region: str = ""


class CustomModel(_Settings):
    """A Custom Labels model version: how long it takes to start and stop, and the labels it returns.

    ``fails``: STARTING ends in FAILED. ``labels`` empty: the labels of DetectLabels.
    """

    arn: str
    start_seconds: Annotated[float, Field(ge=0)] = 0.0
    stop_seconds: Annotated[float, Field(ge=0)] = 0.0
    fails: bool = False
    labels: list[str] = []


class ModelVersion:
    """The state of a Custom Labels model version over time. Times are seconds of a monotonic clock."""

    def __init__(self, model: CustomModel) -> None:
        self.model = model
        self.units = 0
        self._started: float | None = None
        self._stopped: float | None = None

    def start(self, now: float, units: int) -> None:
        """Starts the version."""
        self.units, self._started, self._stopped = units, now, None

    def stop(self, now: float) -> None:
        """Stops the version."""
        self._stopped = now

    def status(self, now: float) -> str:
        """The ``Status`` that Rekognition returns."""
        if self._stopped is not None:
            return "STOPPING" if now < self._stopped + self.model.stop_seconds else "STOPPED"
        if self._started is None:
            return "TRAINING_COMPLETED"
        if now < self._started + self.model.start_seconds:
            return "STARTING"
        return "FAILED" if self.model.fails else "RUNNING"
