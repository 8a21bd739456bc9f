"""Checks that a LoRA is compatible with the models of a pipeline, before any weight changes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from diffusers import FluxPipeline
from torch import Tensor, nn

from lora.flux.weightless import weightless_pipeline
from lora.formats.foreign_models import foreign_model_hint
from lora.formats.reading import convert_lora
from lora.formats.shapes import Shape
from lora.formats.weight_deltas import FluxLora, WeightDelta

Layers = Mapping[str, nn.Linear]  # by model and layer name: transformer.single_transformer_blocks.0.proj_out
CLIP_ROOT = "text_model."  # prefix in LoRA files and older versions of transformers; the newest version has none


def linear_layers(pipeline: FluxPipeline) -> dict[str, nn.Linear]:
    """Return all linear layers of the transformer and the text encoders: the layers that a LoRA can change."""
    models = {"transformer": pipeline.transformer, "clip": pipeline.text_encoder, "t5": pipeline.text_encoder_2}
    return {
        f"{model}.{name.removeprefix(CLIP_ROOT)}": layer
        for model, module in models.items()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }


def deltas_by_layer(lora: FluxLora) -> Iterator[tuple[str, WeightDelta]]:
    """Yield the weight deltas of a LoRA with their layer names, as in `linear_layers`."""
    for model, deltas in (("transformer", lora.transformer), ("clip", lora.clip), ("t5", lora.t5)):
        for name, delta in deltas.items():
            yield f"{model}.{name.removeprefix(CLIP_ROOT)}", delta


def refuse_incompatible(lora: FluxLora, layers: Layers) -> None:
    """Check that each weight delta has a layer of the same shape.

    Raises ValueError otherwise; its message is the end of a sentence.
    """
    for name, delta in deltas_by_layer(lora):
        layer = layers.get(name)
        if layer is None or delta.shape != Shape(layer.in_features, layer.out_features):
            raise ValueError(f"is incompatible with this model: {_incompatibility(name, delta.shape, layer)}")


def refuse_unusable(tensors: Mapping[str, Tensor], base: Path) -> None:
    """Check that the tensors of a file are a LoRA for the base in a folder, without loading the base's weights.

    Raises ValueError otherwise; its message is the end of a sentence.
    """
    refuse_incompatible(convert_lora(tensors), linear_layers(weightless_pipeline(base)))


def _incompatibility(name: str, shape: Shape, layer: nn.Linear | None) -> str:
    down = torch.empty(1, shape.inputs, device="meta")
    found = f"{shape.outputs} x {shape.inputs} weights{foreign_model_hint({f'{name}.lora_A': down})}"
    if layer is None:
        return f"this model has no layer {name}, which has {found}"
    return f"{name} is for {found}, this model's are {layer.out_features} x {layer.in_features}"
