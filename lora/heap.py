"""Memory that was freed goes back to the system, which the C library does not see to by itself."""

import ctypes


def trim_heap() -> None:
    """Return free pages of the heap. Where large blocks and small ones are made in turn, the small ones keep the holes
    of the large ones from being used again, and the process grows; on systems without glibc, nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
