"""Unpacks an archive of images, and sorts its files by what they are for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.dataset.archive import Member, Skipped, list_archive, unpack_archive
from lora.dataset.caption_files import is_caption_file
from lora.dataset.file_kinds import ARCHIVE_NAME, has_image_name
from lora.dataset.limits import MAX_IMAGES
from lora.dataset.names import Listed, quoted
from lora.dataset.references import refuse_unpaired
from lora.dataset.refusal import ContentError
from lora.dataset.selection import Selection, is_known, select_files
from lora.dataset.sorting import SortedFiles, sort_by_role
from lora.images.files import READABLE, is_image


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The files of an archive of images."""

    selection: Selection
    by_role: SortedFiles
    not_trained: tuple[Skipped, ...]  # unpacked or not
    captions: list[Member]
    others: list[Member]


def unpack_images(archive: Path, *, into: Path, with_references: bool) -> Unpacked:
    """Unpack an archive of images and sort its files. Raises ContentError if what it holds cannot be trained."""
    listed = list_archive(archive, known=is_known)
    selection = select_files(listed, with_references=with_references)
    members = unpack_archive(archive, into=into, wanted=selection.unpacks)
    captions = [member for member in members if is_caption_file(member.name)]
    files = _without(members, captions)
    images = [file for file in files if _is_candidate(file)]
    by_role = sort_by_role(images, selection)
    not_trained = (*selection.not_trained, *by_role.not_trained)
    _refuse_count(by_role.trained, not_trained, listed)
    if with_references:
        refuse_unpaired(by_role, selection)
    return Unpacked(selection, by_role, not_trained, captions, _without(files, images))


def _is_candidate(file: Member) -> bool:
    return has_image_name(file.name) or is_image(file.path)


def _without(files: Iterable[Member], images: Iterable[Member]) -> list[Member]:
    left_out = set(images)
    return [file for file in files if file not in left_out]


def _refuse_count(images: Sequence[Member], not_trained: Sequence[Skipped], listed: Sequence[Listed]) -> None:
    if len(images) > MAX_IMAGES:
        raise ContentError(f"holds {len(images):,} images: expected at most {MAX_IMAGES:,}")
    inner = [file.name for file in listed if ARCHIVE_NAME.search(file.name)]
    if not images and inner:
        raise ContentError(f"holds no images, only the archive {inner[0]!r}: expected the images themselves; send that")
    if not images and (first := next((file for file in not_trained if has_image_name(file.name)), None)):
        raise ContentError(f"holds no images to train; the first is {quoted(first.name)}: {first.reason}")
    if not images:
        others = f"only {len(listed)} other files such as {listed[0].name!r}" if listed else "no files at all"
        raise ContentError(f"holds no images, {others}: expected {READABLE} images")
