"""Compiles the blocks of a pipeline's transformer: each kind of block once, for all image sizes and all LoRAs."""

import torch
import torch.fx.experimental._config
from diffusers import FluxPipeline

from lora.engine.compilation import EagerFallback
from lora.flux.prompt import encode_prompt
from lora.serving.progress import LogLine


@torch.inference_mode()
def compile_for_all_sizes(pipeline: FluxPipeline, *, log_line: LogLine) -> None:
    """Compile the transformer's blocks, and run one denoising step with them.

    The step runs at the model's native size, so the compiled graphs do not depend on the size of the first request.
    The graphs read the weights at each call, so weights may be written afterwards. If compilation fails, `log_line`
    receives one line and the blocks run uncompiled. After a cancel, this function can be called again.
    """
    blocks = [*pipeline.transformer.transformer_blocks, *pipeline.transformer.single_transformer_blocks]
    fallback = EagerFallback(log_line)
    for block in blocks:
        block.__dict__.pop("forward", None)
        graph = torch.compile(block.forward, fullgraph=True, dynamic=True)  # a block's hooks stay outside the graph
        block.__dict__["forward"] = fallback.or_eager(graph, block.forward)
    # with duck shaping, a text with as many tokens as a head has channels would be specialized to that length
    with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined] # made at import
        _run_one_step(pipeline)


def _run_one_step(pipeline: FluxPipeline) -> None:
    prompt = encode_prompt(pipeline, "")
    pipeline(
        prompt_embeds=prompt.tokens[None],
        pooled_prompt_embeds=prompt.pooled[None],
        width=pipeline.vae.config.sample_size,
        height=pipeline.vae.config.sample_size,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
