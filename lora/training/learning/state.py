"""All that changes while a LoRA is trained, and all that a training needs to go on. Knows no file and no data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import FluxTransformer2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from lora.flux.modulation import PrecomputedModulation
from lora.training.recipe.optimizers import Json, make_schedule
from lora.training.recipe.recipe import Recipe
from lora.training.recipe.stepping import Stepper

Tensors = Mapping[str, Tensor]


class TrainingState:
    """The LoRA that a transformer wears, its optimizer, its learning rate and the average of its weights."""

    def __init__(self, transformer: FluxTransformer2DModel, recipe: Recipe) -> None:
        named = [(name, each) for name, each in transformer.named_parameters() if each.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters: list[nn.Parameter] = [each for _, each in named]
        self._stepper = Stepper(recipe, self.parameters)
        self.optimizer = self._stepper.optimizer
        self.schedule = make_schedule(recipe.lr_scheduler, self.optimizer, steps=recipe.steps)
        # reached by way of (1 + n) / (10 + n), so that a short training is not an average of nothing
        least = 0.0 if recipe.ema_warms_up else recipe.ema_decay
        self.average = EMAModel(self.parameters, decay=recipe.ema_decay, min_decay=least, foreach=True)
        self.ahead = PrecomputedModulation(
            transformer, batch_size=recipe.batch_size
        )  # can be made anew: it is not saved
        self._max_grad_norm = recipe.max_grad_norm
        self.step = 0  # steps done, skipped ones among them
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.is_whole = True  # false while it changes: an interruption may leave it half changed

    def clip(self) -> Tensor:
        """Scale the gradients that are there down to the largest norm over all layers; what it was, as a scalar on the
        device."""
        return nn.utils.clip_grad_norm_(self.parameters, self._max_grad_norm)

    def update(self, *, is_finite: bool) -> None:
        """Finish a step with the gradients that are there; if they are not finite, it is skipped."""
        self.is_whole = False
        if is_finite:
            self._stepper.step()
            self.schedule.step()
            self.average.step(self.parameters)
        self.skipped += not is_finite
        self.skipped_in_a_row = 0 if is_finite else self.skipped_in_a_row + 1
        self.step += 1
        self.is_whole = True
        self._stepper.zero_grad()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the transformer wear the average of the weights, which is what is shown, judged and given away."""
        kept = [each.detach().clone() for each in self.parameters]
        self.is_whole = False
        self.average.copy_to(self.parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list[Tensor](self.parameters), kept)
            self.is_whole = True

    def wear(self, average: Tensors) -> None:
        """Take an average from elsewhere for one's own."""
        self._fill(self.average.shadow_params, average)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors, by what they belong to; on whichever device they are."""
        optimizer, _ = self._stepper.state()
        lora = {name: each.detach() for name, each in zip(self.names, self.parameters, strict=True)}
        return {"lora": lora, "average": self.average_tensors(), "optimizer": optimizer}

    def average_tensors(self) -> dict[str, Tensor]:
        """The average alone."""
        return dict(zip(self.names, self.average.shadow_params, strict=True))

    def is_finite(self) -> bool:
        """Whether all weights and their average are; finite gradients can still make others."""
        return all(bool(torch.isfinite(each).all()) for each in [*self.parameters, *self.average.shadow_params])

    def values(self) -> Json:
        """All that is no tensor."""
        _, optimizer = self._stepper.state()
        counts = {"step": self.step, "skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        averaged = self.average.optimization_step
        return {**counts, "averaged": averaged, "optimizer": optimizer, "schedule": self.schedule.state_dict()}

    def restore(self, tensors: Mapping[str, Tensors], values: Json) -> None:
        """Become what `tensors` and `values` told of another state; raises ValueError if they are of another LoRA."""
        with torch.no_grad():
            self._fill(self.parameters, tensors["lora"])
            self._fill(self.average.shadow_params, tensors["average"])
        self._stepper.load(tensors["optimizer"], values["optimizer"])
        self.schedule.load_state_dict(values["schedule"])
        self.average.optimization_step = values["averaged"]
        self.step, self.skipped = int(values["step"]), int(values["skipped"])
        self.skipped_in_a_row = int(values["skipped_in_a_row"])

    def _fill(self, ours: list[nn.Parameter] | list[Tensor], saved: Tensors) -> None:
        shapes = {name: each.shape for name, each in zip(self.names, ours, strict=True)}
        if shapes != {name: tensor.shape for name, tensor in saved.items()}:
            raise ValueError("the saved LoRA has other layers or another rank than this training")
        for name, tensor in zip(self.names, ours, strict=True):
            tensor.copy_(saved[name])
