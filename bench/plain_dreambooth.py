"""A plain training loop: diffusers' FLUX DreamBooth LoRA script at its defaults. Of our code it uses only the encoded
images.

Written after examples/dreambooth/train_dreambooth_lora_flux.py of diffusers. Two things are as in the other arms, so
that the recipes are compared and not the inputs: latents are the mean of the posterior (the script samples), and
everything is in fp32.
"""

from collections.abc import Callable, Iterator

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from torch import Tensor, nn

from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.velocity import predict_velocity

RANK, GUIDANCE = 4, 3.5
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY = 1e-4, (0.9, 0.999), 1e-8, 1e-4
MAX_GRAD_NORM = 1.0
TIMESTEPS = 1000
PLAIN_SETTINGS = {"lora_rank": RANK, "learning_rate": LEARNING_RATE, "guidance": GUIDANCE}
TARGET_MODULES = [
    *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
    *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
]


def add_plain_lora(transformer: FluxTransformer2DModel, *, seed: int) -> None:
    """Add a LoRA of rank 4 and alpha 4, with gaussian A of deviation 1/4 and zero B, on attention and the feed-forwards
    of double blocks."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGET_MODULES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(config)


def train_plain(
    transformer: FluxTransformer2DModel,
    dataset: EncodedDataset,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    report: Callable[[int], None],
) -> None:
    """Train with AdamW at a constant rate, without averaged weights or dropped captions; `report` is called with the
    number of each step after it."""
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    batches = _batches(dataset.examples, batch_size=batch_size, generator=generator)
    for step in range(1, steps + 1):
        _loss(transformer, next(batches), generator).backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        report(step)


def plain_sigmas(count: int, *, generator: torch.Generator) -> Tensor:
    """Sigmas [count], uniform over 0.001, 0.002 ... 1, the scheduler's table; dynamic shifting does not change it."""
    steps = (torch.rand(count, generator=generator) * TIMESTEPS).long()
    return (TIMESTEPS - steps) / TIMESTEPS


def _loss(transformer: FluxTransformer2DModel, examples: list[Example], generator: torch.Generator) -> Tensor:
    clean = torch.stack([example.latents for example in examples])
    noise = torch.randn(clean.shape, generator=generator)
    sigmas = plain_sigmas(len(examples), generator=generator)
    fraction = sigmas.view(-1, 1, 1, 1)
    noisy, prompt = (1 - fraction) * clean + fraction * noise, Prompt.stack([example.prompt for example in examples])
    predicted = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=GUIDANCE)
    return (predicted - (noise - clean)).square().mean()


def _batches(examples: tuple[Example, ...], *, batch_size: int, generator: torch.Generator) -> Iterator[list[Example]]:
    """Yield batches endlessly, with a new order in each epoch."""
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield [examples[index] for index in order[start : start + batch_size]]
