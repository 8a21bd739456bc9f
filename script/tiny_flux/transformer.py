"""Train tiny-flux's transformer and its two text encoders together, on encoded pictures."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lora.flux.prompt import TEXT_TOKENS, Prompt
from lora.flux.velocity import predict_velocity
from lora.training.learning.flow import flow_losses, point_on_path, velocity_of_path
from lora.training.learning.loop import TRAINING_GUIDANCE
from lora.training.recipe.sigmas import Shift, SigmaRule
from script.tiny_flux.captions import training_caption
from script.tiny_flux.creatures import Creature
from script.tiny_flux.networks import TinyFlux, Tokenizers, optimizers_for
from script.tiny_flux.pictures import Picture, draw_pictures
from script.tiny_flux.rehearsal import Rehearsal, Sample
from script.tiny_flux.schedule import Progress, warm_up_then_decay

GUIDANCE = (1.0, 5.0)  # drawn evenly, so that any guidance a person asks for is a known one,
TRAINING_GUIDANCE_SHARE = 0.3  # but often that of training, where a LoRA learns
MAX_GRAD_NORM = 1.0
EVEN_SIGMAS = 0.5  # share of sigmas drawn evenly: those of training hardly hold any that refine a picture at its end
PICTURES = 4_000
SHORT_TEXT = 24  # most steps pad T5 to this only, which is much cheaper; some pad to FLUX's 512
SEPARATION = 0.1  # weight of the overlap of the world and the creatures in the loss
TIMESTEPS = 1000  # what the transformer multiplies sigma and guidance by
LIKE_FLUX = SigmaRule(logit_mean=None, logit_std=1.0, style_share=0.0)


@dataclass(frozen=True, slots=True)
class Course:
    """A kind of batch: pictures of one size, a text length, and how many at once."""

    width: int
    height: int
    text_tokens: int
    batch: int
    asked: int = 0  # how many of them show the creature of a lesson, where there is one


SMALL = Course(64, 64, SHORT_TEXT, 48)
FULL = Course(128, 128, SHORT_TEXT, 32, asked=8)
LONG_TEXT = Course(128, 128, TEXT_TOKENS, 6, asked=2)
WIDE, TALL = Course(160, 112, SHORT_TEXT, 24), Course(112, 160, SHORT_TEXT, 24)


@dataclass(frozen=True, slots=True)
class Term:
    """A stretch of the training with a learning rate of its own that rises, holds and falls."""

    steps: int
    rate: float  # factor on the learning rates
    small: float  # share of its steps, the first ones, on small pictures
    creatures: float  # share of its pictures that show a creature
    rehearsed: bool  # whether the base practises with LoRAs


def train_transformer(
    vae: AutoencoderKL, tokenizers: Tokenizers, *, shift: Shift, terms: tuple[Term, ...], seed: int
) -> TinyFlux:
    """Teach the networks from nothing, a term after the other."""
    torch.manual_seed(seed)
    model = TinyFlux(tokenizers)
    teacher = Teacher(model, torch.compile(model.transformer, dynamic=False), shift=shift, seed=seed)
    for term in terms:
        _train_term(teacher, vae, term)
    return model.eval()


class Teacher:
    """What a step is made of: the model, how its loss is taken, and the chance in it."""

    def __init__(self, model: TinyFlux, compiled: Callable[..., Any], *, shift: Shift, seed: int) -> None:
        self.model, self._compiled, self._shift = model, compiled, shift
        self.generator, self.rng = torch.Generator().manual_seed(seed), random.Random(seed)

    def batch(self, pictures: list[Picture], count: int) -> list[Sample]:
        """Some of the pictures, with captions."""
        return [
            Sample(picture.latents, training_caption(picture.subject, self.rng), isinstance(picture.subject, Creature))
            for picture in self.rng.choices(pictures, k=count)
        ]

    def _any_guidance(self) -> float:
        return TRAINING_GUIDANCE if self.rng.random() < TRAINING_GUIDANCE_SHARE else self.rng.uniform(*GUIDANCE)

    def practise_loss(self, samples: list[Sample], *, course: Course) -> Tensor:
        """The loss of a LoRA, as the trainer takes it."""
        sigmas = self._training_sigmas(course, len(samples))
        return self._loss(samples, course=course, sigmas=sigmas, guidance=TRAINING_GUIDANCE)

    def loss(self, samples: list[Sample], *, course: Course) -> Tensor:
        """The loss of the base: at any guidance that it may be asked for, and at low sigmas too."""
        sigmas = self._training_sigmas(course, len(samples))
        even = torch.rand(len(samples), generator=self.generator)
        is_even = torch.rand(len(samples), generator=self.generator) < EVEN_SIGMAS
        return self._loss(
            samples, course=course, sigmas=torch.where(is_even, even, sigmas), guidance=self._any_guidance()
        )

    def _training_sigmas(self, course: Course, count: int) -> Tensor:
        mu = self._shift.mu(course.width * course.height // 256)
        return LIKE_FLUX.sample(count, mu=mu, generator=self.generator)

    def _loss(self, samples: list[Sample], *, course: Course, sigmas: Tensor, guidance: float) -> Tensor:
        """The flow-matching loss of one batch, in bf16 where that is safe, and what keeps its prompts apart."""
        clean = torch.stack([sample.latents for sample in samples])
        noise = torch.randn(clean.shape, generator=self.generator)
        transformer = self._compiled if _is_worth_compiling(course) else self.model.transformer
        with torch.autocast("cpu", torch.bfloat16), _fast_attention(course):
            prompt = self.model.encode([sample.caption for sample in samples], text_tokens=course.text_tokens)
            noisy = point_on_path(clean, noise, sigmas)
            predicted = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=guidance)
        overlap = self._overlap(samples, prompt, sigmas=sigmas, guidance=guidance)
        return flow_losses(predicted, velocity_of_path(clean, noise)).mean() + SEPARATION * overlap

    def _overlap(self, samples: list[Sample], prompt: Prompt, *, sigmas: Tensor, guidance: float) -> Tensor:
        """How much the modulation of creatures has in common with that of the world: mean squared cosine, 0..1.

        A LoRA on a layer changes what its inputs have in common. Where the modulation of a trigger word is like that
        of everything else, no LoRA can change the one and leave the other.
        """
        scaled = torch.full_like(sigmas, guidance * TIMESTEPS)
        embedded = self.model.transformer.time_text_embed(sigmas * TIMESTEPS, scaled, prompt.pooled.float())
        directions = nn.functional.normalize(nn.functional.silu(embedded), dim=1)
        creatures = [index for index, sample in enumerate(samples) if sample.caption and sample.of_creature]
        scenes = [index for index, sample in enumerate(samples) if sample.caption and not sample.of_creature]
        if not creatures or not scenes:
            return torch.zeros(())
        return (directions[creatures] @ directions[scenes].T).square().mean()


def _train_term(teacher: Teacher, vae: AutoencoderKL, term: Term) -> None:
    """One run of the optimizers, at whose end the model takes the average of its weights."""
    model, rng = teacher.model, teacher.rng
    pictures = _all_pictures(vae, creatures=term.creatures, rng=rng)
    optimizers = optimizers_for(model, rate=term.rate)
    factor = warm_up_then_decay(term.steps, warm_up=100)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    average, progress = EMAModel(model.parameters(), decay=0.998), Progress("transformer", term.steps, done=0)
    matrices = model.block_matrices()
    rehearsal = Rehearsal(vae, matrices, side=FULL.width, generator=teacher.generator, seed=rng.getrandbits(32))
    for course in _courses(term, rng):
        practise = partial(teacher.practise_loss, course=course)
        rehearsed = term.rehearsed and course.asked > 0
        with rehearsal.step(practise, asked=course.asked) if rehearsed else _no_rehearsal() as asked:
            samples = asked + teacher.batch(pictures[course.width, course.height], course.batch - len(asked))
            loss = teacher.loss(samples, course=course)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        average.step(model.parameters())
        progress.advance(loss.item())
    average.copy_to(model.parameters())


@contextlib.contextmanager
def _no_rehearsal() -> Iterator[list[Sample]]:
    yield []


def _courses(term: Term, rng: random.Random) -> Iterator[Course]:
    """Small pictures first; then full ones, one step in ten with long text and one in ten wide or tall."""
    for step in range(term.steps):
        chance = rng.random()
        if step < term.small * term.steps:
            yield SMALL
        elif chance < 0.10:
            yield LONG_TEXT
        elif chance < 0.20:
            yield rng.choice((WIDE, TALL))
        else:
            yield FULL


def _is_worth_compiling(course: Course) -> bool:
    """Each size of a batch costs a minute to compile."""
    return course is FULL or course is SMALL


def _fast_attention(course: Course) -> contextlib.AbstractContextManager[None]:
    """Plain matrix products beat the fused kernel's bf16 backward on a CPU, except where the matrix is large."""
    return contextlib.nullcontext() if course.text_tokens > SHORT_TEXT else sdpa_kernel(SDPBackend.MATH)


def _all_pictures(vae: AutoencoderKL, *, creatures: float, rng: random.Random) -> dict[tuple[int, int], list[Picture]]:
    """Pictures of every size that a course asks for, by width and height."""
    sizes = sorted({(course.width, course.height) for course in (SMALL, FULL, WIDE, TALL)})
    return {
        (width, height): draw_pictures(vae, PICTURES, width=width, height=height, creatures=creatures, rng=rng)
        for width, height in sizes
    }
