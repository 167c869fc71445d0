"""Replacements of threads, locks, queues, clocks and random numbers during a simulation.

They behave like those of the standard library, with tasks of the scheduler instead of threads and with virtual time.
`installed` patches them into bg_pipeline and concurrent.futures only; the rest of the interpreter is unchanged.
"""

import concurrent.futures._base
import concurrent.futures.thread
import datetime
import itertools
import queue
import random
import secrets
import sys
import threading
import time
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

from bg_pipeline.rate_limits import limiter
from bg_pipeline.state import claims, process_identity
from bg_pipeline_tests.simulation.scheduler import Task, active


class _Waiting:
    """A FIFO queue of waiting tasks."""

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()

    def wait(self, until: float | None) -> bool:
        """Waits until this task is woken (True) or until the time (False)."""
        task = active().current
        if task is None:
            return active().wait(until)
        self._tasks.append(task)
        try:
            return active().wait(until)
        finally:
            if task in self._tasks:
                self._tasks.remove(task)

    def wake(self, number: int = 1) -> None:
        for _ in range(min(number, len(self._tasks))):
            active().wake(self._tasks.popleft())

    def __len__(self) -> int:
        return len(self._tasks)


def _until(timeout: float | None) -> float | None:
    return None if timeout is None or timeout < 0 else active().now + timeout


class Semaphore:
    """A semaphore; the base of `Lock`."""

    def __init__(self, value: int = 1) -> None:
        self._value = value
        self._waiting = _Waiting()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        until = _until(timeout)
        try:
            while self._value == 0:
                if not blocking or timeout == 0 or (not self._waiting.wait(until) and until is not None):
                    return False
        except BaseException:
            if self._value:
                self._waiting.wake()  # this task was woken but does not acquire: wake the next one
            raise
        self._value -= 1
        return True

    def release(self, n: int = 1) -> None:
        self._value += n
        self._waiting.wake(n)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Lock(Semaphore):
    def __init__(self) -> None:
        super().__init__(1)

    def release(self, n: int = 1) -> None:
        if self._value:
            raise RuntimeError("release unlocked lock")
        super().release()

    def locked(self) -> bool:
        return self._value == 0


class RLock:
    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: Task | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        me = active().current
        if not (self._count and self._owner is me):
            if not self._lock.acquire(blocking, timeout):
                return False
            self._owner = me
        self._count += 1
        return True

    def release(self) -> None:
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    def __init__(self, lock: Any = None) -> None:
        self._lock = lock if lock is not None else RLock()
        self._waiting = _Waiting()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        held = self._lock._count if isinstance(self._lock, RLock) else 1
        for _ in range(held):
            self._lock.release()
        try:
            return self._waiting.wait(_until(timeout))
        finally:
            for _ in range(held):
                self._lock.acquire()

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = _until(timeout)
        while not (result := predicate()):
            left = None if until is None else until - active().now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        self._waiting.wake(n)

    def notify_all(self) -> None:
        self._waiting.wake(len(self._waiting))


class Event:
    def __init__(self) -> None:
        self._set = False
        self._waiting = _Waiting()

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._waiting.wake(len(self._waiting))

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        until = _until(timeout)
        if timeout is None or timeout > 0:
            while not self._set and self._waiting.wait(until):
                pass
        return self._set


class SimpleQueue:
    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting = _Waiting()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._items.append(item)
        self._waiting.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        until = _until(timeout)
        while not self._items:
            if not block or timeout == 0 or (not self._waiting.wait(until) and until is not None):
                if self._items:
                    break
                raise queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items


class Thread:
    _numbers = itertools.count()

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] = lambda: None,
        name: str = "",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool = False,
    ) -> None:
        self.name = name
        self.daemon = daemon
        self._number = next(Thread._numbers)
        self._run = lambda: target(*args, **(kwargs or {}))
        self._task: Task | None = None

    def start(self) -> None:
        current = active().current
        if current is None:
            raise RuntimeError("a thread is started outside of any process")
        self._task = active().spawn(current.process, self._run, daemon=self.daemon)

    def __hash__(self) -> int:
        return self._number  # so that a set of threads has the same order in each run

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.ended

    def join(self, timeout: float | None = None) -> None:
        task, current, until = self._task, active().current, _until(timeout)
        while task is not None and current is not None and not task.ended:
            task.joined.append(current)
            if not active().wait(until) and until is not None:
                return


class _Moments(type):
    """Makes every datetime an instance of `Moment`, including those created elsewhere."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime.datetime)


class Moment(datetime.datetime, metaclass=_Moments):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.datetime.fromtimestamp(active().now, tz or datetime.UTC)


class Facade(types.ModuleType):
    """A module with some of its names replaced."""

    def __init__(self, module: types.ModuleType, **names: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class OrderedSet(dict[Any, None]):
    """A set with insertion order, for reproducible iteration."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


def process_name() -> str:
    """The name of the current simulated process."""
    current = active().current
    return current.process.name if current else "nobody"


def is_dead(name: str) -> bool:
    """Whether the process is dead, as far as the current process can know: False on another machine."""
    current, process = active().current, active().processes.get(name)
    if process is None or (current is not None and current.process.machine != process.machine):
        return False
    return not process.alive


def _threading() -> Facade:
    return Facade(
        threading,
        Lock=Lock,
        RLock=RLock,
        Condition=Condition,
        Event=Event,
        Semaphore=Semaphore,
        BoundedSemaphore=Semaphore,
        Thread=Thread,
    )


def _time() -> Facade:
    def now(*_: object) -> float:
        return active().now

    def sleep(seconds: float) -> None:
        active().sleep(seconds)

    return Facade(time, time=now, monotonic=now, perf_counter=now, clock_gettime=now, sleep=sleep)


@contextmanager
def installed(drawn: Random) -> Iterator[None]:
    """Runs bg_pipeline in the active simulation while open; its random numbers come from ``drawn``."""
    threads = _threading()
    Thread._numbers = itertools.count()
    replaced = [
        (threading, threads),
        (time, _time()),
        (random, Facade(random, uniform=drawn.uniform, random=drawn.random)),
        (uuid, Facade(uuid, uuid4=lambda: uuid.UUID(int=drawn.getrandbits(128), version=4))),
        (secrets, Facade(secrets, randbelow=drawn.randrange)),
        (queue, Facade(queue, SimpleQueue=SimpleQueue)),
        (queue.SimpleQueue, SimpleQueue),
        (datetime.datetime, Moment),
        # If its holder is killed, the interpreter's own lock would be held forever.
        (concurrent.futures.thread._global_shutdown_lock, Lock()),
        (process_identity.process_name, process_name),
        (process_identity.is_dead, is_dead),
    ]
    inside = [
        module
        for name, module in sys.modules.items()
        if name.startswith("bg_pipeline.")
        or name in ("concurrent.futures._base", "concurrent.futures.thread")
    ]
    undo: list[tuple[dict[str, Any], str, Any]] = []
    for module in inside:
        names = vars(module)
        for name, value in list(names.items()):
            for real, ours in replaced:
                if value is real:
                    undo.append((names, name, value))
                    names[name] = ours
    epoch, limiter._EPOCH = limiter._EPOCH, 0.0
    leases = vars(sys.modules["bg_pipeline.state.leases"])
    leases["set"] = OrderedSet
    claims._active.clear()  # left by the simulation before, which used the same names
    try:
        yield
    finally:
        limiter._EPOCH = epoch
        del leases["set"]
        for names, name, value in undo:
            names[name] = value
        known: Any = concurrent.futures.thread._threads_queues
        for thread in [each for each in known if isinstance(each, Thread)]:
            del known[thread]
