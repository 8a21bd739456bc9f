"""LoRAs that the base practises with. A short training on one creature, worn while the base itself goes on learning,
then forgotten for the next: so the base learns to take a LoRA up quickly and to keep its world under it.

FLUX.1 does both by its size; tiny-flux has to be taught (as in first-order MAML: Finn et al. 2017, arXiv 1703.03400).
The product of the LoRA is added to the weights themselves, and its gradients follow from theirs by the chain rule:
one compiled transformer serves the base and every LoRA.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from script.tiny_flux.captions import made_up_word
from script.tiny_flux.creatures import Creature, any_creature
from script.tiny_flux.pictures import encode_subjects
from script.tiny_flux.world import BACKGROUNDS

RANK = 16
STEPS = (40, 120)  # of a lesson
RATES = (-3.3, -2.7)  # its learning rate, as powers of ten
PRACTISED, ASKED, BATCH = 15, 15, 4  # pictures that the LoRA is trained on, those that the base is then asked; a step's
REST = 0.2  # share of the steps in which the base learns without a LoRA
WORD_ALONE = 0.05  # share of captions that are the trigger word alone


@dataclass(frozen=True, slots=True)
class Sample:
    """What a step of training takes: latents [16, H, W], a caption, and whether it shows a creature."""

    latents: Tensor
    caption: str
    of_creature: bool


Loss = Callable[[list[Sample]], Tensor]


class Rehearsal:
    """An endless row of lessons upon the matrices of a transformer."""

    def __init__(
        self, vae: AutoencoderKL, matrices: list[nn.Parameter], *, side: int, generator: torch.Generator, seed: int
    ) -> None:
        self._vae, self._matrices, self._side = vae, matrices, side
        self._generator, self._rng = generator, random.Random(seed)
        self._steps_left = 0

    @contextmanager
    def step(self, loss: Loss, *, asked: int) -> Iterator[list[Sample]]:
        """One step of the lesson; within, the base wears its LoRA, and `asked` pictures of its creature are given to
        teach the base with. At times it rests: nothing is worn and none are given."""
        if self._steps_left == 0:
            self._begin_lesson()
        self._steps_left -= 1
        bare = [matrix.detach().clone() for matrix in self._matrices]
        self._wear()
        self._practise(loss)
        if rest := self._rng.random() < REST:
            self._restore(bare)
        yield [] if rest else self._rng.sample(self._samples[PRACTISED:], asked)
        self._restore(bare)

    def _begin_lesson(self) -> None:
        """A new creature under any word, a new LoRA as PEFT starts it, a new optimizer."""
        self._samples = self._draw_samples()
        self._down = [self._uniform(RANK, matrix.shape[1]) for matrix in self._matrices]
        self._up = [torch.zeros(matrix.shape[0], RANK) for matrix in self._matrices]
        rate = 10 ** self._rng.uniform(*RATES)
        self._optimizer = torch.optim.AdamW([*self._down, *self._up], lr=rate, weight_decay=1e-4, foreach=True)
        self._steps_left = self._rng.randint(*STEPS)

    def _draw_samples(self) -> list[Sample]:
        places = list(BACKGROUNDS)
        parts = any_creature(places[0], self._rng).parts
        subjects = [Creature("", parts, places[index % len(places)]) for index in range(PRACTISED + ASKED)]
        pictures = encode_subjects(self._vae, subjects, width=self._side, height=self._side, rng=self._rng)
        word = made_up_word(self._rng)
        return [
            Sample(picture.latents, self._caption(word, picture.subject.background), of_creature=True)
            for picture in pictures
        ]

    def _caption(self, word: str, background: str) -> str:
        return word if self._rng.random() < WORD_ALONE else f"{word} {BACKGROUNDS[background]}"

    def _uniform(self, rank: int, inputs: int) -> Tensor:
        return (torch.rand(rank, inputs, generator=self._generator) * 2 - 1) / math.sqrt(inputs)

    @torch.no_grad()
    def _wear(self) -> None:
        for matrix, down, up in zip(self._matrices, self._down, self._up, strict=True):
            matrix.add_(up @ down)

    @torch.no_grad()
    def _restore(self, bare: list[Tensor]) -> None:
        for matrix, value in zip(self._matrices, bare, strict=True):
            matrix.copy_(value)

    def _practise(self, loss: Loss) -> None:
        """One step of the LoRA: what the weights would change by, seen through its two factors."""
        gradients = torch.autograd.grad(loss(self._rng.sample(self._samples[:PRACTISED], BATCH)), self._matrices)
        for down, up, gradient in zip(self._down, self._up, gradients, strict=True):
            down.grad, up.grad = up.T @ gradient, gradient @ down.T
        nn.utils.clip_grad_norm_([*self._down, *self._up], 1.0)
        self._optimizer.step()
