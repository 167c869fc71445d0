"""How the C library keeps the memory of this process."""

import ctypes
import sys
from contextlib import suppress

# The numbers that malloc.h has for these.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

MAPPED_BYTES = 8 << 20
"""What is at least so large is given back to the kernel as soon as it is freed."""

KEPT_BYTES = 32 << 20
"""What is free at a heap's end and more than that is given back too."""


def configure_malloc() -> None:
    """From now on threads share two heaps that keep some of what is freed, where the C library is glibc.

    It would give 64 threads up to eight heaps for each core, none of which shrinks: 180 MB more in a run on two
    cores. Python's threads allocate one at a time anyway, so that sharing costs no time. It would also take each
    array of some megabytes from the kernel anew, cleared page by page: up to half the CPU along a subject's edge.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_ARENA_MAX, 2)
            libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
            libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
