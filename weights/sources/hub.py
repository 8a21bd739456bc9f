"""Where Hugging Face keeps a LoRA: its commit, the one .safetensors file, and that file's sha256.

The API is that of https://huggingface.co/docs/hub/api; ours, as huggingface_hub would follow redirects unchecked.
"""

from typing import Any
from urllib.parse import quote

from weights.grammar.records import HubLora
from weights.network.client import Question
from weights.network.download import Wanted
from weights.network.failures import NotFound
from weights.network.json_response import fetch_json
from weights.network.network import Network

SUFFIX = ".safetensors"
SHOWN = 5  # how many names an error repeats
SHOWN_NAME = 80


def find_on_hub(lora: HubLora, token: str, network: Network) -> Wanted:
    """The file of a LoRA at the commit that its revision now names.

    Raises ValueError with the end of a sentence: what is closed, missing, or not the only one.
    """
    repository, revision = quote(lora.repository), quote(lora.revision, safe="")
    url = f"{network.hugging_face}/api/models/{repository}/revision/{revision}?blobs=true"
    try:
        found = fetch_json(Question(url, token=token), network)
    except NotFound as error:
        what = f"model {lora.repository} with the revision {lora.revision}"
        raise NotFound(f"was not found: Hugging Face has no {what}, or hides it without a token") from error
    file = _choose(lora, found)
    commit = quote(str(found.get("sha") or lora.revision), safe="")
    where = f"{network.hugging_face}/{repository}/resolve/{commit}/{quote(str(file['rfilename']))}"
    lfs = file.get("lfs")
    sha256 = str(lfs.get("sha256") or "").lower() if isinstance(lfs, dict) else ""
    return Wanted(Question(where, token=token), sha256)


def _choose(lora: HubLora, found: dict[str, Any]) -> dict[str, Any]:
    siblings = found.get("siblings")
    files = [entry for entry in siblings if isinstance(entry, dict)] if isinstance(siblings, list) else []
    named = {str(entry.get("rfilename")): entry for entry in files}
    if lora.path.endswith(SUFFIX) or lora.path in named:
        return _named(lora, named)
    inside = f"{lora.path}/" if lora.path else ""
    loras = [name for name in named if name.startswith(inside) and name.endswith(SUFFIX)]
    if len(loras) == 1:
        return named[loras[0]]
    where = f"in {lora.path} " if lora.path else ""
    expected = f"expected exactly one, or hf://{lora.repository}/<file>.safetensors"
    raise ValueError(f"has {len(loras)} .safetensors files {where}({_listed(loras)}): {expected}")


def _named(lora: HubLora, named: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if lora.path in named and lora.path.endswith((SUFFIX, ".tar")):
        return named[lora.path]
    loras = _listed([name for name in named if name.endswith(SUFFIX)])
    raise ValueError(f"names no .safetensors file that {lora.repository} has: expected one of {loras}")


def _listed(names: list[str]) -> str:
    shown = [ascii(name[:SHOWN_NAME]) for name in sorted(names)[:SHOWN]]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join(shown + more) or "none"
