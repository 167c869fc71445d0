"""The rate limiter in front of every paid call: it paces calls at the quota and adapts when the service throttles.

`AdaptiveRate`, `RegionLimiter` and `earliest_free` hold state only and get the time as an argument, so that they can
be tested in simulated time (`benchmarks/rate_limiter.py`). `RateLimiter` adds a clock, a queue and thread safety.
"""

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from bg_pipeline.errors import RunStopped

MARGIN = 0.001  # the calls of a minute may arrive within 60 ms less time than they were sent
SLOW_CALLS = 1.0  # calls per second; a bucket of one second then holds one call, so no call may arrive early
SLOW_MARGIN = (
    0.006  # measured with busy threads: a call may take 8 ms longer to its service than the next one
)
LATE_SECONDS = (
    0.1  # a delay of the waiting thread up to this is made up by the next call, unless the quota is slow
)
IDLE_SECONDS = (
    1.0  # after this long without a waiting call, time without throttling is no evidence about the quota
)
WINDOW_SECONDS = 60.0  # AWS states its quotas for models by the minute

# Parameters of the adaptation. `AdaptiveRate` explains them; benchmarks/rate_limiter.py shows the effect of a change.
CUT = 0.05
RARE_CUT = 0.01
RARE_CALLS = 20
CUT_SECONDS = 3.0
CUT_CALLS = 8
RETURN_CALLS = 150
TRY_AGAIN_PART = 0.25
CLOSED_AFTER = 3
CLOSED_SECONDS = (0.25, 2.0)
FORGIVEN_CALLS = 16
NEWS_SECONDS = 15.0
LEAST = 0.05
PROBED_TO = 8.0
PROBED_WORTH = 1.1

FAILURES = 5  # in a row; more than a single image causes, so that one bad image does not suspend a Region
REST_SECONDS = (2.0, 30.0)  # shortest and longest time for which a failing Region is suspended
ACCESS_SECONDS = (
    2.0,
    60.0,
)  # shortest and longest pause between calls while AWS sets up the account's access
POLL_SECONDS = 0.25  # how soon a waiting thread notices that the run was stopped

_EPOCH = time.time() - time.monotonic()


def since_epoch() -> float:
    """Seconds since 1970 from a monotonic clock, the same for all processes of a machine."""
    return _EPOCH + time.monotonic()


@dataclass(frozen=True)
class Rate:
    """A quota: calls per second and, if the service limits them, tokens per second.

    ``may_probe`` is True for a published default, which may differ from the account's quota: see `AdaptiveRate`.
    """

    calls: float
    tokens: float | None = None
    may_probe: bool = False

    @classmethod
    def per_minute(cls, calls: float, tokens: float | None = None, *, may_probe: bool = False) -> Self:
        """A rate from requests and tokens per minute, the units of AWS's quotas for models."""
        return cls(calls / 60, None if tokens is None else tokens / 60, may_probe)


class _TokenBucket:
    """A leaky bucket: ``backlog`` grows with each call and drains with time, at a rate that may change."""

    def __init__(self) -> None:
        self.backlog = 0.0
        self._at = 0.0

    def drain(self, now: float, rate: float, credit: float = 0.0) -> None:
        self.backlog = max(self.backlog - rate * max(now - self._at, 0.0), -credit)
        self._at = max(now, self._at)


