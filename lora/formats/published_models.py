"""Find the published model that a LoRA was made for, by the names and shapes of its layers. Knows no file."""

from collections.abc import Mapping
from dataclasses import dataclass

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.layer_names.mapping import find_layer
from lora.formats.layer_names.record import BlockLayer, LayerNames, PublishedModel
from lora.formats.shapes import Shape

FAMILIES = (FLUX1, FLUX2)
Shapes = Mapping[str, Shape]  # of the weights that a LoRA changes, by the names of their layers in any layout


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model of a family needs for a LoRA to fit it."""

    width: int  # of the hidden states
    blocks: Mapping[str, int]  # number of blocks of each kind, at least
    inputs: Mapping[str, int]  # input features of the layers outside the blocks

    def fits_blocks_of(self, model: PublishedModel) -> bool:
        """Whether a model has at least as many blocks of each kind."""
        return all(model.blocks[kind] >= number for kind, number in self.blocks.items())

    def is_for(self, model: PublishedModel) -> bool:
        """Whether it fits a model."""
        have_inputs = all(model.inputs.get(layer, number) == number for layer, number in self.inputs.items())
        return self.width == model.width and have_inputs and self.fits_blocks_of(model)


def published_model(shapes: Shapes, own: LayerNames) -> str | None:
    """The model that all these layers fit, of the family `own` if possible, or else of another. If they fit another
    family in an unknown size, and not `own`, the name of that family's series. None if they fit no family.

    A LoRA may fit several models, such as one on the attention of the first double blocks of a model 3072 wide.
    """
    families = (own, *(names for names in FAMILIES if names is not own))
    fits = {names.name: fit for names in families if (fit := fit_of(shapes, names))}
    found = [(names, fits[names.name]) for names in families if names.name in fits]
    for names, fit in found:
        for model in names.published:
            if fit.is_for(model):
                return model.name
    if own.name in fits:
        return None
    return next((names.series for names, fit in found if any(map(fit.fits_blocks_of, names.published))), None)


def fit_of(shapes: Shapes, names: LayerNames) -> Fit | None:
    """What a model of a family needs to have all these layers; None if no model can have them, or if no layer is in a
    block."""
    widths: set[int | None] = set()
    blocks: dict[str, int] = {}
    inputs: dict[str, int] = {}
    for name, shape in shapes.items():
        mapping = find_layer(name, names)
        if mapping is None:
            return None
        parts = [part for layer in mapping.layers if (part := names.block_layer(layer))]
        if parts:
            kind = parts[0].blocks.diffusers
            blocks[kind] = max(blocks.get(kind, 0), parts[0].number + 1)
            widths.add(_width(parts, shape))
        elif mapping.model == "transformer":
            inputs |= dict.fromkeys(mapping.layers, shape.inputs)
    width = widths.pop() if len(widths) == 1 else None
    return Fit(width, blocks, inputs) if width else None


def _width(parts: list[BlockLayer], shape: Shape) -> int | None:
    """The width of the hidden states where layers of a block, fused if there are several, have this shape."""
    width = shape.inputs // parts[0].ratio.inputs
    rows, columns = sum(part.ratio.outputs for part in parts) * width, parts[0].ratio.inputs * width
    return width if shape == Shape(columns, rows) else None
