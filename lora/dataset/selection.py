"""Selects the files of an archive that are unpacked, before anything is: by names, sizes and first bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora.dataset.archive import Skipped
from lora.dataset.caption_files import is_caption_file, is_meant_for_captions
from lora.dataset.file_kinds import NEITHER, has_image_name, is_text, unused_reason
from lora.dataset.limits import KIBIBYTE, MAX_BYTES_OF_A_MEMBER, MEBIBYTE
from lora.dataset.names import Listed, is_user_file
from lora.dataset.partners import ImageFile, PlacedFile
from lora.dataset.reference_roles import names_of_pairs
from lora.dataset.roles import Assigned, Role, assign_roles
from lora.images.files import may_be_image

MAX_TEXT_BYTES = 32 * MEBIBYTE  # as of a table of captions
MAX_OTHER_BYTES = 64 * KIBIBYTE  # as of a caption


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files of an archive are unpacked, and why the others are not."""

    unused: tuple[Skipped, ...]  # files that no training uses
    not_trained: tuple[Skipped, ...]  # images that have another role by their names alone
    pairs: tuple[str, ...]  # trained images that would be references of others in a training of edits
    roles: Mapping[str, Assigned]  # of unpacked images that are not trained, unless their content says otherwise
    left_out: frozenset[str]  # the names of all files that are not unpacked

    def unpacks(self, name: str) -> bool:
        """Whether a file is unpacked."""
        return is_user_file(name) and name not in self.left_out


def is_known(name: str) -> bool:
    """Whether the name of a file is enough to select it."""
    return is_caption_file(name) or has_image_name(name) or is_text(name) or unused_reason(name) is not None


def select_files(files: Sequence[Listed], *, with_references: bool = False) -> Selection:
    """Select the files to unpack: images, masks, captions, and other text that a report may look into; with references
    also these.

    Everything else counts towards no limit but that on the number of files.
    """
    reasons = {file.name: reason for file in files if (reason := _reason(file))}
    images = [ImageFile(file.name, file.size) for file in files if file.name not in reasons and _may_be_image(file)]
    roles = assign_roles(images, others=reasons, with_references=with_references)
    unpacked = {name: each for name, each in roles.items() if _is_unpacked(each)}
    placed = () if with_references else [PlacedFile(image) for image in images if image.name not in roles]
    not_trained = [Skipped(name, each.role.value) for name, each in roles.items() if name not in unpacked]
    return Selection(
        unused=tuple(Skipped(name, reason) for name, reason in reasons.items()),
        not_trained=tuple(not_trained),
        pairs=names_of_pairs(placed),
        roles=unpacked,
        left_out=frozenset(reasons) | {file.name for file in not_trained},
    )


def _is_unpacked(assigned: Assigned) -> bool:
    return assigned.role in (Role.MASK, Role.REFERENCE) or assigned.is_doubtful or assigned.may_be_mask


def _may_be_image(file: Listed) -> bool:
    return not _is_text(file.name) and (has_image_name(file.name) or may_be_image(file.head))


def _is_text(name: str) -> bool:
    return is_caption_file(name) or is_text(name)


def _reason(file: Listed) -> str | None:
    """Why a file is left out whatever role it would have."""
    if is_meant_for_captions(file.name):
        return None  # the caption reader has limits of its own
    if reason := unused_reason(file.name):
        return reason
    if _may_be_image(file):
        found = f"it has {file.size:,} bytes: expected at most {MAX_BYTES_OF_A_MEMBER:,}"
        return found if file.size > MAX_BYTES_OF_A_MEMBER else None
    return NEITHER if file.size > (MAX_TEXT_BYTES if is_text(file.name) else MAX_OTHER_BYTES) else None
