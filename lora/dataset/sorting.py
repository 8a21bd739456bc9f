"""Sorts the unpacked image files by their roles: trained, masks and references of trained images, and others."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from lora.dataset.archive import Member, Skipped
from lora.dataset.caption_files import CaptionFiles
from lora.dataset.names import quoted, sanitize_path
from lora.dataset.pairing import Caption
from lora.dataset.reference_names import in_order
from lora.dataset.roles import Assigned, Role
from lora.dataset.selection import Selection
from lora.images.masks import is_color_photograph, is_cutout_file, is_silhouette
from lora.images.products import maker_of


@dataclass(frozen=True, slots=True)
class SortedFiles:
    """The image files of an archive, by role."""

    trained: tuple[Member, ...]
    masks: Mapping[str, Member]  # by the name of the trained image that each belongs to
    references: Mapping[str | None, tuple[Member, ...]]  # likewise, in order; those of no single image by None
    not_trained: tuple[Skipped, ...]  # masks too


def sort_by_role(images: Iterable[Member], selection: Selection) -> SortedFiles:
    """Sort image files, by the roles that their names have and, in doubt, by their content."""
    trained: list[Member] = []
    masks: dict[str, Member] = {}
    not_trained: list[Skipped] = []
    references: defaultdict[str | None, list[Member]] = defaultdict(list)
    for image in images:
        assigned = selection.roles.get(image.name)
        if assigned is not None and assigned.role is Role.REFERENCE:
            references[assigned.partner].append(image)
            continue
        maker = maker_of(image.path)
        if maker is not None:
            not_trained.append(Skipped(image.name, f"made by this project ({maker})"))
        elif assigned is None or _is_photograph_after_all(image, assigned):
            trained.append(image)
        else:
            if assigned.may_be_mask and is_silhouette(image.path):
                assigned = replace(assigned, role=Role.MASK)
            not_trained.append(Skipped(image.name, _reason(assigned, masks)))
            if assigned.role is Role.MASK and assigned.partner is not None:
                masks.setdefault(assigned.partner, image)
    in_their_order = {
        name: tuple(sorted(files, key=lambda file: in_order(file.name))) for name, files in references.items()
    }
    return SortedFiles(tuple(trained), masks, in_their_order, tuple(not_trained))


def _is_photograph_after_all(image: Member, assigned: Assigned) -> bool:
    """Whether a file is trained against its name. A cut-out with the name of a mask is the mask of its image."""
    if not (assigned.is_doubtful and is_color_photograph(image.path)):
        return False
    is_named_for_image = assigned.role is Role.MASK and (assigned.partner is not None or assigned.is_ambiguous)
    return not (is_named_for_image and is_cutout_file(image.path))


def _reason(assigned: Assigned, masks: Mapping[str, Member]) -> str:
    """Why an image is not trained; `masks` are those found so far."""
    if assigned.role is not Role.MASK:
        return assigned.role.value
    if assigned.is_ambiguous:
        return "a mask, and several images have its name (give them different names)"
    if assigned.partner is None:
        return "a mask, and no image has its name"
    first = masks.get(assigned.partner)
    return f"a mask of an image that has another one, {quoted(first.name)}" if first else assigned.role.value


def without_captions_of(texts: CaptionFiles, not_trained: Sequence[Skipped], trained: Sequence[Member]) -> CaptionFiles:
    """The captions without those of images that are not trained, which could else be taken for others of that name."""
    paths = _caption_paths(file.name for file in not_trained) - _caption_paths(file.name for file in trained)

    def is_used(caption: Caption) -> bool:
        return caption.target not in paths

    return replace(texts, captions=tuple(filter(is_used, texts.captions)))


def _caption_paths(images: Iterable[str]) -> set[PurePosixPath]:
    """The paths by which captions name these images: with the suffix, and without."""
    return {target for name in images for target in (sanitize_path(name), sanitize_path(name).with_suffix(""))}
