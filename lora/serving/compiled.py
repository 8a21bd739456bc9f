"""The blocks of a pipeline's transformer as graphs: each kind compiled once, for images of any size and any LoRA."""

import torch
import torch.fx.experimental._config
from diffusers import FluxPipeline

from lora.engine.compilation import Graphs
from lora.flux.prompt import encode_prompt
from lora.serving.progress import Say


@torch.inference_mode()
def compile_for_all_sizes(pipeline: FluxPipeline, *, say: Say) -> None:
    """Compile what draws, and draw a step with it.

    The step is drawn at the model's own size, so what is compiled does not depend on which request comes first. Weights
    that are written later are those that a graph reads. A compiler that fails costs a line, and speed; a try that was
    cancelled can be made again.
    """
    blocks = [*pipeline.transformer.transformer_blocks, *pipeline.transformer.single_transformer_blocks]
    graphs = Graphs(say)
    for block in blocks:
        block.__dict__.pop("forward", None)
        graph = torch.compile(block.forward, fullgraph=True, dynamic=True)  # hooks of a block stay outside of it
        block.__dict__["forward"] = graphs.or_eager(graph, block.forward)
    # a text of as many tokens as a head has channels would count as of that length for ever
    with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined] # made at import
        _draw_a_step(pipeline)


def _draw_a_step(pipeline: FluxPipeline) -> None:
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
