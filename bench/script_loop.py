"""The training loop of diffusers' FLUX DreamBooth LoRA script, on inputs that are encoded already. Knows nothing of
ours but these, and how FLUX is asked.

Written after examples/dreambooth/train_dreambooth_lora_flux.py of diffusers (Apache-2.0), run with
`--mixed_precision=bf16 --cache_latents --weighting_scheme=logit_normal`. In its favour, captions are tokenised and
latents drawn beforehand, and the places of tokens are made on the device.
"""

from dataclasses import dataclass
from itertools import cycle

import torch
from accelerate import Accelerator
from diffusers import FluxTransformer2DModel
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from bench.plain_dreambooth import BETAS, EPSILON, LEARNING_RATE, MAX_GRAD_NORM, TIMESTEPS, WEIGHT_DECAY
from bench.step_loops import Inputs
from lora.flux.prompt import Prompt
from lora.flux.velocity import predict_velocity
from lora.training.learning.batches import Batch
from lora.training.learning.losses import TRAINING_GUIDANCE

CLIP_TOKENS = 77
WEIGHTING = "logit_normal"


@dataclass(frozen=True, slots=True)
class TextEncoders:
    """They stay on the device and encode every batch, as the script does."""

    clip: CLIPTextModel
    t5: T5EncoderModel
    tokens: int  # that T5 reads

    @torch.no_grad()
    def encode(self, count: int) -> Prompt:
        """Captions of random tokens."""
        tokens, pooled = (
            self._ids(count, long, model) for long, model in ((self.tokens, self.t5), (CLIP_TOKENS, self.clip))
        )
        return Prompt(self.t5(tokens)[0], self.clip(pooled).pooler_output)

    def _ids(self, count: int, tokens: int, model: CLIPTextModel | T5EncoderModel) -> Tensor:
        return torch.randint(model.config.vocab_size, (count, tokens), device=model.device)


class ScriptLoop:
    """Under Accelerate's autocast, LoRA in fp32, AdamW."""

    def __init__(self, transformer: FluxTransformer2DModel, *, recomputes: bool, encoders: TextEncoders | None) -> None:
        """For a transformer in bf16 that wears its LoRA; without encoders, texts were encoded beforehand."""
        self._accelerator = Accelerator(mixed_precision="bf16", cpu=transformer.device.type == "cpu")
        if recomputes:
            transformer.enable_gradient_checkpointing()
        transformer.train()
        self._transformer = self._accelerator.prepare(transformer)
        self._encoders = encoders
        table = torch.arange(TIMESTEPS, 0, -1, dtype=torch.float32)  # as dynamic shifting leaves it
        self._timesteps, self._sigmas = table, (table / TIMESTEPS).to(transformer.device)

    def begin(self, inputs: Inputs) -> float:
        """With a new optimizer."""
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
        return self._learn(first.batch.to(device), noise=noise, sigmas=sigmas)

    def step(self) -> None:
        """Take the next."""
        batch = next(self._cached)
        count = len(batch.latents)
        if self._encoders is not None:
            batch = Batch(batch.latents, self._encoders.encode(count))
        u = compute_density_for_timestep_sampling(WEIGHTING, batch_size=count, logit_mean=0.0, logit_std=1.0)
        timesteps = self._timesteps[(u * TIMESTEPS).long()].to(batch.latents.device)
        self._learn(batch, noise=torch.randn_like(batch.latents), sigmas=self._sigmas_of(timesteps))

    def _sigmas_of(self, timesteps: Tensor) -> Tensor:
        """One after the other, waiting for each."""
        schedule = self._timesteps.to(timesteps.device)
        return self._sigmas[[(schedule == timestep).nonzero().item() for timestep in timesteps]]

    def _learn(self, batch: Batch, *, noise: Tensor, sigmas: Tensor) -> float:
        loss = self._loss(batch.latents.bfloat16(), batch.prompt, noise.bfloat16(), sigmas)
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._transformer.parameters(), MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach().item()

    def _loss(self, latents: Tensor, prompt: Prompt, noise: Tensor, sigmas: Tensor) -> Tensor:
        share = sigmas.to(latents.dtype).view(-1, 1, 1, 1)
        noisy = (1 - share) * latents + share * noise
        guidance = TRAINING_GUIDANCE  # as ours: it costs the same, and the losses can be compared
        predicted = predict_velocity(self._transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=guidance)
        weighting = compute_loss_weighting_for_sd3(WEIGHTING, sigmas=share)
        squares = weighting.float() * (predicted.float() - (noise - latents).float()) ** 2
        return squares.reshape(len(latents), -1).mean(1).mean()
