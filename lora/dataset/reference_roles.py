"""Finds the references in a data set for an editing LoRA, and the image that each belongs to, by names and places.

As with all roles, a name alone does not decide: a reference has the image that it belongs to, or stands beside others.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from lora.dataset.names import path_of
from lora.dataset.partners import Folder, ImagesByName, ImagesInside, Partners, PlacedFile, compared, names_beside
from lora.dataset.reference_names import (
    base_of_result,
    images_beside,
    images_elsewhere,
    is_reference_folder,
    is_reference_name,
)

DEEPEST = 8  # folders from the outermost one, of which any may be of references; our choice
Found = dict[str, Partners]  # by the name of the reference


@dataclass(frozen=True)
class Result(PlacedFile):
    """An image that is named as the result of an edit, by what it has in common with its reference."""

    base: str

    @cached_property
    def path(self) -> PurePosixPath:
        """Its path without what says that it is a result."""
        return path_of(self.file.name).with_stem(self.base)


def named_results(files: Iterable[PlacedFile]) -> Iterator[Result]:
    """Those of some images that are named as results of edits, by what they have in common with their references."""
    return (Result(each.file, base) for each in files if (base := base_of_result(each.stem)))


def find_references(files: Sequence[PlacedFile]) -> Found:
    """The references among some image files, with the images that each may belong to: none for a file that is named as
    references beside it are."""
    found: Found = {}
    for depth in range(1, DEEPEST + 1):
        found |= _in_folders(_without(files, found), depth)
    found |= _beside(_without(files, found))
    found |= _without_word(_without(files, found), found)
    return found | _without_image(_without(files, found), found)


def names_of_pairs(files: Sequence[PlacedFile]) -> tuple[str, ...]:
    """The images that would be references of others, if these are at least half of all others."""
    found = [name for name, partner in find_references(files).items() if partner.only]
    return tuple(found) if 3 * len(found) >= len(files) else ()


def _without(files: Iterable[PlacedFile], found: Mapping[str, Partners]) -> list[PlacedFile]:
    return [each for each in files if each.file.name not in found]


def _in_folders(files: Sequence[PlacedFile], depth: int) -> Found:
    """The references in folders at one depth of which most belong to an image outside of such folders."""
    groups: dict[Folder, list[PlacedFile]] = defaultdict(list)
    outside, asked = [], defaultdict[Folder, set[str]](set)
    for each in files:
        folder = each.folder[:depth]
        if len(folder) == depth and is_reference_folder(compared(folder[-1])):
            groups[folder].append(each)
            asked[folder[:-1]].update(map(str.casefold, images_elsewhere(each)))
        else:
            outside.append(each)
    if not (groups and outside):
        return {}
    images = ImagesInside(outside, asked), ImagesInside(named_results(outside), asked)
    found: Found = {}
    for folder, group in groups.items():
        partners = [_partner(images, folder, each) for each in group]
        if 2 * sum(each.count > 0 for each in partners) >= len(group):
            found |= {each.file.name: partner for each, partner in zip(group, partners, strict=True)}
    return found


def _partner(images: Iterable[ImagesInside], folder: Folder, file: PlacedFile) -> Partners:
    """The images outside of a folder of references that a file in it may belong to."""
    inner, names = file.folder[len(folder) :], images_elsewhere(file)
    return next((found for some in images if (found := some.named(folder[:-1], inner, names)).count), Partners())


def _beside(files: Sequence[PlacedFile]) -> Found:
    """The references that lie beside their image, with a word for that in their names."""
    images = ImagesByName(files)
    partners = ((each.file.name, images.named(each.folder, images_beside(each))) for each in files)
    return {name: partner for name, partner in partners if partner.count}


def _without_word(files: Sequence[PlacedFile], found: Mapping[str, Partners]) -> Found:
    """The references without a word for it in their names, beside an image that is named as the result of an edit and
    has no reference yet: `photo` beside `photo_edited`."""
    images, with_reference = ImagesByName(files), {partner.only for partner in found.values()}
    references: Found = {}
    for each in files:
        base = base_of_result(each.stem) if each.file.name not in with_reference else None
        beside = images.named(each.folder, names_beside(each, base)) if base else Partners()
        if beside.only and beside.only not in with_reference:
            references.setdefault(beside.only, Partners()).add(each.file)
    return references


def _without_image(files: Sequence[PlacedFile], found: Mapping[str, Partners]) -> Found:
    """Files that are named as references, but for no image, in a folder with references of other images."""
    with_references = {name.rpartition("/")[0] for name in found}
    belonging = {partner.only for partner in found.values()}
    return {
        each.file.name: Partners()
        for each in files
        if each.file.name.rpartition("/")[0] in with_references
        and each.file.name not in belonging
        and is_reference_name(each.stem)
    }
