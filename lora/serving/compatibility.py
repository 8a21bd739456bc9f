"""Does a LoRA fit the models of a pipeline? Asked before any weight changes."""

from collections.abc import Iterator, Mapping

import torch
from diffusers import FluxPipeline
from torch import nn

from lora.formats.foreign_models import made_for
from lora.formats.shapes import Shape
from lora.formats.weight_deltas import Change, FluxLora

Layers = Mapping[str, nn.Linear]  # by the model's name and their own: transformer.single_transformer_blocks.0.proj_out
CLIP_ROOT = "text_model."  # which files have, and the newest transformers has not


def linear_layers(pipeline: FluxPipeline) -> dict[str, nn.Linear]:
    """Every linear layer that a LoRA could be on."""
    models = {"transformer": pipeline.transformer, "clip": pipeline.text_encoder, "t5": pipeline.text_encoder_2}
    return {
        f"{model}.{name.removeprefix(CLIP_ROOT)}": layer
        for model, module in models.items()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }


def deltas_by_layer(lora: FluxLora) -> Iterator[tuple[str, Change]]:
    """The changes of a LoRA by the names of `linear_layers`."""
    for model, changes in (("transformer", lora.transformer), ("clip", lora.clip), ("t5", lora.t5)):
        for name, change in changes.items():
            yield f"{model}.{name.removeprefix(CLIP_ROOT)}", change


def refuse_incompatible(lora: FluxLora, layers: Layers) -> None:
    """Raises ValueError with the end of a sentence unless every change has its layer and fits it."""
    for name, change in deltas_by_layer(lora):
        layer = layers.get(name)
        if layer is None or change.shape != Shape(layer.in_features, layer.out_features):
            raise ValueError(f"was made for another model: {_misfit(name, change.shape, layer)}")


def _misfit(name: str, shape: Shape, layer: nn.Linear | None) -> str:
    down = torch.empty(1, shape.inputs, device="meta")
    found = f"{shape.outputs} x {shape.inputs} weights{made_for({f'{name}.lora_A': down})}"
    if layer is None:
        return f"this one has no place for {name} of {found}"
    return f"{name} is for {found}, this model's are {layer.out_features} x {layer.in_features}"
