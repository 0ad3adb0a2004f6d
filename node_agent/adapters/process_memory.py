"""Measure this process's memory, and return free memory to the system. Linux; with glibc it returns more.

A body of 16 MiB is a mapping of its own, and returns to the system when it is freed, only while glibc does not raise
its threshold for that: by default the first such freed body raises it above the size of all others.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
from pathlib import Path

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = resource.getpagesize()
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MAPPED_BYTES = 256 * 1024
_TRIMMED_BYTES = 8 * 1024 * 1024


def resident_bytes() -> int:
    """Return this process's resident bytes; 0 where the system does not report them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
    return 0


def tune_gc() -> None:
    """Freeze the objects that exist after all imports, so that the garbage collector never searches them.

    With Python's own thresholds the search of boto3's tens of thousands of objects took a fifth of a token's CPU. With
    these it looks at old objects hardly ever: `runtime/node/memory_monitor` does it, where there is a reason.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    return_large_blocks()


def return_large_blocks() -> None:
    """From now on, return large blocks to the system as soon as they are freed."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIMMED_BYTES)


def release_free_memory() -> int:
    """Collect cycles, and return free memory to the system; return the number of objects collected."""
    found = gc.collect()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    return found


def _glibc() -> ctypes.CDLL | None:
    """Return glibc; None where the C library is another."""
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return None
    with contextlib.suppress(OSError, ValueError):
        if os.confstr("CS_GNU_LIBC_VERSION"):
            return ctypes.CDLL(None)
    return None
