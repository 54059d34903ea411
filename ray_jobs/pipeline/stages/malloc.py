"""Memory of a process that works through batches on a CPU."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
_MOST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no larger one


def keep_freed_memory() -> None:
    """Let glibc keep what torch frees instead of returning it to the system; elsewhere nothing is done.

    Activations of a batch are large blocks, which glibc gives back on every free, so that each network call pays for
    its pages again in page faults. The price is that the process stays as large as its largest moment.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)
