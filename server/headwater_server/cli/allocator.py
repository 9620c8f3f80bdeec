"""The allocator of the C library: memory that is freed goes back to the system.

glibc takes a large block from the system and gives it back when it is freed. But each time it
raises the size that counts as large, up to 32 MiB, and smaller blocks come from a heap that seldom
shrinks. So a server that once held many large answers would stay as large as it was then. Fixing
the size keeps it where it is.
"""

import ctypes
from typing import Final

LARGE_SIZE: Final = 2 * 1024 * 1024
"""Bytes from which on a block comes from the system. A page of an answer and a group of commits are
below it: mapping them again each time made reads of many events a quarter slower."""

_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks() -> bool:
    """Give large blocks back when they are freed; return whether this C library can do that."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and bool(set_option(_M_MMAP_THRESHOLD, LARGE_SIZE))
