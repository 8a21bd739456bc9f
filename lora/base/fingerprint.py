"""Identify a set of weights on disk without reading all of it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE_BYTES = 2**20  # files up to this size are hashed completely
SAMPLES, SAMPLE_BYTES = 128, 2**15  # spread evenly over a larger file: training changes some of them


def fingerprint(base: Path, components: Iterable[str]) -> str:
    """The sha256 of the names, sizes and contents of the files of components of a base, such as vae or text_encoder_2.

    Of large files, samples of the contents are hashed.
    """
    digest = hashlib.sha256()
    for component in sorted(components):
        for path in sorted((base / component).iterdir()):
            if path.is_file():
                digest.update(f"{component}/{path.name} {path.stat().st_size}\n".encode())
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
