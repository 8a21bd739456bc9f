"""The state of a training: everything that changes while a LoRA is trained, and that a resumed training needs.

Knows no file and no data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from lora.families.registry import precomputed_modulation
from lora.training.learning.average import Average
from lora.training.recipe.optimizers import Json, make_schedule
from lora.training.recipe.recipe import Recipe
from lora.training.recipe.stepping import FlatOptimizer

Tensors = Mapping[str, Tensor]


class TrainingState:
    """The LoRA of a transformer, its optimizer, its learning-rate schedule and the average (EMA) of its weights."""

    def __init__(self, transformer: ModelMixin, recipe: Recipe) -> None:
        named = [(name, each) for name, each in transformer.named_parameters() if each.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters: list[nn.Parameter] = [each for _, each in named]
        self._flat_optimizer = FlatOptimizer(recipe, self.parameters)
        self.optimizer = self._flat_optimizer.optimizer
        self.schedule = make_schedule(recipe.lr_scheduler, self.optimizer, steps=recipe.steps)
        # the decay rises as (1 + n) / (10 + n) after n steps (diffusers' EMAModel.get_decay), so that a short training
        # has a useful average
        least = 0.0 if recipe.ema_warms_up else recipe.ema_decay
        self.average = Average(self.parameters, flat=self._flat_optimizer.flat, decay=recipe.ema_decay, min_decay=least)
        self.modulation = precomputed_modulation(transformer, batch_size=recipe.batch_size)  # not saved: recomputed
        self._max_grad_norm = recipe.max_grad_norm
        self.step = 0  # finished steps, including skipped ones
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.is_consistent = True  # False during an update, which an interruption may leave half done

    def learning_rate(self) -> float:
        """The learning rate of the next update. Prodigy's is what it has estimated so far, `d`, times its own."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] * group.get("d", 1.0))

    def clip(self) -> Tensor:
        """Clip the gradients to the recipe's maximum norm over all layers, and return their norm before that as a
        scalar on the device."""
        return nn.utils.clip_grad_norm_(self.parameters, self._max_grad_norm)

    def update(self, *, is_finite: bool) -> None:
        """Finish a step with the current gradients; if they are not finite, the step is skipped."""
        self.is_consistent = False
        if is_finite:
            self._flat_optimizer.step()
            self.schedule.step()
            self.average.step(self.parameters)
        self.skipped += not is_finite
        self.skipped_in_a_row = 0 if is_finite else self.skipped_in_a_row + 1
        self.step += 1
        self.is_consistent = True
        self._flat_optimizer.zero_grad()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the LoRA's weights are replaced by their average, for samples, validation and export."""
        weights = [each.detach().clone() for each in self.parameters]
        self.is_consistent = False
        self.average.copy_to(self.parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list[Tensor](self.parameters), weights)
            self.is_consistent = True

    def load_average(self, average: Tensors) -> None:
        """Replace the average by a saved one. Raises ValueError if it is of another LoRA."""
        self._fill(self.average.shadow_params, average)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors in groups ("lora", "average", "optimizer"), each on its current device."""
        optimizer, _ = self._flat_optimizer.state()
        lora = {name: each.detach() for name, each in zip(self.names, self.parameters, strict=True)}
        return {"lora": lora, "average": self.average_tensors(), "optimizer": optimizer}

    def average_tensors(self) -> dict[str, Tensor]:
        """The averaged weights by the names of the parameters."""
        return dict(zip(self.names, self.average.shadow_params, strict=True))

    def is_finite(self) -> bool:
        """Whether all weights and their average are finite; finite gradients do not guarantee that."""
        return all(bool(torch.isfinite(each).all()) for each in [*self.parameters, *self.average.shadow_params])

    def refuse_if_all_were_skipped(self) -> None:
        """Raise RuntimeError, with what to do, if no step was finite. The first step shows what the base computes, as a
        new LoRA changes nothing yet: neither more steps nor another learning rate would help."""
        if self.step and self.skipped == self.step:
            found = f"the loss or the gradients of all {self.step} steps were NaN or infinite, from the first on"
            damaged = "the weights of the base are probably damaged, or the LoRA that it started from"
            compare = "`script/download` compares a published base with its sha256 and replaces what differs"
            raise RuntimeError(f"the training learned nothing: {found}; {damaged}: {compare}")

    def values(self) -> Json:
        """All values that are no tensors, as JSON."""
        _, optimizer = self._flat_optimizer.state()
        counts = {"step": self.step, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        averaged = self.average.optimization_step
        return {**counts, "averaged": averaged, "optimizer": optimizer, "schedule": self.schedule.state_dict()}

    def restore(self, tensors: Mapping[str, Tensors], values: Json) -> None:
        """Load the `tensors()` and `values()` of another state. Raises ValueError if they are of another LoRA."""
        with torch.no_grad():
            self._fill(self.parameters, tensors["lora"])
            self._fill(self.average.shadow_params, tensors["average"])
        self._flat_optimizer.load(tensors["optimizer"], values["optimizer"])
        self.schedule.load_state_dict(values["schedule"])
        self.average.optimization_step = values["averaged"]
        self.step, self.skipped = int(values["step"]), int(values["skipped"])
        self.skipped_in_a_row = int(values["skipped_in_a_row"])

    def _fill(self, targets: list[nn.Parameter] | list[Tensor], saved: Tensors) -> None:
        shapes = {name: each.shape for name, each in zip(self.names, targets, strict=True)}
        if shapes != {name: tensor.shape for name, tensor in saved.items()}:
            raise ValueError("the layers or the rank of the saved LoRA do not match this training")
        for name, tensor in zip(self.names, targets, strict=True):
            tensor.copy_(saved[name])
