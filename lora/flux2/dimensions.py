"""The sizes of a FLUX.2 transformer, computed from its config. Loads nothing."""

import math
from collections.abc import Mapping
from typing import Any

from lora.base.dimensions import BlockKind, Dimensions
from lora.engine.options import Recomputed

# Linear layers in Flux2TransformerBlock of diffusers, for image and text each: q, k, v and output of attention, both of
# a feed-forward. In Flux2SingleTransformerBlock: to_qkv_mlp_proj and to_out.
DOUBLE_LAYERS, SINGLE_LAYERS = 2 * (4 + 2), 2
# Weights of layers that all blocks share or that follow them, in units of width squared: double_stream_modulation_img
# and _txt 6 each, single_stream_modulation 3, norm_out 2.
SHARED = 2 * 6 + 3 + 2


# The activations that autograd keeps, counted in units of batch x tokens x width values, and checked against
# measurements on a CPU. Double block: input and modulated norm of attention and of feed-forward 4; q and k before their
# norms 2; q, k, v and output of attention 4. Single block: 2; the fused product of q, k and v 3; q and k after their
# norms 2; output of attention, and again beside that of SwiGLU as the input of to_out, 2. In both, SwiGLU keeps its
# input, its half after SiLU, and its output: 4 times the width of a feed-forward. Norms and gates keep nothing for the
# gradient of the modulation, which has no LoRA.
DOUBLE_ALL, SINGLE_ALL, SWIGLU = 10, 9, 4
# "pointwise" keeps the block's input 1; outputs of the q, k and v layers 3; output of attention 1; input of SwiGLU, 2
# times the width of a feed-forward; outputs of the layers before the gates 2 or 1. "gelu" keeps the same without the
# input of SwiGLU, and in single blocks also without q, k and v, which are in one product with it.
DOUBLE_PRODUCTS, SINGLE_PRODUCTS, SWIGLU_INPUT = 7, 6, 2
DOUBLE_NARROW, SINGLE_NARROW = 7, 3
# Under autocast, norms compute in fp32 (2 units for 1), and each LoRA keeps its own copy of its input: 27 and 22 in
# FLUX.2 [klein], counted with tensors without data.
DOUBLE_UNDER_AUTOCAST, SINGLE_UNDER_AUTOCAST = 15, 10


def dimensions_of(config: Mapping[str, Any]) -> Dimensions:
    """The sizes of a transformer with this configuration, as in its config.json."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    hidden = int(width * config["mlp_ratio"])  # of a feed-forward, as Flux2FeedForward rounds it
    fused = 3 * width + SWIGLU_INPUT * hidden  # to_qkv_mlp_proj
    return Dimensions(
        width=width,
        double=_double_kind(config["num_layers"], width, hidden),
        single=_single_kind(config["num_single_layers"], width, hidden),
        has_biases=False,
        activation="SwiGLU",
        widest=math.ceil(fused / width),
        largest=width * fused,
        outer_parameters=_outer_parameters(config, width),
    )


def _double_kind(count: int, width: int, hidden: int) -> BlockKind:
    return _kind(
        count,
        weights=2 * width * (4 * width + SWIGLU_INPUT * hidden + hidden),
        rows=2 * (4 * width + SWIGLU_INPUT * hidden + width),
        layers=DOUBLE_LAYERS,
        kept={
            "nothing": DOUBLE_ALL + math.ceil(SWIGLU * hidden / width),
            "pointwise": DOUBLE_PRODUCTS + math.ceil(SWIGLU_INPUT * hidden / width),
            "gelu": DOUBLE_NARROW,
            "blocks": 1,
        },
        kept_under_autocast=DOUBLE_UNDER_AUTOCAST + math.ceil(SWIGLU * hidden / width),
    )


def _single_kind(count: int, width: int, hidden: int) -> BlockKind:
    return _kind(
        count,
        weights=width * (3 * width + SWIGLU_INPUT * hidden + width + hidden),
        rows=3 * width + SWIGLU_INPUT * hidden + width,
        layers=SINGLE_LAYERS,
        kept={
            "nothing": SINGLE_ALL + math.ceil(SWIGLU * hidden / width),
            "pointwise": SINGLE_PRODUCTS + math.ceil(SWIGLU_INPUT * hidden / width),
            "gelu": SINGLE_NARROW,
            "blocks": 1,
        },
        kept_under_autocast=SINGLE_UNDER_AUTOCAST + math.ceil(SWIGLU * hidden / width),
    )


def _kind(
    count: int, *, weights: int, rows: int, layers: int, kept: Mapping[Recomputed, int], kept_under_autocast: int
) -> BlockKind:
    """Blocks without modulation layers of their own."""
    return BlockKind(
        count=count,
        weights=weights,
        rows=rows,
        layers=layers,
        modulation_weights=0,
        modulation_rows=0,
        modulation_layers=0,
        kept=kept,
        kept_under_autocast=kept_under_autocast,
    )


def _outer_parameters(config: Mapping[str, Any], width: int) -> int:
    """All parameters outside the blocks: embedders, the shared modulation, norm_out and proj_out, without biases."""
    numbers = 2 if config["guidance_embeds"] else 1  # the timestep, and the guidance
    channels = config["in_channels"]
    inputs = channels + config["joint_attention_dim"] + numbers * config["timestep_guidance_channels"]
    outputs = config["patch_size"] ** 2 * (config["out_channels"] or channels)
    return width * (inputs + (numbers + SHARED) * width + outputs)
