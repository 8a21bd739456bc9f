"""Optimizers and learning-rate schedules by their names in trainers of FLUX, and optimizer state without pickle.

Knows no file.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import bitsandbytes.optim
import torch
from diffusers.optimization import get_scheduler
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import Adafactor

from lora.checks import check_choice
from lora.dataset.names import printable
from lora.training.recipe.choices import BYTES_PER_PARAMETER, OPTIMIZERS, SCHEDULES

Json = dict[str, Any]

BETAS, LION_BETAS = (0.9, 0.999), (0.9, 0.99)  # the defaults of torch, and of Chen et al. (arXiv 2302.06675)
PRODIGY_RATE, MIN_PRODIGY_RATE = 1.0, 0.1  # Prodigy finds the rate by itself and takes a factor near 1

DIFFUSERS_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}
MAX_WARM_UP_STEPS, WARM_UP_SHARE = 50, 0.05  # our choice

LONGEST_NAMES = 200  # characters of the names of a saved state in an error
INCOMPATIBLE_STATE = "the saved state does not match this optimizer"


def effective_learning_rate(name: str, rate: float) -> float:
    """The learning rate that an optimizer is given. Prodigy is given 1.0 in place of a rate below 0.1, which is meant
    for Adam; other trainers do the same."""
    return PRODIGY_RATE if name == "prodigy" and rate < MIN_PRODIGY_RATE else rate


def bytes_per_parameter(name: str) -> float:
    """Bytes of optimizer state per trained parameter, for the memory plan. Raises ValueError for an unknown name."""
    return BYTES_PER_PARAMETER[check_choice("optimizer", name, OPTIMIZERS)]


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float, epsilon: float
) -> Optimizer:
    """One of OPTIMIZERS, at its effective learning rate. Raises ValueError for an unknown name.

    `epsilon` applies to optimizers that divide by a square root: lion does not, and adafactor has its own. Weight decay
    is decoupled from the gradient, except in adam and adagrad, where torch adds it to the gradient. Prodigy: Mishchenko
    and Defazio (arXiv 2306.06101). Adafactor: Shazeer and Stern (arXiv 1804.04235).
    """
    check_choice("optimizer", name, OPTIMIZERS)
    parameters, rate = list(parameters), effective_learning_rate(name, learning_rate)
    if name in ("adamw8bit", "adam8bit", "lion8bit", "lion"):
        return _bitsandbytes_optimizer(name, parameters, rate=rate, weight_decay=weight_decay, epsilon=epsilon)
    if name == "prodigy":
        # weight decay as an option of the group: as an argument, it would make Prodigy print a line
        groups = [{"params": parameters, "weight_decay": weight_decay}]
        return Prodigy(groups, lr=rate, betas=BETAS, eps=epsilon, safeguard_warmup=True, use_bias_correction=True)
    if name == "adafactor":
        return Adafactor(parameters, lr=rate, weight_decay=weight_decay, scale_parameter=False, relative_step=False)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr=rate, eps=epsilon, weight_decay=weight_decay)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    fused = all(parameter.is_cuda for parameter in parameters) or None  # one kernel updates many parameters
    return kind(parameters, lr=rate, betas=BETAS, eps=epsilon, weight_decay=weight_decay, fused=fused)


def make_schedule(name: str, optimizer: Optimizer, *, steps: int) -> LRScheduler:
    """One of SCHEDULES over `steps` optimizer steps, after a linear warm-up over 5 % of them, at most 50; cosine and
    linear reach 0 after the last. Its `state_dict` can be saved as JSON. Raises ValueError for an unknown name.

    The schedules of diffusers begin at a rate of 0, which would waste the first step: ours start at their second step.
    """
    check_choice("lr_scheduler", name, SCHEDULES)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return get_scheduler(
        DIFFUSERS_SCHEDULES[name],
        optimizer,
        num_warmup_steps=warm_up_steps(steps) + 1,
        num_training_steps=steps + 1,
        last_epoch=0,
    )


def warm_up_steps(steps: int) -> int:
    """The number of warm-up steps of a training of `steps` steps."""
    return min(MAX_WARM_UP_STEPS, round(WARM_UP_SHARE * steps))


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], Json]:
    """The state of an optimizer: copies of its tensors on the CPU, by the parameter's number and the tensor's name
    ("17.exp_avg"), and the rest as JSON."""
    tensors: dict[str, Tensor] = {}
    numbers: Json = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        state = optimizer.state.get(parameter, {})
        numbers[str(index)] = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
    return tensors, {"numbers": numbers, "groups": [_options(group) for group in optimizer.param_groups]}


def load_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], values: Json) -> None:
    """Load what `optimizer_state` returned for an optimizer over the same parameters in the same order.

    The parameters keep their values and lose their gradients. Raises ValueError unless the state has the names, shapes
    and dtypes that this optimizer itself creates: the state may come from a stranger, and the 8-bit kernels check
    nothing.
    """
    options = _checked_options(optimizer, values.get("groups"))
    states = _by_parameter(tensors, values.get("numbers"))
    parameters = _parameters(optimizer)
    if not states.keys() <= {str(index) for index in range(len(parameters))}:
        raise ValueError(f"{INCOMPATIBLE_STATE}: it has more parameters than the {len(parameters)} of this training")
    _make_state(optimizer)
    for index, parameter in enumerate(parameters):
        saved = states[str(index)]
        if saved or isinstance(optimizer, torch.optim.Adagrad):  # Adagrad has a state from the start
            _fill(optimizer.state[parameter], saved, f"parameter {index}", parameter.numel())
        else:
            del optimizer.state[parameter]  # this parameter never had a gradient
    for group, saved_options in zip(optimizer.param_groups, options, strict=True):
        own = {"fused": group["fused"]} if "fused" in group else {}  # depends on this device, not on the saved one
        group.update(saved_options | own)


def _bitsandbytes_optimizer(
    name: str, parameters: list[nn.Parameter], *, rate: float, weight_decay: float, epsilon: float
) -> Optimizer:
    library = bitsandbytes.optim
    if name.startswith("lion"):
        lion = library.Lion8bit if name == "lion8bit" else library.Lion
        return lion(parameters, lr=rate, betas=LION_BETAS, weight_decay=weight_decay)
    adam = library.AdamW8bit if name == "adamw8bit" else library.Adam8bit
    return adam(parameters, lr=rate, betas=BETAS, eps=epsilon, weight_decay=weight_decay)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _options(group: dict[str, object]) -> Json:
    return {name: value for name, value in group.items() if name != "params"}


def _checked_options(optimizer: Optimizer, groups: object) -> list[Json]:
    """The saved options of each group, with lists converted back to tuples."""
    own = optimizer.param_groups
    if not isinstance(groups, list) or len(groups) != len(own) or not all(isinstance(group, dict) for group in groups):
        raise ValueError(f"{INCOMPATIBLE_STATE}: expected options for {len(own)} parameter groups")
    for group, saved in zip(own, groups, strict=True):
        missing = _options(group).keys() - saved.keys()
        if missing or "params" in saved:
            raise ValueError(f"{INCOMPATIBLE_STATE}: expected the options {', '.join(_options(group))}")
    return [{name: _option(name, value) for name, value in saved.items()} for saved in groups]


def _option(name: str, value: object) -> object:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(part is None or isinstance(part, int | float) for part in values):
        raise ValueError(f"{INCOMPATIBLE_STATE}: expected numbers for the option {name!r}")
    return values if isinstance(value, list | tuple) else value


def _by_parameter(tensors: Mapping[str, Tensor], numbers: object) -> defaultdict[str, Json]:
    """The tensors and numbers of each parameter by name, for each parameter's number."""
    if not isinstance(numbers, dict) or not all(isinstance(saved, dict) for saved in numbers.values()):
        raise ValueError(f"{INCOMPATIBLE_STATE}: expected numbers for each parameter")
    states: defaultdict[str, Json] = defaultdict(dict, {index: dict(saved) for index, saved in numbers.items()})
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        states[index][name] = tensor
    return states


