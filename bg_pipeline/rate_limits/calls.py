"""Calls of services that cost money: paced by a gate, made once by the SDK, and their errors told apart.

Every call of Bedrock, Rekognition and SageMaker goes through `ModelCalls.make`. A refusal for the rate goes back
to the gate and counts for nothing, and so does one that passes once AWS has set up the account's access; a passing
fault is tried again a few times; a call whose end is unknown is reported as such, because it may have been billed.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as NotConnected,
)

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import (
    CallError,
    ModelUnavailable,
    OutcomeUnknown,
    RunStopped,
    Throttled,
    Transient,
)
from bg_pipeline.generators import Operation
from bg_pipeline.generators.refusals import SUBSCRIBE, refusal
from bg_pipeline.rate_limits.account_quotas import AccountQuotas
from bg_pipeline.rate_limits.heartbeats import Heartbeats
from bg_pipeline.rate_limits.limiter import Permit, Rate, RateLimiter, RegionState
from bg_pipeline.settings import Settings

T = TypeVar("T")

_RATE = {
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "ModelNotReadyException",
    "SlowDown",
}
_PASSING = {
    "InternalServerException",
    "InternalServerError",
    "InternalFailure",
    "ServiceUnavailableException",
    "ServiceUnavailable",
    "ModelTimeoutException",
    "ModelErrorException",
    "ModelError",
    "InternalDependencyException",
}
_CREDENTIALS = {
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
    "ExpiredToken",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
}
_OF_THE_DAY = re.compile(r"per day|daily|tokens/day|24 hours", re.IGNORECASE)
_NEVER_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError)

_TOKENS = re.compile(r"tokens", re.IGNORECASE)

BACK_OFF_SECONDS = (0.5, 20.0)
ACCESS_SECONDS = 15 * 60.0
"""So long AWS may take to set up an account's access to a model ("Access foundation models": up to 15 minutes)."""
UNBEGUN_SECONDS = 20.0
"""So long it may take until the first call's subscription is seen to have begun."""

_log = logging.getLogger(__name__)


class DayQuotaExhausted(RunStopped):
    """The service refuses every call for the rest of the day, or until AWS Support lifts the account's quota."""


def classify(error: ClientError | BotoCoreError, operation: str) -> CallError | RunStopped:
    """What an SDK error means for the image it met, or for the run."""
    if isinstance(error, ClientError):
        return _classify_answer(error, operation)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return RunStopped(f"there are no AWS credentials: {error}; `bg-pipeline doctor` says what is found")
    name = type(error).__name__
    if isinstance(error, _NEVER_SENT) or type(error) is NotConnected:
        return Transient(name, f"{operation} could not be reached: {error}")
    # A read timeout, a connection closed or an answer torn after the request had left.
    cause = f"{operation} was called and its answer did not arrive ({name}); the call may have been billed"
    return OutcomeUnknown("MaybeBilled", cause)


def _classify_answer(error: ClientError, operation: str) -> CallError | RunStopped:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", "")) or code
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _CREDENTIALS:
        return RunStopped(f"AWS does not accept the credentials ({code}: {message})")
    if (code in _RATE or code == "ServiceQuotaExceededException") and _OF_THE_DAY.search(message):
        return DayQuotaExhausted(
            f"the day's quota of {operation} is used up ({message}){_more_a_day(message)}"
        )
    refused = refusal(code, message)
    if refused is not None:
        return refused
    if code in _RATE or status == 429:
        return Throttled(code, message)
    if code in _PASSING or status in (408, 424) or status >= 500:
        return Transient(code, message)
    return CallError(code or "Unknown", message)


def _more_a_day(message: str) -> str:
    """What helps against a quota of tokens a day, which a new account meets with its first call."""
    if not _TOKENS.search(message):
        return ""
    return (
        "; a new account is often refused from its first call on, and waiting does not help then: ask AWS Support "
        "for more tokens a day (Cross-Model Max Tokens Per Day of Amazon Bedrock, which no request in Service Quotas "
        "raises), or name a model of another provider"
    )


@dataclass
class _Waiting:
    """Since when a lane waits for access, and when it was last refused; seconds of the monotonic clock.

    Once a call was served it is ``over``; the next refusals soon after still belong to it.
    """

    since: float
    refused_at: float
    over: bool = False


