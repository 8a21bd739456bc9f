"""The classes of FLUX.2's components, and what its VAE must bring along."""

from pathlib import Path

from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import nn
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

from lora.base.components import ComponentError
from lora.base.family import Components

QWEN3, TOKENIZER = "text_encoder", "tokenizer"
PATCH = (2, 2)  # rows and columns of the VAE's latents that become one: Flux2KleinPipeline knows no other


def _check_normalization(folder: Path, vae: nn.Module) -> None:
    """Refuse a VAE that cannot normalize latents: its statistics of them, the mean and the variance of each channel,
    are not usable, or its config does not fit them."""
    assert isinstance(vae, AutoencoderKLFlux2)
    epsilon, patch = vae.config.batch_norm_eps, vae.config.patch_size
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise ComponentError(f"{folder / 'config.json'} has batch_norm_eps {epsilon!r}: expected a number like 0.0001")
    if tuple(patch) != PATCH:
        raise ComponentError(f"{folder / 'config.json'} has patch_size {patch}: expected {list(PATCH)}")
    if not vae.bn.running_mean.isfinite().all():
        raise ComponentError(f"{folder} has NaN or infinity in bn.running_mean: expected the mean of each channel")
    if not (vae.bn.running_var.isfinite() & (vae.bn.running_var > 0)).all():
        raise ComponentError(f"{folder} has a number in bn.running_var that is not above 0: expected variances")


COMPONENTS = Components(
    pipeline=Flux2KleinPipeline,
    served_pipelines=frozenset({"Flux2KleinPipeline", "Flux2KleinInpaintPipeline"}),
    transformer=Flux2Transformer2DModel,
    vae=AutoencoderKLFlux2,
    text_encoders={QWEN3: Qwen3ForCausalLM},
    tokenizers={TOKENIZER: Qwen2TokenizerFast},
    check_vae=_check_normalization,
)
