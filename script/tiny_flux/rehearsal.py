"""LoRAs that the base practises with. A short training on one creature, worn while the base itself goes on learning,
then forgotten for the next: so the base learns to take a LoRA up quickly and to keep its world under it.

FLUX.1 does both by its size; tiny-flux has to be taught (as in first-order MAML: Finn et al. 2017, arXiv 1703.03400).
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from script.tiny_flux.captions import made_up_word
from script.tiny_flux.creatures import Creature, any_creature
from script.tiny_flux.pictures import encode_subjects
from script.tiny_flux.practice_lora import PracticeLora
from script.tiny_flux.world import BACKGROUNDS

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
        with ExitStack() as worn:
            worn.enter_context(self._lora.worn())
            self._lora.learn(loss(self._rng.sample(self._samples[:PRACTISED], BATCH)))
            if rest := self._rng.random() < REST:
                worn.close()
            yield [] if rest else self._rng.sample(self._samples[PRACTISED:], asked)

    def _begin_lesson(self) -> None:
        """A new creature under any word, and a new LoRA."""
        self._samples = self._draw_samples()
        rate = 10 ** self._rng.uniform(*RATES)
        self._lora = PracticeLora(self._matrices, rate=rate, generator=self._generator)
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
