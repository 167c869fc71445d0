"""How fast a service may be called: a gate in front of every call, paced at the quota and corrected by refusals.

`Pace` and `Lanes` are plain state in a time that is handed in, so that their behaviour is proved in
simulated time (`benchmarks/gate.py`); `Gate` adds a clock, a queue and threads.
"""

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from bg_pipeline.errors import RunStopped

MARGIN = 0.001  # room in a full window of the service for calls that travel faster than the one before
LATE_SECONDS = 0.1
CUT = 0.95
CUT_SECONDS = 3.0
CUT_CALLS = 8
WINDOW_SECONDS = 60.0
GROWTH_CALLS = 150
PAUSE_SECONDS = (0.25, 2.0)
FORGIVEN_CALLS = 16
CLOSED = 3
TRY_AGAIN = 0.25
TOP = 0.998
IDLE_SECONDS = 1.0
PROBED = 8.0
PROBED_WORTH = 1.1
FAILURES = 5
REST_SECONDS = (2.0, 60.0)
LOOK_SECONDS = 0.25

_EPOCH = time.time() - time.monotonic()


def since_epoch() -> float:
    """Seconds since 1970, the same in all processes, that never run backwards in this one."""
    return _EPOCH + time.monotonic()


@dataclass(frozen=True)
class Rate:
    """A quota: calls per second and, where the service has it, tokens per second.

    ``may_probe`` is for a published default that may not be this account's own figure: see `Pace`.
    """

    calls: float
    tokens: float | None = None
    may_probe: bool = False

    @classmethod
    def per_minute(cls, calls: float, tokens: float | None = None, *, may_probe: bool = False) -> Self:
        """The same from requests and tokens per minute, as AWS states them for models."""
        return cls(calls / 60, None if tokens is None else tokens / 60, may_probe)


@dataclass(frozen=True)
class LaneState:
    """What one lane did so far; ``rate`` is calls per second now, 0.0 while the lane rests or is closed."""

    admitted: int
    served: int
    refused: int
    failed: int
    rate: float


class _Debt:
    """What was taken and not yet paid off by the time that went by, at a rate that may change at any moment."""

    def __init__(self) -> None:
        self.owed = 0.0
        self._at = 0.0

    def pay(self, now: float, rate: float, credit: float = 0.0) -> None:
        self.owed = max(self.owed - rate * max(now - self._at, 0.0), -credit)
        self._at = max(now, self._at)


