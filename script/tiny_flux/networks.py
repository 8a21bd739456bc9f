"""The untrained networks of tiny-flux, and their optimizers."""

import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from lora.base.prompt import Prompt
from script.tiny_flux.tokenizers import CLIP_TOKENS, TEXT_TOKENS, Tokenizers

WIDTH_T5, WIDTH_CLIP, HEADS, HEAD = 128, 96, 6, 32
MATRIX = 2  # number of dimensions
MUON_RATE, ADAM_RATE = 2e-3, 1e-3


class TinyFlux(nn.Module):
    """The three networks that are trained together, and the tokenizers."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        super().__init__()
        self.tokenizers = tokenizers
        self.clip = _untrained_clip(tokenizers.clip)
        self.t5 = _untrained_t5(tokenizers.t5)
        self.transformer = _untrained_transformer()

    def encode(self, captions: list[str]) -> Prompt:
        """Encode captions [B] as the pipeline does: tokens [B, 32, D] and pooled [B, P].

        CLIP is causal and pooled at the end of the text, so 32 tokens give the same result as 77 at a lower cost.
        """
        padded = {"padding": "max_length", "truncation": True, "max_length": TEXT_TOKENS, "return_tensors": "pt"}
        t5, clip = (tokenizer(captions, **padded).input_ids for tokenizer in (self.tokenizers.t5, self.tokenizers.clip))
        device = self.transformer.device
        return Prompt(self.t5(t5.to(device))[0], self.clip(clip.to(device)).pooler_output)

    def block_matrices(self) -> list[nn.Parameter]:
        """Return the weights of the linear layers inside the blocks, on which LoRAs are trained."""
        blocks = [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]
        return [parameter for block in blocks for parameter in block.parameters() if parameter.ndim == MATRIX]


def optimizers_for(
    matrices: list[nn.Parameter], others: list[nn.Parameter], *, rate: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the blocks and AdamW for `others`; `rate` is a factor on their learning rates."""
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE * rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAM_RATE * rate, betas=(0.9, 0.95), weight_decay=0.01, foreach=True),
    ]


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
