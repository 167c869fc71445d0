"""Hours of the pipeline in a second: simulated services with quotas, and processes with real `RegionLimiter`s.

Time is simulated and chance is seeded, so a run has one outcome. Each image has its labels and caption (2.3 s),
then queues for its picture at the limiter; a process has at most `CONCURRENCY` images open. Answers take 7 s
(lognormal), refusals 0.1 s, failures 0.5 s.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bg_pipeline.rate_limits.limiter import Rate, RegionLimiter, RegionState, earliest_free

CONCURRENCY = 64
SIGMA = 0.25
LABELS_SECONDS, CAPTION_SECONDS, PICTURE_SECONDS = 0.3, 2.0, 7.0
REFUSAL_SECONDS, FAILURE_SECONDS = 0.1, 0.5
START = 1_800_000_000.0  # as large as a clock's, so that rounding is what it will be
ROUNDING = 1e-6


class Limit(Protocol):
    """How a service enforces its quota."""

    def admits(self, now: float) -> bool: ...


class Bucket:
    """A token bucket, full at the start."""

    def __init__(self, rate: float, depth: float) -> None:
        self.rate, self.depth = rate, depth
        self.tokens, self.at = depth, START

    def admits(self, now: float) -> bool:
        self.tokens = min(self.depth, self.tokens + self.rate * (now - self.at))
        self.at = now
        if self.tokens < 1 - ROUNDING:
            return False
        self.tokens -= 1
        return True


class Rolling:
    """At most a minute's quota of served calls in any minute."""

    def __init__(self, rate: float) -> None:
        self.calls = round(rate * 60)
        self.served: deque[float] = deque()

    def admits(self, now: float) -> bool:
        while self.served and self.served[0] <= now - 60 + ROUNDING:
            self.served.popleft()
        if len(self.served) >= self.calls:
            return False
        self.served.append(now)
        return True