class Pace:
    """The speed of one lane: even calls at the quota, without a burst, slower where the service refuses.

    Every time is given, in seconds; nothing sleeps. What it does and why:

    - **Refused.** The level (the part of the quota that is used) is cut to what was let through per refusal
      since the last cut, to 95 % at most, once per 3 s and 8 calls. That is an upper bound of the real quota
      for a shallow bucket, which refuses every second call of a pace 1 % above it, and still falls fast when
      the quota is 4 times smaller than configured. The level then returns along a cubic: back soon, long near
      the level that was refused, beyond it later; never above the configured quota.
    - **Closed.** When nothing at all gets through (a spent one-minute window), single calls try it at growing
      pauses, up to 2 s, and the level is what was let through in the last minute.
    - **Shared.** With ``share(n, place)`` processes take turns: each has every n-th moment of one grid in
      time, so that their calls are as even as those of one process. One refusal in 16 calls is then put
      down to a neighbour who came or went, and costs no speed.
    - **Configured too low.** Without ``may_probe`` (an account's own figure) the configured quota is never
      exceeded and, if right, no call is refused. With it, the level rises along the same cubic after a minute
      of calls that waited and were not refused: +5 % after 2 minutes, 4 times after 5. Its cost where the
      default was right: a few refused calls, once; the first refusal below 1.1 ends the probing.
    """

    def __init__(self, quota: Rate) -> None:
        self._quota = quota
        self._among, self._place, self._turn = 1, 0, -1
        self._calls, self._tokens = _Debt(), _Debt()
        self._due = self._not_before = -math.inf
        self._told = math.inf
        # The level: 1.0 until something is learned, and ``_peak`` at ``_peak_at`` on a cubic after that.
        self._top = PROBED if quota.may_probe else 1.0
        self._learned = False
        self._peak, self._peak_at = 1.0, 0.0
        # What happened since the last cut, and which calls got through in the last minute.
        self._took = self._cut_call = self._refused = self._through = self._in_a_row = 0
        self._cut_at = -math.inf
        self._strikes, self._struck = 0.0, 0
        self._minute: deque[float] = deque()
        self._minute_from = 0.0

    def rate(self, now: float) -> float:
        """Calls per second at this moment."""
        return self._full_rate() * self._level(now) / self._among

    def _full_rate(self) -> float:
        return self._quota.calls * (1 - MARGIN)

    def _level(self, now: float) -> float:
        """The part of the quota that is used."""
        way = (min(now, self._due + IDLE_SECONDS) - self._peak_at) / self._growth_seconds()
        return min(self._top, self._peak * (1 + (1 - CUT) * max(way, -1.0 if self._learned else 0.0) ** 3))

    def _growth_seconds(self) -> float:
        return max(WINDOW_SECONDS, GROWTH_CALLS / self._quota.calls if self._learned else 0.0)

    def _token_rate(self, now: float) -> float:
        return (self._quota.tokens or math.inf) * self._level(now) / self._among

    def _pay(self, now: float) -> None:
        self._calls.pay(now, self.rate(now), credit=1.0 if self._among > 1 and self._level(now) < 1.0 else 0.0)
        self._tokens.pay(now, self._token_rate(now))

    def next_at(self, now: float) -> float:
        """When the next call may go, not before ``now``; ask again after any change.

        A call that comes up to `LATE_SECONDS` after a time told here is in time, and the next makes up for it.
        """
        self._pay(now)
        if self._told <= now <= self._told + LATE_SECONDS:
            return now
        at = max(
            now,
            self._not_before,
            now + self._calls.owed / self.rate(now),
            now + self._tokens.owed / self._token_rate(now),
        )
        if self._among > 1:
            at = max(at, self._turn_after(at) / self._full_rate())
        self._told = at
        return at

    def _turn_after(self, at: float) -> int:
        """The first moment of this process not before ``at``, counted on the grid of all processes."""
        turns = math.ceil((at * self._full_rate() - self._place) / self._among - 1e-6)
        return max(turns * self._among + self._place, self._turn + 1)

    def took(self, now: float, cost: float = 1.0, tokens: float = 0.0) -> int:
        """A call goes now; returns its number. ``tokens`` is what the service reserves for it."""
        self._pay(now)
        if now > self._due + IDLE_SECONDS:
            self._peak_at = max(self._peak_at, now)
        if not self._minute:
            self._minute_from = now
        late = now - self._told if self._told <= now <= self._told + LATE_SECONDS else 0.0
        self._told = math.inf
        self._turn = self._turn_after(now - late)
        self._calls.owed += cost - late * self.rate(now)
        self._tokens.owed += tokens
        self._due = now + 1 / self.rate(now)
        self._minute.append(now)
        self._forget(now)
        self._took += 1
        return self._took

    def _forget(self, now: float) -> None:
        while self._minute and self._minute[0] <= now - WINDOW_SECONDS:
            self._minute.popleft()

    def gave_back(self, tokens: float) -> None:
        """So much of what was reserved for a call was not used."""
        self._tokens.owed -= tokens

    def refused(self, call: int, now: float, retry_after: float = 0.0) -> None:
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
            self._calls.owed = min(self._calls.owed, TRY_AGAIN)
        elif self._in_a_row >= CLOSED:
            shortest, longest = PAUSE_SECONDS
            retry_after = max(retry_after, min(shortest * 2 ** (self._in_a_row - CLOSED), longest))
        self._not_before = max(self._not_before, now + retry_after)
        self._strikes = max(self._strikes - (call - self._struck) / FORGIVEN_CALLS, 0.0) + 1
        self._struck = call
        forgiven = self._among > 1 and self._strikes < 2
        enough = took >= CUT_CALLS or self._in_a_row >= CLOSED or not self._learned
        if enough and not forgiven and now >= self._cut_at + CUT_SECONDS:
            self._cut(now, max(through, 0))

    def _cut(self, now: float, through: int) -> None:
        if through:
            factor = (through + 2) / (self._refused + 2)
        else:
            factor = len(self._minute) / min(WINDOW_SECONDS, now - self._minute_from) / self.rate(now) or 1.0
        self._peak = self._level(now) * (factor if factor < CUT else TOP)
        self._learned = True
        if self._quota.may_probe and self._peak < PROBED_WORTH:
            self._peak, self._top = min(self._peak, 1.0), 1.0
        self._cut_at = now
        self._peak_at = now + self._growth_seconds()
        self._cut_call, self._refused, self._through = self._took, 0, 0
        self._strikes = 0.0

    def share(self, now: float, among: int, place: int = 0) -> None:
        """From now on this process is number ``place`` (from 0) of ``among`` that divide the quota."""
        if (self._among, self._place) != (max(among, 1), place):
            self._pay(now)
            self._told = math.inf
            self._among, self._place, self._turn = max(among, 1), place, -1


