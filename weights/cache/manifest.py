"""What the cache knows of a file: which content it is, and who was let in when. Read with suspicion, written whole."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

MOST_VISITORS = 1000  # the newest are kept


@dataclass(frozen=True, slots=True)
class Manifest:
    """A file in the cache, without its source's URL and without a token: whoever reads the folder learns neither."""

    sha256: str
    size: int  # bytes
    etag: str
    visitors: Mapping[str, float]  # a hash of what was shown to the source -> when the source let it in, unix time


def read_manifest(path: Path) -> Manifest | None:
    """The manifest in a file; None if there is none, or if it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        visitors = {str(by): float(when) for by, when in found["visitors"].items()}
        return Manifest(str(found["sha256"]), int(found["size"]), str(found["etag"]), visitors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Put a manifest into a file that is whole or the old one, whenever the process ends; raises OSError."""
    newest = sorted(manifest.visitors.items(), key=lambda visit: visit[1])[-MOST_VISITORS:]
    part = path.with_suffix(".json.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest) | {"visitors": dict(newest)}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
