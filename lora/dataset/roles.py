"""The role of each image file in a data set: trained, or a mask, a control image, and so on for other trainers.

Roles are decided here only, from names and places. A name alone never decides, because it may be a coincidence: a mask
or a control image has the image that it belongs to, a regularization folder has images beside it, a sample has the
number of its step. Where that is not enough, the content has the last word (`is_doubtful`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from lora.dataset.file_kinds import WEIGHTS_NAME
from lora.dataset.folder_names import is_kohya_folder
from lora.dataset.names import path_of
from lora.dataset.partners import (
    CONDITION_LABEL,
    MAP,
    MASK_LABEL,
    Folder,
    ImageFile,
    ImagesByName,
    ImagesInside,
    NameParts,
    Partners,
    PlacedFile,
    compared,
    folders_around,
    names_beside,
    names_elsewhere,
)
from lora.dataset.reference_names import is_reference_folder
from lora.dataset.reference_roles import Result, find_references, named_results


class Role(Enum):
    """What an image file is for, if not for training. The value is the reason why it is not trained."""

    MASK = "a mask: it belongs to an image of that name, and is not trained as one"
    CONTROL = "a control image: only the image that it belongs to is trained; lora_type edit trains with both"
    REFERENCE = "a reference: its image is trained with it"
    REGULARIZATION = "a regularization image, not the subject: preservation does the same without such images"
    SAMPLE = "a sample of another training"
    THUMBNAIL = "a thumbnail: the image itself is there"


@dataclass(frozen=True, slots=True)
class Assigned:
    """The role of an image file that is not trained."""

    role: Role
    partner: str | None  # the image that a mask, a control image or a thumbnail belongs to
    is_doubtful: bool  # if the content is that of a color photograph, it is trained after all
    is_ambiguous: bool = False  # if several images could be the partner, which is None then
    may_be_mask: bool = False  # if the content is that of a mask, the control image is one


# Names are compared in lower case, with one underscore for whatever separates words.
# ai-toolkit writes _controls; SimpleTuner, musubi and sd-scripts let users name the folders, and these are the names in
# their documentation.
CERTAIN_CONTROL = re.compile(r"_controls|.*controlnet_cache")
CONTROL_FOLDER = re.compile(
    r"_?(control|controls|controlnet|conditioning|cond)(_(images?|data|dir|data_dir|path|\d+))?"
)
# sd-scripts reads both masks and control images from its conditioning_data_dir.
CONDITIONING_FOLDER = re.compile(r"conditioning(_(images?|data|dir|data_dir))?")
MAP_FOLDER = re.compile(rf"({MAP}|pose)(_(maps?|images?))?")
MASK_WORDS = frozenset({"mask", "masks", "masklabel", "masklabels", "matte", "mattes", "alpha_mask", "alpha_masks"})
THUMBNAIL_FOLDER = re.compile(r"_?thumb(nail)?s?")
CERTAIN_AFFIXES = {MASK_LABEL: Role.MASK, CONDITION_LABEL: Role.CONTROL}
# kohya's sd-scripts takes the folder from --reg_data_dir, diffusers from --class_data_dir. A folder of the second kind
# needs more evidence, as it may be somebody's name, or a class of a school.
REGULARIZATION_FOLDER = re.compile(
    r"(reg(s|ulari[sz]ation)?(_(images?|imgs?|data|set|dir))(_.*)?|regulari[sz]ation.*|class_(images?|imgs?|data|dir))"
)
SHORT_REGULARIZATION_FOLDER = re.compile(r"reg|regs|class|classes|prior")
SUBJECT_FOLDER = re.compile(r"(img|images?|instance|train|training|subject|data|dataset|photos?)(_(images?|data|dir))?")
SAMPLE_FOLDER = re.compile(r"samples?|validation_images")
SAMPLE_NAME = re.compile(
    r"\d{10,13}__\d{9}_\d+"  # ai-toolkit: time, step, number
    r"|(.+_)?(e\d{6}|\d{6})_\d{2}_\d{14}(_\d+)?"  # sd-scripts, fluxgym, musubi: epoch or step, number, time, seed
    r"|.*-?training-sample-\d+-\d+-\d+"  # OneTrainer: step, epoch, step of the epoch
    r"|step_\d+_.+_\d+_\d+x\d+",  # SimpleTuner: step, prompt, number, size
    re.IGNORECASE,
)


def assign_roles(
    images: Sequence[ImageFile], others: Iterable[str], *, with_references: bool = False
) -> dict[str, Assigned]:
    """The roles of the images that are not trained, by name. `others` are the names of the other files. With
    references, there are more names for them than for control images, and these are references, too."""
    roles = _Assignment(images, others, with_references=with_references).roles
    return {name: _as_reference(each) for name, each in roles.items()} if with_references else roles


def _as_reference(assigned: Assigned) -> Assigned:
    """A control image is a reference of the image that it belongs to, whatever its content."""
    if assigned.role is not Role.CONTROL or not (assigned.partner or assigned.is_ambiguous):
        return assigned
    return Assigned(Role.REFERENCE, assigned.partner, is_doubtful=False, is_ambiguous=assigned.is_ambiguous)


class _Assignment:
    """Assigns roles step by step; each step sees only the images that have no role yet."""

    def __init__(self, images: Sequence[ImageFile], others: Iterable[str], *, with_references: bool) -> None:
        self.roles: dict[str, Assigned] = {}
        self._left = [PlacedFile(file) for file in images]
        self._results: list[Result] = []  # of the images with references: other roles may be named for what both share
        self._assign_samples({path_of(name).parts[:-1] for name in others if WEIGHTS_NAME.search(name)})
        self._assign_regularization()
        if with_references:
            self._assign_references()
        self._assign_folders()
        self._assign_affixes()

    def _assign(self, found: dict[str, Assigned]) -> None:
        """Assign some roles, unless no image would be left."""
        left = [placed for placed in self._left if placed.file.name not in found]
        if left:
            self.roles |= found
            self._left = left

    def _folders(self) -> set[Folder]:
        """The folders with images in them."""
        return {each.folder for each in self._left}

    def _assign_samples(self, runs: set[Folder]) -> None:
        """Samples, by their names, or by the weights beside their folder."""
        sample = Assigned(Role.SAMPLE, None, is_doubtful=False)
        folders = {each for each in self._folders() if any(_is_of_samples(one, runs) for one in folders_around(each))}
        is_sample = (each for each in self._left if each.folder in folders or SAMPLE_NAME.fullmatch(each.stem))
        self._assign({each.file.name: sample for each in is_sample})

    def _assign_regularization(self) -> None:
        images = self._folders()
        around = {folder for each in images for folder in folders_around(each)}
        regularization = _regularization_folders(around, images)
        found = {each for each in images if any(folder in regularization for folder in folders_around(each))}
        role = Assigned(Role.REGULARIZATION, None, is_doubtful=False)
        self._assign({each.file.name: role for each in self._left if each.folder in found})

    def _assign_references(self) -> None:
        """References of images outside of folders that have another role, or of all images if there are none such: a
        subject may be masks."""
        others = set(filter(_has_another_role, self._folders()))
        outside = [each for each in self._left if each.folder not in others]
        found = find_references(outside) or find_references(self._left)
        self._assign({name: _belonging(Role.REFERENCE, partners) for name, partners in found.items()})
        with_reference = {partners.only for partners in found.values()}
        self._results = list(named_results(each for each in self._left if each.file.name in with_reference))

    def _assign_folders(self) -> None:
        """Folders of masks, control images and thumbnails of which most belong to an image outside of them."""
        folders = {each: next(filter(_folder_role, folders_around(each)), None) for each in self._folders()}
        groups: dict[Folder, list[PlacedFile]] = defaultdict(list)
        asked: dict[Folder, set[str]] = defaultdict(set)
        for each in self._left:
            folder = folders[each.folder]
            if folder is not None:
                groups[folder].append(each)
                asked[folder[:-1]].update(map(str.casefold, names_elsewhere(each)))
        outside = (each for each in [*self._left, *self._results] if folders[each.folder] is None)
        images = ImagesInside(outside, asked)
        found: dict[str, Assigned] = {}
        for folder, group in groups.items():
            found |= _roles_in_folder(folder, group, images)
        self._assign(found)

    def _assign_affixes(self) -> None:
        """Files beside their image, with a word added to its name."""
        images = ImagesByName([*self._left, *self._results])
        roles = {each.file.name: _role_by_affix(each, images) for each in self._left}
        found = {name: assigned for name, assigned in roles.items() if assigned}
        self._assign(found | self._masks_without_image(found))

    def _masks_without_image(self, found: Mapping[str, Assigned]) -> dict[str, Assigned]:
        """Files that are named as masks are, beside masks of other images."""
        masks = {name for name, each in found.items() if each.role is Role.MASK}
        with_masks = {each.folder for each in self._left if each.file.name in masks}
        return {
            each.file.name: Assigned(Role.MASK, None, is_doubtful=True)
            for each in self._left
            if each.file.name not in found and each.folder in with_masks and _ends_as_mask(each.stem)
        }


def _is_of_samples(folder: Folder, runs: set[Folder]) -> bool:
    return folder[:-1] in runs and SAMPLE_FOLDER.fullmatch(compared(folder[-1])) is not None


def _regularization_folders(folders: set[Folder], images: set[Folder]) -> set[Folder]:
    """Those of some folders that hold regularization images; `images` are the folders with images in them."""
    with_kohya = {each[:-1] for each in folders if is_kohya_folder(each[-1])}
    with_subject = {each[:-1] for each in folders if SUBJECT_FOLDER.fullmatch(compared(each[-1]))}

    def is_one(folder: Folder) -> bool:
        name, around = compared(folder[-1]), folder[:-1]
        if REGULARIZATION_FOLDER.fullmatch(name):
            return True
        if not SHORT_REGULARIZATION_FOLDER.fullmatch(name):
            return False
        has_subject = folder in with_kohya or around in with_kohya or around in with_subject
        return has_subject or (name == "reg" and around in images)

    return set(filter(is_one, folders))


def _has_another_role(folder: Folder) -> bool:
    """Whether a folder, or one around it, has the name of one for masks or the like, and none that of references."""
    around = list(folders_around(folder))
    return any(map(_folder_role, around)) and not any(is_reference_folder(compared(each[-1])) for each in around)


def _folder_role(folder: Folder) -> Role | None:
    name = compared(folder[-1])
    if CERTAIN_CONTROL.fullmatch(name) or CONTROL_FOLDER.fullmatch(name) or MAP_FOLDER.fullmatch(name):
        return Role.CONTROL
    if THUMBNAIL_FOLDER.fullmatch(name):
        return Role.THUMBNAIL
    return Role.MASK if MASK_WORDS & {name, *re.split("[_0-9]+", name)} else None


def _roles_in_folder(folder: Folder, group: list[PlacedFile], images: ImagesInside) -> dict[str, Assigned]:
    name = compared(folder[-1])
    is_certain = CERTAIN_CONTROL.fullmatch(name) is not None
    partners = [images.named(folder[:-1], each.folder[len(folder) :], names_elsewhere(each)) for each in group]
    if not is_certain and 2 * sum(found.count > 0 for found in partners) < len(group):
        return {}
    role = _folder_role(folder)
    assert role is not None
    doubtful = role is Role.MASK or MAP_FOLDER.fullmatch(name) is not None
    return {
        each.file.name: Assigned(
            Role.MASK if is_certain and each.path.stem.casefold().endswith("mask") else role,
            found.only,
            is_doubtful=doubtful and not is_certain,
            is_ambiguous=found.count > 1,
            may_be_mask=found.count == 1 and CONDITIONING_FOLDER.fullmatch(name) is not None,
        )
        for each, found in zip(group, partners, strict=True)
        if role is not Role.THUMBNAIL or each.file.size < found.largest
    }


def _ends_as_mask(stem: str) -> bool:
    end = NameParts.of(stem).end
    return end is not None and end["mask"] is not None


def _role_by_affix(placed: PlacedFile, images: ImagesByName) -> Assigned | None:
    stem = placed.stem
    for affix, role in CERTAIN_AFFIXES.items():
        if stem.casefold().endswith(affix):
            return _belonging(role, images.named(placed.folder, names_beside(placed, stem[: -len(affix)])))
    parts = NameParts.of(stem)
    if parts.base == stem:
        return None
    found = images.named(placed.folder, names_beside(placed, parts.base))
    if not found.count:
        return None
    if parts.end and parts.end["thumbnail"]:
        is_smaller = placed.file.size < found.largest
        return _belonging(Role.THUMBNAIL, found) if is_smaller else None
    is_control = parts.end and parts.end["control"] and not parts.starts_as_mask
    return _belonging(Role.CONTROL if is_control else Role.MASK, found, is_doubtful=True)


def _belonging(role: Role, found: Partners, *, is_doubtful: bool = False) -> Assigned:
    return Assigned(role, found.only, is_doubtful=is_doubtful, is_ambiguous=found.count > 1)