def _make_state(optimizer: Optimizer) -> None:
    """Make an optimizer create its state, by a step at a rate of 0, which changes no parameter. The gradients are 1, as
    gradients of 0 could lead to a division by 0."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _fill(state: Json, saved: Json, owner: str, count: int) -> None:
    if state.keys() != saved.keys():
        found = printable(", ".join(saved))[:LONGEST_NAMES] or "nothing"  # from a file that may be untrusted
        raise ValueError(f"{INCOMPATIBLE_STATE}: {owner} has {found}, expected {', '.join(state)}")
    for name, value in saved.items():
        own = state[name]
        if not isinstance(own, Tensor) or not isinstance(value, Tensor):
            if type(own) is not type(value):
                raise ValueError(
                    f"{INCOMPATIBLE_STATE}: {owner} has {name} as {type(value).__name__}, expected {type(own).__name__}"
                )
            state[name] = value
        elif name == "p0" and own.dtype == value.dtype and value.shape in ((), (count,)):
            state[name] = value.to(own.device, copy=True)  # Prodigy keeps one 0 for a parameter that began at 0
        elif (own.dtype, own.shape) != (value.dtype, value.shape):
            raise ValueError(
                f"{INCOMPATIBLE_STATE}: {owner} has {name} as {_description(value)}, expected {_description(own)}"
            )
        else:
            own.copy_(value)


def _description(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
