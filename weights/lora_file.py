"""Read a safetensors file that anybody may have made, and make sure that it is a LoRA. Knows no model."""

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

LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
MOST_HEADER_BYTES = 10 * 2**20
MOST_TENSORS = 20_000
LONGEST_NAME = 200
MOST_DIGITS = 20  # of a whole number: no size has more
START = 1024  # bytes that tell a web page from a file
SHOWN = 60  # characters of a name that an error repeats
PRECISIONS = frozenset({"F32", "F16", "BF16"})
# What the names of a LoRA's tensors hold, by layout: PEFT, sd-scripts, old diffusers; OneTrainer's and XLabs' own;
# LyCORIS.
LORA_PARTS = (
    *(".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down.", ".lora.up."),
    *(f"{lora}.{half}." for lora in ("_lora", "_lora1", "_lora2", ".lora_linear_layer") for half in ("down", "up")),
    *(".hada_w", ".lokr_w"),
)
MATRIX = 2  # dimensions


def parse_lora(content: bytes) -> dict[str, Tensor]:
    """The tensors of a LoRA file, with its alpha folded in where only its metadata holds it.

    Raises ValueError with the end of a sentence that begins with the file's name.
    """
    header = _header(content)
    metadata = header.pop("__metadata__", {})
    _refuse_foreign(header)
    try:
        tensors = load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"is a damaged safetensors file ({error})") from error
    folded = _fold_alpha(tensors, metadata)
    for name, tensor in folded.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"holds NaN or infinity in {name}: it cannot be used")
    return folded


def shown(name: str) -> str:
    """A name out of a file that anybody may have made, fit for an error: on one line and not too long."""
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")


def _header(content: bytes) -> dict[str, Any]:
    """The JSON header; a name that stands twice is refused, as readers differ in which one they take."""
    wrong = f"is not a safetensors file: found {_looks_like(content)}, expected a LoRA in safetensors format"
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if length > min(MOST_HEADER_BYTES, len(content) - LENGTH_BYTES):
        raise ValueError(wrong)
    try:
        header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length], object_pairs_hook=_unique, parse_int=_whole)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(wrong) from error
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError(wrong)
    return header


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"names {shown(name)} twice in its header: it cannot be trusted")
        result[name] = value
    return result


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"holds a number of {len(digits):,} digits in its header: it cannot be trusted")
    return int(digits)


def _looks_like(content: bytes) -> str:
    small_number = content[3:8] == bytes(5)  # a safetensors file begins with the length of its header
    if (content.startswith(b"\x80") and not small_number) or content.startswith(b"PK\x03\x04"):
        return "a pickle, which can run code"
    if content[:START].removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<":
        return "a web page"
    return f"{len(content):,} other bytes" if content else "an empty file"


def _refuse_foreign(header: dict[str, Any]) -> None:
    if len(header) > MOST_TENSORS:
        raise ValueError(f"holds {len(header):,} tensors: expected a LoRA with at most {MOST_TENSORS:,}")
    if not any(part in name for name in header for part in LORA_PARTS):
        raise ValueError(f"is no LoRA: none of its {len(header)} tensors is a lora_A, lora_down, hada_w1 or lokr_w1")
    for name, entry in header.items():
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"holds a tensor named {shown(name)}: it cannot be used")
        if str(entry.get("dtype")) not in PRECISIONS:
            found = str(entry.get("dtype"))[:LONGEST_NAME]
            raise ValueError(f"holds {name} as {found}: expected {', '.join(sorted(PRECISIONS))}")
        shape = entry.get("shape")
        if not isinstance(shape, list) or 0 in shape:
            raise ValueError(f"holds {name} of the shape {reprlib.repr(shape)}: it cannot be used")


def _fold_alpha(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Tensor]:
    """Multiply every B by the strength that the metadata of diffusers gives it, in fp32; without, that is 1."""
    adapters = read_adapters(metadata)
    strengths = {name: _strength(name, tensor, adapters) for name, tensor in tensors.items()}
    if all(strength == 1 for strength in strengths.values()):
        return tensors
    if twice := next((name for name in tensors if name.endswith(".alpha")), None):
        raise ValueError(f"has an alpha in its {adapter_metadata.KEY} and another in {twice}: expected one of them")
    return {
        name: tensor if strengths[name] == 1 else tensor.float() * strengths[name] for name, tensor in tensors.items()
    }


def _strength(name: str, tensor: Tensor, adapters: dict[str, Adapter]) -> float:
    """By which a tensor is multiplied; names without a model are those of the transformer."""
    layer, is_up, _ = name.partition(".lora_B.")
    first, _, rest = layer.partition(".")
    model, layer = (first, rest) if first in MODELS else (TRANSFORMER, layer)
    if not is_up or tensor.ndim != MATRIX or model not in adapters:
        return 1.0
    return adapters[model].strength(layer, tensor.shape[1])
