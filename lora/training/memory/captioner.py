"""Where a captioner runs, and what memory that takes. Computes with numbers only."""

from dataclasses import dataclass

from lora.training.memory.weights import BF16, FP32

# Estimated, and not measured: activations and attention caches of an image of 768 x 768 pixels; what libraries take.
BYTES_PER_IMAGE, WORKSPACE = 1_000_000_000, 1_000_000_000
BATCH_SIZE = 4  # as in the batches of an image captioner on one GPU; our choice


@dataclass(frozen=True, slots=True)
class CaptionerPlacement:
    """Where a captioner runs, and how many images it is asked about at a time."""

    on_gpu: bool
    batch_size: int

    def bytes(self, parameters: int) -> int:
        """The predicted peak on the GPU, or on the host for a captioner that runs there, in bf16 or fp32."""
        return parameters * (BF16 if self.on_gpu else FP32) + WORKSPACE + self.batch_size * BYTES_PER_IMAGE

    def line(self) -> str:
        """Words for the log."""
        return f"on the {'GPU' if self.on_gpu else 'CPU'}, {self.batch_size} at a time"


# From the fastest to the smallest. On a CPU a batch is no faster, and could not be cancelled as soon.
ON_GPU = (CaptionerPlacement(True, BATCH_SIZE), CaptionerPlacement(True, 1))
ON_HOST = (CaptionerPlacement(False, 1),)


def captioner_placements(
    parameters: int, *, free_gpu_bytes: int, free_host_bytes: int
) -> tuple[CaptionerPlacement, ...]:
    """All placements of a captioner that are predicted to fit, from the fastest on. Without a GPU that may be used, it
    has no free bytes."""
    free = {True: free_gpu_bytes, False: free_host_bytes}
    return tuple(each for each in (*ON_GPU, *ON_HOST) if each.bytes(parameters) <= free[each.on_gpu])