class Lane:
    """One Region behind a gate: its pace, its health and its counts."""

    def __init__(self, quota: Rate) -> None:
        self.pace = Pace(quota)
        self.last = -math.inf
        self.admitted = self.served = self.refused = self.failed = 0
        self.closed = ""
        self.failures = 0
        self.rest = 0.0
        self.unwell_since = self.rested_at = self.rests_until = -math.inf


class Lanes:
    """Which Region a call goes to, and when: the one where it may go first, so that shares follow the quotas.

    A Region that failed `FAILURES` times in a row rests, is tried with one call, and is back when that is
    served; meanwhile the others take all calls, each at its own quota.
    """

    def __init__(self, quotas: Mapping[str, Rate]) -> None:
        self._lanes = {name: Lane(quota) for name, quota in quotas.items()}

    def next(self, now: float) -> tuple[float, str]:
        """The earliest time a call may go, not before ``now``, and its lane; `RunStopped` if all are closed."""
        open_lanes = [(name, lane) for name, lane in self._lanes.items() if not lane.closed]
        if not open_lanes:
            raise RunStopped("; ".join(dict.fromkeys(lane.closed for lane in self._lanes.values())))
        at, _, name = min(
            (max(lane.pace.next_at(now), lane.rests_until), lane.last, name) for name, lane in open_lanes
        )
        return at, name

    def took(self, name: str, now: float, cost: float = 1.0, tokens: float = 0.0) -> int:
        """A call goes to this lane now and gets a number; see `Pace.took`."""
        lane = self._lanes[name]
        lane.admitted += 1
        lane.last = now
        if lane.rest:
            lane.rests_until = now + lane.rest
        return lane.pace.took(now, cost, tokens)

    def served(self, name: str, since: float, unused_tokens: float = 0.0) -> None:
        """The service answered, with whatever answer, a call that went at ``since``."""
        lane = self._lanes[name]
        lane.served += 1
        lane.pace.gave_back(unused_tokens)
        if since >= lane.unwell_since:
            lane.failures = 0
            lane.rest = 0.0
            lane.rests_until = -math.inf

    def refused(self, name: str, call: int, now: float, retry_after: float = 0.0) -> None:
        """The service refused a call for its rate."""
        lane = self._lanes[name]
        lane.refused += 1
        lane.pace.refused(call, now, retry_after)

    def failed(self, name: str, now: float, since: float) -> None:
        """A call that went at ``since`` got no answer, or a 5xx."""
        lane = self._lanes[name]
        lane.failed += 1
        lane.failures += 1
        if lane.failures == 1:
            lane.unwell_since = since
        if lane.failures >= FAILURES and since >= lane.rested_at:
            shortest, longest = REST_SECONDS
            lane.rest = min(max(2 * lane.rest, shortest), longest)
            lane.rested_at = now
            lane.rests_until = now + lane.rest

    def share(self, now: float, among: int, place: int = 0, name: str | None = None) -> None:
        """The quota of one lane, or of all, is divided; see `Pace.share`."""
        for lane in self._lanes.values() if name is None else [self._lanes[name]]:
            lane.pace.share(now, among, place)

    def close(self, reason: str, name: str | None = None) -> None:
        """No more calls go to one lane, or to any."""
        for lane in self._lanes.values() if name is None else [self._lanes[name]]:
            lane.closed = lane.closed or reason

    def state(self, now: float) -> dict[str, LaneState]:
        """What each lane did and how fast it is."""
        return {
            name: LaneState(
                lane.admitted,
                lane.served,
                lane.refused,
                lane.failed,
                0.0 if lane.closed or now < lane.rests_until else lane.pace.rate(now),
            )
            for name, lane in self._lanes.items()
        }


