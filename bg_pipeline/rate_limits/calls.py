"""Paid calls of AWS services: paced by a rate limiter, sent without SDK retries, and their errors classified.

Every paid call of Bedrock, Rekognition and SageMaker goes through `ModelCalls.make`. A throttled call is queued again
and does not count as an attempt; neither does one that is refused while AWS sets up the account's access. A transient
error is retried a few times. A call with an unknown outcome is reported as such, because it may have been billed.
"""

import logging
import random
import re
import threading
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
from bg_pipeline.rate_limits.limiter import Permit, Rate, RateLimiter, RegionState, since_epoch
from bg_pipeline.settings import Settings

T = TypeVar("T")

_THROTTLING = {
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "ModelNotReadyException",
    "SlowDown",
}
_TRANSIENT = {
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
_DAILY = re.compile(r"per day|daily|tokens/day|24 hours", re.IGNORECASE)
_NEVER_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError)

_TOKENS = re.compile(r"tokens", re.IGNORECASE)

BACK_OFF_SECONDS = (0.5, 20.0)
ACCESS_SECONDS = 15 * 60.0
"""Seconds that AWS may take to set up access to a model ("Access foundation models": up to 15 minutes)."""
SUBSCRIPTION_SECONDS = 20.0
"""Seconds until the subscription that the first call starts must be visible."""

_log = logging.getLogger(__name__)


class DayQuotaExhausted(RunStopped):
    """The service refuses all calls for the rest of the day, or until AWS Support raises the account's quota."""


def classify(error: ClientError | BotoCoreError, operation: str) -> CallError | RunStopped:
    """The pipeline's error for an SDK error: a `CallError` concerns one image, a `RunStopped` the whole run."""
    if isinstance(error, ClientError):
        return _classify_answer(error, operation)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return RunStopped(
            f"there are no AWS credentials: {error}; `bg-pipeline doctor` shows what is configured"
        )
    name = type(error).__name__
    if isinstance(error, _NEVER_SENT) or type(error) is NotConnected:
        return Transient(name, f"{operation} could not be reached: {error}")
    # A read timeout, a closed connection or a torn response after the request was sent.
    cause = f"{operation} was called and its answer did not arrive ({name}); the call may have been billed"
    return OutcomeUnknown("MaybeBilled", cause)


def _classify_answer(error: ClientError, operation: str) -> CallError | RunStopped:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", "")) or code
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _CREDENTIALS:
        return RunStopped(f"AWS does not accept the credentials ({code}: {message})")
    if (code in _THROTTLING or code == "ServiceQuotaExceededException") and _DAILY.search(message):
        return DayQuotaExhausted(
            f"the day's quota of {operation} is used up ({message}){_daily_quota_advice(message)}"
        )
    refused = refusal(code, message)
    if refused is not None:
        return refused
    if code in _THROTTLING or status == 429:
        return Throttled(code, message)
    if code in _TRANSIENT or status in (408, 424) or status >= 500:
        return Transient(code, message)
    return CallError(code or "Unknown", message)


def _daily_quota_advice(message: str) -> str:
    """What to do about a quota of tokens per day, which a new account may exceed with its first call."""
    if not _TOKENS.search(message):
        return ""
    return (
        "; a new account is often refused from its first call on, and waiting does not help then: ask AWS Support "
        "for more tokens a day (Cross-Model Max Tokens Per Day of Amazon Bedrock, which no request in Service Quotas "
        "raises), or name a model of another provider"
    )


@dataclass
class _AccessWait:
    """When the wait for access in a Region began and when the last call was refused (monotonic seconds).

    ``over`` is set once a call succeeds; a refusal shortly after that still counts towards this wait.
    """

    since: float
    refused_at: float
    over: bool = False


class _Withheld(CallError):
    """AWS is setting up the account's access to the model; the call is repeated and does not count as an attempt."""


@dataclass(frozen=True, slots=True)
class CallResult(Generic[T]):
    """The answer of a call and the Region that gave it."""

    answer: T
    region: str