class Fixed:
    """At most a minute's quota of served calls in each minute of the service's own clock."""

    def __init__(self, rate: float, offset: float) -> None:
        self.calls, self.offset = round(rate * 60), offset
        self.window, self.served = -1, 0

    def admits(self, now: float) -> bool:
        window = int((now + self.offset) // 60)
        if window != self.window:
            self.window, self.served = window, 0
        if self.served >= self.calls:
            return False
        self.served += 1
        return True


SHAPES: Mapping[str, Callable[[float, random.Random], Limit]] = {
    "bucket of 1": lambda rate, chance: Bucket(rate, 1.0),
    "bucket of 1 s": lambda rate, chance: Bucket(rate, max(1.0, rate)),
    "bucket of 60 s": lambda rate, chance: Bucket(rate, 60 * rate),
    "rolling 60 s": lambda rate, chance: Rolling(rate),
    "fixed 60 s": lambda rate, chance: Fixed(rate, chance.uniform(0, 60)),
}


class World:
    """The simulated time, the queue of events and the random generator."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now = START
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def around(self, seconds: float) -> float:
        return seconds * self.chance.lognormvariate(0.0, SIGMA)


class Service:
    """One model in one Region: serves, refuses, or fails while it is broken."""

    def __init__(self, world: World, limit: Limit, broken: tuple[float, float], jitter: float) -> None:
        self.world, self.limit, self.jitter = world, limit, jitter
        self.broken = START + broken[0], START + broken[1]
        self.served = self.refused = self.failed = 0

    def call(self, answered: Callable[[str], None]) -> None:
        """``answered`` is called later with "served", "refused" or "failed"."""
        self.world.after(self.world.chance.uniform(0, self.jitter), lambda: self._arrived(answered))

    def _arrived(self, answered: Callable[[str], None]) -> None:
        world = self.world
        if self.broken[0] <= world.now < self.broken[1]:
            self.failed += 1
            world.after(FAILURE_SECONDS, lambda: answered("failed"))
        elif self.limit.admits(world.now):
            self.served += 1
            world.after(world.around(PICTURE_SECONDS), lambda: answered("served"))
        else:
            self.refused += 1
            world.after(world.around(REFUSAL_SECONDS), lambda: answered("refused"))


class Process:
    """One run with its images and its limiter: the queue of `RateLimiter` without threads, with real
    `RegionLimiter`s.
    """

    def __init__(self, world: World, services: Mapping[str, Service], quota: Rate, images: int) -> None:
        self.world, self.services = world, services
        self.limiters = [RegionLimiter(name, quota) for name in services]
        self.done: list[float] = []
        self.nothing_more: Callable[[], None] = lambda: None
        self._images = iter(range(images))
        self._not_admitted = set(range(images))
        self._queue: list[int] = []
        self._look_at = float("inf")

    def start(self) -> None:
        for _ in range(CONCURRENCY):
            self._open_one()

    def share(self, processes: int, index: int | None) -> None:
        for limiter in self.limiters:
            limiter.adaptive_rate.share(self.world.now, processes, index)
        self._look()

    def _open_one(self) -> None:
        image = next(self._images, None)
        if image is not None:
            before = self.world.around(LABELS_SECONDS) + self.world.around(CAPTION_SECONDS)
            self.world.after(before, lambda: self._queue_up(image))

    def _queue_up(self, image: int) -> None:
        heapq.heappush(self._queue, image)
        self._look()

    def _look(self) -> None:
        now = self.world.now
        while self._queue:
            at, region = earliest_free(self.limiters, now)
            if at > now:
                if not now < self._look_at <= at:
                    self._look_at = at
                    self.world.after(at - now, self._look)
                return
            self._go(heapq.heappop(self._queue), region)

    def _go(self, image: int, region: RegionLimiter) -> None:
        since = self.world.now
        call = region.acquire(since)
        self._not_admitted.discard(image)
        if not self._not_admitted:
            self.nothing_more()

        def answered(how: str) -> None:
            now = self.world.now
            if how == "served":
                region.record_success(since)
                self.done.append(now)
                self._open_one()
                self._look()
                return
            if how == "refused":
                region.record_refusal(call, now)
            else:
                region.record_failure(now, since)
            self._queue_up(image)

        self.services[region.name].call(answered)


@dataclass(frozen=True)
class Outcome:
    """The result of a run: ``ratio`` is its length divided by the minimum, images / quota."""

    ratio: float
    refused: float
    """The share of all calls."""
    failed: int
    done: int
    regions: Mapping[str, RegionState]
    """Of the first process."""


def simulate(
    *,
    images: Sequence[int] = (1000,),
    per_minute: float = 120.0,
    configured: float = 1.0,
    may_probe: bool = False,
    shape: str = "bucket of 1 s",
    regions: Sequence[str] = ("a",),
    broken: Mapping[str, tuple[float, float]] | None = None,
    starts: Sequence[float] | None = None,
    beat: float = 3.0,
    places: bool = True,
    jitter: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Run ``images[k]`` images in process k, in the same ``regions`` of ``per_minute`` each.

    ``configured`` is what the processes believe the quota to be, over what it is. Several processes divide it
    by the heartbeats they see: each looks when it starts and every ``beat`` seconds, and has one until its last
    image is admitted. ``starts`` are seconds, by default anywhere within one beat; ``jitter`` is how long a
    call may travel; ``broken`` says from when until when a Region only fails.
    """
    chance = random.Random(seed)
    world = World(chance)
    rate = per_minute / 60
    services = {
        region: Service(world, SHAPES[shape](rate, chance), (broken or {}).get(region, (0.0, 0.0)), jitter)
        for region in regions
    }
    quota = Rate(rate * configured, may_probe=may_probe)
    processes = [Process(world, services, quota, n) for n in images]
    alive: set[int] = set()

    def look(k: int) -> None:
        if k in alive:
            processes[k].share(len(alive), sorted(alive).index(k) if places else None)
            world.after(beat, partial(look, k))

    def begin(k: int) -> None:
        alive.add(k)
        processes[k].nothing_more = partial(alive.discard, k)
        look(k)
        processes[k].start()

    if starts is None:
        starts = [chance.uniform(0, beat) for _ in images] if len(images) > 1 else [0.0]
    for k, at in enumerate(starts):
        world.after(at, partial(begin, k))
    world.run()
    served = sum(service.served for service in services.values())
    refused = sum(service.refused for service in services.values())
    return Outcome(
        ratio=(max(max(process.done) for process in processes) - START)
        / (sum(images) / (rate * len(regions))),
        refused=refused / (served + refused),
        failed=sum(service.failed for service in services.values()),
        done=sum(len(process.done) for process in processes),
        regions={each.name: each.state(world.now) for each in processes[0].limiters},
    )
