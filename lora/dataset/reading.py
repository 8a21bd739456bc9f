"""Reads a user's archive into validated, captioned images. Knows no tensors."""

import re
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from lora.dataset.archive import Member, Skipped, unpack_archive
from lora.dataset.caption_files import CaptionFiles, GuessedEncoding, is_caption_file, read_captions
from lora.dataset.caption_hints import NO_CAPTION, SEEM_TO_BE, hint_on
from lora.dataset.captions import PromptRule
from lora.dataset.image_names import IMAGE_NAME, ImageNames
from lora.dataset.inspection import Inspection, Inspector
from lora.dataset.limits import MAX_IMAGES
from lora.dataset.names import is_user_file
from lora.dataset.pairing import Caption, Pairing, pair_captions
from lora.dataset.refusal import ContentError, naming_input
from lora.dataset.workers import map_in_order
from lora.images.files import READABLE, is_image, quiet_pillow

# Source files of photographs. Some are TIFF files whose first image is a thumbnail.
SOURCE_NAME = re.compile(
    r"\.(dng|cr[23w]|nef|nrw|arw|srf|sr2|raf|orf|rw2|pef|raw|3fr|iiq|psd|psb|xcf|ai|svg|exr|hdr)$", re.IGNORECASE
)
ARCHIVE_NAME = re.compile(r"\.(zip|tar|gz|tgz|bz2|xz|rar|7z)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Archives:
    """The archives that a user sent."""

    images: Path
    captions: Path | None  # an archive whose captions take precedence over those in the archive of images

    @classmethod
    def from_inputs(cls, images: object, *, captions: object) -> "Archives":
        """Create it from raw inputs: path objects or text."""
        return cls(Path(str(images)), Path(str(captions)) if captions else None)


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image, its caption, and the prompt that it is trained with."""

    name: str  # in the archive
    path: Path
    caption: Caption | None  # as written by the user
    prompt: str  # used in training
    inspection: Inspection


@dataclass(frozen=True, slots=True)
class Dataset:
    """The content of an archive."""

    images: tuple[CaptionedImage, ...]
    skipped: tuple[Skipped, ...]
    pairing: Pairing
    guessed_encodings: tuple[GuessedEncoding, ...]  # caption files that are not UTF-8
    suspected: tuple[Skipped, ...]  # files that seem to hold captions, and what to do with them
    empty_captions: tuple[str, ...]  # caption files without a word
    size_note: str  # how sizes were chosen so that batches fill; empty if each image has its own


def read_dataset(archives: Archives, *, into: Path, inspector: Inspector, rule: PromptRule) -> Dataset:
    """Unpack archives into subfolders of `into`, inspect every image, and pair it with its caption.

    Raises ValueError if an archive cannot be read, if there is no image, or if more than half of them are unusable.
    """
    with naming_input("input_captions"):
        caption_members = _unpack_captions(archives.captions, into=into / "captions")
    with naming_input("input_images"), quiet_pillow():
        members = unpack_archive(archives.images, into=into / "images")
        files = [member for member in members if not is_caption_file(member.name)]
        images = [file for file in files if _is_candidate(file)]
        _refuse_count(images, members)
        names = ImageNames.of(image.name for image in images)
        own = read_captions((member for member in members if is_caption_file(member.name)), names)
    with naming_input("input_captions"):
        separate = _read_separate_captions(caption_members, names)
    with naming_input("input_images"), quiet_pillow():
        size_note = inspector.share_sizes(image.path for image in images)
        inspected, bad = _inspect(images, inspector)
    pairing = _paired([member.name for member, _ in inspected], separate, own)
    texts = CaptionFiles.joined([separate, own])
    suspected = [*_hints(files, images, names), *texts.suspected]
    unused = [file for file in _others(files, images) if file.name not in {hint.name for hint in suspected}]
    skipped = [*bad, *unused, *texts.unreadable, *map(_skipped_hint, suspected)]
    captioned = [
        CaptionedImage(member.name, member.path, caption, rule.prompt(caption.text if caption else ""), inspection)
        for (member, inspection), caption in zip(inspected, pairing.captions, strict=True)
    ]
    found = tuple(captioned), tuple(skipped), pairing, texts.guessed_encodings
    return Dataset(*found, suspected=tuple(suspected), empty_captions=texts.empty, size_note=size_note)


def _is_candidate(file: Member) -> bool:
    if SOURCE_NAME.search(file.name):
        return False
    return IMAGE_NAME.search(file.name) is not None or is_image(file.path)


def _unpack_captions(archive: Path | None, *, into: Path) -> list[Member] | None:
    if archive is None:
        return None
    return unpack_archive(archive, into=into, wanted=lambda name: is_user_file(name) and is_caption_file(name))


def _read_separate_captions(members: list[Member] | None, images: ImageNames) -> CaptionFiles:
    if members is None:
        return CaptionFiles()
    texts = read_captions(members, images)
    if not texts.captions:
        raise ContentError("holds no captions: expected the tar of a training, or an archive with .txt files")
    return replace(texts, unreadable=tuple(file for file in texts.unreadable if file.reason != NO_CAPTION))


def _refuse_count(images: list[Member], members: list[Member]) -> None:
    if len(images) > MAX_IMAGES:
        raise ContentError(f"holds {len(images):,} images: expected at most {MAX_IMAGES:,}")
    inner = [member.name for member in members if ARCHIVE_NAME.search(member.name)]
    if not images and inner:
        raise ContentError(f"holds no images, only the archive {inner[0]!r}: expected the images themselves; send that")
    if not images:
        others = f"only {len(members)} other files such as {members[0].name!r}" if members else "no files at all"
        raise ContentError(f"holds no images, {others}: expected {READABLE} images")


def _inspect(images: list[Member], inspector: Inspector) -> tuple[list[tuple[Member, Inspection]], list[Skipped]]:
    """The images that can be used, and those that cannot; raises ContentError if the latter are more than half."""

    def inspected_or_skipped(member: Member) -> Inspection | Skipped:
        try:
            return inspector.inspect(member.path)
        except ValueError as error:
            return Skipped(member.name, str(error))

    inspected, bad = [], []
    with closing(map_in_order(inspected_or_skipped, images)) as results:
        for member, result in zip(images, results, strict=True):
            if isinstance(result, Inspection):
                inspected.append((member, result))
            else:
                bad.append(result)
    if len(bad) > len(inspected):
        counts = f"{len(bad)} of {len(images)} images that cannot be used"
        raise ContentError(f"holds {counts}; the first is {bad[0].name!r}: {bad[0].reason}")
    return inspected, bad


def _paired(names: list[str], separate: CaptionFiles, own: CaptionFiles) -> Pairing:
    first, second = pair_captions(names, separate.captions), pair_captions(names, own.captions)
    captions = tuple(one or other for one, other in zip(first.captions, second.captions, strict=True))
    return Pairing(captions, first.unused + second.unused, first.conflicting + second.conflicting)


def _others(files: list[Member], images: list[Member]) -> list[Skipped]:
    """The files that are neither images nor captions."""
    known = set(images)
    return [Skipped(file.name, _kind(file.name)) for file in files if file not in known]


def _hints(files: list[Member], images: list[Member], names: ImageNames) -> list[Skipped]:
    """What to do with files that seem to hold captions."""
    known = set(images)
    hints = (hint_on(file, names) for file in files if file not in known)
    return [hint for hint in hints if hint]


def _skipped_hint(hint: Skipped) -> Skipped:
    return Skipped(hint.name, f"{SEEM_TO_BE} it: {hint.reason}")


def _kind(name: str) -> str:
    if ARCHIVE_NAME.search(name):
        return "an archive inside the archive: add its images directly"
    if SOURCE_NAME.search(name):
        return "an unsupported image format: convert it to JPEG or PNG"
    return NO_CAPTION
