"""Returns freed memory to the operating system, which the C library does not do by itself."""

import ctypes


def trim_heap() -> None:
    """Return free pages of the heap to the operating system; without glibc, this does nothing.

    Where a program allocates large and small blocks in turn, the small ones fragment the space that the large ones
    leave, and the process grows.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
