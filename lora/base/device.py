"""The device that computes, its precision, and moving models to it and freeing them."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> torch.dtype:
    """bf16 on a GPU, as FLUX is published; fp32 on a CPU, where bf16 is slow or emulated."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


@dataclass(frozen=True, slots=True)
class ModuleTensor:
    """A tensor and the module that it belongs to."""

    module: nn.Module
    name: str
    tensor: nn.Parameter | Tensor  # a parameter or a buffer


@contextmanager
def on_device(
    target: torch.device, *modules: PreTrainedModel | ModelMixin, in_turn: Iterable[nn.Module] = ()
) -> Iterator[None]:
    """Move modules to a device inside the `with` block; modules that are already there stay.

    They are moved as copies and the originals are kept, so that moving back takes neither time nor memory; changes to
    the weights inside the block are lost. Each module of `in_turn`, which are submodules, is moved only while it is
    called.
    """
    originals = {
        inner: _tensors_of(inner) for module in modules if module.device != target for inner in module.modules()
    }
    hooks = []
    together = dict(originals)
    for submodule in in_turn:
        tensors = [tensor for inner in submodule.modules() for tensor in together.pop(inner, [])]
        hooks.append(submodule.register_forward_pre_hook(lambda *_, tensors=tensors: _move_copies(tensors, target)))
        hooks.append(submodule.register_forward_hook(lambda *_, tensors=tensors: _restore(tensors)))
    try:
        _move_copies(chain.from_iterable(together.values()), target)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _restore(chain.from_iterable(originals.values()))


def _tensors_of(module: nn.Module) -> list[ModuleTensor]:
    """The tensors of a module itself, without those of its submodules."""
    named = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return [ModuleTensor(module, name, tensor) for name, tensor in named]


def _move_copies(originals: Iterable[ModuleTensor], target: torch.device) -> None:
    copies: dict[Tensor, Tensor] = {}  # modules that share a tensor share its copy, too
    for original in originals:
        if original.tensor not in copies:
            copy = original.tensor.detach().to(target, non_blocking=target.type == "cuda")  # if it is pinned
            is_parameter = isinstance(original.tensor, nn.Parameter)
            copies[original.tensor] = nn.Parameter(copy, requires_grad=False) if is_parameter else copy
        setattr(original.module, original.name, copies[original.tensor])


def _restore(originals: Iterable[ModuleTensor]) -> None:
    for original in originals:
        setattr(original.module, original.name, original.tensor)


def free_memory() -> None:
    """Free the memory of deleted models, on the host and on the GPU."""
    gc.collect()
    torch.cuda.empty_cache()
