"""Locate a LoRA on Civitai: the version of a model, its base model, and the sha256 of its file.

The API is documented at https://developer.civitai.com/site/reference/model-versions.
"""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from weights.file_choice import pickles_note
from weights.grammar.records import CivitaiLora
from weights.network.client import HttpRequest
from weights.network.download import MAX_BYTES, RemoteFile
from weights.network.json_response import fetch_json
from weights.network.network import Network
from weights.printed import quoted

FLUX = ("flux.1", "flux.2")  # how `baseModel` starts there: Flux.1 D, Flux.2 Klein 4B
SIZE = re.compile(r"(?<!\w)\d+b(?![^\W_])")  # 4b in "klein 4b-base"
TOKEN_INPUT = "civitai_api_token"
LORA_TYPES = frozenset({"lora", "locon", "dora"})
SHOWN = 5
SHOWN_TEXT = 60
KILOBYTE = 1024


def find_on_civitai(lora: CivitaiLora, token: str, network: Network) -> RemoteFile:
    """Return the file of a LoRA's version, or of the newest version for its base model if the record names none.

    Raises ValueError for a LoRA of another base model, for another type of model, and unless exactly one file matches.
    The messages complete a sentence that starts with the reference.
    """
    version = _version(lora, token, network)
    base_model = _text(version.get("baseModel"))
    if not _is_for(lora, version):
        expected = lora.base_model or "FLUX.1 or FLUX.2"
        raise ValueError(f"was made for {base_model or 'an unknown model'}: expected a LoRA for {expected}")
    file = _choose_file(_dicts(version.get("files")))
    size = file.get("sizeKB")
    if isinstance(size, int | float) and size * KILOBYTE > MAX_BYTES:
        raise ValueError(f"has {size * KILOBYTE:,.0f} bytes: expected at most {MAX_BYTES:,}")
    hashes = file.get("hashes")
    sha256 = _text(hashes.get("SHA256"), max_length=64).lower() if isinstance(hashes, dict) else ""
    return RemoteFile(_request(_download_url(file, version, network), token), sha256)


def _request(url: str, token: str) -> HttpRequest:
    return HttpRequest(url, token=token, token_input=TOKEN_INPUT)


def _version(lora: CivitaiLora, token: str, network: Network) -> dict[str, Any]:
    if lora.version is not None:
        found = fetch_json(_request(f"{network.civitai}/api/v1/model-versions/{lora.version}", token), network)
        _check_type(found.get("model"))
        return found
    model = fetch_json(_request(f"{network.civitai}/api/v1/models/{lora.model}", token), network)
    _check_type(model)
    versions = _dicts(model.get("modelVersions"))
    if not versions:
        raise ValueError(f"is the model {lora.model} on Civitai, which has no downloadable version")
    suitable = [entry for entry in versions if _is_for(lora, entry)]
    return (suitable or versions)[0]


def _is_for(lora: CivitaiLora, version: dict[str, Any]) -> bool:
    """Whether a version was made for the base model that the record asks for, as far as Civitai's name of it tells:
    Flux.2 Klein 4B-base has its family, its size, and more."""
    named, asked = (_text(text).lower() for text in (version.get("baseModel"), lora.base_model))
    family, sizes = SIZE.sub("", asked.replace("[", "").replace("]", "")).strip(), SIZE.findall(asked)
    fits_size = not sizes or set(SIZE.findall(named)) <= set(sizes)
    return named.startswith(family or FLUX) and fits_size


def _check_type(model: object) -> None:
    model_type = _text(model.get("type")) if isinstance(model, dict) else ""
    if model_type and model_type.lower() not in LORA_TYPES:
        raise ValueError(f"is a {model_type} on Civitai: expected a LoRA")


def _choose_file(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the .safetensors file, the primary one if there are several. A pickle is never chosen."""
    loras = [file for file in files if _format(file) == "safetensor" and _text(file.get("type")) in {"", "Model"}]
    primary = [file for file in loras if file.get("primary") is True] or loras
    if len(primary) == 1:
        return primary[0]
    names = ", ".join(quoted(_text(file.get("name"))) for file in (primary or files)[:SHOWN]) or "none"
    pickles = "" if primary else pickles_note(_text(file.get("name")) for file in files)
    raise ValueError(f"has {len(primary)} .safetensors files on Civitai (of {names}){pickles}: expected exactly one")


def _format(file: dict[str, Any]) -> str:
    metadata = file.get("metadata")
    return _text(metadata.get("format")).lower() if isinstance(metadata, dict) else ""


def _download_url(file: dict[str, Any], version: dict[str, Any], network: Network) -> str:
    """Return the download URL of the chosen file, always on the configured Civitai server."""
    url = urlsplit(_text(file.get("downloadUrl"), max_length=1000))
    if url.path.startswith("/api/download/"):
        return f"{network.civitai}{url.path}" + (f"?{url.query}" if url.query else "")
    return f"{network.civitai}/api/download/models/{version.get('id')}"


def _dicts(found: object) -> list[dict[str, Any]]:
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _text(found: object, *, max_length: int = SHOWN_TEXT) -> str:
    """Return a string of a response, shortened and on one line."""
    text = found[:max_length] if isinstance(found, str) else ""
    return "".join(character for character in text if character.isprintable())
