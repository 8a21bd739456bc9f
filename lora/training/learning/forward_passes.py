"""Forward passes between the steps of a training, for validation and samples."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from lora.base.forward import Forward, replaced_forward


@contextmanager
def as_in_a_step(transformer: ModelMixin) -> Iterator[None]:
    """Inside the `with` block, forward passes call the blocks as a training step does: compiled, if steps are.

    diffusers calls blocks as `configure_blocks` has set them up only while gradients are enabled. So a pass runs with
    gradients enabled, and what it keeps for a backward pass is freed at its end: it needs the memory of a step's
    forward pass. Other compiled graphs, for passes without gradients, would take longer to compile than validation
    takes. The output has no gradient. Blocks that are not set up so run without gradients.
    """
    if transformer.gradient_checkpointing:
        with replaced_forward(transformer, _with_gradients):
            yield
    else:
        yield


def _with_gradients(forward: Forward) -> Forward:
    def call(*, joint_attention_kwargs: dict[str, Any] | None, **inputs: object) -> tuple[Tensor, ...]:
        # None in place of an empty dict, which FluxPipeline passes: to the compiler, they are inputs of different types
        with torch.enable_grad():
            outputs = forward(**inputs, joint_attention_kwargs=joint_attention_kwargs or None)
        return tuple(output.detach() for output in outputs)

    return call
