"""The sizes of FLUX.2 [klein], and a small random transformer of its family with examples for it."""

import torch
from diffusers import Flux2Transformer2DModel

from lora.base.prompt import Prompt
from lora.dataset.encoding import Example
from tests.tiny import HEIGHT, PROJ_OUT_GAIN, TEXT, TEXT_WIDTH, WIDTH

# As in the config.json of their transformers.
KLEIN_4B_CONFIG = {
    "patch_size": 1,
    "in_channels": 128,
    "out_channels": None,
    "num_layers": 5,
    "num_single_layers": 20,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "timestep_guidance_channels": 256,
    "mlp_ratio": 3.0,
    "guidance_embeds": False,
}
KLEIN_9B_CONFIG = KLEIN_4B_CONFIG | {
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
}
CHANNELS = 16


def random_klein_transformer(*, dtype: torch.dtype = torch.float32, blocks: int = 2) -> Flux2Transformer2DModel:
    """A frozen FLUX.2 transformer of two double and two single blocks, or another number of each, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = Flux2Transformer2DModel(
            patch_size=1,
            in_channels=CHANNELS,
            num_layers=blocks,
            num_single_layers=blocks,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            timestep_guidance_channels=32,
            guidance_embeds=False,
            axes_dims_rope=(4, 4, 4, 4),
        )
    transformer.proj_out.weight.data.mul_(PROJ_OUT_GAIN)
    return transformer.requires_grad_(False).to(dtype)


def klein_example(*, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Example:
    """A random example with as many tokens as FLUX.1 has for latents of this size."""
    generator = torch.Generator().manual_seed(seed)
    prompt = Prompt(torch.randn(TEXT, TEXT_WIDTH, generator=generator), None)
    return Example(torch.randn(CHANNELS, height // 2, width // 2, generator=generator), prompt, content=str(seed))
