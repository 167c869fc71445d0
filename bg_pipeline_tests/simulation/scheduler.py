"""Virtual time and cooperative tasks, which simulate processes and their threads.

A task is a greenlet that runs until it waits for something; the next of the ready tasks is drawn from a seeded random
generator. Time advances only when all tasks wait. One simulation runs at a time: `active` returns its scheduler.
"""

import heapq
import itertools
from collections.abc import Callable
from contextlib import suppress
from random import Random
from time import process_time
from typing import Any, Final

from greenlet import getcurrent, greenlet

MOST_TURNS: Final = 400_000
MOST_CPU_SECONDS: Final = 15.0
"""Limit of CPU time, many times that of a normal simulation."""

_active: list["Scheduler"] = []


def active() -> "Scheduler":
    """The scheduler of the running simulation."""
    return _active[-1]


class Dead(BaseException):
    """Raised in the tasks of killed processes during cleanup; nothing they do then has an effect."""


class Stuck(Exception):
    """Tasks wait forever or do not end."""


class Process:
    """One simulated process: tasks that are suspended and killed together.

    Other processes on its ``machine`` can see that it is dead. It ends when all tasks except daemons have ended.
    ``error`` is the exception of its first task, if any; ``resumed`` is when it last was resumed, -1 if never.
    """

    def __init__(self, name: str, machine: str) -> None:
        self.name = name
        self.machine = machine
        self.alive = True
        self.killed = False
        self.suspended = False
        self.resumed = -1.0
        self.tasks: list[Task] = []
        self.started = self.ended = 0.0
        self.result: Any = None
        self.error: BaseException | None = None
        self.thread_errors: list[BaseException] = []

    @property
    def main(self) -> "Task":
        return self.tasks[0]

    def __repr__(self) -> str:
        return self.name


class Task:
    """One thread of a process."""

    def __init__(self, process: Process, run: Callable[[], object], *, daemon: bool) -> None:
        self.process = process
        self.daemon = daemon
        self.greenlet = greenlet(run)
        self.waits = False
        self.ended = False
        self.turn = 0
        self.woken = True
        self.thrown: BaseException | None = None
        self.joined: list[Task] = []


class Scheduler:
    """Runs tasks in virtual time, which starts at ``now`` (seconds since 1970)."""

    def __init__(self, random: Random, now: float) -> None:
        self.random = random
        self.now = now
        self.current: Task | None = None
        self.processes: dict[str, Process] = {}
        self.closed = False
        self._began = process_time()
        self._hub: Any = None
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Task, int]] = []
        self._numbers = itertools.count()

    def __enter__(self) -> "Scheduler":
        _active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()
        _active.remove(self)

    # Processes

    def start(self, process: Process, run: Callable[[], Any]) -> None:
        """Starts a process whose first task is ``run``."""

        def main() -> None:
            try:
                process.result = run()
            except Dead:
                raise
            except BaseException as error:  # noqa: BLE001 (whatever ends a process is for the invariants)
                process.error = error

        self.processes[process.name] = process
        process.started = self.now
        self.spawn(process, main)

    def spawn(self, process: Process, run: Callable[[], object], *, daemon: bool = False) -> Task:
        """Starts another task of a process."""
        self._check(process)

        def whole(*_: object) -> None:
            try:
                run()
            except Dead:
                return
            except BaseException as error:  # noqa: BLE001 (a thread that dies of an error leaves the others alone)
                process.thread_errors.append(error)
            finally:
                self._ended(task)

        task = Task(process, whole, daemon=daemon)
        process.tasks.append(task)
        self._ready.append(task)
        return task

    def _ended(self, task: Task) -> None:
        task.ended = True
        for other in task.joined:
            self.wake(other)
        process = task.process
        if process.alive and all(each.ended for each in process.tasks if not each.daemon):
            process.alive = False
            process.ended = self.now

    def kill(self, process: Process) -> None:
        """Ends a process as SIGKILL does: none of its code runs afterwards."""
        if process.alive:
            process.alive, process.killed, process.ended = False, True, self.now
            if self.current is not None and self.current.process is process:
                self._switch()

    def suspend(self, process: Process) -> None:
        """Stops a process as SIGSTOP does, until `resume`."""
        process.suspended = True
        if self.current is not None and self.current.process is process:
            self.wait(self.now)

    def resume(self, process: Process) -> None:
        process.suspended = False
        process.resumed = self.now

    def interrupt(self, process: Process, error: BaseException) -> None:
        """Raises ``error`` in the first task of a process, as a signal's handler does."""
        if process.alive and not process.main.ended:
            process.main.thrown = error
            if process.main is self.current:
                self.wait(self.now)
            else:
                self.wake(process.main)

    # Waiting

    def wait(self, until: float | None = None) -> bool:
        """Suspends this task until `wake` is called for it (returns True) or until the time (returns False)."""
        task = self.current
        if task is None:
            raise Stuck("something waits outside of any task")
        self._check(task.process)
        task.turn += 1
        task.waits = True
        if until is not None:
            heapq.heappush(self._timers, (until, next(self._numbers), task, task.turn))
        woken: bool = self._switch()
        if task.thrown is not None:
            error, task.thrown = task.thrown, None
            raise error
        return woken

    def sleep(self, seconds: float) -> None:
        if self.current is not None:
            until = self.now + max(seconds, 0.0)
            while self.wait(until):
                pass

    def wake(self, task: Task) -> None:
        """Ends the waiting of a task; no effect if it does not wait."""
        self._end_wait(task, True)

    def _end_wait(self, task: Task, woken: bool) -> None:
        if task.waits and not task.ended:
            task.waits, task.woken = False, woken
            task.turn += 1
            self._ready.append(task)

    def _switch(self) -> Any:
        value = self._hub.switch()
        if self.closed:
            raise Dead
        return value

    def _check(self, process: Process) -> None:
        if self.closed or not process.alive:
            raise Dead

    # The hub

    def run(self, until: float | None = None) -> None:
        """Runs the tasks until all have ended or until a time; raises `Stuck` if that takes too long."""
        self._hub = getcurrent()
        for turn in range(MOST_TURNS):
            task = self._next(until)
            if task is None:
                return
            if turn % 100 == 0 and process_time() - self._began > MOST_CPU_SECONDS:
                raise Stuck(f"no end after {turn} turns: something is done again and again")
            self.current = task
            # When it ends, control returns to its parent, which by default is its creator.
            task.greenlet.parent = self._hub
            try:
                task.greenlet.switch(task.woken)
            finally:
                self.current = None
        raise Stuck(f"no end after {MOST_TURNS} turns")

    def _next(self, until: float | None) -> Task | None:
        while True:
            self._ready = [task for task in self._ready if task.process.alive and not task.ended]
            able = [task for task in self._ready if not task.process.suspended]
            if able:
                task = able[0] if len(able) == 1 else able[self.random.randrange(len(able))]
                self._ready.remove(task)
                return task
            if not self._timers or (until is not None and self._timers[0][0] > until):
                self.now = max(self.now, until or 0.0)
                return None
            when, _, task, turn = heapq.heappop(self._timers)
            if task.turn == turn and task.process.alive:
                self.now = max(self.now, when)
                self._end_wait(task, False)

    def _clear(self) -> None:
        """Unwinds all remaining tasks; nothing they do has an effect."""
        self.closed = True
        self._hub = getcurrent()
        for process in self.processes.values():
            process.alive = False
            for task in process.tasks:
                if not task.greenlet.dead:
                    self.current = task
                    task.greenlet.parent = self._hub
                    with suppress(Dead):  # raised by a task that never ran
                        task.greenlet.throw(Dead)
        self.current = None
