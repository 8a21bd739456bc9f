"""Whether an error says that memory ran out; libraries say it in different ways."""

import torch
from accelerate.utils.memory import should_reduce_batch_size

ALLOCATION = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "cudaErrorMemoryAllocation")


def is_out_of_memory(error: Exception) -> bool:
    """Of the GPU's memory, or of pinned memory of the host."""
    is_known = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
    return is_known or any(words in str(error) for words in ALLOCATION)
