"""Compiles the blocks of a pipeline's transformer: each kind of block once, for all image sizes and all LoRAs."""

import torch
import torch.fx.experimental._config
from diffusers import DiffusionPipeline

from lora.base.family import SamplingSettings
from lora.base.transformer import all_blocks
from lora.engine.compilation import EagerFallback
from lora.families.registry import family_of_model
from lora.serving.progress import LogLine


@torch.inference_mode()
def compile_for_all_sizes(pipeline: DiffusionPipeline, *, log_line: LogLine) -> None:
    """Compile the transformer's blocks, and run one denoising step with them.

    The step runs at the model's native size, so the compiled graphs do not depend on the size of the first request.
    The graphs read the weights at each call, so weights may be written afterwards. If compilation fails, `log_line`
    receives one line and the blocks run uncompiled. After a cancel, this function can be called again.
    """
    fallback = EagerFallback(log_line)
    for block in all_blocks(pipeline.transformer):
        block.__dict__.pop("forward", None)
        graph = torch.compile(block.forward, fullgraph=True, dynamic=True)  # a block's hooks stay outside the graph
        block.__dict__["forward"] = fallback.or_eager(graph, block.forward)
    # with duck shaping, a text with as many tokens as a head has channels would be specialized to that length
    with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined] # made at import
        _run_one_step(pipeline)


def _run_one_step(pipeline: DiffusionPipeline) -> None:
    family, side = family_of_model(pipeline), pipeline.vae.config.sample_size
    prompt, guidance = family.text.encode(pipeline, ""), family.sampling.defaults.guidance
    settings = SamplingSettings(width=side, height=side, steps=1, guidance=guidance, seed=0, after_step=lambda _: None)
    family.sampling.generate_latents(pipeline, prompt, prompt, settings)
