"""The manifest of a cached file: its digest, and which credentials gave access when. Written atomically."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

BESIDE = frozenset({"settings", "note"})  # few files have them
MAX_VISITORS = 1000  # the most recent ones are kept


@dataclass(frozen=True, slots=True)
class Manifest:
    """A file in the cache. Contains neither the URL of its source nor a token: the folder reveals no secret."""

    sha256: str
    size: int  # bytes
    etag: str
    visitors: Mapping[str, float]  # hash of a credential -> Unix time at which the source last accepted it
    settings: str = ""  # text that was beside the file at its source
    note: str = ""  # why this file was chosen


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None if the file is missing or is not a manifest."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        visitors = {str(credential): float(when) for credential, when in found["visitors"].items()}
        beside = str(found.get("settings", "")), str(found.get("note", ""))  # older manifests have neither
        return Manifest(str(found["sha256"]), int(found["size"]), str(found["etag"]), visitors, *beside)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest so that the file is complete, old or new, whenever the process ends; raises OSError."""
    newest = sorted(manifest.visitors.items(), key=lambda visit: visit[1])[-MAX_VISITORS:]
    partial = path.with_suffix(".json.part")
    with partial.open("w", encoding="utf-8") as file:
        found = asdict(manifest) | {"visitors": dict(newest)}
        json.dump({name: value for name, value in found.items() if name not in BESIDE or value}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
