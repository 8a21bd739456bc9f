"""The sizes of a FLUX.1 transformer, computed from its config. Loads nothing."""

from collections.abc import Mapping
from typing import Any

from lora.base.dimensions import BlockKind, Dimensions
from lora.engine.options import Recomputed

TIME_CHANNELS = 256  # of the sinusoidal embeddings of timestep and guidance (CombinedTimestepTextProjEmbeddings)
# Weights of a block in units of width squared: linear layers that process tokens, and modulation layers.
# FluxTransformerBlock of diffusers: q, k, v and output of attention for image and text 8; two feed-forwards, to 4 times
# the width and back. FluxSingleTransformerBlock: q, k and v 3; proj_mlp 4; proj_out, from attention and MLP, 5.
# Modulation: norm1 and norm1_context 6 each (AdaLayerNormZero); norm 3 (AdaLayerNormZeroSingle).
DOUBLE, SINGLE = 8 + 2 * (4 + 4), 3 + 4 + 5
DOUBLE_MODULATION, SINGLE_MODULATION = 2 * 6, 3
# Their output features in units of the width: attention as above; outputs of feed-forwards 4 and 1; proj_mlp 4 and
# proj_out 1.
DOUBLE_ROWS, SINGLE_ROWS = 8 + 2 * (4 + 1), 3 + 4 + 1
# Their number: 8 of attention and 2 of each feed-forward; to_q, to_k, to_v, proj_mlp and proj_out.
DOUBLE_LAYERS, SINGLE_LAYERS = 12, 5

# The activations that autograd keeps, counted in units of batch x tokens x width values, and checked against
# measurements on a CPU. Double block: input, norm and modulated norm of attention and of feed-forward 6; q and k before
# their norms 2; q, k, v and output of attention 4; its two parts, copied if a batch has several images, 1; input and
# output of GELU 8; inputs of the two gates 2. Single block: 3, 2, 4, input of GELU 4, input of proj_out 5, input of the
# gate 1. "pointwise" keeps the block's input 1; outputs of the q, k and v layers 3; output of attention 1; input of
# GELU 4; inputs of the gates 2 or 1. "gelu" keeps the same without the input of GELU.
DOUBLE_KEPT: dict[Recomputed, int] = {"nothing": 23, "pointwise": 11, "gelu": 7, "blocks": 1}
SINGLE_KEPT: dict[Recomputed, int] = {"nothing": 19, "pointwise": 10, "gelu": 6, "blocks": 1}
# Under autocast, norms compute in fp32 (2 units for 1), and each LoRA keeps its own copy of its input; counted with
# tensors without data.
DOUBLE_UNDER_AUTOCAST, SINGLE_UNDER_AUTOCAST = 29, 24


def dimensions_of(config: Mapping[str, Any]) -> Dimensions:
    """The sizes of a transformer with this configuration, as in its config.json."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return Dimensions(
        width=width,
        double=BlockKind(
            count=config["num_layers"],
            weights=DOUBLE * width**2,
            rows=DOUBLE_ROWS * width,
            layers=DOUBLE_LAYERS,
            modulation_weights=DOUBLE_MODULATION * width**2,
            modulation_rows=DOUBLE_MODULATION * width,
            modulation_layers=2,
            kept=DOUBLE_KEPT,
            kept_under_autocast=DOUBLE_UNDER_AUTOCAST,
        ),
        single=BlockKind(
            count=config["num_single_layers"],
            weights=SINGLE * width**2,
            rows=SINGLE_ROWS * width,
            layers=SINGLE_LAYERS,
            modulation_weights=SINGLE_MODULATION * width**2,
            modulation_rows=SINGLE_MODULATION * width,
            modulation_layers=1,
            kept=SINGLE_KEPT,
            kept_under_autocast=SINGLE_UNDER_AUTOCAST,
        ),
        has_biases=True,
        activation="GELU",
        widest=4,  # the feed-forward, and proj_mlp
        largest=6 * width**2,  # norm1.linear
        outer_parameters=_outer_parameters(config, width),
    )


def _outer_parameters(config: Mapping[str, Any], width: int) -> int:
    """All parameters outside the blocks: embedders, norm_out and proj_out."""
    numbers = 2 if config["guidance_embeds"] else 1  # the timestep, and the guidance
    channels = config["in_channels"]
    inputs = channels + config["joint_attention_dim"] + numbers * TIME_CHANNELS + config["pooled_projection_dim"]
    # second layers of the embedders of these numbers and of the pooled text, and norm_out, which is twice as wide;
    # biases of x_embedder and context_embedder, of both layers of those embedders, and of norm_out
    squares, biases = numbers + 1 + 2, 2 + 2 * (numbers + 1) + 2
    return width * (inputs + squares * width + biases) + channels * (width + 1)
