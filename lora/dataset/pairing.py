"""Which caption belongs to which image: the same name, as near as can be. Knows names and texts, no pictures."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from lora.dataset.names import path_of


@dataclass(frozen=True, slots=True)
class Caption:
    """A text, where it stands, and the name of the image it is for: with a suffix or without, in some folder."""

    text: str
    source: str  # the file it was read from, as it is called in the archive
    target: PurePosixPath
    rank: int  # of two that say something else, the one of the lower rank holds

    @property
    def folder(self) -> tuple[str, ...]:
        """Where the image is expected."""
        return self.target.parts[:-1]


@dataclass(frozen=True, slots=True)
class Pairing:
    """For each image its caption, or None; and what a person should know about them."""

    captions: tuple[Caption | None, ...]
    unused: tuple[Caption, ...]
    overruled: tuple[Caption, ...]  # those that say something else than the one that was taken


def pair(images: list[str], captions: Iterable[Caption]) -> Pairing:
    """Give each image the caption of its name.

    Names are compared in one normal form of Unicode. A caption in the image's own folder comes first, then one whose
    folders agree with the image's from the end (as `captions/x/a.txt` does with `photos/x/a.png`), unless images of
    several folders could have it. A caption named `a.png.txt` is for that file before `a.txt`; and one with the same
    upper and lower case before others.
    """
    found = list(captions)
    paths = [path_of(image) for image in images]
    candidates = _candidates(paths, found)
    taken, overruled = [], []
    for path, mine in zip(paths, candidates, strict=True):
        ordered = sorted(mine, key=lambda caption: _distance(path, caption))
        taken.append(ordered[0] if ordered else None)
        overruled += [other for other in ordered[1:] if _contradicts(path, ordered[0], other)]
    used = {id(caption) for mine in candidates for caption in mine}
    unused = [caption for caption in found if id(caption) not in used]
    return Pairing(tuple(taken), tuple(unused), tuple({id(each): each for each in overruled}.values()))


def _candidates(images: list[PurePosixPath], captions: list[Caption]) -> list[list[Caption]]:
    """For each image the captions that may be its own."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        for name in {image.name.casefold(), image.stem.casefold()}:
            by_name[name].append(index)
    nearest = [_nearest(images, by_name[caption.target.name.casefold()], caption) for caption in captions]
    candidates: list[list[Caption]] = [[] for _ in images]
    for (_, indices), caption in sorted(zip(nearest, captions, strict=True), key=lambda each: each[0][0], reverse=True):
        # Where images of several folders could have it, those come first that no nearer caption is for.
        is_clear = len({images[index].parent for index in indices}) == 1
        unserved = indices if is_clear else [index for index in indices if not candidates[index]]
        if len({images[index].parent for index in unserved}) == 1:
            for index in unserved:
                candidates[index].append(caption)
    return candidates


def _nearest(images: list[PurePosixPath], namesakes: list[int], caption: Caption) -> tuple[tuple[bool, int], list[int]]:
    """How near a caption comes to an image of its name, and the images that it comes so near to."""
    agreements = {index: _agreement(images[index], caption) for index in namesakes}
    best = max(agreements.values(), default=(False, 0))
    return best, [index for index in namesakes if agreements[index] == best]


def _agreement(image: PurePosixPath, caption: Caption) -> tuple[bool, int]:
    """How well the folders agree: whether they are the same, and else how many are, counted from the end."""
    mine, theirs = image.parts[:-1], caption.folder
    same = 0
    while same < min(len(mine), len(theirs)) and mine[-1 - same].casefold() == theirs[-1 - same].casefold():
        same += 1
    return same == len(mine) == len(theirs), same


def _distance(image: PurePosixPath, caption: Caption) -> tuple[bool, int, bool, bool, int]:
    """Smaller is nearer."""
    is_same_folder, same = _agreement(image, caption)
    name = caption.target.name
    is_whole_name = name.casefold() == image.name.casefold()
    return not is_same_folder, -same, not is_whole_name, name not in (image.name, image.stem), caption.rank


def _contradicts(image: PurePosixPath, taken: Caption, other: Caption) -> bool:
    is_as_near = _distance(image, taken)[:2] == _distance(image, other)[:2]
    is_as_exact = _distance(image, taken)[3] == _distance(image, other)[3]
    return is_as_near and is_as_exact and taken.text.split() != other.text.split()
