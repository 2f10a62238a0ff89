"""Memory that a long calculation asks for again and again, kept by the process until it is done.

Large arrays come fresh from the system and go back to it when they are let go of, page by page zeroed each time. A
calculation that does so step after step spends a third of its CPU in the kernel, under some hypervisors more.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM, _MAPPED = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX (mallopt(3)), and what they are otherwise:
_DEFAULTS = {_TRIM: 128 << 10, _MAPPED: 65_536}


@contextmanager
def kept() -> Iterator[None]:
    """Within it, what numpy frees is used again and not given back. Does nothing where glibc is not the C library."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MAPPED, 0)  # everything from the heap
    libc.mallopt(_TRIM, -1)  # whose end never shrinks
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