class ModelCalls:
    """The rate limiters and clients of one process; thread-safe. It must be ended with `close`.

    Setting ``stop`` ends all waiting with `RunStopped`. ``note`` is called with one line when calls begin to wait for
    access to a model, and when that wait ends; ``waiting`` with one line after each refused call in between.
    ``clock`` returns monotonic seconds.
    """

    def __init__(
        self,
        aws: Aws,
        settings: Settings,
        stop: threading.Event,
        heartbeats: Heartbeats | None = None,
        note: Callable[[str], None] = _log.warning,
        waiting: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = since_epoch,
    ) -> None:
        self._aws = aws
        self._waiting = waiting
        self._clock = clock
        self._heartbeats = heartbeats
        self._heartbeat_blocks = ExitStack()
        self._settings = settings
        self._stop = stop
        self._limiters: dict[tuple[str, str], RateLimiter] = {}
        self._note = note
        self._unavailable: dict[RateLimiter, ModelUnavailable] = {}
        self._access_waits: dict[tuple[RateLimiter, str], _AccessWait] = {}
        self._quotas = AccountQuotas(aws)
        self._lock = threading.Lock()

    def limiter(self, operation: Operation, regions: Sequence[str]) -> RateLimiter:
        """The rate limiter of an operation, with at least ``regions``; other Regions used so far stay in it."""
        key = (operation.name, operation.invoke_id)
        with self._lock:
            limiter = self._limiters.setdefault(key, RateLimiter(operation.name, {}, clock=self._clock))
            new = [region for region in regions if region not in limiter.regions]
            for region in new:
                limiter.add(region, self._rate(operation, region))
            if new and self._heartbeats is not None:
                # Each model and profile has its own quota; for example, two caption models do not share one.
                name = f"{operation.name}-{operation.invoke_id}".strip("-").replace(":", "-")
                self._heartbeat_blocks.enter_context(
                    self._heartbeats.working(
                        name, new, lambda region, count, index: limiter.share(count, index, region)
                    )
                )
            return limiter

    def close(self) -> None:
        """Removes this process's heartbeats: it makes no more calls."""
        self._heartbeat_blocks.close()

    def _rate(self, operation: Operation, region: str) -> Rate:
        facts = facts_of(operation.name, operation.invoke_id)
        tokens = self._quotas.tokens_per_minute(facts, region) or facts.tokens_in(region)
        requests = self._settings.quota(operation.name) or self._quotas.requests_per_minute(facts, region)
        if requests is not None:
            return Rate.per_minute(requests, tokens)
        return Rate.per_minute(facts.requests_in(region), tokens, may_probe=True)

    def _acquire(self, limiter: RateLimiter, tokens: float, retry_of: Permit | None = None) -> Permit:
        """A permit; raises `ModelUnavailable` if the limiter was closed because the model became unavailable."""
        try:
            return limiter.acquire(tokens=tokens, stop=self._stop, retry_of=retry_of)
        except RunStopped:
            cause = self._unavailable.get(limiter)
            if cause is None or self._stop.is_set():
                raise
            error = ModelUnavailable(cause.code, str(cause), retired=cause.retired, passing=cause.passing)
            error.region = cause.region
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
        """Calls ``send(client, model id)`` as soon as the rate limiter allows it, and returns the answer.

        ``tokens`` are those that the service reserves for the call; ``used_tokens(answer)`` returns the number that
        it used. A call with an unknown outcome is repeated ``unknown_repeats`` times. ``before`` is called right
        before each request, which may be long after this method was called; if it raises, nothing is sent. Raises a
        `CallError` for this image, `ModelUnavailable` if the model cannot be used in a Region (its ``region``), or
        `RunStopped`.
        """
        limiter = self.limiter(operation, regions)
        attempts = unknowns = 0
        permit = self._acquire(limiter, tokens)
        while True:
            with permit:
                client = self._aws.client(operation.service, permit.region)
                before()
                permit.sent()
                try:
                    answer = send(client, operation.invoke_id)
                except (ClientError, BotoCoreError) as sdk_error:
                    error = classify(sdk_error, operation.name)
                    cause = sdk_error
                else:
                    permit.succeeded(used_tokens(answer) if used_tokens else None)
                    self._end_access_wait(limiter, operation, permit.region)
                    return CallResult(answer, permit.region)
                if isinstance(error, ModelUnavailable):
                    error = self._wait_for_access(limiter, operation, permit.region, error)
                if isinstance(error, Throttled):
                    permit.refused(_retry_after(cause))
                elif isinstance(error, _Withheld):
                    permit.withheld()
                elif isinstance(error, Transient):
                    permit.failed()
                else:
                    permit.succeeded()
            if isinstance(error, (Throttled, _Withheld)):
                permit = self._acquire(limiter, tokens, permit)
                continue
            if isinstance(error, Transient):
                attempts += 1
                unknowns += isinstance(error, OutcomeUnknown)
                if attempts < self._settings.attempts and unknowns <= unknown_repeats:
                    shortest, longest = BACK_OFF_SECONDS
                    self._stop.wait(min(shortest * 2**attempts, longest) * random.uniform(0.5, 1.0))  # noqa: S311
                    permit = self._acquire(limiter, tokens)
                    continue
            if isinstance(error, DayQuotaExhausted):
                limiter.close(str(error))
            if isinstance(error, ModelUnavailable):
                error.region = permit.region
                self._unavailable[limiter] = error
                limiter.close(str(error), permit.region)
            raise error from cause

    def _wait_for_access(
        self, limiter: RateLimiter, operation: Operation, region: str, error: ModelUnavailable
    ) -> CallError:
        """The error for refused access: `_Withheld` while access may still be granted, else `ModelUnavailable`."""
        agreement = "" if error.retired else self._agreement(operation, region)
        if not (error.passing or agreement == "PENDING"):
            return error
        now = self._clock()
        with self._lock:
            wait = self._access_waits.get((limiter, region))
            is_new = wait is None or (wait.over and now - wait.refused_at > ACCESS_SECONDS)
            if wait is None or is_new:
                wait = self._access_waits[limiter, region] = _AccessWait(now, now)
            wait.refused_at = now
            waited = now - wait.since
        not_subscribed = agreement in ("NOT_AVAILABLE", "ERROR")
        if waited >= (SUBSCRIPTION_SECONDS if not_subscribed else ACCESS_SECONDS):
            if not_subscribed:
                return ModelUnavailable(error.code, f"{error} → {SUBSCRIBE}")
            text = f"{error} (still refused after {ACCESS_SECONDS / 60:.0f} minutes)"
            return ModelUnavailable(error.code, text, passing=True)
        if is_new:
            self._note(
                f"{operation.invoke_id} in {region} cannot be called yet: {error}. It is tried again for up to "
                f"{ACCESS_SECONDS / 60:.0f} minutes; refused calls are not billed"
            )
        else:
            self._waiting(
                f"{operation.invoke_id} in {region}: still no access after {waited / 60:.1f} of at most "
                f"{ACCESS_SECONDS / 60:.0f} minutes"
            )
        return _Withheld(error.code, str(error))

    def _end_access_wait(self, limiter: RateLimiter, operation: Operation, region: str) -> None:
        with self._lock:
            wait = self._access_waits.get((limiter, region))
            if wait is None or wait.over:
                return
            wait.over = True
            waited = self._clock() - wait.since
        self._note(f"{operation.invoke_id} in {region} can be called now, after {waited:.0f} s")

    def _agreement(self, operation: Operation, region: str) -> str:
        """The state of the account's Marketplace agreement for a Bedrock model; empty if unknown."""
        if operation.service != "bedrock-runtime":
            return ""
        try:
            client = self._aws.client("bedrock", region)
            availability = client.get_foundation_model_availability(modelId=operation.model_id)
        except (ClientError, BotoCoreError):
            return ""
        return str(availability.get("agreementAvailability", {}).get("status", ""))

    def states(self) -> dict[str, dict[str, RegionState]]:
        """The call counts so far, by operation and Region."""
        with self._lock:
            return {f"{name} {model}".strip(): each.state() for (name, model), each in self._limiters.items()}

    def refused(self) -> int:
        """The number of throttled calls so far."""
        return sum(region.refused for regions in self.states().values() for region in regions.values())


def _retry_after(error: ClientError | BotoCoreError) -> float | None:
    if not isinstance(error, ClientError):
        return None
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
