"""Hours of the pipeline in a second: simulated services with their quotas, and processes behind the real `Lanes`.

Time is simulated and random numbers are seeded, so a run has one outcome. An image walks through three calls
(labels, caption, generation), at most `CONCURRENCY` of them at once in a process; the first two calls have
quotas that are never in the way.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bg_pipeline.quota import Lane, LaneState, Rate, first_free

CONCURRENCY = 64
SIGMA = 0.25
GENERATION_SECONDS = 7.0
REFUSAL_SECONDS = 0.1
FAILURE_SECONDS = 0.5
BEAT_SECONDS = 3.0
TINY = 1e-9


class Limit(Protocol):
    """How a service enforces its quota."""

    def admits(self, now: float) -> bool: ...


class Bucket:
    """A token bucket, full at the start."""

    def __init__(self, rate: float, depth: float) -> None:
        self.rate, self.depth = rate, depth
        self.tokens, self.at = depth, 0.0

    def admits(self, now: float) -> bool:
        self.tokens = min(self.depth, self.tokens + self.rate * (now - self.at))
        self.at = now
        if self.tokens < 1 - TINY:
            return False
        self.tokens -= 1
        return True


class Rolling:
    """At most a minute's quota of served calls in any minute."""

    def __init__(self, rate: float) -> None:
        self.calls = round(rate * 60)
        self.served: deque[float] = deque()

    def admits(self, now: float) -> bool:
        while self.served and self.served[0] <= now - 60 + TINY:
            self.served.popleft()
        if len(self.served) >= self.calls:
            return False
        self.served.append(now)
        return True


