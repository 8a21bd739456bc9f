"""An optimizer that updates many parameters as one flat parameter, where that computes the same.

A LoRA of FLUX.1 has hundreds of small parameters: with a kernel launch and some Python for each of them, the GPU would
wait for the host. The saved state has one entry for each parameter, as without flattening.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lora.training.recipe.optimizers import (
    INCOMPATIBLE_STATE,
    Json,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from lora.training.recipe.recipe import Recipe

ELEMENTWISE = ("adamw", "adam", "adagrad", "lion")
# Quantized in blocks of the flattened parameter; smaller parameters are kept in 32 bits (bitsandbytes, `init_state`).
BLOCKWISE, BLOCK, LEAST = ("adamw8bit", "adam8bit", "lion8bit"), 256, 4096
BLOCK_PREFIX = "absmax"  # prefix of the names of tensors with one value per block


class FlatOptimizer:
    """The optimizer of a recipe, the parameters that it updates, and their gradients."""

    def __init__(self, recipe: Recipe, parameters: Sequence[nn.Parameter]) -> None:
        """The parameters stay the same objects. Flattened parameters are views of one tensor, and so are their
        gradients, which exist from the start, so that a backward pass adds to them in place."""
        self._recipe, self._parameters = recipe, list(parameters)
        self._flat = _flattened(self._parameters) if can_be_flattened(recipe.optimizer, self._parameters) else None
        self.optimizer = self._make_optimizer(self._parameters if self._flat is None else [self._flat])
        self._gradients: list[Tensor] = []  # of the parameters: views of the flat gradient
        if self._flat is not None:
            self._flat.grad = torch.zeros_like(self._flat)
            self._gradients = _split(self._flat.grad, self._parameters)
        self.zero_grad()

    @property
    def flat(self) -> nn.Parameter | None:
        """The parameter whose views the others are; None if they are not flattened."""
        return self._flat

    def step(self) -> None:
        """Update the parameters by their gradients, also by gradients that are not views of the flat one.

        A flattened parameter without a gradient counts as one with a gradient of 0. In a LoRA of FLUX.1 every parameter
        has a gradient in every step.
        """
        for parameter, gradient in self._flat_gradients():
            if parameter.grad is None:
                gradient.zero_()
            elif parameter.grad is not gradient:
                gradient.copy_(parameter.grad)
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Reset the gradients."""
        if self._flat is None or self._flat.grad is None:
            self.optimizer.zero_grad()
            return
        self._flat.grad.zero_()
        for parameter, gradient in self._flat_gradients():
            parameter.grad = gradient

    def state(self) -> tuple[dict[str, Tensor], Json]:
        """What `optimizer_state` returns for an optimizer over the separate parameters."""
        tensors, values = optimizer_state(self.optimizer)
        if self._flat is None:
            return tensors, values
        indices = range(len(self._parameters))
        parts: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            name = key.partition(".")[2]
            split = _split_blocks if name.startswith(BLOCK_PREFIX) else _split
            parts |= {f"{index}.{name}": part for index, part in enumerate(split(tensor, self._parameters))}
        return parts, {**values, "numbers": {str(index): values["numbers"]["0"] for index in indices}}

    def load(self, tensors: Mapping[str, Tensor], values: Json) -> None:
        """Load what `state` returned for another FlatOptimizer. Raises what `load_optimizer_state` raises."""
        if self._flat is None:
            load_optimizer_state(self.optimizer, tensors, values)
            return
        separate = self._make_optimizer(self._parameters)
        load_optimizer_state(separate, tensors, values)
        states = [separate.state[parameter] for parameter in self._parameters if separate.state.get(parameter)]
        if len(states) not in (0, len(self._parameters)):
            raise ValueError(f"{INCOMPATIBLE_STATE}: it has {len(states)} of {len(self._parameters)} parameters")
        self.optimizer.state[self._flat] = {name: _combine([s[name] for s in states]) for name in dict(*states[:1])}
        for group, loaded in zip(self.optimizer.param_groups, separate.param_groups, strict=True):
            group.update({name: value for name, value in loaded.items() if name != "params"})
        self.zero_grad()

    def _flat_gradients(self) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """Each parameter with its view of the flat gradient; empty if the parameters are not flattened."""
        return zip(self._parameters, self._gradients, strict=True) if self._gradients else ()

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        recipe = self._recipe
        return make_optimizer(
            recipe.optimizer,
            parameters,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            epsilon=recipe.epsilon,
        )


def can_be_flattened(optimizer: str, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the optimizer computes the same for the parameters as one flat parameter."""
    if optimizer in BLOCKWISE:
        return all(each.numel() >= LEAST and each.numel() % BLOCK == 0 for each in parameters)
    return optimizer in ELEMENTWISE


def _flattened(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    flat = nn.Parameter(torch.cat([each.detach().flatten() for each in parameters]))
    for parameter, part in zip(parameters, _split(flat.detach(), parameters), strict=True):
        parameter.data = part
    return flat


def _split(tensor: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Split a tensor with one value per element into views for each parameter. Other tensors, such as the step count or
    the code table, are shared by all parameters."""
    ends = _ends(parameters)
    if not tensor.dim() or tensor.numel() != ends[-1]:
        return [tensor for _ in parameters]
    flat = tensor.flatten()
    return [flat[a:b].view_as(each) for (a, b), each in zip(pairwise(ends), parameters, strict=True)]


def _split_blocks(tensor: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Split a tensor with one value per block into views for each parameter."""
    return [tensor[a // BLOCK : b // BLOCK] for a, b in pairwise(_ends(parameters))]


def _ends(parameters: Sequence[Tensor]) -> list[int]:
    return list(accumulate((each.numel() for each in parameters), initial=0))


def _combine(parts: Sequence[Any]) -> Any:  # noqa: ANN401 (tensors, or numbers)
    """The inverse of `_split`. Raises ValueError if a shared value differs between parameters."""
    first = parts[0]
    is_table = len(parts) > 1 and all(each is first for each in parts)
    if isinstance(first, Tensor) and first.dim() and not is_table:
        return torch.cat([each.flatten() for each in parts])
    if any(bool(each != first) for each in parts if each is not first):
        raise ValueError(f"{INCOMPATIBLE_STATE}: parameters differ in a value that all of them share")
    return first
