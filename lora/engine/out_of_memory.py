"""Recognize out-of-memory errors, which differ between libraries."""

import torch
from accelerate.utils.memory import should_reduce_batch_size

ALLOCATION = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "cudaErrorMemoryAllocation")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory of the GPU, or pinned memory of the host, ran out."""
    is_known = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
    return is_known or any(words in str(error) for words in ALLOCATION)
