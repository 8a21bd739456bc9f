"""Where Civitai keeps a LoRA: the version of a model, what it was made for, and the sha256 of its file.

The API is that of https://developer.civitai.com/site/reference/model-versions.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from weights.grammar.records import CivitaiLora
from weights.network.client import Question
from weights.network.download import MOST_BYTES, Wanted
from weights.network.json_response import fetch_json
from weights.network.network import Network

FLUX = "flux.1"
KINDS = frozenset({"lora", "locon", "dora"})
SHOWN = 5
SHOWN_TEXT = 60
KILOBYTE = 1024


def find_on_civitai(lora: CivitaiLora, token: str, network: Network) -> Wanted:
    """The file of a LoRA's version; of a model without a version, the newest that was made for FLUX.1.

    Raises ValueError with the end of a sentence: for another model, another kind of file, or several.
    """
    version = _version(lora, token, network)
    made_for = _text(version.get("baseModel"))
    if not made_for.lower().startswith(FLUX):
        raise ValueError(f"was made for {made_for or 'an unknown model'}: expected a LoRA for FLUX.1")
    file = _choose(_entries(version.get("files")))
    size = file.get("sizeKB")
    if isinstance(size, int | float) and size * KILOBYTE > MOST_BYTES:
        raise ValueError(f"has {size * KILOBYTE:,.0f} bytes: expected at most {MOST_BYTES:,}")
    hashes = file.get("hashes")
    sha256 = _text(hashes.get("SHA256"), most=64).lower() if isinstance(hashes, dict) else ""
    return Wanted(Question(_download(file, version, network), token=token), sha256)


def _version(lora: CivitaiLora, token: str, network: Network) -> dict[str, Any]:
    if lora.version is not None:
        found = fetch_json(Question(f"{network.civitai}/api/v1/model-versions/{lora.version}", token=token), network)
        _check_kind(found.get("model"))
        return found
    model = fetch_json(Question(f"{network.civitai}/api/v1/models/{lora.model}", token=token), network)
    _check_kind(model)
    versions = _entries(model.get("modelVersions"))
    if not versions:
        raise ValueError(f"is the model {lora.model} of Civitai, which has no version that can be downloaded")
    for_flux = [entry for entry in versions if _text(entry.get("baseModel")).lower().startswith(FLUX)]
    return (for_flux or versions)[0]


def _check_kind(model: object) -> None:
    kind = _text(model.get("type")) if isinstance(model, dict) else ""
    if kind and kind.lower() not in KINDS:
        raise ValueError(f"is a {kind} on Civitai: expected a LoRA")


def _choose(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The .safetensors file: the primary one of several, never a pickle."""
    loras = [file for file in files if _format(file) == "safetensor" and _text(file.get("type")) in {"", "Model"}]
    primary = [file for file in loras if file.get("primary") is True] or loras
    if len(primary) == 1:
        return primary[0]
    names = ", ".join(ascii(_text(file.get("name"))) for file in (primary or files)[:SHOWN]) or "none"
    raise ValueError(f"has {len(primary)} .safetensors files on Civitai (of {names}): expected exactly one")


def _format(file: dict[str, Any]) -> str:
    metadata = file.get("metadata")
    return _text(metadata.get("format")).lower() if isinstance(metadata, dict) else ""


def _download(file: dict[str, Any], version: dict[str, Any], network: Network) -> str:
    """The download of this very file, at the service that was asked and nowhere else."""
    given = urlsplit(_text(file.get("downloadUrl"), most=1000))
    if given.path.startswith("/api/download/"):
        return f"{network.civitai}{given.path}" + (f"?{given.query}" if given.query else "")
    return f"{network.civitai}/api/download/models/{version.get('id')}"


def _entries(found: object) -> list[dict[str, Any]]:
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _text(found: object, *, most: int = SHOWN_TEXT) -> str:
    """A text of an answer, short and on one line."""
    return "".join(sign for sign in found[:most] if sign.isprintable()) if isinstance(found, str) else ""
