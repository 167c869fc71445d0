"""A process pool for image operations, with a cache of results keyed by the operation and its arguments."""

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from bg_pipeline_local_aws.protocol import validation_error

CACHE_BYTES = 256_000_000

_Result = TypeVar("_Result")


class RenderPool:
    """Runs functions in worker processes and caches their results.

    ``workers`` is the number of processes (default: the number of CPUs); they end with this process, even if it is
    killed. The cache holds about `CACHE_BYTES` of results and evicts the least recently used.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self._results: OrderedDict[tuple[Any, ...], asyncio.Task[Any]] = OrderedDict()
        self._cached_bytes = 0

    async def run(self, operation: Callable[..., _Result], *args: Any) -> _Result:
        """The result of ``operation(*args)``; equal calls, even concurrent ones, are executed once."""
        key = (operation.__name__, *(hashlib.sha256(a).digest() if isinstance(a, bytes) else a for a in args))
        task = self._results.get(key)
        if task is None:
            task = asyncio.create_task(self._execute(operation, args))
            self._results[key] = task
            task.add_done_callback(lambda done: self._account(key, done))
        else:
            self._results.move_to_end(key)
        # Cancelling one caller must not cancel the operation for the others.
        return await asyncio.shield(task)

    async def _execute(self, operation: Callable[..., _Result], args: tuple[Any, ...]) -> _Result:
        pool = self._pool
        if pool is None:
            # Spawned, not forked: the server has threads and an event loop.
            pool = ProcessPoolExecutor(self._workers, get_context("spawn"), initializer=_end_with_parent)
            self._pool = pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, operation, *args)
        except BrokenProcessPool:
            self._pool = None
            raise

    def _account(self, key: tuple[Any, ...], task: asyncio.Task[Any]) -> None:
        """Adds a finished task's result to the cache, or drops the task if it failed; evicts old results."""
        if task.cancelled() or task.exception():
            self._results.pop(key, None)
            return
        self._cached_bytes += _size_of(task.result())
        while self._cached_bytes > CACHE_BYTES:
            oldest, done = self._results.popitem(last=False)
            if done.done():
                self._cached_bytes -= _size_of(done.result())
            else:
                self._results[oldest] = done

    def close(self) -> None:
        """Waits for running operations, cancels queued ones and ends the processes."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


async def or_validation_error(operation: Awaitable[_Result]) -> _Result:
    """The awaited result; Bedrock's ValidationException if the operation raised ValueError (unreadable picture)."""
    try:
        return await operation
    except ValueError as error:
        raise validation_error(str(error)) from error


def _size_of(result: Any) -> int:
    return 1_000 + (len(result) if isinstance(result, bytes) else 0)


def _end_with_parent() -> None:
    """Pool initializer: ends this worker when the server process has ended, even if it was killed."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
