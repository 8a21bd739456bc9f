"""Finds the image that a mask, a control image or a thumbnail belongs to, by names of files and folders."""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from lora.dataset.names import MAX_FOLDERS, path_of

Folder = tuple[str, ...]  # its path: the names of the folders around it, and its own
Tail = tuple[str, ...]  # the innermost folders around a file

# Names that OneTrainer gives: the file beside the image, with this at the end of its stem.
MASK_LABEL, CONDITION_LABEL = "-masklabel", "-condlabel"
MASK_BEFORE = re.compile(r"mask[-_. ]*(?=.)", re.IGNORECASE)
MAP = r"depth|canny|openpose|dwpose|line_?art|soft_?edge|scribble|hed|mlsd|segmentation"
# Starts at the first of several separators only, so that the time is linear in a name of nothing else.
AFFIX = re.compile(
    rf"(?<![-_. ])[-_. ]+(?:(?P<mask>(?:alpha_?)?masks?|matte)|(?P<control>{MAP}|control)|"
    r"(?P<thumbnail>thumb(?:nail)?))\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file in an archive."""

    name: str
    size: int  # bytes


@dataclass(frozen=True)
class PlacedFile:
    """An image file with its path, which is parsed once."""

    file: ImageFile

    @cached_property
    def path(self) -> PurePosixPath:
        """Its path in the archive."""
        return path_of(self.file.name)

    @cached_property
    def folder(self) -> Folder:
        """The folder that it is in."""
        return self.path.parts[:-1]

    @cached_property
    def stem(self) -> str:
        """Its name without the suffix."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class NameParts:
    """The stem of a file that may be named for an image, without what it adds to the name of that image."""

    starts_as_mask: bool
    base: str
    end: re.Match[str] | None  # of AFFIX

    @classmethod
    def of(cls, stem: str) -> "NameParts":
        """Split a stem."""
        before = MASK_BEFORE.match(stem)
        start = before.end() if before else 0
        end = AFFIX.search(stem, start + 1)
        return cls(before is not None, stem[start : end.start() if end else None], end)


def compared(name: str) -> str:
    """The name of a folder in lower case, with one underscore for whatever separates words."""
    return re.sub(r"[^\w]+", "_", name.casefold())


def folders_around(folder: Folder) -> Iterator[Folder]:
    """A folder and those around it but the root, the outermost first; only the innermost `MAX_FOLDERS`."""
    return (folder[:depth] for depth in range(max(len(folder) - MAX_FOLDERS, 0) + 1, len(folder) + 1))


@dataclass(slots=True)
class Partners:
    """The images that a file may belong to."""

    count: int = 0
    first: ImageFile | None = None
    largest: int = 0  # bytes

    def add(self, image: ImageFile) -> None:
        """Add an image."""
        self.count += 1
        self.first = self.first or image
        self.largest = max(self.largest, image.size)

    @property
    def only(self) -> str | None:
        """The name of the image, if there is one only."""
        return self.first.name if self.first and self.count == 1 else None


NONE = Partners()


class ImagesByName:
    """Some images, by their folders and names: with and without the suffix, as they are and in lower case."""

    def __init__(self, images: Iterable[PlacedFile]) -> None:
        self._found: defaultdict[tuple[Folder, str, bool], Partners] = defaultdict(Partners)
        for each in images:
            for spelling in _spellings(each):
                self._found[each.folder, *spelling].add(each.file)

    def named(self, folder: Folder, names: Iterable[str]) -> Partners:
        """The images in a folder that have the first of some names that any has."""
        known = (self._found.get((folder, *spelling)) for spelling in _as_they_are_and_folded(names))
        return next(filter(None, known), NONE)


class ImagesInside:
    """The images in some folders, at any depth, that have one of the names that are asked for there."""

    def __init__(self, images: Iterable[PlacedFile], asked: Mapping[Folder, Set[str]]) -> None:
        """`asked` has the names in lower case, by the folder."""
        self._found: defaultdict[tuple[Folder, Tail, str, bool], Partners] = defaultdict(Partners)
        for each in images:
            spellings = list(_spellings(each))
            for folder in around(each.folder, asked):
                wanted = [spelling for spelling in spellings if spelling[0].casefold() in asked[folder]]
                for tail in _tails(each.folder[len(folder) :]) if wanted else ():
                    for spelling in wanted:
                        self._found[folder, tail, *spelling].add(each.file)

    def named(self, folder: Folder, inner: Folder, names: Iterable[str]) -> Partners:
        """The images in a folder that may belong to a file in the folder `inner` elsewhere in it: those whose folders
        agree most from the end, so that `masks/a/1.png` belongs to `photos/a/1.jpg`."""
        spellings = list(_as_they_are_and_folded(names))
        keys = ((folder, tail, *spelling) for tail in _tails(inner) for spelling in spellings)
        return next((self._found[key] for key in keys if key in self._found), NONE)


def _spellings(file: PlacedFile) -> Iterator[tuple[str, bool]]:
    """The names that an image has, each with whether it is in lower case."""
    yield from dict.fromkeys(_as_they_are_and_folded((file.path.name, file.stem)))


def _as_they_are_and_folded(names: Iterable[str]) -> Iterator[tuple[str, bool]]:
    for name in names:
        yield name, False
        yield name.casefold(), True


def _tails(folders: Sequence[str]) -> list[Tail]:
    """All of the folders around a file, the two innermost, the innermost, and none."""
    inner = [part.casefold() for part in folders[-MAX_FOLDERS:]]
    return list(dict.fromkeys(map(tuple, (["/", *inner], inner[-2:], inner[-1:], []))))


def around(folder: Folder, some: Container[Folder]) -> Iterator[Folder]:
    """Those of some folders that a folder is in, or equal to, up to `MAX_FOLDERS` above it."""
    return (
        each for depth in range(max(len(folder) - MAX_FOLDERS, 0), len(folder) + 1) if (each := folder[:depth]) in some
    )


def names_beside(file: PlacedFile, base: str) -> tuple[str, str]:
    """The names that the image of a file may have that lies beside it and adds something to `base`: `1.png` for
    `1_mask.png`, before `1`, which is the stem of an image or `1.jpg` of `1.jpg_mask.png`."""
    return base + file.path.suffix, base


def names_elsewhere(file: PlacedFile) -> list[str]:
    """The names that the image of a file in a folder of masks or the like may have, the most likely first."""
    stem, folded = file.stem, file.stem.casefold()
    certain = next((stem[: -len(end)] for end in (MASK_LABEL, CONDITION_LABEL) if folded.endswith(end)), stem)
    # ai-toolkit's x.sapiens2_mask.webp belongs to x.jpg
    return [file.path.name, stem, certain, NameParts.of(stem).base, stem.partition(".")[0]]
