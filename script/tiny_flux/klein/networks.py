"""The untrained networks of tiny-flux2."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor, nn
from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from script.tiny_flux.family import Networks

WIDTH_QWEN, HEADS, HEAD = 64, 6, 32
READ_LAYERS = (9, 18, 27)  # the hidden states that `Flux2KleinPipeline` reads
QWEN_LAYERS = 28  # one more than it reads: the last hidden state of a model is behind its final norm


class TinyFlux2(Networks):
    """The transformer, and the layers of Qwen3 that are not identities."""

    def __init__(self, tokenizer: Qwen2TokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.qwen = Qwen3Model(_qwen_config(tokenizer, layers=len(READ_LAYERS)))
        self.qwen.norm = nn.Identity()  # the hidden states that are read are before it
        self.transformer = _untrained_transformer()

    def text_encoders(self) -> list[nn.Module]:
        """Return the trained layers of Qwen3."""
        return [self.qwen]

    def encode(self, captions: list[str]) -> Tensor:
        """Encode captions [B] as the pipeline does: the hidden states behind each layer side by side, [B, 48, 3 D]."""
        texts = [chat_text(self.tokenizer, caption) for caption in captions]
        padded = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer(texts, **padded).to(self.transformer.device)
        states = self.qwen(**tokens, output_hidden_states=True, use_cache=False).hidden_states
        return torch.cat(states[1:], dim=-1)

    def velocity(
        self,
        transformer: Callable[..., Any],
        noisy: Tensor,
        *,
        sigmas: Tensor,
        text: Tensor,
        guidance: float,  # noqa: ARG002 - other families have an input for it
    ) -> Tensor:
        """Return the velocity [B, 128, H, W]. The guidance has no effect."""
        height, width = noisy.shape[2:]
        predicted = transformer(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            timestep=sigmas,
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=_positions(1, 1, text.shape[1], device=noisy.device),
            img_ids=_positions(height, width, 1, device=noisy.device),
            return_dict=False,
        )[0]
        return predicted.transpose(1, 2).unflatten(2, (height, width))

    def image_tokens(self, latents: Tensor) -> int:
        """Return the number of patches; they are packed already."""
        return latents[0].numel()

    def modulation_input(self, sigmas: Tensor, text: Tensor, *, guidance: float) -> None:
        """Return None: the modulation depends on sigma alone."""

    def text_encoder(self) -> Qwen3ForCausalLM:
        """Return a model whose hidden states 9, 18 and 27 are those of the trained layers; its others are identities.

        A layer adds the outputs of `o_proj` and `down_proj` to its input, so with zeros there it changes nothing.
        """
        model = Qwen3ForCausalLM(_qwen_config(self.tokenizer, layers=QWEN_LAYERS))
        model.model.embed_tokens.load_state_dict(self.qwen.embed_tokens.state_dict())
        with torch.no_grad():
            for matrix in (parameter for parameter in model.model.layers.parameters() if parameter.ndim > 1):
                matrix.zero_()
        for number, layer in zip(READ_LAYERS, self.qwen.layers, strict=True):
            model.model.layers[number - 1].load_state_dict(layer.state_dict())
        return model


def chat_text(tokenizer: Qwen2TokenizerFast, prompt: str) -> str:
    """Return a prompt in the chat template, as the pipeline uses it."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)


def _positions(height: int, width: int, length: int, *, device: torch.device) -> Tensor:
    """Return [height * width * length, 4]: time (0), row, column and place in the text of each token."""
    axes = (torch.arange(size, device=device) for size in (1, height, width, length))
    return torch.cartesian_prod(*axes)


def _qwen_config(tokenizer: Qwen2TokenizerFast, *, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH_QWEN,
        intermediate_size=2 * WIDTH_QWEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        max_window_layers=layers,
        initializer_range=WIDTH_QWEN**-0.5,  # 0.02 is for models of Qwen's width
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )


def _untrained_transformer() -> Flux2Transformer2DModel:
    """diffusers does not initialize the modulation with zeros; without that, training is slow."""
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=128,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=len(READ_LAYERS) * WIDTH_QWEN,
        axes_dims_rope=(HEAD // 4,) * 4,
        guidance_embeds=False,
    )
    modulations = (
        transformer.double_stream_modulation_img.linear,
        transformer.double_stream_modulation_txt.linear,
        transformer.single_stream_modulation.linear,
    )
    for linear in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(linear.weight)
    return transformer