class AdaptiveRate:
    """The rate of one Region: evenly spaced calls at the quota, no initial burst, slower after throttling.

    All times are seconds of one clock, passed as arguments; nothing sleeps. The level is the fraction of the quota in
    use. The rules and their reasons:

    - **Throttled.** The level is multiplied by the ratio of accepted to throttled calls since the last cut, at most
      by 0.95, no more than once per 3 s and 8 calls. This ratio suits a deep token bucket, which throttles only the
      excess, and a shallow one, which throttles every second call at a rate 1 % too high. If at most one call in 20
      was throttled, the rate is nearly right and the cut is 1 %. Then the level rises along a cubic curve: fast to
      near the level that was throttled, slowly around it, and beyond it late, but never above the configured quota.
      The throttled call itself is repeated after a quarter of the usual interval.
    - **Window used up.** After 3 throttled calls in a row, single calls are tried with growing pauses of up to 2 s,
      and the level becomes the rate that was accepted in the last minute.
    - **Shared.** Processes that know their index take turns: each owns every n-th point of one time grid, so that
      their calls together are as even as those of one process. One throttled call in 16, and what was learned in the
      15 s before another process is seen to join, is attributed to the sharing and does not reduce the level.
    - **Configured too low.** Without ``may_probe`` the configured quota is never exceeded, and if it is right no call
      is throttled. With it the level rises along the same cubic while calls wait and none is throttled: by 5 % after
      2 minutes, to 4 times after 5. If the default was right, this costs one throttled call in a run (up to 10 with
      fixed windows; a deep bucket uses up its credit first). Throttling below a level of 1.1 ends the probing.
      Processes that share a quota do not start probing: each would mistake the others' throttling for its own.
    """

    def __init__(self, quota: Rate) -> None:
        self._quota = quota
        self._slow = quota.calls <= SLOW_CALLS
        self._full_rate = quota.calls * (1 - (SLOW_MARGIN if self._slow else MARGIN))
        self._processes, self._turn = 1, -1
        self._index: int | None = None
        self._calls, self._tokens = _TokenBucket(), _TokenBucket()
        self._busy_until = self._not_before = -math.inf
        self._expected_at = math.inf
        # The level: 1.0 until a call is throttled, then a cubic that starts ``_dip`` below ``_peak`` and reaches
        # ``_peak`` at the time ``_peak_at``.
        self._learned, self._dip = False, CUT
        self._peak, self._peak_at = 1.0, 0.0
        self._top = PROBED_TO if quota.may_probe else 1.0
        # Counts since the last cut, and the times of the calls accepted in the last minute.
        self._call_count = self._last_cut_call = self._refused = self._accepted = self._in_a_row = 0
        self._last_cut_at = -math.inf
        self._strikes, self._last_strike_call = 0.0, 0
        self._level_before_cut = 1.0
        self._recent_calls: deque[float] = deque()
        self._recent_since = 0.0

    def rate(self, now: float) -> float:
        """Calls per second at the time ``now``."""
        return self._full_rate * self._level(now) / self._processes

    def _level(self, now: float) -> float:
        progress = (min(now, self._busy_until) - self._peak_at) / self._return_seconds()
        top = 1.0 if self._processes > 1 and self._peak <= 1 else self._top
        return min(top, self._peak * (1 + self._dip * max(progress, -1.0 if self._learned else 0.0) ** 3))

    def _return_seconds(self) -> float:
        return max(WINDOW_SECONDS, RETURN_CALLS / self._quota.calls if self._learned else 0.0)

    def _token_rate(self, now: float) -> float:
        return (self._quota.tokens or math.inf) * self._level(now) / self._processes

    def _drain(self, now: float) -> None:
        # Below the full level a process skips some of its turns; the time until its next turn counts as credit.
        skips_turns = self._index is not None and self._level(now) < 1
        self._calls.drain(now, self.rate(now), credit=1.0 if skips_turns else 0.0)
        self._tokens.drain(now, self._token_rate(now))

    def next_at(self, now: float) -> float:
        """The earliest time of the next call, at least ``now``; any other method call may change it."""
        self._drain(now)
        if self._late(now):
            return now
        at = max(
            now,
            self._not_before,
            now + self._calls.backlog / self.rate(now),
            now + self._tokens.backlog / self._token_rate(now),
        )
        if self._index is not None and self._level(now) <= 1:
            at = max(at, self._turn_after(at, self._index) / self._full_rate)
        return at

    def expect_call(self, at: float) -> None:
        """A thread waits for the time ``at``: its call may be up to `LATE_SECONDS` late, which the next makes up."""
        self._expected_at = at

    def _late(self, now: float) -> float:
        return now - self._expected_at if self._expected_at < now <= self._expected_at + LATE_SECONDS else 0.0

    def _turn_after(self, at: float, index: int) -> int:
        """The number, on the grid of all processes, of this process's first turn at or after ``at``."""
        turns = math.ceil((at * self._full_rate - index) / self._processes - 1e-3)
        return max(turns * self._processes + index, self._turn + 1)

    def acquire(self, now: float, cost: float = 1.0, tokens: float = 0.0) -> int:
        """Records a call at ``now`` and returns its number; ``tokens`` are those that the service reserves for it."""
        self._drain(now)
        if now > self._busy_until and self._top > 1:
            self._peak_at = max(self._peak_at, now)
        if not self._recent_calls:
            self._recent_since = now
        late = self._late(now)
        self._expected_at = math.inf
        if self._index is not None:
            self._turn = self._turn_after(now - late, self._index)
        self._calls.backlog += cost - (0.0 if self._slow else late * self.rate(now))
        self._tokens.backlog += tokens
        self._busy_until = now + 1 / self.rate(now) + IDLE_SECONDS
        self._recent_calls.append(now)
        self._drop_old_calls(now)
        self._call_count += 1
        return self._call_count

    def _drop_old_calls(self, now: float) -> None:
        while self._recent_calls and self._recent_calls[0] <= now - WINDOW_SECONDS:
            self._recent_calls.popleft()

    def refund(self, tokens: float) -> None:
        """Returns tokens that were reserved for a call and not used."""
        self._tokens.backlog -= tokens

    def record_refusal(self, call: int, now: float, retry_after: float = 0.0) -> None:
        """Records that the service throttled this call; no call is allowed in the next ``retry_after`` seconds."""
        self._drain(now)
        self._expected_at = math.inf
        self._drop_old_calls(now)
        if self._recent_calls:
            self._recent_calls.pop()
        calls = call - self._last_cut_call
        self._refused += calls > 0
        accepted = calls - self._refused
        self._in_a_row = self._in_a_row + 1 if accepted <= self._accepted else 1
        self._accepted = accepted
        if self._in_a_row == 1:
            self._calls.backlog = min(self._calls.backlog, TRY_AGAIN_PART)
        elif self._in_a_row >= CLOSED_AFTER:
            shortest, longest = CLOSED_SECONDS
            retry_after = max(retry_after, min(shortest * 2.0 ** (self._in_a_row - CLOSED_AFTER), longest))
        self._not_before = max(self._not_before, now + retry_after)
        self._strikes = max(self._strikes - (call - self._last_strike_call) / FORGIVEN_CALLS, 0.0) + 1
        self._last_strike_call = call
        forgiven = self._processes > 1 and self._strikes < 2
        enough = calls >= CUT_CALLS or self._in_a_row >= CLOSED_AFTER or not self._learned
        if enough and not forgiven and now >= self._last_cut_at + CUT_SECONDS:
            self._cut(now, call, accepted)

    def _cut(self, now: float, call: int, accepted: int) -> None:
        if accepted > 0:
            factor = (accepted + 2) / (self._refused + 2)
        else:
            unanswered = self._call_count - call
            seconds = min(max(now - self._recent_since, CUT_SECONDS), WINDOW_SECONDS)
            factor = max(len(self._recent_calls) - unanswered, 0) / seconds / self.rate(now) or 1.0
        level = self._level(now)
        self._dip = RARE_CUT if accepted + self._refused >= RARE_CALLS * self._refused else CUT
        self._peak = max(level * (factor if factor < 1 - CUT else 1.0), LEAST)
        if self._peak < PROBED_WORTH:
            self._peak, self._top = min(self._peak, 1.0), 1.0
        if now > self._last_cut_at + NEWS_SECONDS:
            self._level_before_cut = level
        self._learned = True
        self._last_cut_at = now
        self._peak_at = now + self._return_seconds()
        self._last_cut_call, self._refused, self._accepted, self._strikes = self._call_count, 0, 0, 0.0

    def share(self, now: float, processes: int, index: int | None = None) -> None:
        """Divides the quota by ``processes`` from ``now`` on; processes with different ``index`` take turns."""
        processes, index = max(processes, 1), index if processes > 1 else None
        if (self._processes, self._index) != (processes, index):
            self._drain(now)
            self._expected_at = math.inf
            if self._top > 1:
                self._peak_at = max(self._peak_at, now)
            if processes > self._processes and now < self._last_cut_at + NEWS_SECONDS:
                self._peak, self._peak_at = self._level_before_cut, now
            self._processes, self._index, self._turn = processes, index, -1


