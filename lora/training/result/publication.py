"""What of a training's tar is published: the LoRA, its model card, its licence, sample images and the report.

Captions, names and thumbnails of the training images are not, unless that is asked for.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import load

from lora.publishing.usage import LORA_FILE
from lora.training.result.card import CARD, SAMPLES, public_samples, training_card
from lora.training.result.metadata import LENGTH_BYTES, without_captions
from lora.training.result.output import FOLDER, RUN, safetensors_file
from lora.training.result.public_page import public_page

CONFIG, NOTICE, TRAINING, LOSSES, PAGE = (
    *("config.yaml", "NOTICE", "report/training.json", "report/losses.jsonl", "report/index.html"),
)
CAPTIONS, RESUME = "captions/", "resume/"
EXPECTED = "expected the tar of a training with this package"


@dataclass(frozen=True, slots=True)
class Publication:
    """The files of a training's tar, by their names in its folder, and what they say."""

    files: Mapping[str, bytes]
    settings: Mapping[str, object]
    report: Mapping[str, object]

    @property
    def captions(self) -> frozenset[str]:
        """The prompts that were trained with."""
        texts = (content for name, content in self.files.items() if name.startswith(CAPTIONS))
        return frozenset(text.decode("utf-8", "replace") for text in texts)


def read_publication(tar: Path) -> Publication:
    """Read a tar. Raises ValueError with the end of a sentence if it is none of a training, OSError if it cannot be
    read."""
    try:
        with tarfile.open(tar) as opened:
            files = dict(_files(opened))
    except tarfile.TarError as error:
        reason = str(error).partition("\n")[0].removesuffix(":")  # a line for each compression follows
        raise ValueError(f"is no tar ({reason}): {EXPECTED}") from error
    for name in (LORA_FILE, CONFIG):
        if name not in files:
            raise ValueError(f"has no {FOLDER}/{name}: {EXPECTED}")
    try:
        settings, report = yaml.safe_load(files[CONFIG]), json.loads(files.get(TRAINING, b"{}"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"has a damaged {CONFIG} or {TRAINING}: {EXPECTED}") from error
    if not isinstance(settings, dict) or "base_model" not in settings or not isinstance(report, dict):
        raise ValueError(f"has a {CONFIG} without base_model: {EXPECTED}")
    return Publication(files, settings, report)


def write_publication(publication: Publication, *, into: Path, repository: str, with_captions: bool) -> None:
    """Write all files that are uploaded to a repository into a folder.

    Raises ValueError with the end of a sentence if the LoRA is not one of this package.
    """
    for name in _published(publication, with_captions=with_captions):
        _write(into / name, publication.files[name])
    settings, trigger = publication.settings, str(publication.settings.get("trigger_word", ""))
    private = frozenset() if with_captions else publication.captions
    images = tuple(public_samples(into / SAMPLES, captions=private, trigger_word=trigger))
    shown = {path for image in images for path in (image.path, *image.references)}
    for path in sorted((into / SAMPLES).glob("*")):
        if f"{SAMPLES}/{path.name}" not in shown:
            path.unlink()
    report = publication.report
    card = training_card(settings, report, into / SAMPLES, captions=private, repository=repository)
    _write(into / CARD, card.encode())
    if with_captions:
        return
    _write(into / LORA_FILE, _without_captions(publication.files[LORA_FILE]))
    if report and LOSSES in publication.files:
        try:
            page = public_page(settings, report, publication.files[LOSSES].decode(), images, into)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"has a damaged {TRAINING} or {LOSSES}: {EXPECTED}") from error
        _write(into / PAGE, page.encode())


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """The regular files in the tar's folder, but for the state to resume from."""
    for member in tar:
        name = member.name.removeprefix(f"{FOLDER}/")
        if member.isreg() and name != member.name and not name.startswith(RESUME):
            file = tar.extractfile(member)
            assert file is not None
            yield name, file.read()


def _published(publication: Publication, *, with_captions: bool) -> Iterator[str]:
    """The names of files that go up as they are in the tar, or are replaced afterwards."""
    for name in publication.files:
        is_public = name in (LORA_FILE, NOTICE, TRAINING, LOSSES) or name.startswith(f"{SAMPLES}/")
        if (is_public or with_captions) and ".." not in Path(name).parts and name != f"report/{RUN}":
            yield name


def _without_captions(content: bytes) -> bytes:
    try:
        tensors = load(content)
        length = int.from_bytes(content[:LENGTH_BYTES], "little")
        metadata = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length]).get("__metadata__", {})
        return safetensors_file(tensors, without_captions(metadata, tensors))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"has a {LORA_FILE} without the metadata of a training: {EXPECTED}") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
