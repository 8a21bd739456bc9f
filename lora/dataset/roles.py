"""The role of each image file in a data set: trained, or a mask, a control image, and so on for other trainers.

Roles are decided here only, from names and places. A name alone never decides, because it may be a coincidence: a mask
or a control image has the image that it belongs to, a regularization folder has images beside it, a sample has the
number of its step. Where that is not enough, the content has the last word (`is_doubtful`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from lora.dataset.file_kinds import WEIGHTS_NAME
from lora.dataset.folder_names import is_kohya_folder
from lora.dataset.names import MAX_FOLDERS, path_of


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
    is_ambiguous: bool = False  # if several images could be the partner, which is None then
    may_be_mask: bool = False  # if the content is that of a mask, the control image is one


ByKey = dict[tuple[str, tuple[str, ...]], list[ImageFile]]  # by a name or stem and the innermost folders around it

# Names are compared in lower case, with one underscore for whatever separates words.
# ai-toolkit writes _controls; SimpleTuner, musubi and sd-scripts let users name the folders, and these are the names in
# their documentation.
CERTAIN_CONTROL = re.compile(r"_controls|.*controlnet_cache")
CONTROL_FOLDER = re.compile(
    r"_?(control|controls|controlnet|conditioning|cond)(_(images?|data|dir|data_dir|path|\d+))?"
)
# sd-scripts reads both masks and control images from its conditioning_data_dir.
CONDITIONING_FOLDER = re.compile(r"conditioning(_(images?|data|dir|data_dir))?")
MAP = r"depth|canny|openpose|dwpose|line_?art|soft_?edge|scribble|hed|mlsd|segmentation"
MAP_FOLDER = re.compile(rf"({MAP}|pose)(_(maps?|images?))?")
MASK_WORDS = frozenset({"mask", "masks", "masklabel", "masklabels", "matte", "mattes", "alpha_mask", "alpha_masks"})
THUMBNAIL_FOLDER = re.compile(r"_?thumb(nail)?s?")
# Names that OneTrainer gives: the file beside the image, with this at the end of its stem.
CERTAIN_AFFIXES = {"-masklabel": Role.MASK, "-condlabel": Role.CONTROL}
MASK_BEFORE = re.compile(r"mask[-_. ]*(?=.)", re.IGNORECASE)
# Starts at the first of several separators only, so that the time is linear in a name of nothing else.
AFFIX = re.compile(
    rf"(?<![-_. ])[-_. ]+(?:(?P<mask>(?:alpha_?)?masks?|matte)|(?P<control>{MAP}|control)|"
    r"(?P<thumbnail>thumb(?:nail)?))\Z",
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
        """The innermost folders around it, outermost first, with their names as they are compared."""
        for parent in reversed(self.path.parents[:MAX_FOLDERS]):
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
        inside: dict[PurePosixPath, set[str]] = defaultdict(set)
        for folder in {folder for each in self._left for folder, _ in each.folders}:
            inside[folder.parent].add(folder.name)
        images = {each.path.parent for each in self._left}
        folders = [parent / name for parent, names in inside.items() for name in names]
        regularization = {folder for folder in folders if _is_regularization(folder, inside, images)}
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
        by_key = _by_key(subjects, {folder.parent for folder in groups})
        found: dict[str, Assigned] = {}
        for folder, group in groups.items():
            found |= _roles_in_folder(folder, group, by_key[folder.parent])
        self._assign(found)

    def _assign_affixes(self) -> None:
        """Files beside their image, with a word added to its name."""
        by_name = {(each.path.parent, each.path.stem.casefold()): each.file for each in self._left}
        found = {}
        for each in self._left:
            assigned = _role_by_affix(each, by_name)
            if assigned:
                found[each.file.name] = assigned
        self._assign(found | self._masks_without_image(found))

    def _masks_without_image(self, found: Mapping[str, Assigned]) -> dict[str, Assigned]:
        """Files that are named as masks are, beside masks of other images."""
        with_masks = {path_of(name).parent for name, each in found.items() if each.role is Role.MASK}
        return {
            each.file.name: Assigned(Role.MASK, None, is_doubtful=True)
            for each in self._left
            if each.file.name not in found and each.path.parent in with_masks and _ends_as_mask(each.path.stem)
        }


def _compared(name: str) -> str:
    return re.sub(r"[^\w]+", "_", name.casefold())


def _is_sample(placed: _Placed, runs: set[PurePosixPath]) -> bool:
    if SAMPLE_NAME.fullmatch(placed.path.stem):
        return True
    return any(SAMPLE_FOLDER.fullmatch(name) and folder.parent in runs for folder, name in placed.folders)


def _is_regularization(
    folder: PurePosixPath, inside: Mapping[PurePosixPath, set[str]], images: set[PurePosixPath]
) -> bool:
    """`inside` has the names of folders by the folder around them, and `images` the folders with images in them."""
    name = _compared(folder.name)
    if REGULARIZATION_FOLDER.fullmatch(name):
        return True
    if not SHORT_REGULARIZATION_FOLDER.fullmatch(name):
        return False
    beside = inside[folder.parent] - {folder.name}
    return (
        any(map(is_kohya_folder, (*inside.get(folder, ()), *beside)))
        or any(SUBJECT_FOLDER.fullmatch(_compared(other)) for other in beside)
        or (name == "reg" and folder.parent in images)
    )


def _folder_role(name: str) -> Role | None:
    if CERTAIN_CONTROL.fullmatch(name) or CONTROL_FOLDER.fullmatch(name) or MAP_FOLDER.fullmatch(name):
        return Role.CONTROL
    if THUMBNAIL_FOLDER.fullmatch(name):
        return Role.THUMBNAIL
    return Role.MASK if MASK_WORDS & {name, *re.split("[_0-9]+", name)} else None


def _by_key(subjects: Iterable[_Placed], around: set[PurePosixPath]) -> dict[PurePosixPath, ByKey]:
    """The images in each of some folders, at any depth, by the keys of their names and of their stems."""
    found: dict[PurePosixPath, ByKey] = {folder: defaultdict(list) for folder in around}
    for subject in subjects:
        names, parents = {subject.path.name.casefold(), subject.path.stem.casefold()}, subject.path.parent.parts
        for folder in around.intersection(subject.path.parents[:MAX_FOLDERS]):
            for tail in _tails(parents[len(folder.parts) :]):
                for name in names:
                    found[folder][name, tail].append(subject.file)
    return found


def _tails(folders: Sequence[str]) -> list[tuple[str, ...]]:
    """All of the folders around a file, the two innermost, the innermost, and none."""
    inner = [part.casefold() for part in folders[-MAX_FOLDERS:]]
    return list(dict.fromkeys(map(tuple, (["/", *inner], inner[-2:], inner[-1:], []))))


def _roles_in_folder(folder: PurePosixPath, group: list[_Placed], by_key: ByKey) -> dict[str, Assigned]:
    name = _compared(folder.name)
    is_certain = CERTAIN_CONTROL.fullmatch(name) is not None
    partners = [_partners(each.path.relative_to(folder), by_key) for each in group]
    if not is_certain and 2 * sum(map(bool, partners)) < len(group):
        return {}
    role = _folder_role(name)
    assert role is not None
    doubtful = role is Role.MASK or MAP_FOLDER.fullmatch(name) is not None
    return {
        each.file.name: Assigned(
            Role.MASK if is_certain and each.path.stem.casefold().endswith("mask") else role,
            found[0].name if len(found) == 1 else None,
            is_doubtful=doubtful and not is_certain,
            is_ambiguous=len(found) > 1,
            may_be_mask=len(found) == 1 and CONDITIONING_FOLDER.fullmatch(name) is not None,
        )
        for each, found in zip(group, partners, strict=True)
        if role is not Role.THUMBNAIL or any(each.file.size < image.size for image in found)
    }


def _partners(path: PurePosixPath, by_key: ByKey) -> list[ImageFile]:
    """The images that a file in a folder of masks or the like may belong to: those whose folders agree most from the
    end, so that `masks/a/1.png` belongs to `photos/a/1.jpg`. `path` is its path in that folder."""
    keys = [(name, tail) for name in _names(path) for tail in _tails(path.parent.parts)]
    known = max((key for key in keys if key in by_key), key=lambda key: len(key[1]), default=None)
    return by_key[known] if known else []


def _names(path: PurePosixPath) -> list[str]:
    """The names and stems that the image of a mask or a control image may have, the most likely first."""
    stem = path.stem.casefold()
    certain = next((stem.removesuffix(affix) for affix in CERTAIN_AFFIXES if stem.endswith(affix)), stem)
    # ai-toolkit's x.sapiens2_mask.webp belongs to x.jpg
    return [path.name.casefold(), stem, certain, _without_affixes(stem)[1], stem.partition(".")[0]]


def _without_affixes(stem: str) -> tuple[bool, str, re.Match[str] | None]:
    """Whether `mask` is before a stem, the stem without it and without AFFIX, and the latter."""
    before = MASK_BEFORE.match(stem)
    start = before.end() if before else 0
    after = AFFIX.search(stem, start + 1)
    return before is not None, stem[start : after.start() if after else None], after


def _ends_as_mask(stem: str) -> bool:
    after = _without_affixes(stem)[2]
    return after is not None and after["mask"] is not None


def _role_by_affix(placed: _Placed, by_name: dict[tuple[PurePosixPath, str], ImageFile]) -> Assigned | None:
    folder, stem = placed.path.parent, placed.path.stem
    for affix, role in CERTAIN_AFFIXES.items():
        if stem.casefold().endswith(affix):
            image = by_name.get((folder, stem.casefold().removesuffix(affix)))
            return Assigned(role, image.name if image else None, is_doubtful=False)
    is_before, base, found = _without_affixes(stem)
    image = by_name.get((folder, base.casefold()))
    if base == stem or image is None or image.name == placed.file.name:
        return None
    if found and found["thumbnail"]:
        is_smaller = placed.file.size < image.size
        return Assigned(Role.THUMBNAIL, image.name, is_doubtful=False) if is_smaller else None
    role = Role.CONTROL if found and found["control"] and not is_before else Role.MASK
    return Assigned(role, image.name, is_doubtful=True)
