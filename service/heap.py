"""What glibc does with memory that was freed. On systems with another libc nothing happens."""

import ctypes
import sys

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of mallopt(3)."""
KEPT = 128 * 1024 * 1024
"""Bytes of freed memory, at most, that each heap of the process keeps for later."""


def keep() -> None:
    """The memory of one password hash serves the next.

    By default blocks of that size go back to the kernel, and to have each page zeroed and mapped again takes as long as
    the hash itself.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def give_back() -> None:
    """Everything that is free goes back to the kernel, after something rare and large."""
    malloc_trim = getattr(_LIBC, "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
