"""What tells one set of weights on disk from another, without reading all of it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE_BYTES = 2**20  # files up to this size are read whole
SAMPLES, SAMPLE_BYTES = 128, 2**15  # evenly spread over a larger one: any training of the weights changes some


def fingerprint(base: Path, parts: Iterable[str]) -> str:
    """sha256 over the names, sizes and contents of the files of parts of a base, such as vae or text_encoder_2."""
    digest = hashlib.sha256()
    for part in sorted(parts):
        for path in sorted((base / part).iterdir()):
            if path.is_file():
                digest.update(f"{part}/{path.name} {path.stat().st_size}\n".encode())
                _add_content(digest, path)
    return digest.hexdigest()


def _add_content(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            digest.update(file.read())
            return
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
