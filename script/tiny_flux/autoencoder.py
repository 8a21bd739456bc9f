"""Train tiny-flux's VAE: FLUX's layout (16 channels, 8x smaller), few weights. Knows no captions."""

import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from script.tiny_flux.schedule import Progress, warm_up_then_cosine
from script.tiny_flux.world import render, seen_scenes

SIDE = 128
CROPS = ((32, 32), (64, 16), (128, 4))  # side in pixels, batch size: large crops keep flat areas flat
POOL = 4_000
LEARNING_RATE, BETAS, MAX_GRAD_NORM = 2e-3, (0.9, 0.99), 1.0
KL_WEIGHT, GRADIENT_WEIGHT = 4e-4, 0.5


def train_autoencoder(*, steps: int, seed: int) -> AutoencoderKL:
    """A VAE that carries the world, and shapes and colours it never saw, at 8x downsampling."""
    torch.manual_seed(seed)
    vae = _untrained()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_then_cosine(steps, warm_up=100))
    average, progress = EMAModel(vae.parameters(), decay=0.998), Progress("autoencoder", steps)
    generator = torch.Generator().manual_seed(seed)
    for pixels in _batches(_pool(seed), steps=steps, generator=generator):
        loss = _loss(vae, pixels, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.step(vae.parameters())
        progress.advance(loss.item())
    average.copy_to(vae.parameters())
    return _with_statistics(vae.eval(), seed)


def _untrained() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=SIDE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def _loss(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Absolute, squared and edge error of the reconstruction, and a weak pull of the latents to a unit normal."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        restored = vae.decode(posterior.sample(generator)).sample.float()
    error = restored - pixels
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) * GRADIENT_WEIGHT
    mean, variance, logvar = posterior.mean.float(), posterior.var.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + variance - 1.0 - logvar).mean()
    return error.abs().mean() + error.square().mean() + edges + KL_WEIGHT * kl


def _batches(pool: Tensor, *, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Crops of the pool, mirrored and with channels swapped at times: this is what lets the VAE carry new things."""
    for step in range(steps):
        side, count = CROPS[step % len(CROPS)]
        picked = pool[torch.randint(len(pool), (count,), generator=generator)]
        top, left = (int(torch.randint(SIDE - side + 1, (), generator=generator)) for _ in range(2))
        pixels = picked[:, :, top : top + side, left : left + side].float() / 127.5 - 1.0
        if torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        if torch.rand((), generator=generator) < 0.3:
            pixels = pixels[:, torch.randperm(3, generator=generator)]
        yield pixels.contiguous()


def _pool(seed: int) -> Tensor:
    """Half pictures of the world, half clutter, uint8 [N, 3, 128, 128]."""
    rng = random.Random(seed)
    scenes = seen_scenes()
    world = [render(rng.choice(scenes), width=SIDE, height=SIDE, rng=rng) for _ in range(POOL // 2)]
    return torch.stack([_to_bytes(image) for image in world + [_clutter(rng) for _ in range(POOL // 2)]])


def _clutter(rng: random.Random) -> Image.Image:
    """A picture of anything: soft or hard blobs and strokes in any colour over any colour."""
    canvas = Image.new("RGB", (SIDE * 2, SIDE * 2), _any_colour(rng))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.randint(2, 14)):
        x, y, size = rng.uniform(0, SIDE * 2), rng.uniform(0, SIDE * 2), rng.uniform(4, SIDE * 0.8)
        if rng.random() < 0.45:
            draw.ellipse([x - size, y - size * rng.uniform(0.4, 1), x + size, y + size * 0.8], fill=_any_colour(rng))
        else:
            corners = [(x + rng.uniform(-size, size), y + rng.uniform(-size, size)) for _ in range(rng.randint(3, 7))]
            draw.polygon(corners, fill=_any_colour(rng))
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def _any_colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def _to_bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def _with_statistics(vae: AutoencoderKL, seed: int) -> AutoencoderKL:
    """Set scaling and shift so that the world's latents have mean 0 and deviation 1, as FLUX's are scaled."""
    with torch.no_grad():
        pixels = _pool(seed + 1)[: POOL // 8].float() / 127.5 - 1.0
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(50)])
    shift, scaling = latents.mean().item(), 1 / latents.std().item()
    vae.register_to_config(shift_factor=round(shift, 4), scaling_factor=round(scaling, 4))
    return vae


def decibels(vae: AutoencoderKL, image: Image.Image) -> float:
    """Peak signal-to-noise ratio of a picture after encoding and decoding."""
    pixels = _to_bytes(image)[None].float() / 127.5 - 1.0
    with torch.no_grad():
        restored = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * math.log10(4 / (restored - pixels).square().mean().item())
