"""Reads a safetensors file from an untrusted source and checks that it is a LoRA. Knows no model."""

import codecs
import json
import reprlib
from collections.abc import Iterable
from typing import Any

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor

from weights import adapter_metadata
from weights.adapter_metadata import MODELS, TRANSFORMER, Adapter, read_adapters
from weights.printed import message_of, quoted

LENGTH_BYTES = 8  # a safetensors file starts with the length of its header
MAX_HEADER_BYTES = 10 * 2**20
MAX_TENSORS = 20_000
LONGEST_NAME = 200
MAX_DIGITS = 20  # of an integer: more than any size has
START_BYTES = 1024  # enough to recognise a web page
PRECISIONS = frozenset({"F32", "F16", "BF16"})
# Parts of the tensor keys of LoRAs, by format: PEFT, sd-scripts, old diffusers; OneTrainer, XLabs; LyCORIS
LORA_KEYS = (
    *(".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up."),
    *(f"{lora}.{half}." for lora in ("_lora", "_lora1", "_lora2", ".lora_linear_layer") for half in ("down", "up")),
    *(".hada_w", ".lokr_w"),
)
MATRIX_DIMENSIONS = 2


def parse_lora(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file. An alpha that is stored only in the metadata is folded into B.

    Raises ValueError; the message completes a sentence that starts with the name of the file.
    """
    header = _read_header(content)
    metadata = header.pop("__metadata__", {})
    _check_header(header)
    try:
        tensors = load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"is a damaged safetensors file ({message_of(error)})") from error
    folded = _fold_alpha(tensors, metadata)
    for name, tensor in folded.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"has NaN or infinity in {name}: expected finite numbers")
    return folded


def _read_header(content: bytes) -> dict[str, Any]:
    """Parse the JSON header. Duplicate names are refused, because readers differ in which entry they use."""
    message = f"is not a safetensors file: found {_describe(content)}, expected a LoRA in safetensors format"
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, len(content) - LENGTH_BYTES):
        raise ValueError(message)
    try:
        header = json.loads(
            content[LENGTH_BYTES : LENGTH_BYTES + length],
            object_pairs_hook=_unique_names,
            parse_int=_parse_int,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(message) from error
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError(message)
    return header


def _unique_names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"names {quoted(name)} twice in its header: expected an undamaged file")
        result[name] = value
    return result


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"holds a number of {len(digits):,} digits in its header: expected an undamaged file")
    return int(digits)


def _describe(content: bytes) -> str:
    small_number = content[3:8] == bytes(5)  # a safetensors file starts with the length of its header
    if (content.startswith(b"\x80") and not small_number) or content.startswith(b"PK\x03\x04"):
        return "a pickle, which can run code"
    if content[:START_BYTES].removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<":
        return "a web page"
    return f"{len(content):,} other bytes" if content else "an empty file"


def _check_header(header: dict[str, Any]) -> None:
    if len(header) > MAX_TENSORS:
        raise ValueError(f"holds {len(header):,} tensors: expected a LoRA with at most {MAX_TENSORS:,}")
    if not any(key in name for name in header for key in LORA_KEYS):
        raise ValueError(f"is not a LoRA: none of its {len(header)} tensors is a lora_A, lora_down, hada_w1 or lokr_w1")
    for name, entry in header.items():
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"has a tensor named {quoted(name)}: expected printable names")
        if str(entry.get("dtype")) not in PRECISIONS:
            found = quoted(str(entry.get("dtype")))
            raise ValueError(f"holds {name} as {found}: expected {', '.join(sorted(PRECISIONS))}")
        shape = entry.get("shape")
        if not isinstance(shape, list) or 0 in shape:
            raise ValueError(f"has {name} of the shape {reprlib.repr(shape)}: expected a usual shape")


def _fold_alpha(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Tensor]:
    """Multiply every B by the scaling in diffusers' metadata, in fp32; without metadata the scaling is 1."""
    adapters = read_adapters(metadata)
    scalings = {name: _scaling(name, tensor, adapters) for name, tensor in tensors.items()}
    if all(scaling == 1 for scaling in scalings.values()):
        return tensors
    if alpha := next((name for name in tensors if name.endswith(".alpha")), None):
        raise ValueError(f"has an alpha in its {adapter_metadata.KEY} and another in {alpha}: expected one of them")
    return {
        name: tensor if scalings[name] == 1 else tensor.float() * scalings[name] for name, tensor in tensors.items()
    }


def _scaling(name: str, tensor: Tensor, adapters: dict[str, Adapter]) -> float:
    """Return the factor for a tensor. A name without the prefix of a model belongs to the transformer."""
    layer, is_up, _ = name.partition(".lora_B.")
    first, _, rest = layer.partition(".")
    model, layer = (first, rest) if first in MODELS else (TRANSFORMER, layer)
    if not is_up or tensor.ndim != MATRIX_DIMENSIONS or model not in adapters:
        return 1.0
    return adapters[model].scaling(layer, tensor.shape[1])