class Slot:
    """The right to make one call now, in the Region ``lane``; tell once how it ended."""

    def __init__(self, gate: "Gate", lane: str, call: int, ticket: int, since: float, tokens: float) -> None:
        self.lane = lane
        self._gate = gate
        self._call = call
        self._ticket = ticket
        self._since = since
        self._tokens = tokens

    def served(self, tokens: float | None = None) -> None:
        """The service answered, be it with an error of ours; ``tokens`` is what it counted (all reserved)."""
        unused = 0.0 if tokens is None else self._tokens - tokens
        self._gate._change(lambda lanes, now: lanes.served(self.lane, self._since, unused))

    def refused(self, retry_after: float | None = None) -> None:
        """The service refused for the rate; go on with ``gate.admit(again=slot)``."""
        self._gate._change(lambda lanes, now: lanes.refused(self.lane, self._call, now, retry_after or 0.0))

    def failed(self) -> None:
        """No answer, or a 5xx: the Region may be unwell."""
        self._gate._change(lambda lanes, now: lanes.failed(self.lane, now, self._since))


class Gate:
    """At most the quota's rate of calls passes, first come first served; safe to use from many threads."""

    def __init__(
        self, name: str, lanes: Mapping[str, Rate], *, clock: Callable[[], float] = since_epoch
    ) -> None:
        self.name = name
        self._lanes = Lanes(lanes)
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, threading.Condition]] = []
        self._tickets = itertools.count()

    def admit(
        self,
        cost: float = 1.0,
        tokens: float = 0.0,
        stop: threading.Event | None = None,
        again: Slot | None = None,
    ) -> Slot:
        """Wait until a call may go and return its slot; a refused call that comes ``again`` keeps its place.

        Raises `RunStopped` when the gate is closed or ``stop`` is set, also while waiting.
        """
        with self._lock:
            ticket = next(self._tickets) if again is None else again._ticket
            turn = threading.Condition(self._lock)
            heapq.heappush(self._waiting, (ticket, turn))
            try:
                while True:
                    if stop is not None and stop.is_set():
                        raise RunStopped("The run was stopped.")
                    now = self._clock()
                    at, lane = self._lanes.next(now)
                    if self._waiting[0][1] is not turn:
                        turn.wait()
                    elif at > now:
                        turn.wait(at - now if stop is None else min(at - now, LOOK_SECONDS))
                    else:
                        call = self._lanes.took(lane, now, cost, tokens)
                        return Slot(self, lane, call, ticket, now, tokens)
            finally:
                self._waiting.remove((ticket, turn))
                heapq.heapify(self._waiting)
                self._wake_first()

    def _wake_first(self) -> None:
        if self._waiting:
            self._waiting[0][1].notify()

    def _change(self, how: Callable[[Lanes, float], None]) -> None:
        with self._lock:
            how(self._lanes, self._clock())
            self._wake_first()

    def share(self, among: int, place: int = 0, lane: str | None = None) -> None:
        """Divide the quota (of one lane or of all) among so many live processes; acts at once.

        ``place`` is this process's own number among them, from 0, for example its index in the sorted list
        of heartbeats: processes with different places take turns.
        """
        self._change(lambda lanes, now: lanes.share(now, among, place, lane))

    def close(self, reason: str, lane: str | None = None) -> None:
        """Let no more calls through (to one lane, or at all): who waits gets `RunStopped` with the reason."""
        self._change(lambda lanes, now: lanes.close(reason, lane))

    def state(self) -> dict[str, LaneState]:
        """What each lane did so far and its present rate."""
        with self._lock:
            return self._lanes.state(self._clock())
