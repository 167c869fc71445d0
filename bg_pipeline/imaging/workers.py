"""The door to all work on pictures that strangers sent: processes that may crash, hang or run out of memory.

A photo is decoded, measured and encoded by functions that are called through `PictureWorkers.run`. The process that
holds credentials and talks to AWS never decodes a file itself. A file that ends its worker costs that worker and
becomes an `ImageError`; the next file gets a new worker.

pebble's pool is used because it gives every call a time limit and replaces a worker that it killed. Workers are kept
for the life of the process. A call costs 0.3 ms of CPU in both processes together.
"""

import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import TimeoutError as NotInTime
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob
from itertools import count
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.parcels import INLINE_BYTES, Blob, loaded, pack, remove, unpack
from bg_pipeline.imaging.photo import ImageHeader, read_header
from bg_pipeline.imaging.worker_process import OUT_OF_MEMORY, Outcome, perform, start

T = TypeVar("T")

SECONDS = 20.0
"""Time for any call, …"""
SECONDS_PER_MEGAPIXEL = 1.0
"""… and for each megapixel of its pictures. Decoding 12 megapixels takes 0.1 to 1 s of an idle core."""

MEMORY = 1_000_000_000
"""Bytes that a worker may allocate for any call, libraries included, …"""
MEMORY_PER_PIXEL = 40
"""… and for each pixel of its pictures: a WebP takes 32, a TIFF of floats 38."""

START_SECONDS = 30.0
"""A call that no worker has begun after this time is lost, because there is a free worker for each call. An idle
worker that is killed may have held the lock of the pool's queue."""
GRACE_SECONDS = 60.0
"""A call that has not ended so long after its time limit was lost together with its worker."""

REPLACED_SECONDS = 1.0
"""A call whose pool was replaced because of another call is lost if it has not ended so long afterwards."""

ATTEMPTS = 2
"""A crash is the file's own fault if a second, new worker dies over it as well."""

_FOLDERS = "bg-pipeline-pictures-"


@dataclass(frozen=True)
class Limit:
    """What a call may take: wall-clock seconds and bytes of memory, 0 for any number of bytes.

    ``doing`` names the call in the error's sentence.
    """

    seconds: float = SECONDS
    memory: int = MEMORY
    doing: str = "decode"

    @classmethod
    def of(cls, *sizes: tuple[int, int], files: int = 0, rounds: int = 1, doing: str = "decode") -> "Limit":
        """The limit for going ``rounds`` times through pictures of these sizes, in files of so many bytes."""
        pixels = sum(width * height for width, height in sizes)
        return cls(
            rounds * (SECONDS + SECONDS_PER_MEGAPIXEL * round(pixels / 1e6)),
            MEMORY + MEMORY_PER_PIXEL * pixels + 2 * files,
            doing,
        )