@dataclass(frozen=True)
class RegionState:
    """Call counts of one Region; ``rate`` is its calls per second now, 0.0 while it is suspended or closed."""

    admitted: int
    served: int
    refused: int
    failed: int
    rate: float


class RegionLimiter:
    """The limiter of one Region: its rate, its health and its counts.

    A Region that failed `FAILURES` times in a row is suspended, longer each time, and is tried with one call after
    each suspension. It is usable again when a call made since the failures is served.
    """

    def __init__(self, name: str, quota: Rate) -> None:
        self.name = name
        self.adaptive_rate = AdaptiveRate(quota)
        self.closed = ""
        self.last_call_at = -math.inf
        self._admitted = self._served = self._refused = self._failed = 0
        self._failures = 0
        self._suspension = 0.0
        self._failing_since = self._suspended_at = self._suspended_until = -math.inf

    def next_at(self, now: float) -> float:
        """The earliest time of the next call, at least ``now``."""
        return max(self.adaptive_rate.next_at(now), self._suspended_until)

    def acquire(self, now: float, cost: float = 1.0, tokens: float = 0.0) -> int:
        """Records a call at ``now`` and returns its number; see `AdaptiveRate.acquire`."""
        self._admitted += 1
        self.last_call_at = now
        if self._suspension:
            self._suspended_until = now + self._suspension
        return self.adaptive_rate.acquire(now, cost, tokens)

    def record_success(self, since: float, unused_tokens: float = 0.0) -> None:
        """Records that a call made at ``since`` was answered, with a result or with an error of the request."""
        self._served += 1
        self.adaptive_rate.refund(unused_tokens)
        if since >= self._failing_since:
            self._failures, self._suspension, self._suspended_until = 0, 0.0, -math.inf

    def refund(self, tokens: float) -> None:
        """Records that an admitted call was not made."""
        self._admitted -= 1
        self.adaptive_rate.refund(tokens)

    def record_refusal(self, call: int, now: float, retry_after: float = 0.0) -> None:
        """Records that the service throttled a call."""
        self._refused += 1
        self.adaptive_rate.record_refusal(call, now, retry_after)

    def record_failure(self, now: float, since: float) -> None:
        """Records that a call made at ``since`` got no answer, or a 5xx."""
        self._failed += 1
        self._failures += 1
        if self._failures == 1:
            self._failing_since = since
        if self._failures >= FAILURES and since >= self._suspended_at:
            shortest, longest = REST_SECONDS
            self._suspension = min(max(2 * self._suspension, shortest), longest)
            self._suspended_at = now
            self._suspended_until = now + self._suspension

    def record_withheld(self, now: float, since: float) -> None:
        """Records that a call made at ``since`` was refused because AWS is still setting up the account's access.

        Until a call is served, single calls are tried with growing pauses.
        """
        self._failed += 1
        self._failing_since = max(self._failing_since, since)
        if since >= self._suspended_at:
            shortest, longest = ACCESS_SECONDS
            self._suspension = min(max(2 * self._suspension, shortest), longest)
            self._suspended_at = now
            self._suspended_until = now + self._suspension

    def state(self, now: float) -> RegionState:
        """The counts and the current rate."""
        rate = 0.0 if self.closed or now < self._suspended_until else self.adaptive_rate.rate(now)
        return RegionState(self._admitted, self._served, self._refused, self._failed, rate)


