"""An optimizer that steps over many parameters as if they were one, where that is the same computation.

A LoRA of FLUX.1 has hundreds of small ones: with a kernel, and a turn of Python, for each the GPU would wait for the
host. What is saved of its state has the form that it has without this, one entry for each parameter.
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
# In blocks of a flattened parameter; what is smaller than that is kept in 32 bits (bitsandbytes, `init_state`).
BLOCKWISE, BLOCK, LEAST = ("adamw8bit", "adam8bit", "lion8bit"), 256, 4096
OF_BLOCKS = "absmax"  # how the names of tensors begin that have a value for each block


class Stepper:
    """The optimizer of a recipe, the parameters that it changes, and their gradients."""

    def __init__(self, recipe: Recipe, parameters: Sequence[nn.Parameter]) -> None:
        """The parameters stay the same objects. Where they are joined their memory, and that of their gradients, is in
        one piece: each has a gradient from the start, to which a backward pass adds in place."""
        self._recipe, self._parameters = recipe, list(parameters)
        self._whole = _joined(self._parameters) if can_be_joined(recipe.optimizer, self._parameters) else None
        self.optimizer = self._made(self._parameters if self._whole is None else [self._whole])
        self._gradients: list[Tensor] = []  # of the parameters, in one piece
        if self._whole is not None:
            self._whole.grad = torch.zeros_like(self._whole)
            self._gradients = _parts(self._whole.grad, self._parameters)
        self.zero_grad()

    def step(self) -> None:
        """Change the parameters by their gradients, wherever these are. Of joined ones each has to have one, as those
        of a LoRA on FLUX.1 have in every step: without, it would be taken for 0."""
        for parameter, gradient in self._joined_gradients():
            if parameter.grad is None:
                gradient.zero_()
            elif parameter.grad is not gradient:
                gradient.copy_(parameter.grad)
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        if self._whole is None or self._whole.grad is None:
            self.optimizer.zero_grad()
            return
        self._whole.grad.zero_()
        for parameter, gradient in self._joined_gradients():
            parameter.grad = gradient

    def state(self) -> tuple[dict[str, Tensor], Json]:
        """What `optimizer_state` tells of an optimizer over each parameter by itself."""
        tensors, values = optimizer_state(self.optimizer)
        if self._whole is None:
            return tensors, values
        places = range(len(self._parameters))
        parts: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            name = key.partition(".")[2]
            divided = _blocks if name.startswith(OF_BLOCKS) else _parts
            parts |= {f"{place}.{name}": part for place, part in enumerate(divided(tensor, self._parameters))}
        return parts, {**values, "numbers": {str(place): values["numbers"]["0"] for place in places}}

    def load(self, tensors: Mapping[str, Tensor], values: Json) -> None:
        """Give the optimizer what `state` told of another; raises what `load_optimizer_state` raises."""
        if self._whole is None:
            load_optimizer_state(self.optimizer, tensors, values)
            return
        each = self._made(self._parameters)
        load_optimizer_state(each, tensors, values)
        states = [each.state[parameter] for parameter in self._parameters if each.state.get(parameter)]
        if len(states) not in (0, len(self._parameters)):
            raise ValueError(f"{INCOMPATIBLE_STATE}: it is of {len(states)} of the {len(self._parameters)} parameters")
        self.optimizer.state[self._whole] = {name: _whole_of([s[name] for s in states]) for name in dict(*states[:1])}
        for group, loaded in zip(self.optimizer.param_groups, each.param_groups, strict=True):
            group.update({name: value for name, value in loaded.items() if name != "params"})
        self.zero_grad()

    def _joined_gradients(self) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """Where those of joined parameters belong; of others none."""
        return zip(self._parameters, self._gradients, strict=True) if self._gradients else ()

    def _made(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        recipe = self._recipe
        return make_optimizer(
            recipe.optimizer,
            parameters,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            epsilon=recipe.epsilon,
        )


def can_be_joined(optimizer: str, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether to step over all of them as one changes nothing."""
    if optimizer in BLOCKWISE:
        return all(each.numel() >= LEAST and each.numel() % BLOCK == 0 for each in parameters)
    return optimizer in ELEMENTWISE


def _joined(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    whole = nn.Parameter(torch.cat([each.detach().flatten() for each in parameters]))
    for parameter, part in zip(parameters, _parts(whole.detach(), parameters), strict=True):
        parameter.data = part
    return whole


def _parts(whole: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """What each parameter has of a tensor with a value for each element of all; what is none, such as the number of the
    step or the table of codes, all have alike."""
    ends = _ends(parameters)
    if not whole.dim() or whole.numel() != ends[-1]:
        return [whole for _ in parameters]
    flat = whole.flatten()
    return [flat[a:b].view_as(each) for (a, b), each in zip(pairwise(ends), parameters, strict=True)]


def _blocks(whole: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """What each parameter has of a tensor with a value for each block of all."""
    return [whole[a // BLOCK : b // BLOCK] for a, b in pairwise(_ends(parameters))]


def _ends(parameters: Sequence[Tensor]) -> list[int]:
    return list(accumulate((each.numel() for each in parameters), initial=0))


def _whole_of(parts: Sequence[Any]) -> Any:  # noqa: ANN401 (tensors, or numbers)
    """The reverse of `_parts`. Raises ValueError if what all have alike differs."""
    first = parts[0]
    is_table = len(parts) > 1 and all(each is first for each in parts)
    if isinstance(first, Tensor) and first.dim() and not is_table:
        return torch.cat([each.flatten() for each in parts])
    if any(bool(each != first) for each in parts if each is not first):
        raise ValueError(f"{INCOMPATIBLE_STATE}: parameters differ in what all have alike")
    return first
