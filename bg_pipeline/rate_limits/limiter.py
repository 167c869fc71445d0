"""How fast a service may be called: a gate in front of every call, paced at the quota and corrected by refusals.

`AdaptiveRate`, `RegionLimiter` and `first_free` are plain state in a time that is handed in, so that their
behaviour is proved in simulated time (`benchmarks/gate.py`); `RateLimiter` adds a clock, a queue and threads.
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

MARGIN = 0.001  # calls of a full minute may arrive 60 ms nearer to each other than they were sent
SLOW_CALLS = 1.0  # a bucket one second deep holds a single call of such a quota, and none may come early
SLOW_MARGIN = 0.006  # measured: a call may take 8 ms longer to its service than the next, beside busy threads
LATE_SECONDS = 0.1  # a thread that woke up so late is made up for, unless the quota is slow
IDLE_SECONDS = 1.0  # when no call waited for so long, the time says nothing about the quota
WINDOW_SECONDS = 60.0  # AWS states its quotas for models by the minute

# How the level is learned: `AdaptiveRate` says why, and benchmarks/gate.py shows what a change does.
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

FAILURES = 5  # in a row: more than one image makes alone, so that one that always fails rests no Region
REST_SECONDS = (2.0, 30.0)
ACCESS_SECONDS = (2.0, 60.0)  # between two calls that find out whether AWS has set up the account's access
LOOK_SECONDS = 0.25  # how soon a stopped run is noticed

_EPOCH = time.time() - time.monotonic()


def since_epoch() -> float:
    """Seconds since 1970, the same for all processes of a machine, that never run backwards."""
    return _EPOCH + time.monotonic()


@dataclass(frozen=True)
class Rate:
    """A quota: calls per second and, where the service has it, tokens per second.

    ``may_probe`` is for a published default that may not be this account's own figure: see `AdaptiveRate`.
    """

    calls: float
    tokens: float | None = None
    may_probe: bool = False

    @classmethod
    def per_minute(cls, calls: float, tokens: float | None = None, *, may_probe: bool = False) -> Self:
        """The same from requests and tokens per minute, as AWS states them for models."""
        return cls(calls / 60, None if tokens is None else tokens / 60, may_probe)


class _TokenBucket:
    """What was taken and is not yet paid off by time, at a rate that may change at any moment."""

    def __init__(self) -> None:
        self.owed = 0.0
        self._at = 0.0

    def pay(self, now: float, rate: float, credit: float = 0.0) -> None:
        self.owed = max(self.owed - rate * max(now - self._at, 0.0), -credit)
        self._at = max(now, self._at)


class AdaptiveRate:
    """The speed of one lane: even calls at the quota, without an opening burst, slower where calls are refused.

    Times are seconds of one clock and are handed in; nothing sleeps. What it does, and why:

    - **Refused.** The level (the part of the quota in use) is cut to the calls let through per call refused
      since the last cut, at most to 95 %, once per 3 s and 8 calls. The measure suits a deep bucket, which
      refuses what is too much, and a shallow one, which refuses every second call of a pace 1 % above it.
      Where no more than one in 20 was refused, the pace is nearly right and the cut is 1 %. The level returns
      along a cubic: soon near what was refused, long there, beyond it late, and never above the configured
      quota. The call itself is tried again after a quarter of the usual wait.
    - **Closed.** After 3 refusals in a row (a spent window) single calls try it at growing pauses of up to
      2 s, and the level becomes what was let through in the last minute.
    - **Shared.** Processes that know their place take turns: each has every n-th moment of one grid in time,
      so that their calls together are as even as those of one. One refusal in 16 calls, and what was learned
      in the last 15 s before a process is seen to join, is put down to that and costs no speed.
    - **Configured too low.** Without ``may_probe`` the configured quota is the most that is ever tried, and
      if it is right no call is refused. With it the level rises along the same cubic while calls wait and
      none is refused: 5 % after 2 minutes, 4 times after 5. Where the default was right this costs one
      refused call in a run (up to 10 under fixed windows; a deep bucket first pays with its credit); a
      refusal below 1.1 ends the probing. Processes that share do not begin it: each would take the others'
      refusals for its own.
    """

    def __init__(self, quota: Rate) -> None:
        self._quota = quota
        self._slow = quota.calls <= SLOW_CALLS
        self._full_rate = quota.calls * (1 - (SLOW_MARGIN if self._slow else MARGIN))
        self._among, self._turn = 1, -1
        self._place: int | None = None
        self._calls, self._tokens = _TokenBucket(), _TokenBucket()
        self._busy_until = self._not_before = -math.inf
        self._told = math.inf
        # The level: 1.0 until something was refused, then a cubic from ``_dip`` below ``_peak`` to ``_peak_at``.
        self._learned, self._dip = False, CUT
        self._peak, self._peak_at = 1.0, 0.0
        self._top = PROBED_TO if quota.may_probe else 1.0
        # What happened since the last cut, and the calls let through in the last minute.
        self._took = self._cut_call = self._refused = self._through = self._in_a_row = 0
        self._cut_at = -math.inf
        self._strikes, self._struck = 0.0, 0
        self._before = 1.0
        self._minute: deque[float] = deque()
        self._minute_from = 0.0

    def rate(self, now: float) -> float:
        """Calls per second at this moment."""
        return self._full_rate * self._level(now) / self._among

    def _level(self, now: float) -> float:
        way = (min(now, self._busy_until) - self._peak_at) / self._return_seconds()
        top = 1.0 if self._among > 1 and self._peak <= 1 else self._top
        return min(top, self._peak * (1 + self._dip * max(way, -1.0 if self._learned else 0.0) ** 3))

    def _return_seconds(self) -> float:
        return max(WINDOW_SECONDS, RETURN_CALLS / self._quota.calls if self._learned else 0.0)

    def _token_rate(self, now: float) -> float:
        return (self._quota.tokens or math.inf) * self._level(now) / self._among

    def _pay(self, now: float) -> None:
        # Below the full level a process lets some of its turns pass; the wait for the next one counts.
        lets_turns_pass = self._place is not None and self._level(now) < 1
        self._calls.pay(now, self.rate(now), credit=1.0 if lets_turns_pass else 0.0)
        self._tokens.pay(now, self._token_rate(now))

    def next_at(self, now: float) -> float:
        """When the next call may go, not before ``now``; ask again after any change."""
        self._pay(now)
        if self._late(now):
            return now
        at = max(
            now,
            self._not_before,
            now + self._calls.owed / self.rate(now),
            now + self._tokens.owed / self._token_rate(now),
        )
        if self._place is not None and self._level(now) <= 1:
            at = max(at, self._turn_after(at, self._place) / self._full_rate)
        return at

    def seconds_until_turn(self, at: float) -> None:
        """Somebody waits for ``at``: a call up to `LATE_SECONDS` later is in time, and the next makes up for it."""
        self._told = at

    def _late(self, now: float) -> float:
        return now - self._told if self._told < now <= self._told + LATE_SECONDS else 0.0

    def _turn_after(self, at: float, place: int) -> int:
        """The first turn of this process not before ``at``, counted on the grid of all processes."""
        turns = math.ceil((at * self._full_rate - place) / self._among - 1e-3)
        return max(turns * self._among + place, self._turn + 1)

    def acquire(self, now: float, cost: float = 1.0, tokens: float = 0.0) -> int:
        """A call goes now; returns its number. ``tokens`` is what the service reserves for it."""
        self._pay(now)
        if now > self._busy_until and self._top > 1:
            self._peak_at = max(self._peak_at, now)
        if not self._minute:
            self._minute_from = now
        late = self._late(now)
        self._told = math.inf
        if self._place is not None:
            self._turn = self._turn_after(now - late, self._place)
        self._calls.owed += cost - (0.0 if self._slow else late * self.rate(now))
        self._tokens.owed += tokens
        self._busy_until = now + 1 / self.rate(now) + IDLE_SECONDS
        self._minute.append(now)
        self._forget(now)
        self._took += 1
        return self._took

    def _forget(self, now: float) -> None:
        while self._minute and self._minute[0] <= now - WINDOW_SECONDS:
            self._minute.popleft()

    def refund(self, tokens: float) -> None:
        """So much of what was reserved for a call was not used."""
        self._tokens.owed -= tokens

    def record_refusal(self, call: int, now: float, retry_after: float = 0.0) -> None:
        """The service refused this call for its rate; none goes in the next ``retry_after`` seconds."""
        self._pay(now)
        self._told = math.inf
        self._forget(now)
        if self._minute:
            self._minute.pop()
        took = call - self._cut_call
        self._refused += took > 0
        through = took - self._refused
        self._in_a_row = self._in_a_row + 1 if through <= self._through else 1
        self._through = through
        if self._in_a_row == 1:
            self._calls.owed = min(self._calls.owed, TRY_AGAIN_PART)
        elif self._in_a_row >= CLOSED_AFTER:
            shortest, longest = CLOSED_SECONDS
            retry_after = max(retry_after, min(shortest * 2.0 ** (self._in_a_row - CLOSED_AFTER), longest))
        self._not_before = max(self._not_before, now + retry_after)
        self._strikes = max(self._strikes - (call - self._struck) / FORGIVEN_CALLS, 0.0) + 1
        self._struck = call
        forgiven = self._among > 1 and self._strikes < 2
        enough = took >= CUT_CALLS or self._in_a_row >= CLOSED_AFTER or not self._learned
        if enough and not forgiven and now >= self._cut_at + CUT_SECONDS:
            self._cut(now, call, through)

    def _cut(self, now: float, call: int, through: int) -> None:
        if through > 0:
            factor = (through + 2) / (self._refused + 2)
        else:
            not_answered = self._took - call
            seconds = min(max(now - self._minute_from, CUT_SECONDS), WINDOW_SECONDS)
            factor = max(len(self._minute) - not_answered, 0) / seconds / self.rate(now) or 1.0
        level = self._level(now)
        self._dip = RARE_CUT if through + self._refused >= RARE_CALLS * self._refused else CUT
        self._peak = max(level * (factor if factor < 1 - CUT else 1.0), LEAST)
        if self._peak < PROBED_WORTH:
            self._peak, self._top = min(self._peak, 1.0), 1.0
        if now > self._cut_at + NEWS_SECONDS:
            self._before = level
        self._learned = True
        self._cut_at = now
        self._peak_at = now + self._return_seconds()
        self._cut_call, self._refused, self._through, self._strikes = self._took, 0, 0, 0.0

    def share(self, now: float, among: int, place: int | None = None) -> None:
        """From now on the quota is divided by ``among``; processes with different ``place`` take turns."""
        among, place = max(among, 1), place if among > 1 else None
        if (self._among, self._place) != (among, place):
            self._pay(now)
            self._told = math.inf
            if self._top > 1:
                self._peak_at = max(self._peak_at, now)
            if among > self._among and now < self._cut_at + NEWS_SECONDS:
                self._peak, self._peak_at = self._before, now
            self._among, self._place, self._turn = among, place, -1


@dataclass(frozen=True)
class RegionState:
    """What one lane did so far; ``rate`` is calls per second now, 0.0 while the lane rests or is closed."""

    admitted: int
    served: int
    refused: int
    failed: int
    rate: float


class RegionLimiter:
    """One Region behind a gate: its pace, its health and its counts.

    A Region that failed `FAILURES` times in a row rests, longer each time, and is tried with one call after
    each rest; it is back when a call made since then is served.
    """

    def __init__(self, name: str, quota: Rate) -> None:
        self.name = name
        self.pace = AdaptiveRate(quota)
        self.closed = ""
        self.took_at = -math.inf
        self._admitted = self._served = self._refused = self._failed = 0
        self._failures = 0
        self._rest = 0.0
        self._unwell_since = self._rested_at = self._rests_until = -math.inf

    def next_at(self, now: float) -> float:
        """When the next call may go, not before ``now``."""
        return max(self.pace.next_at(now), self._rests_until)

    def acquire(self, now: float, cost: float = 1.0, tokens: float = 0.0) -> int:
        """A call goes now and gets a number; see `AdaptiveRate.took`."""
        self._admitted += 1
        self.took_at = now
        if self._rest:
            self._rests_until = now + self._rest
        return self.pace.acquire(now, cost, tokens)

    def record_success(self, since: float, unused_tokens: float = 0.0) -> None:
        """The service answered, with whatever answer, a call that went at ``since``."""
        self._served += 1
        self.pace.refund(unused_tokens)
        if since >= self._unwell_since:
            self._failures, self._rest, self._rests_until = 0, 0.0, -math.inf

    def refund(self, tokens: float) -> None:
        """A call that was admitted was not made."""
        self._admitted -= 1
        self.pace.refund(tokens)

    def record_refusal(self, call: int, now: float, retry_after: float = 0.0) -> None:
        """The service refused a call for its rate."""
        self._refused += 1
        self.pace.record_refusal(call, now, retry_after)

    def record_failure(self, now: float, since: float) -> None:
        """A call that went at ``since`` got no answer, or a 5xx."""
        self._failed += 1
        self._failures += 1
        if self._failures == 1:
            self._unwell_since = since
        if self._failures >= FAILURES and since >= self._rested_at:
            shortest, longest = REST_SECONDS
            self._rest = min(max(2 * self._rest, shortest), longest)
            self._rested_at = now
            self._rests_until = now + self._rest

    def record_withheld(self, now: float, since: float) -> None:
        """A call that went at ``since`` was refused because the account's access is still being set up.

        Until one is served, single calls try it at growing pauses.
        """
        self._failed += 1
        self._unwell_since = max(self._unwell_since, since)
        if since >= self._rested_at:
            shortest, longest = ACCESS_SECONDS
            self._rest = min(max(2 * self._rest, shortest), longest)
            self._rested_at = now
            self._rests_until = now + self._rest

    def state(self, now: float) -> RegionState:
        """What the lane did and how fast it is."""
        rate = 0.0 if self.closed or now < self._rests_until else self.pace.rate(now)
        return RegionState(self._admitted, self._served, self._refused, self._failed, rate)


def earliest_free(lanes: Iterable[RegionLimiter], now: float) -> tuple[float, RegionLimiter]:
    """When and where the next call may go; taking always the first spreads calls as the quotas are.

    Raises `RunStopped` with the reasons when every lane is closed.
    """
    lanes = tuple(lanes)
    free = [lane for lane in lanes if not lane.closed]
    if not free:
        raise RunStopped("; ".join(dict.fromkeys(lane.closed for lane in lanes)))
    at, _, index = min((lane.next_at(now), lane.took_at, index) for index, lane in enumerate(free))
    if at > now:
        free[index].pace.seconds_until_turn(at)
    return at, free[index]


class Permit:
    """The right to make one call now, in the Region ``lane``; tell once how it ended.

    As a context manager it tells of what nobody has told: that the call failed, or that there was none before `sent`.
    """

    def __init__(
        self, gate: "RateLimiter", lane: RegionLimiter, call: int, ticket: int, since: float, tokens: float
    ) -> None:
        self.lane = lane.name
        self.ticket = ticket
        self._gate, self._lane = gate, lane
        self._call, self._since, self._tokens = call, since, tokens
        self._told = self._sent = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._told:
            return
        if self._sent:
            self.failed()
        else:
            self.unused()

    def _tell(self, how: Callable[[float], None]) -> None:
        self._told = True
        self._gate.change(how)

    def sent(self) -> None:
        """The call goes out now."""
        self._sent = True

    def succeeded(self, tokens: float | None = None) -> None:
        """The service answered, be it to say what is wrong; ``tokens`` is what it counted, if not all."""
        unused = 0.0 if tokens is None else self._tokens - tokens
        self._tell(lambda now: self._lane.record_success(self._since, unused))

    def unused(self) -> None:
        """The call was not made after all."""
        self._tell(lambda now: self._lane.refund(self._tokens))

    def refused(self, retry_after: float | None = None) -> None:
        """The service refused for the rate; go on with ``gate.admit(again=slot)``."""
        self._tell(lambda now: self._lane.record_refusal(self._call, now, retry_after or 0.0))

    def withheld(self) -> None:
        """AWS still sets up the account's access; go on with ``gate.admit(again=slot)``."""
        self._tell(lambda now: self._lane.record_withheld(now, self._since))

    def failed(self) -> None:
        """No answer, or a 5xx: the Region may be unwell."""
        self._tell(lambda now: self._lane.record_failure(now, self._since))


