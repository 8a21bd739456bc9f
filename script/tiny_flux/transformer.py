"""Train tiny-flux's transformer and its two text encoders together, on the world's encoded pictures."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from lora.flux.prompt import TEXT_TOKENS, Prompt
from lora.flux.velocity import predict_velocity
from lora.training.flow import Shift, flow_loss, point_on_path, sample_sigmas, velocity_of_path
from script.tiny_flux.captions import training_caption
from script.tiny_flux.oddities import Oddity, render_oddity
from script.tiny_flux.schedule import Progress, warm_up_then_decay
from script.tiny_flux.tokenizers import CLIP_TOKENS
from script.tiny_flux.world import BACKGROUNDS, Scene, render, seen_scenes

WIDTH_T5, WIDTH_CLIP, HEADS, HEAD = 128, 96, 6, 32
GUIDANCE = (1.0, 5.0)  # drawn evenly, so that any guidance a person asks for is a known one
MUON_RATE, ADAM_RATE, MAX_GRAD_NORM = 2e-3, 1e-3, 1.0
PICTURES = 6_000
SHORT_TEXT = 24  # most steps pad T5 to this only, which is much cheaper; some pad to FLUX's 512


@dataclass(frozen=True, slots=True)
class Course:
    """A kind of batch: pictures of one size, a text length, and how many at once."""

    width: int
    height: int
    text_tokens: int
    batch: int


SMALL = Course(64, 64, SHORT_TEXT, 48)
FULL = Course(128, 128, SHORT_TEXT, 32)
LONG_TEXT = Course(128, 128, TEXT_TOKENS, 6)
WIDE, TALL = Course(160, 112, SHORT_TEXT, 24), Course(112, 160, SHORT_TEXT, 24)


@dataclass(frozen=True, slots=True)
class Term:
    """A stretch of the training with a learning rate of its own that rises, holds and falls."""

    steps: int
    rate: float  # factor on the learning rates
    small: float  # share of its steps, the first ones, on small pictures
    oddities: float  # share of its pictures that show nameless things


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """CLIP's and T5's."""

    clip: CLIPTokenizer
    t5: T5TokenizerFast


class TinyFlux(nn.Module):
    """The three networks that learn together."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        super().__init__()
        self.clip = _untrained_clip(tokenizers.clip)
        self.t5 = _untrained_t5(tokenizers.t5)
        self.transformer = _untrained_transformer()


@dataclass(frozen=True, slots=True)
class Pictures:
    """Encoded pictures of one size with what each shows."""

    latents: Tensor  # [N, 16, H/8, W/8], scaled
    subjects: list[Scene | Oddity]


def train_transformer(
    vae: AutoencoderKL, tokenizers: Tokenizers, *, shift: Shift, terms: tuple[Term, ...], seed: int
) -> TinyFlux:
    """Teach the networks from nothing, a term after the other."""
    torch.manual_seed(seed)
    model = TinyFlux(tokenizers)
    compiled = torch.compile(model.transformer, dynamic=False)
    for index, term in enumerate(terms):
        _train_term(model, compiled, vae, tokenizers, shift=shift, term=term, seed=seed + index)
    return model.eval()


def _train_term(
    model: TinyFlux,
    compiled: Callable[..., Any],
    vae: AutoencoderKL,
    tokenizers: Tokenizers,
    *,
    shift: Shift,
    term: Term,
    seed: int,
) -> None:
    """One run of the optimizers, at whose end the model takes the average of its weights."""
    pictures = _all_pictures(vae, oddities=term.oddities, seed=seed)
    optimizers = _optimizers(model, rate=term.rate)
    factor = warm_up_then_decay(term.steps, warm_up=100)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]
    average, progress = EMAModel(model.parameters(), decay=0.998), Progress("transformer", term.steps)
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    for course in _courses(term, rng):
        transformer = compiled if course is FULL else model.transformer  # the other kinds are not worth the minute
        batch = pictures[course.width, course.height]
        loss = _loss(model, transformer, tokenizers, batch, course=course, shift=shift, generator=generator, rng=rng)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        average.step(model.parameters())
        progress.advance(loss.item())
    average.copy_to(model.parameters())


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


