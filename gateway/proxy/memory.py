"""How a worker deals with memory: the allocator keeps what is freed, the garbage collector leaves alone what stays.

Rules:

1. Bodies pass as objects of 64 to 256 KiB, which live for microseconds. glibc by default gives such memory back to the
   kernel each time and fetches it anew, a page at a time: 14 page faults for an upload of 64 KiB, 96 for a download of
   1 MiB, a third of their CPU. So up to `_KEPT_BYTES` of free memory are kept, and larger pieces alone are mapped.
2. Of what a burst of bodies took, the pieces that are free are given back when it is over (`give_back`).
3. What exists when the worker begins to serve stays until it ends: the garbage collector need not walk it again. It
   runs for cycles only, which requests do not make, so that it need not run often either.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 8 << 20
_PAD_BYTES = 1 << 20
_MAPPED_BYTES_MIN = 1 << 20
_COLLECT_EVERY = 10_000
"""Objects that came to stay, between two looks of the garbage collector."""


def settle() -> None:
    """Prepare this process for a life of serving. To be called once, when all that stays is there."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: it has habits of its own
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _PAD_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 20, 20)


def give_back() -> None:
    """Return free memory to the operating system. It takes milliseconds: for moments after much was freed."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: it has habits of its own
        ctypes.CDLL(None).malloc_trim(_KEPT_BYTES)
