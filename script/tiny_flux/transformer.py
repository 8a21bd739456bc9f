"""Train the transformer, and with it the text encoders, for one term. Knows what a step is made of, not its loss."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from diffusers import AutoencoderKL
from torch import Tensor, nn

from lora.training.recipe.sigmas import Shift
from script.tiny_flux.courses import Course, Curriculum, Sample
from script.tiny_flux.held_out import held_out_loss
from script.tiny_flux.networks import optimizers_for
from script.tiny_flux.objective import Noise, NoisyBatch, Predictor, lora_loss
from script.tiny_flux.optimization import Optimization
from script.tiny_flux.rehearsal import Practice, Rehearsal
from script.tiny_flux.schedule import warm_up_then_decay
from script.tiny_flux.state import Tensors

WARM_UP = 100  # steps, but no more than a tenth of a term


@dataclass(frozen=True, slots=True)
class Term:
    """A stretch of the training, with a learning rate of its own."""

    steps: int
    rate: float  # factor on the learning rates
    decay: float  # share of its steps, the last ones, over which the rate falls to 0
    small: float  # share of its steps, the first ones, on small pictures
    practice: Practice | None  # how the base practises with LoRAs, if it does
    seed: int


class Objective(Protocol):
    """What a term is after."""

    @property
    def trained(self) -> Predictor:
        """What the optimizers change."""

    @property
    def practised(self) -> Predictor:
        """What the LoRAs for practice are trained on: the same, or a copy of it. They are applied to both."""

    def parameters_beside_matrices(self) -> list[nn.Parameter]:
        """The weights that are trained besides the matrices of the transformer's blocks."""

    def loss(self, batch: NoisyBatch, rng: random.Random) -> Tensor:
        """Of one batch."""


@dataclass(frozen=True, slots=True)
class Material:
    """What every term is taught with and measured on."""

    curriculum: Curriculum
    vae: AutoencoderKL
    shift: Shift
    measured: int  # pictures of each kind


class TransformerTrainer:
    """Teaches the pictures of a curriculum by an objective, with LoRAs for practice applied at times."""

    def __init__(self, term: Term, objective: Objective, material: Material) -> None:
        self.settings, self._objective, self._material = term, objective, material
        self._curriculum = material.curriculum
        self._model = objective.trained.model
        optimizers = optimizers_for(
            self._model.block_matrices(), objective.parameters_beside_matrices(), rate=term.rate
        )
        curve = warm_up_then_decay(term.steps, warm_up=min(WARM_UP, term.steps // 10), decay=term.decay)
        self._optimization = Optimization(optimizers, rate_factor=curve)
        self._rng = random.Random(term.seed)
        self._noise = Noise(material.shift, seed=term.seed, device=self._model.transformer.device)
        self._rehearsal = self._new_rehearsal(term.practice) if term.practice else None

    @property
    def steps(self) -> int:
        """Of the whole term."""
        return self.settings.steps

    def step(self, index: int) -> float:
        """One batch, and the steps of a lesson that go with it."""
        is_small = index < self.settings.small * self.settings.steps
        course = self._curriculum.courses.choose(is_small=is_small, rng=self._rng)
        with self._lesson(course) as practised:
            others = self._curriculum.samples(course, course.batch - len(practised), self._rng)
            loss = self._objective.loss(self._noise.for_base([*practised, *others]), self._rng)
            loss.backward()
        self._optimization.step()
        return loss.item()

    def measure(self) -> str:
        """The loss on pictures that are never trained on."""
        with self._optimization.averaged():
            return str(held_out_loss(self._model, self._material.vae, pictures=self._material.measured))

    def finish(self) -> None:
        """Give the model its averaged weights."""
        self._optimization.use_average()

    def state_dict(self) -> Tensors:
        """Weights, averages, optimizers, the lesson, random numbers."""
        return {
            "model": self._model.state_dict(),
            "optimization": self._optimization.state_dict(),
            "rehearsal": self._rehearsal.state_dict() if self._rehearsal else None,
            "noise": self._noise.generator.get_state(),
            "rng": self._rng.getstate(),
        }

    def load_state_dict(self, state: Tensors) -> None:
        """Go on from such a state."""
        self._model.load_state_dict(state["model"])
        self._optimization.load_state_dict(state["optimization"])
        if self._rehearsal:
            self._rehearsal.load_state_dict(state["rehearsal"])
        self._noise.generator.set_state(state["noise"])
        self._rng.setstate(state["rng"])

    def _new_rehearsal(self, practice: Practice) -> Rehearsal:
        return Rehearsal(
            self._material.vae,
            self._objective.practised.model.block_matrices(),
            practice=practice,
            size=self._curriculum.courses.full.size,
            seed=self.settings.seed,
        )

    @contextmanager
    def _lesson(self, course: Course) -> Iterator[list[Sample]]:
        """Within, a LoRA may be applied; samples of its figure are given, which belong into the batch."""
        if not self._rehearsal or not course.practised:
            yield []
            return
        is_copy = self._objective.practised is not self._objective.trained
        copies = [self._model.block_matrices()] if is_copy else []
        with self._rehearsal.step(self._lora_loss, *copies, asked=course.practised) as samples:
            yield samples

    def _lora_loss(self, samples: list[Sample]) -> Tensor:
        return lora_loss(self._objective.practised, self._noise.for_lora(samples))
