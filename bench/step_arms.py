"""The contenders of the training step: a loop, and the precision and placement of its model. Measures nothing."""

from dataclasses import dataclass, replace

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from bench.plain_dreambooth import TARGET_MODULES
from bench.preserved_steps import PreservingLoop
from bench.random_flux import Sizes, TransformerSizes, random_text_encoders, random_transformer
from bench.script_loop import ScriptLoop, TextEncoders
from bench.step_loops import RANK, SEED, Inputs, Loop, OurLoop
from lora.base.device import device
from lora.engine.checkpointing import configure_blocks
from lora.engine.compilation import can_be_compiled
from lora.engine.lora_layers import fuse_lora, is_fused
from lora.engine.options import Recomputed
from lora.engine.precision import MatmulPrecision, Precision
from lora.families.frozen_transformer import WeightPlacement
from lora.training.learning.adapter import add_lora

SPREAD = 1e-3  # of B: if it were 0, the gradients of A would be 0, too


@dataclass(frozen=True, slots=True)
class Arm:
    """A contender."""

    name: str
    precision: Precision
    recomputed: Recomputed  # of the activations; the script supports "nothing" and "blocks"
    is_ours: bool
    modulation_on_host: bool = False
    encodes: bool = False  # encodes the texts in every step
    streamed: float = 0.0  # the share of blocks whose weights stream from the host
    matmul: MatmulPrecision = "int8"  # of layers with int8 weights
    preserves: bool = False  # in every step

    def placement(self, sizes: TransformerSizes) -> WeightPlacement:
        """The precision and placement of its model."""
        blocks = sizes.transformer["num_layers"] + sizes.transformer["num_single_layers"]
        streamed = round(self.streamed * blocks)
        return WeightPlacement(self.precision, self.modulation_on_host, device(), streamed, self.matmul)


BASELINE = Arm("script, recomputing", "bf16", "blocks", is_ours=False)
STREAMED = Arm(
    "ours int8, recomputing, modulation on host, all blocks streamed",
    "int8",
    "blocks",
    True,
    modulation_on_host=True,
    streamed=1.0,
)
PRESERVING = Arm("ours bf16, preserving in every step", "bf16", "nothing", is_ours=True, preserves=True)
ARMS = (
    BASELINE,
    Arm("script, recomputing, T5 in the loop", "bf16", "blocks", is_ours=False, encodes=True),
    Arm("script", "bf16", "nothing", is_ours=False),
    Arm("script, T5 in the loop", "bf16", "nothing", is_ours=False, encodes=True),
    Arm("ours bf16, recomputing", "bf16", "blocks", is_ours=True),
    Arm("ours bf16, recomputing pointwise", "bf16", "pointwise", is_ours=True),
    Arm("ours bf16, recomputing GELU", "bf16", "gelu", is_ours=True),
    Arm("ours bf16", "bf16", "nothing", is_ours=True),
    PRESERVING,
    Arm("ours int8, recomputing", "int8", "blocks", is_ours=True),
    Arm("ours int8", "int8", "nothing", is_ours=True),
    Arm("ours int8, bf16 matmul", "int8", "nothing", is_ours=True, matmul="bf16"),
    Arm("ours nf4, recomputing", "nf4", "blocks", is_ours=True),
    Arm("ours bf16, recomputing, modulation on host", "bf16", "blocks", is_ours=True, modulation_on_host=True),
    Arm("ours int8, recomputing, modulation on host", "int8", "blocks", is_ours=True, modulation_on_host=True),
    replace(STREAMED, name="ours int8, recomputing, modulation on host, half of the blocks streamed", streamed=0.5),
    STREAMED,
    Arm("ours nf4, recomputing, modulation on host", "nf4", "blocks", is_ours=True, modulation_on_host=True),
)


@dataclass(frozen=True, slots=True)
class LoraModel:
    """A transformer with PEFT's LoRA, and the LoRA's initial weights, which are the same in all arms."""

    transformer: ModelMixin
    parameters: list[nn.Parameter]
    initial_lora: list[Tensor]  # on the CPU, so that it takes none of the measured memory

    @torch.no_grad()
    def reset(self) -> None:
        """Restore the initial LoRA."""
        for parameter, value in zip(self.parameters, self.initial_lora, strict=True):
            parameter.copy_(value)


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """A loop, and the model that it trains."""

    loop: Loop
    model: LoraModel

    def begin(self, inputs: Inputs) -> float:
        """Take the first step; returns its loss."""
        self.model.reset()
        return self.loop.begin(inputs)


def set_up_training(arm: Arm, sizes: TransformerSizes) -> TrainingSetup:
    """Create an arm's model, LoRA and loop."""
    return configure(arm, lora_model(sizes, arm.placement(sizes)), sizes)


def lora_model(sizes: TransformerSizes, placement: WeightPlacement) -> LoraModel:
    """Create a model with its LoRA. No loop has changed it yet."""
    transformer = random_transformer(sizes, placement)
    add_lora(transformer, layers=script_layers(sizes), rank=RANK, seed=SEED)
    named = [(name, each) for name, each in transformer.named_parameters() if each.requires_grad]
    generator = torch.Generator().manual_seed(SEED)
    initial_lora = [_initial_value(name, each, generator) for name, each in named]
    return LoraModel(transformer, [each for _, each in named], initial_lora)


def configure(arm: Arm, model: LoraModel, sizes: TransformerSizes) -> TrainingSetup:
    """Let an arm train a model of its own placement. The model may have been another arm's before, if both arms are
    ours or both the script's: Accelerate replaces the transformer's `forward` for good, and we its LoRA layers."""
    model.transformer.disable_gradient_checkpointing()
    return TrainingSetup(_loop(arm, model.transformer, sizes), model)


def script_layers(sizes: TransformerSizes) -> list[str]:
    """The layers that have a LoRA in the script: 342 of FLUX.1, all in blocks. For a family without a script here, all
    layers in the blocks."""
    if not sizes.has_script:
        return list(sizes.layers)
    ends = tuple(f".{module}" for module in TARGET_MODULES)
    return [name for name in sizes.layers if name.endswith(ends)]


def _initial_value(name: str, parameter: nn.Parameter, generator: torch.Generator) -> Tensor:
    """A as PEFT initializes it, B small and random instead of zero."""
    if ".lora_B." in name:
        return torch.randn(parameter.shape, generator=generator).mul_(SPREAD)
    return parameter.detach().to("cpu", copy=True)


def _loop(arm: Arm, transformer: ModelMixin, sizes: TransformerSizes) -> Loop:
    if not arm.is_ours:
        encoders = _encoders(sizes) if arm.encodes else None
        return ScriptLoop(transformer, recomputes=arm.recomputed == "blocks", encoders=encoders)
    if not is_fused(transformer):
        fuse_lora(transformer)
    configure_blocks(transformer, arm.recomputed, are_compiled=can_be_compiled(arm.placement(sizes).device))
    return PreservingLoop(transformer) if arm.preserves else OurLoop(transformer)


def _encoders(sizes: TransformerSizes) -> TextEncoders:
    assert isinstance(sizes, Sizes)  # the script trains FLUX.1
    clip, t5 = random_text_encoders(sizes, device(), torch.bfloat16).values()
    return TextEncoders(clip, t5, tokens=sizes.text_tokens)
