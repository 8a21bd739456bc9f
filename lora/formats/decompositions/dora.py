"""DoRA: any other delta, with the lengths of the rows or columns of the merged weights. Knows no names of layers."""

from torch import Tensor

from lora.formats.decompositions.relative import DoRA, LayerRows
from lora.formats.tensor_keys import MATRIX, FileLayer
from lora.formats.weight_deltas import LayerMapping, WeightDelta


def dora_delta(delta: WeightDelta, layer: FileLayer, mapping: LayerMapping) -> DoRA:
    """The DoRA of a delta, from PEFT's `lora_magnitude_vector` [out], ai-toolkit's `magnitude` [out], or `dora_scale`
    of LyCORIS and OneTrainer, [out, 1] or [1, in] as they were told to train.

    Raises ValueError unless there is one number for each row or each column of the delta.
    """
    magnitude = layer.tensors["magnitude"]
    lengths = _as_matrix(magnitude.tensor.float())
    rows, columns = delta.shape.outputs, delta.shape.inputs
    if tuple(lengths.shape) not in {(rows, 1), (1, columns)}:
        found = "x".join(map(str, magnitude.tensor.shape)) or "a single number"
        raise ValueError(f"has {magnitude.key} of shape {found}: expected {rows}x1 or 1x{columns}, as in a DoRA")
    return DoRA(delta, lengths, LayerRows(mapping, (range(rows),)))


def _as_matrix(lengths: Tensor) -> Tensor:
    return lengths.flatten(1) if lengths.ndim >= MATRIX else lengths.reshape(-1, 1)
