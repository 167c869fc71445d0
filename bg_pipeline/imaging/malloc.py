"""How glibc manages the memory of a process with many threads."""

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

# mallopt parameters, as numbered in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


@dataclass(frozen=True)
class Thresholds:
    """What glibc returns to the OS on free, in bytes.

    ``mmap`` is M_MMAP_THRESHOLD: larger allocations are returned. ``trim`` is M_TRIM_THRESHOLD: free memory at the
    end of a heap beyond this size is returned.
    """

    mmap: int
    trim: int


FOR_PIXELS: Final = Thresholds(mmap=8 << 20, trim=32 << 20)
"""For worker processes. By default each array of a few megabytes is requested from the kernel again, which clears it
page by page: up to half the CPU time of the work along a subject's edge."""

FOR_FILES: Final = Thresholds(mmap=1 << 20, trim=2 << 20)
"""For the process of a run, which keeps files and answers in memory and opens no picture."""


def configure_malloc(thresholds: Thresholds) -> None:
    """Limits glibc to two heaps (arenas) with these thresholds; does nothing with other C libraries.

    By default glibc gives 64 threads up to eight heaps for each core, and none of them shrinks: 180 MB more in a run
    on two cores. Sharing two heaps costs no time, because Python's threads allocate one at a time.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_ARENA_MAX, 2)
            libc.mallopt(_M_MMAP_THRESHOLD, thresholds.mmap)
            libc.mallopt(_M_TRIM_THRESHOLD, thresholds.trim)
