"""Settings of glibc's malloc."""

import ctypes
import sys
from contextlib import suppress

# Parameter numbers in malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

MAPPED_BYTES = 8 << 20
"""M_MMAP_THRESHOLD: larger allocations are returned to the OS on free."""

KEPT_BYTES = 32 << 20
"""M_TRIM_THRESHOLD: more free memory than this at the end of a heap is returned to the OS."""


def configure_malloc() -> None:
    """Makes all threads share two heaps that keep some freed memory, if the C library is glibc.

    By default glibc would give 64 threads up to eight heaps for each core, which never shrink: 180 MB more in a run
    on two cores. Sharing costs no time, because Python's threads allocate one at a time. By default glibc would also
    get each array of some megabytes from the kernel anew, cleared page by page: up to half the CPU along a subject's
    edge.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_ARENA_MAX, 2)
            libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
            libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
