"""The role of each image file in a data set: trained, or a mask, a control image, and so on for other trainers.

Roles are decided here only, from names and places. A name alone never decides, because it may be a coincidence: a mask
or a control image has the image that it belongs to, a regularization folder has images beside it, a sample has the
number of its step. Where that is not enough, the content has the last word (`is_doubtful`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from lora.dataset.file_kinds import WEIGHTS_NAME
from lora.dataset.folder_names import is_kohya_folder
from lora.dataset.names import path_of


class Role(Enum):
    """What an image file is for, if not for training. The value is the reason why it is not trained."""

    MASK = "a mask: it belongs to an image of that name, and is not trained as one"
    CONTROL = "a control image: only the image that it belongs to is trained"
    REGULARIZATION = "a regularization image, not the subject: preservation does the same without such images"
    SAMPLE = "a sample of another training"
    THUMBNAIL = "a thumbnail: the image itself is there"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file in an archive."""

    name: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Assigned:
    """The role of an image file that is not trained."""

    role: Role
    partner: str | None  # the image that a mask, a control image or a thumbnail belongs to
    is_doubtful: bool  # if the content is that of a color photograph, it is trained after all


# Names are compared in lower case, with one underscore for whatever separates words.
# ai-toolkit writes _controls; SimpleTuner, musubi and sd-scripts let users name the folders, and these are the names in
# their documentation.
CERTAIN_CONTROL = re.compile(r"_controls|.*controlnet_cache")
CONTROL_FOLDER = re.compile(r"_?(control|controls|controlnet|conditioning|cond)(_(images?|data|dir|path|\d+))?")
MAP = r"depth|canny|openpose|dwpose|line_?art|soft_?edge|scribble|hed|mlsd|segmentation"
MAP_FOLDER = re.compile(rf"({MAP}|pose)(_(maps?|images?))?")
MASK_WORDS = frozenset({"mask", "masks", "masklabel", "masklabels", "matte", "mattes", "alpha_mask", "alpha_masks"})
THUMBNAIL_FOLDER = re.compile(r"_?thumb(nail)?s?")
# Names that OneTrainer gives: the file beside the image, with this at the end of its stem.
CERTAIN_AFFIXES = {"-masklabel": Role.MASK, "-condlabel": Role.CONTROL}
AFFIX = re.compile(
    rf"(?P<before>mask[-_. ]*)?(?P<base>.+?)(?:[-_. ]+(?:(?P<mask>(?:alpha_?)?masks?|matte)|(?P<map>{MAP})|"
    r"(?P<control>control)|(?P<thumbnail>thumb(?:nail)?)))?",
    re.IGNORECASE,
)
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


def assign_roles(images: Sequence[ImageFile], others: Iterable[str]) -> dict[str, Assigned]:
    """The roles of the images that are not trained, by name. `others` are the names of the other files."""
    return _Assignment(images, others).roles


@dataclass(frozen=True, slots=True)
class _Placed:
    """An image file, its path, and what its path says."""

    file: ImageFile
    path: PurePosixPath

    @property
    def folders(self) -> Iterator[tuple[PurePosixPath, str]]:
        """The folders around it, outermost first, with their names as they are compared."""
        for parent in reversed(self.path.parents):
            if parent.name:
                yield parent, _compared(parent.name)


class _Assignment:
    """Assigns roles step by step; each step sees only the images that have no role yet."""

    def __init__(self, images: Sequence[ImageFile], others: Iterable[str]) -> None:
        self.roles: dict[str, Assigned] = {}
        self._left = [_Placed(file, path_of(file.name)) for file in images]
        self._assign_samples({path_of(name).parent for name in others if WEIGHTS_NAME.search(name)})
        self._assign_regularization()
        self._assign_folders()
        self._assign_affixes()

    def _assign(self, found: dict[str, Assigned]) -> None:
        """Assign some roles, unless no image would be left."""
        left = [placed for placed in self._left if placed.file.name not in found]
        if left:
            self.roles |= found
            self._left = left

    def _assign_samples(self, runs: set[PurePosixPath]) -> None:
        """Samples, by their names, or by the weights beside their folder."""
        sample = Assigned(Role.SAMPLE, None, is_doubtful=False)
        self._assign({each.file.name: sample for each in self._left if _is_sample(each, runs)})

    def _assign_regularization(self) -> None:
        folders = {folder for each in self._left for folder, _ in each.folders}
        images = {each.path.parent for each in self._left}
        regularization = {folder for folder in folders if _is_regularization(folder, folders, images)}
        found = {
            each.file.name: Assigned(Role.REGULARIZATION, None, is_doubtful=False)
            for each in self._left
            if any(folder in regularization for folder, _ in each.folders)
        }
        self._assign(found)

    def _assign_folders(self) -> None:
        """Folders of masks, control images and thumbnails of which most belong to an image outside of them."""
        groups: dict[PurePosixPath, list[_Placed]] = {}
        for each in self._left:
            folder = next((folder for folder, name in each.folders if _folder_role(name)), None)
            if folder is not None:
                groups.setdefault(folder, []).append(each)
        grouped = {each.file.name for group in groups.values() for each in group}
        subjects = [each for each in self._left if each.file.name not in grouped]
        for folder, group in groups.items():
            self._assign(_roles_in_folder(folder, group, subjects))

    def _assign_affixes(self) -> None:
        """Files beside their image, with a word added to its name."""
        by_name = {(each.path.parent, each.path.stem.casefold()): each.file for each in self._left}
        found = {}
        for each in self._left:
            assigned = _role_by_affix(each, by_name)
            if assigned:
                found[each.file.name] = assigned
        self._assign(found)


