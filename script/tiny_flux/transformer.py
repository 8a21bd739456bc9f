"""Trains the transformer and the text encoders for one term. Knows the parts of a step, not its loss."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lora.training.recipe.sigmas import Shift
from script.tiny_flux.courses import Course, Curriculum, Sample
from script.tiny_flux.held_out import held_out_loss
from script.tiny_flux.latents import Autoencoder
from script.tiny_flux.objective import NoiseSampler, NoisyBatch, Predictor, lora_loss
from script.tiny_flux.optimization import Optimization, optimizers_for
from script.tiny_flux.rehearsal import Practice, Rehearsal
from script.tiny_flux.schedule import warm_up_then_decay
from script.tiny_flux.state import Tensors

WARM_UP = 100  # steps, at most a tenth of a term


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the training with its own learning rate."""

    steps: int
    rate: float  # factor on the learning rates
    decay: float  # share of its steps, the last ones, over which the rate falls to 0
    small: float  # share of its steps, the first ones, on small images
    practice: Practice | None  # its practice LoRAs, if any
    seed: int


class Objective(Protocol):
    """The objective of a term."""

    @property
    def trained(self) -> Predictor:
        """The predictor that the optimizers change."""

    @property
    def lora_predictor(self) -> Predictor:
        """The predictor that practice LoRAs are trained on: `trained` or a copy of it. They are applied to both."""

    def parameters_beside_matrices(self) -> list[nn.Parameter]:
        """Return the weights that are trained besides the matrices of the transformer's blocks."""

    def loss(self, batch: NoisyBatch, rng: random.Random) -> Tensor:
        """Return the loss of one batch."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The images and the noise shift of every term."""

    curriculum: Curriculum
    vae: Autoencoder
    shift: Shift
    measured: int  # number of held-out images of each kind


class TransformerTrainer:
    """Trains on the images of a curriculum by an objective, with practice LoRAs applied in some steps."""

    def __init__(self, term: Term, objective: Objective, data: TrainingData) -> None:
        self.settings, self._objective, self._data = term, objective, data
        self._curriculum = data.curriculum
        self._model = objective.trained.model
        optimizers = optimizers_for(
            self._model.block_matrices(), objective.parameters_beside_matrices(), rate=term.rate
        )
        curve = warm_up_then_decay(term.steps, warm_up=min(WARM_UP, term.steps // 10), decay=term.decay)
        self._optimization = Optimization(optimizers, rate_factor=curve)
        self._rng = random.Random(term.seed)
        self._noise = NoiseSampler(data.shift, self._model, seed=term.seed)
        self._rehearsal = self._new_rehearsal(term.practice) if term.practice else None

    @property
    def steps(self) -> int:
        """The number of steps of the term."""
        return self.settings.steps

    def step(self, index: int) -> float:
        """Take the step of this number, and those of the practice LoRA before it; return the loss of the base."""
        is_small = index < self.settings.small * self.settings.steps
        course = self._curriculum.courses.choose(is_small=is_small, rng=self._rng)
        with self._practice_lora(course) as figures:
            others = self._curriculum.samples(course, course.batch - len(figures), self._rng)
            loss = self._objective.loss(self._noise.for_base([*figures, *others]), self._rng)
            loss.backward()
        self._optimization.step()
        return loss.item()

    def measure(self) -> str:
        """Return the loss on held-out images as text."""
        with self._optimization.averaged():
            return str(held_out_loss(self._model, self._data.vae, images=self._data.measured))

    def finish(self) -> None:
        """Replace the model's weights by their average."""
        self._optimization.use_average()

    def state_dict(self) -> Tensors:
        """Return weights, averages, optimizers, practice LoRA and random generators."""
        return {
            "model": self._model.state_dict(),
            "optimization": self._optimization.state_dict(),
            "rehearsal": self._rehearsal.state_dict() if self._rehearsal else None,
            "noise": self._noise.generator.get_state(),
            "rng": self._rng.getstate(),
        }

    def load_state_dict(self, state: Tensors) -> None:
        """Load a state from `state_dict`."""
        self._model.load_state_dict(state["model"])
        self._optimization.load_state_dict(state["optimization"])
        if self._rehearsal:
            self._rehearsal.load_state_dict(state["rehearsal"])
        self._noise.generator.set_state(state["noise"])
        self._rng.setstate(state["rng"])

    def _new_rehearsal(self, practice: Practice) -> Rehearsal:
        return Rehearsal(
            self._data.vae,
            self._objective.lora_predictor.model.block_matrices(),
            practice=practice,
            size=self._curriculum.courses.full.size,
            seed=self.settings.seed,
        )

    @contextmanager
    def _practice_lora(self, course: Course) -> Iterator[list[Sample]]:
        """Apply the practice LoRA within the context, and yield samples of its figure for the batch; in steps without a
        LoRA the list is empty."""
        if not self._rehearsal or not course.practised:
            yield []
            return
        is_copy = self._objective.lora_predictor is not self._objective.trained
        copies = [self._model.block_matrices()] if is_copy else []
        with self._rehearsal.step(self._lora_loss, *copies, count=course.practised) as samples:
            yield samples

    def _lora_loss(self, samples: list[Sample]) -> Tensor:
        return lora_loss(self._objective.lora_predictor, self._noise.for_lora(samples))
