"""References to Civitai: pages, downloads and AIR names. Knows no network."""

import re

from weights.grammar.pages import Page
from weights.grammar.records import CivitaiLora

HOSTS = frozenset({"civitai.com", "www.civitai.com", "civitai.red", "www.civitai.red", "civitai.green"})
# urn:air:{ecosystem}:{type}:{source}:{id}@{version}, see https://developer.civitai.com/site/reference/model-versions;
# the short form starts with the source
AIR = re.compile(
    r"(?:(?:urn:)?air:(?P<ecosystem>[a-z0-9_-]+):(?P<type>[a-z0-9_-]+):)?"
    r"civitai:(?P<model>\d{1,12})(?:@(?P<version>\d{1,12}))?(?:[.:].*)?",
    re.IGNORECASE,
)
LORA_TYPES = frozenset({"lora", "lycoris", "locon", "dora"})
NUMBER = re.compile(r"\d{1,12}")
EXPECTED = "expected civitai.com/models/<number>, with or without ?modelVersionId=<number>, or a download link"


def is_air(reference: str) -> bool:
    """Whether a reference has the form of an AIR name."""
    return reference.lower().startswith(("urn:air:", "air:", "civitai:"))


def read_air(reference: str) -> CivitaiLora:
    """Parse an AIR name. Raises ValueError; the message completes a sentence that starts with the reference."""
    found = AIR.fullmatch(reference)
    if found is None:
        raise ValueError("is not an AIR name of Civitai: expected urn:air:flux1:lora:civitai:<model>@<version>")
    ecosystem, model_type = found["ecosystem"], found["type"]
    if model_type and model_type.lower() not in LORA_TYPES:
        raise ValueError(f"is the AIR name of a {model_type[:40]}: expected that of a lora")
    if ecosystem and not ecosystem.lower().startswith(("flux1", "flux2")):
        raise ValueError(f"is the AIR name of a LoRA for {ecosystem[:40]}: expected one for flux1 or flux2")
    return CivitaiLora(int(found["model"]), int(found["version"]) if found["version"] else None)


def read_civitai_page(page: Page) -> CivitaiLora:
    """Parse the URL of a page or a download on Civitai.

    Raises ValueError; the message completes a sentence that starts with the reference.
    """
    token = page.query.get("token", "")
    match page.parts:
        case ("models", model, *_):
            version = page.query.get("modelVersionId")
            return CivitaiLora(_number(model), None if version is None else _number(version), token)
        case ("api", "download", "models", version) | ("api", "v1", "model-versions", version):
            return CivitaiLora(None, _number(version), token)
        case ("api", "v1", "models", model):
            return CivitaiLora(_number(model), None, token)
        case ("model-versions", version, *_):
            return CivitaiLora(None, _number(version), token)
    raise ValueError(f"is not the page of a model on Civitai: {EXPECTED}")


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text) or not text.isascii():
        raise ValueError(f"has {text[:40]!r} where Civitai has a number: {EXPECTED}")
    return int(text)
