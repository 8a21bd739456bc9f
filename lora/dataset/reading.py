"""A user's archive becomes captioned images, all checked. Knows no tensors."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lora.dataset.archive import Member, unpack_archive
from lora.dataset.captions import with_trigger
from lora.dataset.images import open_picture

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
CAPTION_SUFFIX = ".txt"
MOST_CAPTION_BYTES = 64 * 1024
SHOWN = 3  # how many skipped files a summary names


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image and what it is trained with."""

    name: str  # in the archive
    path: Path
    caption: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that will not be trained, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was found in an archive."""

    images: tuple[CaptionedImage, ...]
    skipped: tuple[Skipped, ...]
    captions_found: int

    def summary(self) -> str:
        """What a person wants to know before the training starts."""
        counts = f"{len(self.images)} images, {self.captions_found} with a caption of their own"
        lines = [f"Found {counts}, {len(self.skipped)} files skipped"]
        lines += [f"  skipped {file.name!r}: {file.reason}" for file in self.skipped[:SHOWN]]
        return "\n".join([*lines, f"  a training prompt: {self.images[0].caption!r}"])


def read_dataset(archive: Path, *, into: Path, trigger_word: str) -> Dataset:
    """Unpack an archive into the new folder `into`, decode every image once and pair it with its caption.

    Raises ValueError if it cannot be read, holds no image, or if more than half of its images are bad.
    """
    members = unpack_archive(archive, into=into)
    texts = {_stem(member.name): member for member in members if _suffix(member) == CAPTION_SUFFIX}
    candidates = [member for member in members if _suffix(member) in IMAGE_SUFFIXES]
    if not candidates:
        raise ValueError(f"input_images holds {_describe(members)}: expected .jpg, .jpeg, .png or .webp images")
    images, skipped = [], []
    for member in candidates:
        try:
            images.append(_captioned(member, texts.get(_stem(member.name)), trigger_word))
        except ValueError as error:
            skipped.append(Skipped(member.name, str(error)))
    if len(skipped) * 2 > len(candidates):
        worst = skipped[0]
        counts = f"{len(skipped)} of {len(candidates)} images that cannot be used"
        raise ValueError(f"input_images holds {counts}; the first is {worst.name!r}: {worst.reason}")
    found = sum(_stem(image.name) in texts for image in images)
    return Dataset(tuple(images), tuple(skipped), found)


def _captioned(member: Member, text: Member | None, trigger_word: str) -> CaptionedImage:
    picture = open_picture(member.path)
    caption = with_trigger(_read_text(text) if text else "", trigger_word)
    return CaptionedImage(member.name, member.path, caption, *picture.size)


def _read_text(member: Member) -> str:
    content = member.path.read_bytes()
    if len(content) > MOST_CAPTION_BYTES:
        raise ValueError(f"its caption has {len(content):,} bytes: expected at most {MOST_CAPTION_BYTES:,}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("its caption is not UTF-8 text") from error


def _stem(name: str) -> str:
    """What an image and its caption have in common: the name without suffix, in one normal form and case."""
    plain = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return str(PurePosixPath(plain).with_suffix("")).casefold()


def _suffix(member: Member) -> str:
    return PurePosixPath(member.name.replace("\\", "/")).suffix.lower()


def _describe(members: list[Member]) -> str:
    if not members:
        return "no files"
    return f"no images, only {len(members)} other files such as {members[0].name!r}"
