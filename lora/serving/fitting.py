"""Does a LoRA fit the model? Asked before the pipeline sees it: diffusers drops what it does not know in silence."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from lora.flux.layouts.canonical import canonical
from lora.flux.layouts.origin import made_for
from lora.flux.layouts.record import FluxLora, Pair
from lora.flux.lora_layout import DiffusersLora, Shape


def fit_lora(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> DiffusersLora:
    """Bring a LoRA of any layout into that of diffusers, in fp32 with its alphas folded in; raises ValueError with one
    sentence unless every tensor belongs to a layer of these shapes and fits."""
    try:
        lora = canonical(tensors)
        _refuse_text_encoders(lora)
        for layer, pair in lora.transformer.items():
            _refuse_misfit(layer, pair, shapes.get(layer))
    except ValueError as error:
        raise ValueError(f"the LoRA {error}") from error
    return DiffusersLora(dict(_named(lora.transformer)), alphas=None)


def _refuse_text_encoders(lora: FluxLora) -> None:
    for name, pairs in (("CLIP", lora.clip), ("T5", lora.t5)):
        if pairs:
            raise ValueError(f"changes the text encoder {name} at {min(pairs)}: expected the transformer alone")


def _refuse_misfit(layer: str, pair: Pair, shape: Shape | None) -> None:
    found = f"{pair.shape.outputs} x {pair.shape.inputs} weights{made_for({f'{layer}.lora_A': pair.down})}"
    if shape is None:
        raise ValueError(f"was made for another model: this one has no place for {layer} of {found}")
    if pair.shape != shape:
        expected = f"this model's are {shape.outputs} x {shape.inputs}"
        raise ValueError(f"was made for another model: {layer} is for {found}, {expected}")


def _named(pairs: Mapping[str, Pair]) -> Iterator[tuple[str, Tensor]]:
    for layer, pair in pairs.items():
        yield f"transformer.{layer}.lora_A.weight", pair.down
        yield f"transformer.{layer}.lora_B.weight", pair.up
