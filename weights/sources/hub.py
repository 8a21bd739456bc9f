"""Locate a LoRA on Hugging Face: its commit, its final .safetensors file, and the sha256 of that file.

The API is documented at https://huggingface.co/docs/hub/api. huggingface_hub is not used, as it would follow redirects
without checking them.
"""

import math
from typing import Any
from urllib.parse import quote

from weights.adapter_metadata import LONGEST_CONFIG
from weights.file_choice import (
    SUFFIX,
    choice_note,
    config_beside,
    lora_in_repository,
    loras_in,
    pickles_note,
    quoted_list,
)
from weights.grammar.records import HubLora
from weights.network.client import HttpRequest
from weights.network.download import RemoteFile
from weights.network.failures import NotFound
from weights.network.json_response import fetch_json
from weights.network.network import Network

TOKEN_INPUT = "hf_api_token"


def find_on_hub(lora: HubLora, token: str, network: Network) -> RemoteFile:
    """Return the file of a LoRA at the commit to which its revision refers at the moment.

    Raises ValueError if access is denied, and unless it is clear which file is meant; NotFound if there is no such
    model or revision. The messages complete a sentence that starts with the reference.
    """
    repository, revision = quote(lora.repository), quote(lora.revision, safe="")
    api_url = f"{network.hugging_face}/api/models/{repository}/revision/{revision}?blobs=true"
    try:
        found = fetch_json(HttpRequest(api_url, token=token, token_input=TOKEN_INPUT), network)
    except NotFound as error:
        model = f"model {lora.repository} with the revision {lora.revision}"
        raise NotFound(
            f"was not found: Hugging Face has no {model}, or it is private and needs {TOKEN_INPUT}"
        ) from error
    by_name = _files(found)
    name, note = _choose(lora, by_name)
    commit = quote(str(found.get("sha") or lora.revision), safe="")

    def request(path: str) -> HttpRequest:
        url = f"{network.hugging_face}/{repository}/resolve/{commit}/{quote(path)}"
        return HttpRequest(url, token=token, token_input=TOKEN_INPUT)

    lfs = by_name[name].get("lfs")
    sha256 = str(lfs.get("sha256") or "").lower() if isinstance(lfs, dict) else ""
    config = config_beside(name)
    has_config = name.endswith(SUFFIX) and _size(by_name.get(config)) <= LONGEST_CONFIG
    return RemoteFile(request(name), sha256, config=request(config) if has_config else None, note=note)


def _files(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    siblings = found.get("siblings")
    files = [entry for entry in siblings if isinstance(entry, dict)] if isinstance(siblings, list) else []
    return {str(entry.get("rfilename")): entry for entry in files}


def _size(file: dict[str, Any] | None) -> float:
    """The size of a file in bytes; infinite if there is no such file."""
    size = file.get("size") if file is not None else math.inf
    return size if isinstance(size, int | float) else 0


def _choose(lora: HubLora, by_name: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """Return the name of the file, and what to log if it was chosen among several."""
    if lora.path.endswith(SUFFIX) or lora.path in by_name:
        return _named_file(lora, by_name), ""
    prefix = f"{lora.path}/" if lora.path else ""
    names = [name for name in by_name if name.startswith(prefix)]
    loras = loras_in(names)
    chosen = lora_in_repository(loras)
    if chosen is not None:
        return chosen, choice_note(loras, chosen)
    where = f"in {lora.path} " if lora.path else ""
    pickles = "" if loras else pickles_note(names)
    expected = f"expected exactly one, or hf://{lora.repository}/<file>.safetensors"
    raise ValueError(f"has {len(loras)} .safetensors files {where}({quoted_list(loras)}){pickles}: {expected}")


def _named_file(lora: HubLora, by_name: dict[str, dict[str, Any]]) -> str:
    if lora.path in by_name and lora.path.endswith((SUFFIX, ".tar")):
        return lora.path
    loras = quoted_list(loras_in(by_name))
    raise ValueError(f"names no .safetensors file of {lora.repository}: expected one of {loras}")
