"""What runs in a worker process of `WorkerPool`: one call at a time, under a limit of memory.

Imported by every new worker, so nothing here may import Dagster, boto3 or pandas.
"""

import fcntl
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

from bg_pipeline.errors import BgPipelineError
from bg_pipeline.imaging import malloc
from bg_pipeline.imaging.parcels import pack, unpack

OUT_OF_MEMORY = 73
"""The exit code of a worker that reached its limit of memory: libraries are not to be trusted after that."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended: with a ``value`` or with an ``error``."""

    value: Any = None
    error: BaseException | None = None


def start() -> None:
    """Prepares a new worker process."""
    # pebble's own handler is Python code, which does not run while a decoder hangs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    malloc.configure_malloc(malloc.FOR_PIXELS)
    # There is a worker for each core; threads of libvips would only compete with the others.
    os.environ.setdefault("VIPS_CONCURRENCY", "1")
    # Damage is an error and does not depend on warnings, which would appear in the parent's output.
    warnings.simplefilter("ignore")


def perform(payload: bytes, prefix: str, memory: int) -> bytes:
    """Calls ``(work, args, kwargs)``, packed in ``payload``, and returns its packed `Outcome`.

    ``memory`` is the most bytes that this process may have allocated meanwhile, except what calls without a limit
    left behind; 0 is no limit. A call that reaches it ends the process with `OUT_OF_MEMORY`.
    """
    if not memory:
        _held.begin()
    try:
        _limit_memory(memory)
        try:
            work, args, kwargs = unpack(payload)
            outcome = Outcome(value=work(*args, **kwargs))
        finally:
            _limit_memory(0)
            if not memory:
                _held.end()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 (raised again in the parent)
        if memory and _for_want_of_memory(error):
            os._exit(OUT_OF_MEMORY)
        outcome = Outcome(error=_portable(error))
    return pack(outcome, prefix, arguments=False)[0]


def _for_want_of_memory(error: Exception) -> bool:
    """Whether memory ran out, which libvips, libheif, OpenCV and the loader of libraries report in words only."""
    return any(words in str(error).lower() for words in ("memory", "bad_alloc", "failed to map"))


def _portable(error: Exception) -> Exception:
    """The error in a form that survives pickling; an unexpected one with its traceback as a note."""
    if isinstance(error, BgPipelineError):
        return error
    trace = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (just made)
    except Exception:  # noqa: BLE001 (whatever its class does)
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(trace)
    return error


def _limit_memory(most: int) -> None:
    """Limits what this process may allocate, where the kernel can do that (Linux: heap and anonymous mappings)."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = most + _held.bytes if most else hard
        resource.setrlimit(
            resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
        )


class _Held:
    """``bytes`` is what calls without a limit left behind: a loaded network may be larger than a photo's limit."""

    def __init__(self) -> None:
        self.bytes = 0
        self._before: int | None = None

    def begin(self) -> None:
        """Call it before a call without a limit."""
        if self._before is None:
            self._before = _allocated()

    def end(self) -> None:
        """Call it after a call without a limit."""
        self.bytes = max(self.bytes, _allocated() - (self._before or 0))


_held = _Held()


def _allocated() -> int:
    """The bytes of this process that RLIMIT_DATA counts, and its stack; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def _end_with_parent() -> None:
    """Has the kernel end this process as soon as its parent is gone, however that ended.

    The sentinel is a pipe whose other end only the parent holds. Its end raises SIGIO, whose default action ends
    the process even while a decoder hangs. PR_SET_PDEATHSIG would do so when the parent's thread ends.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
        if os.getppid() != parent.pid:
            os._exit(1)