class Fixed:
    """At most a minute's quota of served calls in each minute of the service's own clock."""

    def __init__(self, rate: float, offset: float) -> None:
        self.calls = round(rate * 60)
        self.offset = offset
        self.window, self.served = -1, 0

    def admits(self, now: float) -> bool:
        window = int((now + self.offset) // 60)
        if window != self.window:
            self.window, self.served = window, 0
        if self.served >= self.calls:
            return False
        self.served += 1
        return True


SHAPES = ("bucket 1", "bucket 1 s", "bucket 60 s", "rolling 60 s", "fixed 60 s")


def limit(shape: str, rate: float, rng: random.Random) -> Limit:
    """The shape's enforcement of so many calls per second."""
    if shape == "bucket 1":
        return Bucket(rate, 1.0)
    if shape == "bucket 1 s":
        return Bucket(rate, max(1.0, rate))
    if shape == "bucket 60 s":
        return Bucket(rate, 60 * rate)
    if shape == "rolling 60 s":
        return Rolling(rate)
    if shape == "fixed 60 s":
        return Fixed(rate, rng.uniform(0, 60))
    raise ValueError(shape)


@dataclass
class World:
    """The simulated time, what happens next, and the one source of chance."""

    rng: random.Random
    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def latency(self, median: float) -> float:
        return median * self.rng.lognormvariate(0.0, SIGMA)


@dataclass
class Service:
    """One model in one Region: serves, refuses, or fails while it is broken."""

    world: World
    limit: Limit
    broken: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.0
    served: int = 0
    refused: int = 0
    failed: int = 0

    def call(self, answered: Callable[[str], None]) -> None:
        """``answered`` is called later with "served", "refused" or "failed"."""
        if self.jitter:
            self.world.after(self.world.rng.uniform(0, self.jitter), lambda: self._arrived(answered))
        else:
            self._arrived(answered)

    def _arrived(self, answered: Callable[[str], None]) -> None:
        world = self.world
        if self.broken[0] <= world.now < self.broken[1]:
            self.failed += 1
            world.after(FAILURE_SECONDS, lambda: answered("failed"))
        elif self.limit.admits(world.now):
            self.served += 1
            world.after(world.latency(GENERATION_SECONDS), lambda: answered("served"))
        else:
            self.refused += 1
            world.after(world.latency(REFUSAL_SECONDS), lambda: answered("refused"))


class Process:
    """One run: its images in order, and its gate (the queue of `Gate` around the real `Lanes`)."""

    def __init__(
        self, world: World, services: Mapping[str, Service], quotas: Mapping[str, Rate], images: int
    ) -> None:
        self.world, self.services = world, services
        self.lanes = [Lane(name, quota) for name, quota in quotas.items()]
        self.to_do, self.open = images, 0
        self.done: list[float] = []
        self.unasked = set(range(images))
        self._queue: list[int] = []
        self._numbers = itertools.count()
        self._look_at = float("inf")
        self.nothing_more: Callable[[], None] = lambda: None

    def start(self) -> None:
        while self.to_do and self.open < CONCURRENCY:
            self.to_do -= 1
            self.open += 1
            self.world.after(
                self.world.latency(0.3) + self.world.latency(2.0), lambda: self._queue_up(next(self._numbers))
            )

    def share(self, among: int, place: int) -> None:
        for lane in self.lanes:
            lane.pace.share(self.world.now, among, place)
        self._look()

    def _queue_up(self, number: int) -> None:
        heapq.heappush(self._queue, number)
        self._look()

    def _look(self) -> None:
        now = self.world.now
        while self._queue:
            at, lane = first_free(self.lanes, now)
            if at > now:
                if not now < self._look_at <= at:
                    self._look_at = at
                    self.world.after(at - now, self._look)
                return
            call = lane.took(now)
            number = heapq.heappop(self._queue)
            self.unasked.discard(number)
            if not self.unasked:
                self.nothing_more()
            self.services[lane.name].call(lambda how, n=number, a=lane, c=call, s=now: self._answered(n, a, c, s, how))

    def _answered(self, number: int, lane: Lane, call: int, since: float, how: str) -> None:
        now = self.world.now
        if how == "refused":
            lane.refused(call, now)
            self._queue_up(number)
        elif how == "failed":
            lane.failed(now, since)
            self._queue_up(number)
        else:
            lane.served(since)
            self.done.append(now)
            self.open -= 1
            self.start()
            self._look()


@dataclass(frozen=True)
class Outcome:
    """What came of a run: ``ratio`` is its length over the floor images / quota."""

    ratio: float
    refused_share: float
    failed: int
    done: int
    state: Mapping[str, LaneState]
    refused: int = 0


def simulate(
    *,
    images: Sequence[int] = (1000,),
    per_minute: float = 120.0,
    configured: float = 1.0,
    shape: str = "bucket 1 s",
    lanes: Sequence[str] = ("a",),
    broken: Mapping[str, tuple[float, float]] | None = None,
    starts: Sequence[float] | None = None,
    may_probe: bool = False,
    jitter: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Run ``images[k]`` images in process k, all processes on the same lanes of ``per_minute`` each.

    ``configured`` is the ratio of the quota that the processes believe in to the real one. Several processes
    divide it by the heartbeats they see; each looks every `BEAT_SECONDS`.
    """
    rng = random.Random(seed)
    world = World(rng)
    real = per_minute / 60
    services = {
        lane: Service(world, limit(shape, real, rng), (broken or {}).get(lane, (0.0, 0.0)), jitter)
        for lane in lanes
    }
    quota = Rate(real * configured, may_probe=may_probe)
    processes = [Process(world, services, dict.fromkeys(lanes, quota), n) for n in images]
    alive: set[int] = set()

    def beat(k: int) -> None:
        if k in alive:
            processes[k].share(len(alive), sorted(alive).index(k))
            world.after(BEAT_SECONDS, lambda: beat(k))

    def begin(k: int) -> None:
        alive.add(k)
        processes[k].nothing_more = lambda: alive.discard(k)
        beat(k)
        processes[k].start()

    for k, at in enumerate(starts or [rng.uniform(0, BEAT_SECONDS) if len(images) > 1 else 0.0 for _ in images]):
        world.after(at, lambda k=k: begin(k))
    world.run()
    served = sum(service.served for service in services.values())
    refused = sum(service.refused for service in services.values())
    state = {lane.name: lane.state(world.now) for lane in processes[0].lanes}
    return Outcome(
        ratio=max(max(p.done) for p in processes) / (sum(images) / (real * len(lanes))),
        refused_share=refused / (served + refused),
        failed=sum(service.failed for service in services.values()),
        done=sum(len(p.done) for p in processes),
        state=state,
        refused=refused,
    )
