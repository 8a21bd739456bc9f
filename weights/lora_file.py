"""Reads a safetensors file from an untrusted source and checks that it is a LoRA. Knows no model."""

import codecs
import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor

from weights.adapter_metadata import CONFIG, read_adapter_config, read_adapters
from weights.alpha_folding import Settings, fold_alpha, is_of_peft
from weights.printed import message_of, quoted

LENGTH_BYTES = 8  # a safetensors file starts with the length of its header
MAX_HEADER_BYTES = 10 * 2**20
MAX_TENSORS = 20_000
LONGEST_NAME = 200
MAX_DIGITS = 20  # of an integer: more than any size has
START_BYTES = 1024  # enough to recognise a web page
PRECISIONS = frozenset({"F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"})
WHOLE_NUMBERS = frozenset({"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"})  # of an alpha: sd-scripts' default is
ALPHA = ".alpha"
# Parts of the tensor keys of LoRAs, by format: PEFT, sd-scripts, old diffusers; OneTrainer, XLabs; LyCORIS; ComfyUI
LORA_KEYS = re.compile(
    r"\.lora_(A|B|down|up)(\.|$)|\.lora\.(down|up)\.|_lora[12]?\.(down|up)\.|\.lora_linear_layer\.(down|up)\."
    r"|\.hada_w|\.lokr_w|\.[ab][12]\.weight$|\.(diff|diff_b|w_norm|b_norm)$"
)
# Of what lora.formats refuses under its own name: OFT, (IA)^3, VeRA, replaced weights, embeddings
OTHER_ADAPTERS = re.compile(
    r"(^|[._])b?oft(_|\b)|\.on_input$|ia3_l|vera_lambda|\.set_weight$|^(emb_params|string_to_|bundle_emb|clip_[lg]$|t5xxl$)"
)


class ParsedLora(NamedTuple):
    """The tensors of a LoRA file, and what to log about how they were read."""

    tensors: dict[str, Tensor]
    uses_config: bool  # whether they depend on the adapter_config.json
    notes: tuple[str, ...]  # each completes a sentence that starts with the name of the file


def parse_lora(content: bytes, config: str = "") -> ParsedLora:
    """Return the tensors of a LoRA file. An alpha that is stored only in the metadata, or in PEFT's settings beside the
    file (`config`, the text of its adapter_config.json), is folded in.

    Raises ValueError; the message completes a sentence that starts with the name of the file.
    """
    header = _read_header(content)
    metadata = header.pop("__metadata__", {})
    _check_header(header)
    try:
        tensors = load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"is a damaged safetensors file ({message_of(error)})") from error
    by_model = read_adapters(metadata)
    uses_config = bool(config) and not by_model and is_of_peft(tensors)
    folded = fold_alpha(tensors, Settings(by_model, read_adapter_config(config) if uses_config else None))
    for name, tensor in folded.items():
        # an alpha may have no effect; lora.formats checks those that have one
        if not name.endswith(ALPHA) and not torch.isfinite(tensor.float()).all():
            raise ValueError(f"has NaN or infinity in {name}: expected finite numbers")
    return ParsedLora(folded, uses_config, _notes(tensors, has_settings=bool(by_model) or uses_config))


def _notes(tensors: Mapping[str, Tensor], *, has_settings: bool) -> tuple[str, ...]:
    if has_settings or not is_of_peft(tensors) or any(name.endswith(ALPHA) for name in tensors):
        return ()
    return (
        f"was saved by PEFT without its {CONFIG}: its alpha is not known, and taken to be its rank, a strength of 1",
    )


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
    if not any(LORA_KEYS.search(name) or OTHER_ADAPTERS.search(name) for name in header):
        raise ValueError(f"is not a LoRA: none of its {len(header)} tensors is a lora_A, lora_down, hada_w1 or lokr_w1")
    for name, entry in header.items():
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"has a tensor named {quoted(name)}: expected printable names")
        if str(entry.get("dtype")) not in PRECISIONS | (WHOLE_NUMBERS if name.endswith(ALPHA) else frozenset()):
            found = quoted(str(entry.get("dtype")))
            raise ValueError(f"holds {name} as {found}: expected {', '.join(sorted(PRECISIONS))}")
        shape = entry.get("shape")
        if not isinstance(shape, list) or 0 in shape:
            raise ValueError(f"has {name} of the shape {reprlib.repr(shape)}: expected a usual shape")
