"""Refuse a training that certainly does not fit into memory, before anything is loaded."""

from lora.training.memory.configurations import GB, Plan


def refuse_too_large(plan: Plan) -> None:
    """Raise ValueError with one sentence if a plan needs more than there is, even without all that is only estimated:
    weights and LoRA on the device, or pinned weights in host memory.

    A plan that may or may not fit, as its estimates decide, is tried; its line in the log says so.
    """
    if plan.host.pinned > plan.host.free:
        raise ValueError(
            f"the machine has {plan.host.free / GB:.1f} GB of free host memory: expected at least"
            f" {plan.host.pinned / GB:.1f} GB for the weights that the GPU reads from there; close other programs, give"
            " the container more memory, use a GPU with more memory, or set precision=auto, resolution=512 and"
            " batch_size=1 so that more weights fit on the GPU"
        )
    if plan.least_bytes > plan.free_bytes:
        device = "GPU" if plan.host.peak else "machine"
        raise ValueError(
            f"the {device} has {plan.free_bytes / GB:.1f} GB of free memory: expected at least"
            f" {plan.least_bytes / GB:.1f} GB for the base in {plan.configuration.precision} and the LoRA, without its"
            f" activations; close other programs on it, use a larger {device}, or lower lora_rank and set"
            " precision=auto"
        )
