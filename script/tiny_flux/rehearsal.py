"""Practice LoRAs, one after the other. Each is trained for a short time on one figure, and is applied in a share of the
base's own training steps. This trains the base to fit a LoRA quickly, and to keep its world while one is applied.

FLUX.1 does both because of its size; tiny-flux is trained for it, as in first-order MAML (Finn et al. 2017, arXiv
1703.03400).
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from script.tiny_flux.captions import Caption, made_up_word, word_caption
from script.tiny_flux.courses import Sample
from script.tiny_flux.creatures import Creature, any_creature
from script.tiny_flux.described_monster import DescribedMonster, any_monster
from script.tiny_flux.latents import Autoencoder
from script.tiny_flux.pictures import Size, encode_images, render_subject
from script.tiny_flux.practice_lora import Matrices, PracticeLora
from script.tiny_flux.state import Tensors
from script.tiny_flux.world import BACKGROUNDS

SUPPORT, QUERY = 15, 15  # numbers of images: for the training of the LoRA, and for that of the base under the LoRA
BATCH = 4  # batch size of the LoRA's training
RATES = (-3.3, -2.7)  # range of the LoRA's learning rate, as powers of ten
MONSTERS = 0.5  # share of the lessons that show a monster; the others show a creature
WORD_ALONE = 0.05  # share of captions that are the trigger word alone


@dataclass(frozen=True, slots=True)
class Practice:
    """The practice LoRAs of a stage."""

    lesson: tuple[int, int]  # range of the steps of a LoRA's training, sampled uniformly by their logarithm
    pace: int  # steps of the LoRA per step of the base
    rest: float  # share of the base's steps without a LoRA


@dataclass(frozen=True, slots=True)
class Lesson:
    """The training of one practice LoRA: images of one figure, captioned with one word."""

    samples: list[Sample]  # SUPPORT, then QUERY
    lora: PracticeLora
    steps_left: int


Loss = Callable[[list[Sample]], Tensor]


class Rehearsal:
    """Trains practice LoRAs on the matrices of a transformer, one lesson after the other."""

    def __init__(self, vae: Autoencoder, matrices: Matrices, *, practice: Practice, size: Size, seed: int) -> None:
        self._vae, self._matrices, self._practice, self._size = vae, matrices, practice, size
        self._generator, self._rng = torch.Generator().manual_seed(seed), random.Random(seed)
        self._lesson: Lesson | None = None

    @contextmanager
    def step(self, loss: Loss, *copies: Matrices, count: int) -> Iterator[list[Sample]]:
        """Train the LoRA for some steps, then apply it within the context, to `copies` of the matrices, too.

        Yields `count` samples of its figure for the training of the base. In a share of the steps, `Practice.rest`, no
        LoRA is applied, and the list is empty.
        """
        for _ in range(self._practice.pace):
            lesson = self._lesson = self._train_lora(loss)
        with ExitStack() as stack:
            if self._rng.random() < self._practice.rest:
                yield []
                return
            stack.enter_context(lesson.lora.applied(*copies))
            yield self._rng.sample(lesson.samples[SUPPORT:], count)

    def state_dict(self) -> Tensors:
        """Return the lesson and the random generators."""
        state = {"generator": self._generator.get_state(), "rng": self._rng.getstate()}
        return state if self._lesson is None else state | {"lesson": _state_of(self._lesson)}

    def load_state_dict(self, state: Tensors) -> None:
        """Load a state from `state_dict`, including an unfinished lesson."""
        if "lesson" in state:
            self._lesson = self._lesson_from(state["lesson"])
        self._generator.set_state(state["generator"])
        self._rng.setstate(state["rng"])

    def _train_lora(self, loss: Loss) -> Lesson:
        """Take one step of the lesson, or of a new one if it is finished."""
        lesson = self._lesson if self._lesson and self._lesson.steps_left else self._new_lesson()
        with lesson.lora.applied():
            lesson.lora.learn(loss(self._rng.sample(lesson.samples[:SUPPORT], BATCH)))
        return replace(lesson, steps_left=lesson.steps_left - 1)

    def _new_lesson(self) -> Lesson:
        shortest, longest = (math.log(steps) for steps in self._practice.lesson)
        steps = round(math.exp(self._rng.uniform(shortest, longest)))
        return Lesson(self._new_samples(), self._new_lora(10 ** self._rng.uniform(*RATES)), steps)

    def _new_lora(self, rate: float) -> PracticeLora:
        return PracticeLora(self._matrices, rate=rate, generator=self._generator)

    def _new_samples(self) -> list[Sample]:
        """Return samples of one random figure on all backgrounds in turn, captioned with one word."""
        figure, word, names = _any_figure(self._rng), made_up_word(self._rng), list(BACKGROUNDS)
        backgrounds = [names[index % len(names)] for index in range(SUPPORT + QUERY)]
        images = [render_subject(replace(figure, background=name), self._size, self._rng) for name in backgrounds]
        captions = [self._caption(word, name) for name in backgrounds]
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
