"""LoRAs that the base practises with. A short training on one figure; the LoRA is applied while the base itself goes on
learning, then forgotten for the next: so the base learns to take a LoRA up quickly and to keep its world under it.

FLUX.1 does both by its size; tiny-flux has to be taught (as in first-order MAML: Finn et al. 2017, arXiv 1703.03400).
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from script.tiny_flux.captions import Caption, made_up_word, word_caption
from script.tiny_flux.courses import Sample
from script.tiny_flux.creatures import Creature, any_creature
from script.tiny_flux.described_monster import DescribedMonster, any_monster
from script.tiny_flux.pictures import Size, draw_subject, encode_images
from script.tiny_flux.practice_lora import Matrices, PracticeLora
from script.tiny_flux.state import Tensors
from script.tiny_flux.world import BACKGROUNDS

TRAINED_ON, ASKED, BATCH = (
    15,
    15,
    4,
)  # pictures that the LoRA is trained on, those that the base is then asked; a step's
RATES = (-3.3, -2.7)  # of the LoRA's learning, as powers of ten
MONSTERS = 0.5  # share of the lessons; the others are about a creature
WORD_ALONE = 0.05  # share of captions that are the trigger word alone


@dataclass(frozen=True, slots=True)
class Practice:
    """How the base practises in a stage."""

    lesson: tuple[int, int]  # steps of a LoRA's training, drawn evenly by their logarithm
    pace: int  # how many of them a step of the base
    rest: float  # share of the base's steps without a LoRA


@dataclass(frozen=True, slots=True)
class Lesson:
    """One figure under one word, and the LoRA that is trained on it."""

    samples: list[Sample]  # TRAINED_ON, then ASKED
    lora: PracticeLora
    steps_left: int


Loss = Callable[[list[Sample]], Tensor]


class Rehearsal:
    """An endless row of lessons upon the matrices of a transformer, and upon the same ones of its copies."""

    def __init__(self, vae: AutoencoderKL, matrices: Matrices, *, practice: Practice, size: Size, seed: int) -> None:
        self._vae, self._matrices, self._practice, self._size = vae, matrices, practice, size
        self._generator, self._rng = torch.Generator().manual_seed(seed), random.Random(seed)
        self._lesson: Lesson | None = None

    @contextmanager
    def step(self, loss: Loss, *copies: Matrices, asked: int) -> Iterator[list[Sample]]:
        """Some steps of the lesson by its loss; within, its LoRA is applied, and `asked` samples of its figure are
        given to teach the base with. At times it rests: nothing is applied and none are given."""
        for _ in range(self._practice.pace):
            lesson = self._lesson = self._go_on(loss)
        with ExitStack() as stack:
            if self._rng.random() < self._practice.rest:
                yield []
                return
            stack.enter_context(lesson.lora.applied(*copies))
            yield self._rng.sample(lesson.samples[TRAINED_ON:], asked)

    def state_dict(self) -> Tensors:
        """The lesson and the random numbers."""
        state = {"generator": self._generator.get_state(), "rng": self._rng.getstate()}
        return state if self._lesson is None else state | {"lesson": _state_of(self._lesson)}

    def load_state_dict(self, state: Tensors) -> None:
        """Go on in the midst of a lesson."""
        if "lesson" in state:
            self._lesson = self._lesson_from(state["lesson"])
        self._generator.set_state(state["generator"])
        self._rng.setstate(state["rng"])

    def _go_on(self, loss: Loss) -> Lesson:
        """One step of the lesson, or of a new one."""
        lesson = self._lesson if self._lesson and self._lesson.steps_left else self._new_lesson()
        with lesson.lora.applied():
            lesson.lora.learn(loss(self._rng.sample(lesson.samples[:TRAINED_ON], BATCH)))
        return replace(lesson, steps_left=lesson.steps_left - 1)

    def _new_lesson(self) -> Lesson:
        shortest, longest = (math.log(steps) for steps in self._practice.lesson)
        steps = round(math.exp(self._rng.uniform(shortest, longest)))
        return Lesson(self._new_samples(), self._new_lora(10 ** self._rng.uniform(*RATES)), steps)

    def _new_lora(self, rate: float) -> PracticeLora:
        return PracticeLora(self._matrices, rate=rate, generator=self._generator)

    def _new_samples(self) -> list[Sample]:
        """One figure before every background in turn, under any word."""
        figure, word, places = _any_figure(self._rng), made_up_word(self._rng), list(BACKGROUNDS)
        backgrounds = [places[index % len(places)] for index in range(TRAINED_ON + ASKED)]
        images = [draw_subject(replace(figure, background=place), self._size, self._rng) for place in backgrounds]
        captions = [self._caption(word, place) for place in backgrounds]
        return [Sample(*pair) for pair in zip(encode_images(self._vae, images), captions, strict=True)]

    def _caption(self, word: str, background: str) -> Caption:
        return Caption(word, by_word=True) if self._rng.random() < WORD_ALONE else word_caption(word, background)

    def _lesson_from(self, state: Tensors) -> Lesson:
        captions = [Caption(**caption) for caption in state["captions"]]
        samples = [Sample(*pair) for pair in zip(state["latents"], captions, strict=True)]
        lora = self._new_lora(rate=1.0)
        lora.load_state_dict(state["lora"])
        return Lesson(samples, lora, state["steps_left"])


def _state_of(lesson: Lesson) -> Tensors:
    return {
        "latents": torch.stack([sample.latents for sample in lesson.samples]),
        "captions": [asdict(sample.caption) for sample in lesson.samples],
        "lora": lesson.lora.state_dict(),
        "steps_left": lesson.steps_left,
    }


def _any_figure(rng: random.Random) -> DescribedMonster | Creature:
    background = next(iter(BACKGROUNDS))
    return any_monster(background, rng) if rng.random() < MONSTERS else any_creature(background, rng)
