"""The layers of FLUX.2: https://github.com/black-forest-labs/flux2/blob/main/src/flux2/model.py -> diffusers'
Flux2Transformer2DModel.

Its MLPs are gated (SwiGLU): their first layers have the gate's rows above the others, in the original code and in
diffusers. Diffusers keeps the first layer of single blocks whole.
"""

from lora.formats.layer_names.record import BlockNames, LayerNames, PublishedModel, Ratio
from lora.formats.layer_names.shared import (
    DOUBLE_ATTENTION,
    DOUBLE_BLOCKS,
    DOUBLE_NORMS,
    SINGLE_BLOCKS,
    SINGLE_NORMS,
    WIDTHS,
)

DOUBLE = BlockNames(
    diffusers=DOUBLE_BLOCKS,
    original="double_blocks",
    layers={
        **DOUBLE_ATTENTION,
        "img_mlp.0": ("ff.linear_in",),
        "img_mlp.2": ("ff.linear_out",),
        "txt_mlp.0": ("ff_context.linear_in",),
        "txt_mlp.2": ("ff_context.linear_out",),
    },
    norms=DOUBLE_NORMS,
    ratios={
        **dict.fromkeys(("ff.linear_in", "ff_context.linear_in"), Ratio(6, 1)),
        **dict.fromkeys(("ff.linear_out", "ff_context.linear_out"), Ratio(1, 3)),
    },
)
SINGLE = BlockNames(
    diffusers=SINGLE_BLOCKS,
    original="single_blocks",
    layers={"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)},
    norms=SINGLE_NORMS,
    ratios={"attn.to_qkv_mlp_proj": Ratio(9, 1), "attn.to_out": Ratio(1, 4)},
)
OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{original}.{part}_layer": f"time_guidance_embed.{diffusers}_embedder.linear_{number}"
        for original, diffusers in (("time_in", "timestep"), ("guidance_in", "guidance"))  # klein has no guidance_in
        for part, number in (("in", 1), ("out", 2))
    },
    **{
        f"{modulation}.lin": f"{modulation}.linear"
        for modulation in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
    },
    "final_layer.linear": "proj_out",
}


def _published(name: str, *, width: int, double: int, single: int, text: int) -> PublishedModel:
    return PublishedModel(
        name=name,
        width=width,
        blocks={DOUBLE_BLOCKS: double, SINGLE_BLOCKS: single},
        inputs={"x_embedder": 128, "context_embedder": text},
    )


FLUX2 = LayerNames(
    name="FLUX.2 [klein]",
    series="FLUX.2",
    blocks=(DOUBLE, SINGLE),
    outside=OUTSIDE,
    other_names=(),
    text_layers=(),  # known trainers leave Qwen3 as it is
    text_norms=(),
    published=(  # as in the original code's src/flux2/util.py; `text` is the width of three layers of Qwen3 or Mistral
        _published("FLUX.2 [klein] 4B", width=3072, double=5, single=20, text=7680),
        _published("FLUX.2 [klein] 9B", width=4096, double=8, single=24, text=12288),
        _published("FLUX.2-dev", width=6144, double=8, single=48, text=15360),
    ),
    latent_channels={64: "FLUX.1", 384: "FLUX.1 Fill"},
    widths=WIDTHS,
)