def earliest_free(limiters: Iterable[RegionLimiter], now: float) -> tuple[float, RegionLimiter]:
    """The earliest time of the next call, and its Region; always taking the earliest distributes calls by quota.

    Raises `RunStopped` with the reasons if every Region is closed.
    """
    limiters = tuple(limiters)
    free = [each for each in limiters if not each.closed]
    if not free:
        raise RunStopped("; ".join(dict.fromkeys(each.closed for each in limiters)))
    at, _, index = min((each.next_at(now), each.last_call_at, index) for index, each in enumerate(free))
    if at > now:
        free[index].adaptive_rate.expect_call(at)
    return at, free[index]


class Permit:
    """The right to make one call now, in ``region``; report its outcome once with one of the methods.

    At the end of a ``with`` block without a report the call counts as failed, or as not made if `sent` was not
    called.
    """

    def __init__(
        self,
        limiter: "RateLimiter",
        region_limiter: RegionLimiter,
        call: int,
        ticket: int,
        since: float,
        tokens: float,
    ) -> None:
        self.region = region_limiter.name
        self.ticket = ticket
        self._limiter, self._region = limiter, region_limiter
        self._call, self._since, self._tokens = call, since, tokens
        self._reported = self._sent = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reported:
            return
        if self._sent:
            self.failed()
        else:
            self.unused()

    def _report(self, outcome: Callable[[float], None]) -> None:
        self._reported = True
        self._limiter.change(outcome)

    def sent(self) -> None:
        """Must be called right before the call is sent."""
        self._sent = True

    def succeeded(self, tokens: float | None = None) -> None:
        """The service answered, also with an error of the request; ``tokens`` are those used (None: all reserved)."""
        unused = 0.0 if tokens is None else self._tokens - tokens
        self._report(lambda now: self._region.record_success(self._since, unused))

    def unused(self) -> None:
        """The call was not made."""
        self._report(lambda now: self._region.refund(self._tokens))

    def refused(self, retry_after: float | None = None) -> None:
        """The service throttled the call; repeat it with ``limiter.acquire(retry_of=permit)``."""
        self._report(lambda now: self._region.record_refusal(self._call, now, retry_after or 0.0))

    def withheld(self) -> None:
        """AWS is still setting up the account's access; repeat the call with ``limiter.acquire(retry_of=permit)``."""
        self._report(lambda now: self._region.record_withheld(now, self._since))

    def failed(self) -> None:
        """There was no answer, or a 5xx, which may be a fault of the Region."""
        self._report(lambda now: self._region.record_failure(now, self._since))


