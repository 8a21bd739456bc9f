"""The grammar of LoRA references: parses what a user typed into a record. Sends no request and opens no file."""

import re
from pathlib import Path

from weights.grammar import civitai, hub, replicate
from weights.grammar.pages import read_page
from weights.grammar.records import Inline, Link, LocalFile, Reference

LONGEST = 4096  # characters, except for data URIs
SUFFIXES = (".safetensors", ".tar", ".tar.gz", ".tgz")
SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
EXPECTED = (
    "expected the path of an existing .safetensors or .tar file, owner/name or owner/name:version of Replicate, "
    "huggingface.co/owner/name, hf://owner/name/file.safetensors, civitai.com/models/<number>, "
    "urn:air:flux1:lora:civitai:<model>@<version>, an https URL, or a data URI"
)


def parse_reference(reference: str) -> Reference:
    """Parse a reference to a LoRA.

    Raises ValueError; the message completes a sentence that starts with the reference. It lists the accepted forms.
    """
    text = reference.strip()
    if text[:5].lower() == "data:":
        return Inline(text)
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text):,} characters: expected at most {LONGEST:,}, or a data URI")
    if not text.isprintable():
        raise ValueError(f"contains invisible characters: {EXPECTED}")
    if text.lower().startswith(hub.SHORT):
        return hub.read_hub_short(text)
    if civitai.is_air(text):
        return civitai.read_air(text)
    scheme = SCHEME.match(text)
    if scheme:
        return _read_url(text, scheme["scheme"].lower())
    if _is_known_host(text):
        return _read_url(f"https://{text}", "https")
    return _read_name(text)


def _is_known_host(text: str) -> bool:
    host = text.split("/", 1)[0].lower()
    return host in hub.HOSTS | civitai.HOSTS | replicate.HOSTS or host == "replicate.delivery"


def _read_url(url: str, scheme: str) -> Reference:
    if scheme not in {"https", "http"}:
        raise ValueError(f"is a URL of {scheme[:20]}: {EXPECTED}")
    page = read_page(url)
    if page.host in hub.HOSTS:
        return hub.read_hub_page(page)
    if page.host in civitai.HOSTS:
        return civitai.read_civitai_page(page)
    if page.host in replicate.HOSTS:
        return replicate.read_replicate_page(page)
    if not page.host:
        raise ValueError(f"has no host: {EXPECTED}")
    return Link(f"{scheme}{url[len(scheme) :]}")


def _read_name(text: str) -> Reference:
    if text.lower().endswith(SUFFIXES):
        if ".." in text.split("/"):
            raise ValueError("is a path with ..: expected one without")
        return LocalFile(Path(text))
    model = replicate.read_model(text)
    if model is None:
        raise ValueError(f"is not a reference to a LoRA: {EXPECTED}")
    return model
