"""Reads a user's archive into validated, captioned images. Knows no tensors."""

import re
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from lora.dataset.archive import Member, Skipped, unpack_archive
from lora.dataset.caption_files import CaptionFiles, GuessedEncoding, is_caption_file, read_captions
from lora.dataset.captions import PromptRule
from lora.dataset.inspection import Inspection, Inspector
from lora.dataset.limits import MAX_IMAGES
from lora.dataset.names import is_user_file
from lora.dataset.pairing import Caption, Pairing, pair_captions
from lora.dataset.refusal import ContentError, naming_input
from lora.dataset.workers import map_in_order
from lora.images.files import READABLE, is_image, quiet_pillow

# A file with such a name counts as an image, whatever its content.
IMAGE_NAME = re.compile(
    r"\.(jpe?g|jpe|jfif|png|webp|bmp|dib|gif|tiff?|avif|hei[cf]|hif|jp2|jxl|tga|ico)$", re.IGNORECASE
)
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
        """Create it from raw inputs: path objects or text. Raises ValueError if there are no images."""
        if not str(images or "").strip():
            raise ValueError("input_images is missing: expected a zip, tar or tar.gz of images")
        return cls(Path(str(images)), Path(str(captions)) if captions else None)


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image, its caption, and the prompt that it is trained with."""

    name: str  # in the archive
    path: Path
    caption: Caption | None  # as written by the user, or by a captioner (lora/captioning)
    prompt: str  # used in training
    inspection: Inspection


@dataclass(frozen=True, slots=True)
class Dataset:
    """The content of an archive."""

    images: tuple[CaptionedImage, ...]
    skipped: tuple[Skipped, ...]
    pairing: Pairing
    guessed_encodings: tuple[GuessedEncoding, ...]  # caption files that are not UTF-8

    def without_captions_by_models(self) -> "Dataset":
        """The data set without the images whose captions a person cannot have got wrong."""
        return replace(self, images=tuple(each for each in self.images if not (each.caption and each.caption.by_model)))


def read_dataset(archives: Archives, *, into: Path, inspector: Inspector, rule: PromptRule) -> Dataset:
    """Unpack archives into subfolders of `into`, inspect every image, and pair it with its caption.

    Raises ValueError if an archive cannot be read, if there is no image, or if more than half of them are unusable.
    """
    with naming_input("input_captions"):
        separate = _read_separate_captions(archives.captions, into=into / "captions")
    with naming_input("input_images"), quiet_pillow():
        members = unpack_archive(archives.images, into=into / "images")
        texts = read_captions(member for member in members if is_caption_file(member.name))
        files = [member for member in members if not is_caption_file(member.name)]
        images = [file for file in files if _is_candidate(file)]
        _refuse_count(images, members)
        inspected, bad = _inspect(images, inspector)
    pairing = _paired([member.name for member, _ in inspected], separate, texts)
    skipped = [*bad, *_others(files, images), *separate.unreadable, *texts.unreadable]
    captioned = [
        CaptionedImage(member.name, member.path, caption, rule.prompt(caption.text if caption else ""), inspection)
        for (member, inspection), caption in zip(inspected, pairing.captions, strict=True)
    ]
    return Dataset(tuple(captioned), tuple(skipped), pairing, separate.guessed_encodings + texts.guessed_encodings)


def _is_candidate(file: Member) -> bool:
    if SOURCE_NAME.search(file.name):
        return False
    return IMAGE_NAME.search(file.name) is not None or is_image(file.path)


def _read_separate_captions(archive: Path | None, *, into: Path) -> CaptionFiles:
    if archive is None:
        return CaptionFiles((), (), ())
    members = unpack_archive(archive, into=into, wanted=lambda name: is_user_file(name) and is_caption_file(name))
    texts = read_captions(members)
    if not texts.captions:
        raise ContentError("holds no captions: expected the tar of a training, or an archive with .txt files")
    return texts


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


def _kind(name: str) -> str:
    if ARCHIVE_NAME.search(name):
        return "an archive inside the archive: add its images directly"
    if SOURCE_NAME.search(name):
        return "an unsupported image format: convert it to JPEG or PNG"
    return "neither an image nor a caption"
