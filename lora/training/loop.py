"""The loop. Tensors in, trained LoRA weights in place; knows no file and prints nothing."""

from collections.abc import Callable

import torch
from diffusers import FluxTransformer2DModel
from diffusers.optimization import get_constant_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from lora.dataset.encoding import EncodedDataset
from lora.flux.latents import PATCH
from lora.flux.velocity import predict_velocity
from lora.training.batches import Batch, endless_batches
from lora.training.config import TrainConfig
from lora.training.flow import Shift, flow_loss, point_on_path, sample_sigmas, velocity_of_path

TRAINING_GUIDANCE = 1.0  # the data are samples without guidance; asking for more would teach the model to ignore it
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 1e-4
MAX_GRAD_NORM = 1.0
MOST_WARM_UP_STEPS, WARM_UP_SHARE = 50, 0.05
EMA_DECAY = 0.99  # reached by way of (1 + n) / (10 + n), so that a short training is not an average of nothing

Report = Callable[[int, float], None]


def train_lora(
    transformer: FluxTransformer2DModel, dataset: EncodedDataset, config: TrainConfig, *, shift: Shift, report: Report
) -> None:
    """Train the LoRA that `transformer` wears and leave the average of its weights in it; reports (step, loss)."""
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
    )
    warm_up = min(MOST_WARM_UP_STEPS, round(WARM_UP_SHARE * config.steps))
    schedule = get_constant_schedule_with_warmup(optimizer, num_warmup_steps=warm_up)
    average = EMAModel(parameters, decay=EMA_DECAY)
    generator = torch.Generator().manual_seed(config.seed)  # on the CPU, where every machine draws the same
    batches = endless_batches(
        dataset, batch_size=config.batch_size, caption_dropout=config.caption_dropout_rate, generator=generator
    )
    for step in range(1, config.steps + 1):
        loss = batch_loss(transformer, next(batches), shift=shift, generator=generator)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.step(parameters)
        report(step, loss.item())
    average.copy_to(parameters)


def batch_loss(
    transformer: FluxTransformer2DModel, batch: Batch, *, shift: Shift, generator: torch.Generator
) -> Tensor:
    """The flow-matching loss of one batch at noise and sigmas from `generator`, one sigma a sample. Scalar."""
    count, _, height, width = batch.latents.shape
    noise = torch.randn(batch.latents.shape, generator=generator)
    mu = shift.mu(height // PATCH * (width // PATCH))
    sigmas = sample_sigmas(count, mu=mu, generator=generator)
    return loss_at(transformer, batch, noise=noise, sigmas=sigmas)


def loss_at(transformer: FluxTransformer2DModel, batch: Batch, *, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The loss at given noise [B, C, H, W] and sigmas [B]: everything in fp32 but the transformer's own work."""
    device = transformer.device
    batch, noise, sigmas = batch.to(device), noise.to(device), sigmas.to(device)
    noisy = point_on_path(batch.latents, noise, sigmas)
    with torch.autocast(device.type, torch.bfloat16, enabled=transformer.dtype == torch.bfloat16):
        predicted = predict_velocity(transformer, noisy, sigmas=sigmas, prompt=batch.prompt, guidance=TRAINING_GUIDANCE)
    return flow_loss(predicted, velocity_of_path(batch.latents, noise))