class RateLimiter:
    """At most the quota's rate of calls passes, first come first served; safe to use from many threads.

    ``lanes`` are the quotas by Region. Costs about 20 µs for a call that need not wait, 100 µs for one that
    does; however many wait, one thread of them looks at the clock.
    """

    def __init__(
        self, name: str, lanes: Mapping[str, Rate], *, clock: Callable[[], float] = since_epoch
    ) -> None:
        self.name = name
        self._lanes = {name: RegionLimiter(name, quota) for name, quota in lanes.items()}
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, threading.Condition]] = []
        self._tickets = itertools.count()

    def acquire(
        self,
        cost: float = 1.0,
        tokens: float = 0.0,
        stop: threading.Event | None = None,
        again: Permit | None = None,
    ) -> Permit:
        """Wait until a call may go and return its slot; a refused call that comes ``again`` keeps its place.

        Raises `RunStopped` when every lane is closed or ``stop`` is set, also while waiting.
        """
        with self._lock:
            ticket = next(self._tickets) if again is None else again.ticket
            turn = threading.Condition(self._lock)
            heapq.heappush(self._waiting, (ticket, turn))
            try:
                while True:
                    if stop is not None and stop.is_set():
                        raise RunStopped("The run was stopped.")
                    now = self._clock()
                    at, lane = earliest_free(self._lanes.values(), now)
                    if self._waiting[0][1] is not turn:
                        turn.wait()
                    elif at > now:
                        turn.wait(at - now if stop is None else min(at - now, LOOK_SECONDS))
                    else:
                        return Permit(self, lane, lane.acquire(now, cost, tokens), ticket, now, tokens)
            finally:
                self._waiting.remove((ticket, turn))
                heapq.heapify(self._waiting)
                self._wake_first()

    def _wake_first(self) -> None:
        if self._waiting:
            self._waiting[0][1].notify()

    def add(self, lane: str, quota: Rate) -> None:
        """Another lane, if there is none of this name."""

        def open_lane(now: float) -> None:
            self._lanes.setdefault(lane, RegionLimiter(lane, quota))

        self.change(open_lane)

    @property
    def regions(self) -> tuple[str, ...]:
        """The names of the lanes."""
        return tuple(self._lanes)

    def change(self, how: Callable[[float], None]) -> None:
        """Do ``how`` (with the time) to the lanes, so that it acts at once on those who wait."""
        with self._lock:
            how(self._clock())
            self._wake_first()

    def _some(self, lane: str | None) -> list[RegionLimiter]:
        return list(self._lanes.values()) if lane is None else [self._lanes[lane]]

    def share(self, among: int, place: int | None = None, lane: str | None = None) -> None:
        """Divide the quota (of one lane or of all) among so many live processes; acts at once.

        ``place`` is this process's own number among them, from 0: the index of its heartbeat in the sorted
        list of all. With it the processes take turns; without it they may call at the same moment.
        """

        def divide(now: float) -> None:
            for some in self._some(lane):
                some.pace.share(now, among, place)

        self.change(divide)

    def close(self, reason: str, lane: str | None = None) -> None:
        """Let no more calls through (to one lane, or at all): who waits gets `RunStopped` with the reason."""

        def shut(now: float) -> None:
            for some in self._some(lane):
                some.closed = some.closed or reason

        self.change(shut)

    @property
    def waiting(self) -> int:
        """How many callers wait at this moment."""
        return len(self._waiting)

    def state(self) -> dict[str, RegionState]:
        """What each lane did so far, and its present rate."""
        with self._lock:
            now = self._clock()
            return {name: lane.state(now) for name, lane in self._lanes.items()}