class PictureWorkers(Protocol):
    """Where functions on pictures run."""

    @property
    def number(self) -> int:
        """How many calls can run at the same time."""

    def run(self, limit: Limit, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """What ``work`` returns, or raises, with these arguments; `ImageError` if it breaks the limit or crashes.

        ``work`` is a function of a module. Arguments and result may hold pictures, bytes and anything that pickles;
        a `Blob` among the arguments arrives as bytes, a `StoredPhoto` as a `Photo`.
        """

    def blob(self, data: bytes) -> Blob:
        """The bytes in the form that costs least to pass to several calls."""


class InProcess:
    """Calls the functions in this process, without limits: for simulations, whose time is not the machine's."""

    number = 1

    def run(self, limit: Limit, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """What ``work`` returns."""
        return work(
            *(loaded(value) for value in args), **{name: loaded(value) for name, value in kwargs.items()}
        )

    def blob(self, data: bytes) -> Blob:
        """The bytes, in memory."""
        return Blob(data)


class WorkerPool:
    """Calls the functions in ``number`` worker processes, which start with the first call. Safe for threads."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._closed: ProcessPool | None = None
        # A call starts as soon as it is handed to the pool, so that its time can be told.
        self._free = threading.BoundedSemaphore(number)
        self._names = count()
        self._folder = ""

    def run(self, limit: Limit, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """What ``work`` returns, or raises; `ImageError` if it breaks the limit or crashes its worker."""
        name = self._path()
        with self._free:
            payload, files = pack((work, args, kwargs), f"{name}-in", arguments=True)
            outcome: Outcome | None = None
            try:
                outcome = self._outcome(limit, payload, f"{name}-out")
            finally:
                # The files that the worker wrote belong to its outcome.
                for file in files if outcome else (*files, *glob(f"{name}-out-*")):
                    remove(file)
        if outcome.error is not None:
            raise outcome.error
        value: T = outcome.value
        return value

    def blob(self, data: bytes) -> Blob:
        """The bytes, in a file if they are many."""
        return Blob.stored(data, self._path()) if len(data) > INLINE_BYTES else Blob(data)

    def close(self) -> None:
        """Ends the workers; calls under way fail."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._closed = pool
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()

    def _path(self) -> str:
        """The beginning of the names of new files."""
        with self._lock:
            if not self._folder:
                self._folder = _own_folder(self)
        return f"{self._folder}/{next(self._names)}"

    def _outcome(self, limit: Limit, payload: bytes, prefix: str) -> Outcome:
        failure: Exception | None = None
        for _ in range(ATTEMPTS):
            pool = self._started()
            try:
                call = pool.schedule(perform, args=(payload, prefix, limit.memory), timeout=limit.seconds)
            except RuntimeError as error:
                self._forget(pool)
                failure = error
                continue
            try:
                self._wait(call, pool, START_SECONDS)
                if call.running():
                    self._wait(call, pool, limit.seconds + GRACE_SECONDS)
                if call.done():
                    outcome: Outcome = unpack(call.result(0))
                    return outcome
                if pool is self._closed:
                    raise CancelledError
                self._forget(pool)
            except NotInTime:
                raise _too_slow(limit) from None
            except ProcessExpired as error:
                if error.exitcode == OUT_OF_MEMORY:
                    raise _out_of_memory(limit) from None
                failure = error
            except CancelledError as error:
                if pool is self._closed:
                    raise
                failure = error  # Another call was lost, and the pool was replaced.
            except (BrokenProcessPool, OSError) as error:
                self._forget(pool)
                failure = error
            finally:
                if not call.done():  # The caller is interrupted, or the pool is broken.
                    call.cancel()  # type: ignore[no-untyped-call]
        if isinstance(failure, ProcessExpired):
            raise _crashed(failure.exitcode, limit) from None
        raise RuntimeError("no worker process could be started or kept") from failure

    def _wait(self, call: Future[Any], pool: ProcessPool, seconds: float) -> None:
        """Waits until the call ends, at most so many seconds; no longer than a moment once its pool was replaced.

        A pool that is stopped does not answer every call that was running in it.
        """
        ends = time.monotonic() + seconds
        while not call.done() and self._pool is pool and (left := ends - time.monotonic()) > 0:
            wait([call], min(left, REPLACED_SECONDS))
        if self._pool is not pool:
            wait([call], REPLACED_SECONDS)

    def _started(self) -> ProcessPool:
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPool(self.number, initializer=start, context=_WorkerContext())
            return self._pool

    def _forget(self, pool: ProcessPool) -> None:
        """Has the next call start a new pool in the place of one that is broken."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.stop()  # type: ignore[no-untyped-call]


def shared_workers(number: int | None = None) -> PictureWorkers:
    """The workers of this process: ``number`` of them, for 0 as many as it may use cores; by default those it has."""
    if _substitutes:
        return _substitutes[-1]
    process = os.getpid()
    with _sharing:
        if number is None:
            pools = [pool for (owner, _), pool in _shared.items() if owner == process]
            if pools:
                return pools[-1]
        key = process, number or usable_cores()
        if key not in _shared:
            _shared[key] = WorkerPool(key[1])
        return _shared[key]


@contextmanager
def substituted(workers: PictureWorkers) -> Iterator[None]:
    """`shared_workers` returns ``workers`` while the block lasts."""
    _substitutes.append(workers)
    try:
        yield
    finally:
        _substitutes.remove(workers)


def header_of(workers: PictureWorkers, data: bytes | Blob) -> ImageHeader:
    """The header of a picture file; raises `ImageError` as `read_header` does."""
    return workers.run(Limit.of(files=len(data)), read_header, data)


def run_on_file(
    workers: PictureWorkers, work: Callable[..., T], data: bytes | Blob, /, *args: Any, **kwargs: Any
) -> T:
    """What ``work`` returns for a picture file, within the limit for its size; raises `ImageError` as `run` does."""
    file = workers.blob(data) if isinstance(data, bytes) else data
    limit = Limit.of(header_of(workers, file).size, files=len(file))
    return workers.run(limit, work, file, *args, **kwargs)


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


_shared: dict[tuple[int, int], WorkerPool] = {}
_sharing = threading.Lock()
_substitutes: list[PictureWorkers] = []


def _too_slow(limit: Limit) -> ImageError:
    return ImageError(
        "DamagedImage",
        f"the image took longer than {limit.seconds:g} s to {limit.doing}; "
        "save it anew with another program and upload that",
    )


def _out_of_memory(limit: Limit) -> ImageError:
    if not limit.memory:
        return _too_large_for_machine(limit)
    return ImageError(
        "TooLarge",
        f"the image needs more than {limit.memory / 1e9:.1f} GB of memory to {limit.doing}; "
        "scale it down, or save it anew with another program",
    )


def _too_large_for_machine(limit: Limit) -> ImageError:
    return ImageError(
        "TooLarge",
        f"the image needs more memory to {limit.doing} than this machine has; scale it down, or run it on a "
        "machine with more",
    )


def _crashed(exit_code: int, limit: Limit) -> ImageError:
    if exit_code == -signal.SIGKILL:
        return _too_large_for_machine(limit)
    with suppress(ValueError):
        name = signal.Signals(-exit_code).name
        return ImageError(
            "DamagedImage",
            f"the image made the decoder crash ({name}); save it anew with another program and upload that",
        )
    return ImageError(
        "DamagedImage",
        f"the image made the decoder end with code {exit_code}; save it anew with another program and upload that",
    )


class _WorkerProcess(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 (multiprocessing's own name)
        with _starting:
            main = sys.modules["__main__"]
            # A new process imports its parent's main module, which may be Dagster's or the command line.
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = main


class _WorkerContext(SpawnContext):
    Process = _WorkerProcess


_starting = threading.Lock()


def _own_folder(owner: object) -> str:
    """A new folder for files on their way, removed together with its owner or at the end of the process.

    Folders of processes that were killed are removed here: nobody holds the lock in them any more.
    """
    _remove_left_behind()
    folder = tempfile.mkdtemp(prefix=_FOLDERS)
    lock = os.open(f"{folder}/new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(f"{folder}/new", f"{folder}/lock")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _remove_left_behind() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        with suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