def _loss(
    model: TinyFlux,
    transformer: Callable[..., Any],
    tokenizers: Tokenizers,
    pictures: Pictures,
    *,
    course: Course,
    shift: Shift,
    generator: torch.Generator,
    rng: random.Random,
) -> Tensor:
    """The flow-matching loss of one batch, in bf16 where that is safe."""
    picked = torch.randint(len(pictures.subjects), (course.batch,), generator=generator)
    clean = pictures.latents[picked]
    captions = [training_caption(pictures.subjects[index], rng) for index in picked.tolist()]
    noise = torch.randn(clean.shape, generator=generator)
    mu = shift.mu(course.width * course.height // 256)
    sigmas = sample_sigmas(course.batch, mu=mu, generator=generator)
    with torch.autocast("cpu", torch.bfloat16), _fast_attention(course):
        prompt = _encode(model, tokenizers, captions, text_tokens=course.text_tokens)
        noisy = point_on_path(clean, noise, sigmas)
        predicted = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=rng.uniform(*GUIDANCE))
    return flow_loss(predicted, velocity_of_path(clean, noise))


def _fast_attention(course: Course) -> contextlib.AbstractContextManager[None]:
    """Plain matrix products beat the fused kernel's bf16 backward on a CPU, except where the matrix is large."""
    return contextlib.nullcontext() if course.text_tokens > SHORT_TEXT else sdpa_kernel(SDPBackend.MATH)


def _encode(model: TinyFlux, tokenizers: Tokenizers, captions: list[str], *, text_tokens: int) -> Prompt:
    t5 = tokenizers.t5(captions, padding="max_length", max_length=text_tokens, truncation=True, return_tensors="pt")
    clip = tokenizers.clip(captions, padding="max_length", max_length=CLIP_TOKENS, truncation=True, return_tensors="pt")
    return Prompt(model.t5(t5.input_ids)[0], model.clip(clip.input_ids).pooler_output)


def _all_pictures(vae: AutoencoderKL, *, oddities: float, seed: int) -> dict[tuple[int, int], Pictures]:
    """Pictures of every size that a course asks for, by width and height."""
    sizes = {(course.width, course.height) for course in (SMALL, FULL, WIDE, TALL)}
    return {size: _encode_pictures(vae, *size, oddities=oddities, seed=seed) for size in sorted(sizes)}


@torch.no_grad()
def _encode_pictures(vae: AutoencoderKL, width: int, height: int, *, oddities: float, seed: int) -> Pictures:
    rng = random.Random(f"{seed} {width} {height}")
    subjects = [_subject(rng, oddities) for _ in range(PICTURES)]
    parts = []
    for start in range(0, PICTURES, 50):
        images = [_draw(each, width=width, height=height, rng=rng) for each in subjects[start : start + 50]]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1
        parts.append(vae.encode(pixels).latent_dist.mean)
    latents = (torch.cat(parts) - vae.config.shift_factor) * vae.config.scaling_factor
    return Pictures(latents, subjects)


def _subject(rng: random.Random, oddities: float) -> Scene | Oddity:
    return Oddity(rng.choice(list(BACKGROUNDS))) if rng.random() < oddities else rng.choice(seen_scenes())


def _draw(subject: Scene | Oddity, *, width: int, height: int, rng: random.Random) -> Image.Image:
    if isinstance(subject, Oddity):
        return render_oddity(subject, width=width, height=height, rng=rng)
    return render(subject, width=width, height=height, rng=rng)


def _optimizers(model: TinyFlux, *, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else."""
    blocks = [*model.transformer.transformer_blocks, *model.transformer.single_transformer_blocks]
    matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
    chosen = set(matrices)
    others = [p for p in model.parameters() if p not in chosen]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE * rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAM_RATE * rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def _untrained_transformer() -> FluxTransformer2DModel:
    """diffusers does not start adaLN at zero; without that, training crawls."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH_T5,
        pooled_projection_dim=WIDTH_CLIP,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    for module in (transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    return transformer


def _untrained_t5(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH_T5,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _untrained_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH_CLIP,
            intermediate_size=256,
            projection_dim=WIDTH_CLIP,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=CLIP_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
