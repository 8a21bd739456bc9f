"""The layers of FLUX.1: https://github.com/black-forest-labs/flux/blob/main/src/flux/model.py -> diffusers'
FluxTransformer2DModel, CLIP and T5."""

from lora.formats.layer_names.record import BlockNames, LayerNames, PublishedModel, Ratio
from lora.formats.layer_names.shared import (
    DOUBLE_ATTENTION,
    DOUBLE_BLOCKS,
    DOUBLE_NORMS,
    SINGLE_BLOCKS,
    SINGLE_NORMS,
    WIDTHS,
)
from lora.formats.layer_names.text_encoders import text_encoder_layer, text_encoder_norm
from lora.formats.layer_names.xlabs import xlabs_layer

DOUBLE = BlockNames(
    diffusers=DOUBLE_BLOCKS,
    original="double_blocks",
    layers={
        "img_mod.lin": ("norm1.linear",),
        "txt_mod.lin": ("norm1_context.linear",),
        **DOUBLE_ATTENTION,
        "img_mlp.0": ("ff.net.0.proj",),
        "img_mlp.2": ("ff.net.2",),
        "txt_mlp.0": ("ff_context.net.0.proj",),
        "txt_mlp.2": ("ff_context.net.2",),
    },
    norms=DOUBLE_NORMS,
    ratios={
        **dict.fromkeys(("norm1.linear", "norm1_context.linear"), Ratio(6, 1)),
        **dict.fromkeys(("ff.net.0.proj", "ff_context.net.0.proj"), Ratio(4, 1)),
        **dict.fromkeys(("ff.net.2", "ff_context.net.2"), Ratio(1, 4)),
    },
)
SINGLE = BlockNames(
    diffusers=SINGLE_BLOCKS,
    original="single_blocks",
    layers={
        "modulation.lin": ("norm.linear",),
        "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "linear2": ("proj_out",),
    },
    norms=SINGLE_NORMS,
    ratios={"norm.linear": Ratio(3, 1), "proj_mlp": Ratio(4, 1), "proj_out": Ratio(1, 5)},
)
OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{original}.{part}_layer": f"time_text_embed.{diffusers}_embedder.linear_{number}"
        for original, diffusers in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for part, number in (("in", 1), ("out", 2))
    },
    "final_layer.linear": "proj_out",
    "img_in.proj": "x_embedder",  # in OneTrainer
}
CONTROL = "a FLUX.1 Control model, such as Depth or Canny"
# The channels of the latents, and of what some models concatenate to them -> the model
CHANNELS = {64: "FLUX.1"}
MORE_CHANNELS = {128: CONTROL, 384: "FLUX.1 Fill"}
FLUX1 = LayerNames(
    name="FLUX.1",
    series="FLUX.1",
    blocks=(DOUBLE, SINGLE),
    outside=OUTSIDE,
    other_names=(xlabs_layer,),
    text_layers=(text_encoder_layer,),
    text_norms=(text_encoder_norm,),
    published=tuple(
        PublishedModel(
            name=name,
            width=3072,
            blocks={DOUBLE_BLOCKS: 19, SINGLE_BLOCKS: 38},
            inputs={"x_embedder": channels, "context_embedder": 4096},
        )
        for channels, name in (CHANNELS | MORE_CHANNELS).items()
    ),
    latent_channels=MORE_CHANNELS,
    widths=WIDTHS | {4096: "FLUX.2 [klein] 9B", 6144: "FLUX.2-dev"},
)
