"""The memory of a training as it is on a CPU: what tensors take, and their peak."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora.base.dimensions import Dimensions
from lora.base.prompt import Prompt
from lora.base.transformer import spaced_blocks
from lora.engine.checkpointing import configure_blocks
from lora.engine.lora_layers import fuse_lora
from lora.engine.options import Engine, Recomputed
from lora.engine.precision import Precision
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.registry import family_of_model
from lora.training.learning.adapter import add_lora
from lora.training.memory.prediction import MemoryRequirements
from tests.tiny import all_layers

CPU = torch.device("cpu")
UNSEEN = 1.005  # a peak may be higher by this factor than what is found


class Alive(TorchDispatchMode):
    """Counts the bytes of the live tensors that operations created, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._at_most, self.most = 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        is_view = any(each.alias_info is not None for each in operation._schema.returns)  # or written in place
        for tensor in () if is_view else tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self._at_most += storage.nbytes()
        if self._at_most > UNSEEN * self.most:  # as if nothing had been freed since the last count, which takes time
            self.most = max(self.most, self.now())
        return made

    def now(self) -> int:
        """The bytes that are alive."""
        self._made = {key: each for key, each in self._made.items() if not each[0].expired()}
        self._at_most = sum(size for _, size in self._made.values())
        return self._at_most


def bytes_of(tensors: Iterable[Tensor | None]) -> int:
    """The bytes of distinct storages: a view costs nothing."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def tensors_of(transformer: ModelMixin) -> Iterator[Tensor | None]:
    """All tensors of a transformer, including tables and scales, except for weights on the host."""
    yield from (getattr(module, "scales", None) for module in transformer.modules())
    for parameter in transformer.parameters():
        yield parameter
        if (state := getattr(parameter, "quant_state", None)) is not None:
            yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)


def dimensions_of(transformer: ModelMixin) -> Dimensions:
    """The sizes from which its memory is predicted."""
    return family_of_model(transformer).transformer.dimensions(transformer.config)


def requirements_of(
    transformer: ModelMixin,
    *,
    batch_size: int,
    image_tokens: int = 256,
    text_tokens: int = 128,
    lora_parameters: int = 0,
    optimizer_bytes: float = 0.0,
) -> MemoryRequirements:
    """What a training on the transformer alone needs, without encoders, validation and samples."""
    return MemoryRequirements(
        shape=dimensions_of(transformer),
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        batch_size=batch_size,
        lora_parameters=lora_parameters,
        optimizer_bytes=optimizer_bytes,
        encoder_bytes=(),
        vae_bytes=0,
        is_preserving=False,
        is_validated=False,
        sample_tokens=0,
        processes=1,
        matmuls=(),
    )


def with_lora(
    base: Path, precision: Precision, engine: Engine, recomputed: Recomputed, *, whole: int = 0
) -> ModelMixin:
    """A transformer with a LoRA of rank 4 on all layers, as a training has it; `whole` blocks are recomputed."""
    transformer = load_transformer(base, WeightPlacement(precision, False, CPU))
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    if engine == "fast":
        fuse_lora(transformer)
    configure_blocks(transformer, recomputed, are_compiled=False, whole=spaced_blocks(transformer, whole))
    return transformer


def predicted_velocity(transformer: ModelMixin, requirements: MemoryRequirements, *, device: str = "cpu") -> Tensor:
    """A prediction with this number of tokens, of which those of references are in one row, from random inputs."""
    config, family = transformer.config, family_of_model(transformer)
    patch, batch_size = family.latents.patch, requirements.batch_size
    side, channels = int(requirements.image_tokens**0.5) * patch, config.in_channels // patch**2
    pooled = None
    if "pooled_projection_dim" in config:
        pooled = torch.randn(batch_size, config.pooled_projection_dim, device=device)
    tokens = torch.randn(batch_size, requirements.text_tokens, config.joint_attention_dim, device=device)
    length = requirements.reference_tokens
    references = (torch.randn(batch_size, channels, patch, length * patch, device=device),) if length else ()
    return family.transformer.predict_velocity(
        transformer,
        torch.randn(batch_size, channels, side, side, device=device),
        sigmas=torch.full((batch_size,), 0.5, device=device),
        prompt=Prompt(tokens, pooled),
        guidance=1.0,
        references=references,
    )
