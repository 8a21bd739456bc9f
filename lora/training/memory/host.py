"""The host memory of a training on GPUs: pinned weights of its processes, and the encoders before them. Computes with
numbers only."""

from dataclasses import dataclass

from lora.base.dimensions import Dimensions
from lora.engine.allocation import pinned
from lora.engine.options import spaced_block_indices
from lora.training.memory.weights import MemoryConfiguration, code_bytes

# Of each process, beside its weights: libraries, buffers of CUDA, checkpoints while they are written. Our estimate.
HOST_WORKSPACE = 2_000_000_000


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Host memory that a training needs in all its processes together, and the free memory; in bytes."""

    pinned: float  # weights that the GPUs read from; the kernel can neither swap nor drop them
    workspace: float
    encoders: float  # before the training; mapped from their files, so the kernel can drop them and read them again
    free: float

    @property
    def peak(self) -> float:
        """The predicted peak: of the encoders, or of the training."""
        return max(self.encoders, self.training)

    @property
    def training(self) -> float:
        """Predicted bytes of the training itself."""
        return self.pinned + self.workspace

    @property
    def fits(self) -> bool:
        """Whether the training fits into the free memory. Encoders that do not fit are slow, with any plan."""
        return self.training <= self.free


def pinned_bytes(shape: Dimensions, configuration: MemoryConfiguration) -> int:
    """Bytes of pinned memory for the weights of one process: those of each streamed block are one allocation, those of
    each modulation layer another one."""
    value = configuration.value_bytes(on_gpu=True)
    on_host = configuration.modulation_on_host
    indices = spaced_block_indices(configuration.streamed_blocks, of=shape.blocks)
    codes = code_bytes(configuration.precision, value)
    blocks = sum(pinned(int(shape.weights_of_block(each, with_modulation=not on_host) * codes)) for each in indices)
    return blocks + (sum(pinned(each * value) for each in shape.modulation_layer_weights()) if on_host else 0)
