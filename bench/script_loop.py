"""The training loop of diffusers' FLUX DreamBooth LoRA script, on encoded inputs. Of our code it uses only these inputs
and the call of the transformer.

Written after examples/dreambooth/train_dreambooth_lora_flux.py of diffusers (Apache-2.0), run with
`--mixed_precision=bf16 --cache_latents --weighting_scheme=logit_normal`. In its favour, captions are tokenized and
latents sampled beforehand, and token positions are computed on the device.
"""

from dataclasses import dataclass
from itertools import cycle

import torch
from accelerate import Accelerator
from diffusers import FluxTransformer2DModel
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor
from transformers import PreTrainedModel

from bench.plain_dreambooth import BETAS, EPSILON, LEARNING_RATE, MAX_GRAD_NORM, TIMESTEPS, WEIGHT_DECAY
from bench.step_loops import Inputs
from lora.base.prompt import Prompt
from lora.flux.velocity import predict_velocity
from lora.training.learning.batches import Batch
from lora.training.learning.losses import TRAINING_GUIDANCE

CLIP_TOKENS = 77
WEIGHTING = "logit_normal"


@dataclass(frozen=True, slots=True)
class TextEncoders:
    """Text encoders that stay on the device and encode every batch, as in the script."""

    clip: PreTrainedModel
    t5: PreTrainedModel
    tokens: int  # the text length of T5

    @torch.no_grad()
    def encode(self, count: int) -> Prompt:
        """Encode captions of random tokens."""
        tokens, pooled = (
            self._ids(count, long, model) for long, model in ((self.tokens, self.t5), (CLIP_TOKENS, self.clip))
        )
        return Prompt(self.t5(tokens)[0], self.clip(pooled).pooler_output)

    def _ids(self, count: int, tokens: int, model: PreTrainedModel) -> Tensor:
        return torch.randint(model.config.vocab_size, (count, tokens), device=model.device)


class ScriptLoop:
    """The script's loop: Accelerate's autocast, LoRA in fp32, AdamW."""

    def __init__(self, transformer: FluxTransformer2DModel, *, recomputes: bool, encoders: TextEncoders | None) -> None:
        """For a transformer in bf16 that has its LoRA. Without encoders, texts are encoded beforehand."""
        self._accelerator = Accelerator(mixed_precision="bf16", cpu=transformer.device.type == "cpu")
        if recomputes:
            transformer.enable_gradient_checkpointing()
        transformer.train()
        self._transformer = self._accelerator.prepare(transformer)
        self._encoders = encoders
        table = torch.arange(TIMESTEPS, 0, -1, dtype=torch.float32)  # dynamic shifting does not change it
        self._timesteps, self._sigmas = table, (table / TIMESTEPS).to(transformer.device)

    def begin(self, inputs: Inputs) -> float:
        """Take the first step, with a new optimizer."""
        trained = [each for each in self._transformer.parameters() if each.requires_grad]
        self._optimizer = torch.optim.AdamW(
            trained, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
        )
        batches, device = inputs.batches, self._transformer.device
        first = batches.noisy_batch(0)
        assert first is not None
        counts = range(len(inputs.dataset.examples) // inputs.batch_size)
        self._cached = cycle(
            [noisy_batch.batch.to(device) for index in counts if (noisy_batch := batches.noisy_batch(index))]
        )
        noise, sigmas = first.noise.to(device), first.sigmas.to(device)
        return self._train_on(first.batch.to(device), noise=noise, sigmas=sigmas)

    def step(self) -> None:
        """Take the next step."""
        batch = next(self._cached)
        count = len(batch.latents)
        if self._encoders is not None:
            batch = Batch(batch.latents, self._encoders.encode(count))
        u = compute_density_for_timestep_sampling(WEIGHTING, batch_size=count, logit_mean=0.0, logit_std=1.0)
        timesteps = self._timesteps[(u * TIMESTEPS).long()].to(batch.latents.device)
        self._train_on(batch, noise=torch.randn_like(batch.latents), sigmas=self._sigmas_of(timesteps))

    def _sigmas_of(self, timesteps: Tensor) -> Tensor:
        """Look up each timestep's sigma separately, with a synchronization for each, as in the script."""
        schedule = self._timesteps.to(timesteps.device)
        return self._sigmas[[(schedule == timestep).nonzero().item() for timestep in timesteps]]

    def _train_on(self, batch: Batch, *, noise: Tensor, sigmas: Tensor) -> float:
        loss = self._loss(batch.latents.bfloat16(), batch.prompt, noise.bfloat16(), sigmas)
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._transformer.parameters(), MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach().item()

    def _loss(self, latents: Tensor, prompt: Prompt, noise: Tensor, sigmas: Tensor) -> Tensor:
        fraction = sigmas.to(latents.dtype).view(-1, 1, 1, 1)
        noisy = (1 - fraction) * latents + fraction * noise
        guidance = TRAINING_GUIDANCE  # the same as ours, at the same cost, so that losses can be compared
        predicted = predict_velocity(self._transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=guidance)
        weighting = compute_loss_weighting_for_sd3(WEIGHTING, sigmas=fraction)
        squares = weighting.float() * (predicted.float() - (noise - latents).float()) ** 2
        return squares.reshape(len(latents), -1).mean(1).mean()
