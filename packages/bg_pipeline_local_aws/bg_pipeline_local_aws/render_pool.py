"""Where pictures are looked at and painted: a pool of processes beside the server, and a cache by content."""

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

from bg_pipeline_local_aws.wire import invalid

CACHE_BYTES = 256_000_000

_Result = TypeVar("_Result")


class Studio:
    """Runs picture functions in processes, each distinct work once.

    ``workers`` is the number of processes (default: the machine's cores); they end with this process, however it
    ends. Of the results about `CACHE_BYTES` are kept, least recently used first to go.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self._results: OrderedDict[tuple[Any, ...], asyncio.Task[Any]] = OrderedDict()
        self._weight = 0

    async def do(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """The result of ``work(*args)``; the same work asked for twice, even at once, is done once."""
        key = (work.__name__, *(hashlib.sha256(a).digest() if isinstance(a, bytes) else a for a in args))
        task = self._results.get(key)
        if task is None:
            task = asyncio.create_task(self._run(work, args))
            self._results[key] = task
            task.add_done_callback(lambda done: self._weigh(key, done))
        else:
            self._results.move_to_end(key)
        # A caller that goes away must not stop the work for the others.
        return await asyncio.shield(task)

    async def _run(self, work: Callable[..., _Result], args: tuple[Any, ...]) -> _Result:
        pool = self._pool
        if pool is None:
            # Spawned, not forked: the server has threads and an event loop.
            pool = ProcessPoolExecutor(self._workers, get_context("spawn"), initializer=_end_with_parent)
            self._pool = pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *args)
        except BrokenProcessPool:
            self._pool = None
            raise

    def _weigh(self, key: tuple[Any, ...], task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception():
            self._results.pop(key, None)
            return
        self._weight += _weight(task.result())
        while self._weight > CACHE_BYTES:
            oldest, done = self._results.popitem(last=False)
            if done.done():
                self._weight -= _weight(done.result())
            else:
                self._results[oldest] = done

    def close(self) -> None:
        """End the processes once what they are doing is done; what still waits is given up."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


async def decoded(work: Awaitable[_Result]) -> _Result:
    """The result of picture work, or Bedrock's refusal of a picture that could not be worked on."""
    try:
        return await work
    except ValueError as error:
        raise invalid(str(error)) from error


def _weight(result: Any) -> int:
    return 1_000 + (len(result) if isinstance(result, bytes) else 0)


def _end_with_parent() -> None:
    """In a pool's process: end when the server is gone, even if it was killed."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
