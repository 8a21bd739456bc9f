"""Locate a LoRA on Hugging Face: its commit, its only .safetensors file, and the sha256 of that file.

The API is documented at https://huggingface.co/docs/hub/api. huggingface_hub is not used, as it would follow redirects
without checking them.
"""

from typing import Any
from urllib.parse import quote

from weights.grammar.records import HubLora
from weights.network.client import HttpRequest
from weights.network.download import RemoteFile
from weights.network.failures import NotFound
from weights.network.json_response import fetch_json
from weights.network.network import Network
from weights.printed import quoted

SUFFIX = ".safetensors"
SHOWN = 5  # number of names in an error message


def find_on_hub(lora: HubLora, token: str, network: Network) -> RemoteFile:
    """Return the file of a LoRA at the commit to which its revision refers at the moment.

    Raises ValueError if access is denied, and unless exactly one file matches; NotFound if there is no such model or
    revision. The messages complete a sentence that starts with the reference.
    """
    repository, revision = quote(lora.repository), quote(lora.revision, safe="")
    api_url = f"{network.hugging_face}/api/models/{repository}/revision/{revision}?blobs=true"
    try:
        found = fetch_json(HttpRequest(api_url, token=token), network)
    except NotFound as error:
        model = f"model {lora.repository} with the revision {lora.revision}"
        raise NotFound(
            f"was not found: Hugging Face has no {model}, or it is private and needs hf_api_token"
        ) from error
    file = _choose_file(lora, found)
    commit = quote(str(found.get("sha") or lora.revision), safe="")
    url = f"{network.hugging_face}/{repository}/resolve/{commit}/{quote(str(file['rfilename']))}"
    lfs = file.get("lfs")
    sha256 = str(lfs.get("sha256") or "").lower() if isinstance(lfs, dict) else ""
    return RemoteFile(HttpRequest(url, token=token), sha256)


def _choose_file(lora: HubLora, found: dict[str, Any]) -> dict[str, Any]:
    siblings = found.get("siblings")
    files = [entry for entry in siblings if isinstance(entry, dict)] if isinstance(siblings, list) else []
    by_name = {str(entry.get("rfilename")): entry for entry in files}
    if lora.path.endswith(SUFFIX) or lora.path in by_name:
        return _named_file(lora, by_name)
    prefix = f"{lora.path}/" if lora.path else ""
    loras = [name for name in by_name if name.startswith(prefix) and name.endswith(SUFFIX)]
    if len(loras) == 1:
        return by_name[loras[0]]
    where = f"in {lora.path} " if lora.path else ""
    expected = f"expected exactly one, or hf://{lora.repository}/<file>.safetensors"
    raise ValueError(f"has {len(loras)} .safetensors files {where}({_quoted_list(loras)}): {expected}")


def _named_file(lora: HubLora, by_name: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if lora.path in by_name and lora.path.endswith((SUFFIX, ".tar")):
        return by_name[lora.path]
    loras = _quoted_list([name for name in by_name if name.endswith(SUFFIX)])
    raise ValueError(f"names no .safetensors file of {lora.repository}: expected one of {loras}")


def _quoted_list(names: list[str]) -> str:
    shown = [quoted(name) for name in sorted(names)[:SHOWN]]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join(shown + more) or "none"
