"""How torch rounds what it allocates. Computes with numbers only."""

ALIGNMENT = 512  # bytes, as torch's allocators align


def aligned(size: int) -> int:
    """The bytes that `size` bytes take between others."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def pinned(size: int) -> int:
    """The bytes that torch allocates for `size` bytes of pinned memory: the next power of two
    (`CachingHostAllocatorImpl` in ATen/core/CachingHostAllocator.h)."""
    return 1 << max(size - 1, 0).bit_length()