class _Withheld(CallError):
    """The account's access to the model is being set up; the call is made again, and counts for nothing."""


@dataclass(frozen=True, slots=True)
class CallResult(Generic[T]):
    """A call's answer and the Region that gave it."""

    answer: T
    region: str


class ModelCalls:
    """The gates and clients of one process. Safe for threads; end it with `close`.

    ``stop`` ends all waiting: whoever waits for a gate gets `RunStopped`. ``note`` is called with one line when a
    model is waited for, and when that is over.
    """

    def __init__(
        self,
        aws: Aws,
        settings: Settings,
        stop: threading.Event,
        heartbeats: Heartbeats | None = None,
        note: Callable[[str], None] = _log.warning,
    ) -> None:
        self._aws = aws
        self._heartbeats = heartbeats
        self._working = ExitStack()
        self._settings = settings
        self._stop = stop
        self._gates: dict[tuple[str, str], RateLimiter] = {}
        self._note = note
        self._died: dict[RateLimiter, ModelUnavailable] = {}
        self._access: dict[tuple[RateLimiter, str], _Waiting] = {}
        self._quotas = AccountQuotas(aws)
        self._lock = threading.Lock()

    def limiter(self, operation: Operation, regions: Sequence[str]) -> RateLimiter:
        """The gate of an operation, with one lane for each Region that it was used in so far."""
        key = (operation.name, operation.invoke_id)
        with self._lock:
            gate = self._gates.setdefault(key, RateLimiter(operation.name, {}))
            new = [region for region in regions if region not in gate.regions]
            for region in new:
                gate.add(region, self._rate(operation, region))
            if new and self._heartbeats is not None:
                # One quota for each model and profile: two caption models do not share one.
                lane = f"{operation.name}-{operation.invoke_id}".strip("-").replace(":", "-")
                self._working.enter_context(
                    self._heartbeats.working(lane, new, lambda region, n, place: gate.share(n, place, region))
                )
            return gate

    def close(self) -> None:
        """Tells the other processes that this one makes no more calls."""
        self._working.close()

    def _rate(self, operation: Operation, region: str) -> Rate:
        facts = facts_of(operation.name, operation.invoke_id)
        tokens = self._quotas.tokens_per_minute(facts, region) or facts.tokens_in(region)
        own = self._settings.quota(operation.name) or self._quotas.requests_per_minute(facts, region)
        if own is not None:
            return Rate.per_minute(own, tokens)
        return Rate.per_minute(facts.requests_in(region), tokens, may_probe=True)

    def _acquire(self, gate: RateLimiter, tokens: float, again: Permit | None = None) -> Permit:
        """A slot; `ModelUnavailable` where the gate was closed because the model died."""
        try:
            return gate.acquire(tokens=tokens, stop=self._stop, again=again)
        except RunStopped:
            died = self._died.get(gate)
            if died is None or self._stop.is_set():
                raise
            error = ModelUnavailable(died.code, str(died), retired=died.retired, passing=died.passing)
            error.region = died.region
            raise error from None

    def make(
        self,
        operation: Operation,
        send: Callable[[Any, str], T],
        *,
        regions: Sequence[str],
        tokens: float = 0.0,
        used_tokens: Callable[[T], float] | None = None,
        unknown_repeats: int = 0,
        before: Callable[[], None] = lambda: None,
    ) -> CallResult[T]:
        """Calls ``send(client, id to call)`` when the gate lets it through, and returns its answer.

        ``tokens`` is what the service reserves for the call; ``used_tokens`` reads from the answer what it
        used. ``before`` comes right before each sending, which may be long after it was asked for; what it raises
        is raised, and nothing is sent. Raises a `CallError` for this image, `ModelUnavailable` if the model cannot
        be used in a Region (``region`` is set on it), or `RunStopped`.
        """
        gate = self.limiter(operation, regions)
        attempts = unknowns = 0
        slot = self._acquire(gate, tokens)
        while True:
            with slot:
                client = self._aws.client(operation.service, slot.lane)
                before()
                slot.sent()
                try:
                    answer = send(client, operation.invoke_id)
                except (ClientError, BotoCoreError) as error:
                    meaning = classify(error, operation.name)
                    cause = error
                else:
                    slot.succeeded(used_tokens(answer) if used_tokens else None)
                    self._has_access(gate, operation, slot.lane)
                    return CallResult(answer, slot.lane)
                if isinstance(meaning, ModelUnavailable):
                    meaning = self._without_access(gate, operation, slot.lane, meaning)
                if isinstance(meaning, Throttled):
                    slot.refused(_retry_after(cause))
                elif isinstance(meaning, _Withheld):
                    slot.withheld()
                elif isinstance(meaning, Transient):
                    slot.failed()
                else:
                    slot.succeeded()
            if isinstance(meaning, (Throttled, _Withheld)):
                slot = self._acquire(gate, tokens, slot)
                continue
            if isinstance(meaning, Transient):
                attempts += 1
                unknowns += isinstance(meaning, OutcomeUnknown)
                if attempts < self._settings.attempts and unknowns <= unknown_repeats:
                    shortest, longest = BACK_OFF_SECONDS
                    self._stop.wait(min(shortest * 2**attempts, longest) * random.uniform(0.5, 1.0))  # noqa: S311
                    slot = self._acquire(gate, tokens)
                    continue
            if isinstance(meaning, DayQuotaExhausted):
                gate.close(str(meaning))
            if isinstance(meaning, ModelUnavailable):
                meaning.region = slot.lane
                self._died[gate] = meaning
                gate.close(str(meaning), slot.lane)
            raise meaning from cause

    def _without_access(
        self, gate: RateLimiter, operation: Operation, region: str, error: ModelUnavailable
    ) -> CallError:
        """What a refusal of access means: `_Withheld` while it may pass, else `ModelUnavailable` with what to do."""
        agreement = "" if error.retired else self._agreement(operation, region)
        if not (error.passing or agreement == "PENDING"):
            return error
        now = time.monotonic()
        with self._lock:
            waiting = self._access.get((gate, region))
            begun = waiting is None or (waiting.over and now - waiting.refused_at > ACCESS_SECONDS)
            if waiting is None or begun:
                waiting = self._access[gate, region] = _Waiting(now, now)
            waiting.refused_at = now
            waited = now - waiting.since
        unbegun = agreement in ("NOT_AVAILABLE", "ERROR")
        if waited >= (UNBEGUN_SECONDS if unbegun else ACCESS_SECONDS):
            if unbegun:
                return ModelUnavailable(error.code, f"{error} → {SUBSCRIBE}")
            text = f"{error} (asked again for {ACCESS_SECONDS / 60:.0f} minutes in vain)"
            return ModelUnavailable(error.code, text, passing=True)
        if begun:
            self._note(
                f"{operation.invoke_id} in {region} cannot be called yet: {error}. It is tried again for up to "
                f"{ACCESS_SECONDS / 60:.0f} minutes; refused calls are not billed"
            )
        return _Withheld(error.code, str(error))

    def _has_access(self, gate: RateLimiter, operation: Operation, region: str) -> None:
        with self._lock:
            waiting = self._access.get((gate, region))
            if waiting is None or waiting.over:
                return
            waiting.over = True
            waited = time.monotonic() - waiting.since
        self._note(f"{operation.invoke_id} in {region} can be called now, after {waited:.0f} s")

    def _agreement(self, operation: Operation, region: str) -> str:
        """The state of the account's Marketplace agreement; empty where nobody tells."""
        if operation.service != "bedrock-runtime":
            return ""
        try:
            client = self._aws.client("bedrock", region)
            found = client.get_foundation_model_availability(modelId=operation.model_id)
        except (ClientError, BotoCoreError):
            return ""
        return str(found.get("agreementAvailability", {}).get("status", ""))

    def states(self) -> dict[str, dict[str, RegionState]]:
        """What each gate's lanes did so far, by operation and Region."""
        with self._lock:
            return {f"{name} {model}".strip(): gate.state() for (name, model), gate in self._gates.items()}

    def refused(self) -> int:
        """Calls that services refused for the rate so far."""
        return sum(lane.refused for lanes in self.states().values() for lane in lanes.values())


def _retry_after(error: ClientError | BotoCoreError) -> float | None:
    if not isinstance(error, ClientError):
        return None
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
