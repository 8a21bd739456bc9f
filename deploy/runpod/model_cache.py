"""The base in RunPod's model cache, which an endpoint has if its field "Model" names one. Downloads nothing.

https://docs.runpod.io/serverless/endpoints/model-caching: the cache has the layout of Hugging Face's.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

from weights.base_kind import INDEX
from weights.bases import SETTING, URL_SETTING, WEIGHTS
from weights.catalogue import DEFAULT, PUBLISHED, published
from weights.grammar.base_source import is_hub_name
from weights.hub_cache import find_snapshot

HUB = Path("/runpod-volume/huggingface-cache/hub")


def use_cached_base(environment: MutableMapping[str, str] = os.environ, *, hub: Path = HUB) -> str:
    """Let FLUX_BASE name the base in the cache, and return a line for the log.

    Only where it names nothing else: a published base that is not in weights/, a repository owner/name, or nothing.
    Nothing changes if the cache does not have it, or if FLUX_BASE_URL says where to get it. Raises ValueError with one
    sentence if the cache has it, but not whole.
    """
    wanted = environment.get(SETTING, "").strip()
    if environment.get(URL_SETTING, "").strip():
        return f"base: from {URL_SETTING}"
    for repository in _repositories(wanted):
        snapshot = find_snapshot(repository, hub)
        if snapshot is not None:
            environment[SETTING] = str(snapshot)
            return f"base: {repository}, from the model cache of this endpoint"
    return f"base: {wanted or DEFAULT}, as the model cache of this endpoint does not have it"


def _repositories(wanted: str) -> list[str]:
    """The repositories that a setting may mean, in order."""
    if known := published(wanted):
        return [] if (WEIGHTS / wanted / INDEX).is_file() else [known.repository]
    if not wanted:
        return [] if (WEIGHTS / DEFAULT / INDEX).is_file() else [base.repository for base in PUBLISHED]
    return [wanted] if is_hub_name(wanted) and not Path(wanted).exists() else []
