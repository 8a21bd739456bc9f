"""The untrained networks of tiny-flux, and their optimizers."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from lora.base.prompt import Prompt
from lora.flux.velocity import predict_velocity
from script.tiny_flux.family import Networks
from script.tiny_flux.tokenizers import CLIP_TOKENS, TEXT_TOKENS, Tokenizers

WIDTH_T5, WIDTH_CLIP, HEADS, HEAD = 128, 96, 6, 32
TIMESTEPS = 1000  # the transformer multiplies sigma and guidance by this
LATENTS_TO_TOKENS = 4  # FLUX.1 packs 2 x 2 latents into a token


class TinyFlux(Networks):
    """The three networks that are trained together, and the tokenizers."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        super().__init__()
        self.tokenizers = tokenizers
        self.clip = _untrained_clip(tokenizers.clip)
        self.t5 = _untrained_t5(tokenizers.t5)
        self.transformer = _untrained_transformer()

    def text_encoders(self) -> list[nn.Module]:
        """Return CLIP and T5."""
        return [self.clip, self.t5]

    def encode(self, captions: list[str]) -> Prompt:
        """Encode captions [B] as the pipeline does: tokens [B, 32, D] and pooled [B, P].

        CLIP is causal and pooled at the end of the text, so 32 tokens give the same result as 77 at a lower cost.
        """
        padded = {"padding": "max_length", "truncation": True, "max_length": TEXT_TOKENS, "return_tensors": "pt"}
        t5, clip = (tokenizer(captions, **padded).input_ids for tokenizer in (self.tokenizers.t5, self.tokenizers.clip))
        device = self.transformer.device
        return Prompt(self.t5(t5.to(device))[0], self.clip(clip.to(device)).pooler_output)

    def velocity(
        self, transformer: Callable[..., Any], noisy: Tensor, *, sigmas: Tensor, text: Prompt, guidance: float
    ) -> Tensor:
        """Return the velocity [B, 16, H, W]."""
        return predict_velocity(transformer, noisy, sigmas=sigmas, prompt=text, guidance=guidance)

    def image_tokens(self, latents: Tensor) -> int:
        """Return the number of tokens, each of 2 x 2 latents."""
        return latents[0].numel() // LATENTS_TO_TOKENS

    def modulation_input(self, sigmas: Tensor, text: Prompt, *, guidance: float) -> Tensor:
        """Return the sum of the embeddings of sigma, guidance and pooled text behind its activation: [B, D]."""
        assert text.pooled is not None
        scaled = torch.full_like(sigmas, guidance * TIMESTEPS)
        embedded = self.transformer.time_text_embed(sigmas * TIMESTEPS, scaled, text.pooled.float())
        return nn.functional.silu(embedded)


def _untrained_transformer() -> FluxTransformer2DModel:
    """diffusers does not initialize adaLN with zeros; without that, training is slow."""
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