def _compared(name: str) -> str:
    return re.sub(r"[^\w]+", "_", name.casefold())


def _is_sample(placed: _Placed, runs: set[PurePosixPath]) -> bool:
    if SAMPLE_NAME.fullmatch(placed.path.stem):
        return True
    return any(SAMPLE_FOLDER.fullmatch(name) and folder.parent in runs for folder, name in placed.folders)


def _is_regularization(folder: PurePosixPath, folders: set[PurePosixPath], images: set[PurePosixPath]) -> bool:
    name = _compared(folder.name)
    if REGULARIZATION_FOLDER.fullmatch(name):
        return True
    if not SHORT_REGULARIZATION_FOLDER.fullmatch(name):
        return False
    inside = [other.name for other in folders if other.parent == folder]
    beside = [other.name for other in folders if other.parent == folder.parent and other != folder]
    return (
        any(map(is_kohya_folder, (*inside, *beside)))
        or any(SUBJECT_FOLDER.fullmatch(_compared(other)) for other in beside)
        or (name == "reg" and folder.parent in images)
    )


def _folder_role(name: str) -> Role | None:
    if CERTAIN_CONTROL.fullmatch(name) or CONTROL_FOLDER.fullmatch(name) or MAP_FOLDER.fullmatch(name):
        return Role.CONTROL
    if THUMBNAIL_FOLDER.fullmatch(name):
        return Role.THUMBNAIL
    return Role.MASK if MASK_WORDS & {name, *re.split("[_0-9]+", name)} else None


def _roles_in_folder(folder: PurePosixPath, group: list[_Placed], subjects: list[_Placed]) -> dict[str, Assigned]:
    name = _compared(folder.name)
    is_certain = CERTAIN_CONTROL.fullmatch(name) is not None
    by_name: dict[str, ImageFile] = {}
    for subject in subjects:
        if folder.parent in subject.path.parents:
            for key in (subject.path.name, subject.path.stem):
                by_name.setdefault(key.casefold(), subject.file)
    partners = [next((by_name[key] for key in _keys(each.path.stem) if key in by_name), None) for each in group]
    if not is_certain and 2 * sum(partner is not None for partner in partners) < len(group):
        return {}
    role = _folder_role(name)
    assert role is not None
    doubtful = role is Role.MASK or MAP_FOLDER.fullmatch(name) is not None
    return {
        each.file.name: Assigned(
            Role.MASK if is_certain and each.path.stem.endswith("mask") else role,
            partner.name if partner else None,
            is_doubtful=doubtful and not is_certain,
        )
        for each, partner in zip(group, partners, strict=True)
        if role is not Role.THUMBNAIL or (partner and each.file.size < partner.size)
    }


def _keys(stem: str) -> list[str]:
    """The stems that the image of a mask or a control image may have."""
    found = AFFIX.fullmatch(stem)
    certain = next((stem.removesuffix(affix) for affix in CERTAIN_AFFIXES if stem.endswith(affix)), stem)
    # ai-toolkit's x.sapiens2_mask.webp belongs to x.jpg
    return [key.casefold() for key in (stem, certain, found["base"] if found else stem, stem.partition(".")[0])]


def _role_by_affix(placed: _Placed, by_name: dict[tuple[PurePosixPath, str], ImageFile]) -> Assigned | None:
    folder, stem = placed.path.parent, placed.path.stem
    for affix, role in CERTAIN_AFFIXES.items():
        if stem.casefold().endswith(affix):
            image = by_name.get((folder, stem.casefold().removesuffix(affix)))
            return Assigned(role, image.name if image else None, is_doubtful=False)
    found = AFFIX.fullmatch(stem)
    if not found or found["base"] == stem:
        return None
    image = by_name.get((folder, found["base"].casefold()))
    if image is None or image.name == placed.file.name:
        return None
    if found["thumbnail"]:
        is_smaller = placed.file.size < image.size
        return Assigned(Role.THUMBNAIL, image.name, is_doubtful=False) if is_smaller else None
    role = Role.MASK if found["mask"] or found["before"] else Role.CONTROL
    return Assigned(role, image.name, is_doubtful=True)