class RateLimiter:
    """Admits calls at the rate of the quotas, first come, first served; thread-safe.

    ``quotas`` are the quotas by Region. A call takes about 20 µs of CPU if it need not wait, 100 µs if it does; only
    one of the waiting threads polls the clock.
    """

    def __init__(
        self, name: str, quotas: Mapping[str, Rate], *, clock: Callable[[], float] = since_epoch
    ) -> None:
        self.name = name
        self._regions = {region: RegionLimiter(region, quota) for region, quota in quotas.items()}
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, threading.Condition]] = []
        self._tickets = itertools.count()

    def acquire(
        self,
        cost: float = 1.0,
        tokens: float = 0.0,
        stop: threading.Event | None = None,
        retry_of: Permit | None = None,
    ) -> Permit:
        """Waits until a call is allowed and returns its permit.

        A throttled call that passes its old permit as ``retry_of`` keeps its position in the queue. ``cost`` is the
        number of calls it counts as, ``tokens`` those that the service reserves for it. Raises `RunStopped` if every
        Region is closed or ``stop`` is set, also while waiting.
        """
        with self._lock:
            ticket = next(self._tickets) if retry_of is None else retry_of.ticket
            turn = threading.Condition(self._lock)
            heapq.heappush(self._waiting, (ticket, turn))
            try:
                while True:
                    if stop is not None and stop.is_set():
                        raise RunStopped("the run was stopped")
                    now = self._clock()
                    at, region = earliest_free(self._regions.values(), now)
                    if self._waiting[0][1] is not turn:
                        turn.wait()
                    elif at > now:
                        turn.wait(at - now if stop is None else min(at - now, POLL_SECONDS))
                    else:
                        return Permit(self, region, region.acquire(now, cost, tokens), ticket, now, tokens)
            finally:
                self._waiting.remove((ticket, turn))
                heapq.heapify(self._waiting)
                self._wake_first()

    def _wake_first(self) -> None:
        if self._waiting:
            self._waiting[0][1].notify()

    def add(self, region: str, quota: Rate) -> None:
        """Adds a Region, unless it exists."""

        def add_region(now: float) -> None:
            self._regions.setdefault(region, RegionLimiter(region, quota))

        self.change(add_region)

    @property
    def regions(self) -> tuple[str, ...]:
        """The names of the Regions."""
        return tuple(self._regions)

    def change(self, action: Callable[[float], None]) -> None:
        """Calls ``action(time)`` under the lock and wakes the first waiting thread, so that it acts at once."""
        with self._lock:
            action(self._clock())
            self._wake_first()

    def _selected(self, region: str | None) -> list[RegionLimiter]:
        return list(self._regions.values()) if region is None else [self._regions[region]]

    def share(self, processes: int, index: int | None = None, region: str | None = None) -> None:
        """Divides the quota (of one Region or of all) among ``processes`` live processes, at once.

        ``index`` is this process's position, from 0, in the sorted list of their heartbeats. With it the processes
        take turns; without it they may call at the same time.
        """

        def divide(now: float) -> None:
            for limiter in self._selected(region):
                limiter.adaptive_rate.share(now, processes, index)

        self.change(divide)

    def close(self, reason: str, region: str | None = None) -> None:
        """Admits no more calls (to one Region or at all); waiting callers get `RunStopped` with the reason."""

        def shut(now: float) -> None:
            for limiter in self._selected(region):
                limiter.closed = limiter.closed or reason

        self.change(shut)

    @property
    def waiting(self) -> int:
        """Number of waiting callers."""
        return len(self._waiting)

    def state(self) -> dict[str, RegionState]:
        """Counts and current rate by Region."""
        with self._lock:
            now = self._clock()
            return {name: limiter.state(now) for name, limiter in self._regions.items()}
