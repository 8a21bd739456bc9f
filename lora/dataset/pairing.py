"""Matches captions to images by file name. Knows names and texts, not images."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import PurePosixPath

from lora.dataset.names import MAX_FOLDERS, sanitize_path

TOP = "/"  # follows the outermost folder, so that two tails that include it are in the same folder


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, the file that it was read from, and the path of its image, with or without a suffix."""

    text: str
    source: str  # the name of the caption file in the archive, or who wrote it
    target: PurePosixPath
    rank: int  # of two conflicting captions, the one with the lower rank is used
    by_model: bool = False  # whether a captioner wrote it, not a person


@dataclass(frozen=True, slots=True)
class Pairing:
    """The caption of each image, or None, and the captions that are not used."""

    captions: tuple[Caption | None, ...]
    unused: tuple[Caption, ...]  # without a matching image, or with matching images in several folders
    conflicting: tuple[Caption, ...]  # different from the caption that is used for the same image

    def with_lines(self) -> "Pairing":
        """The same, with all captions that the file of a caption has for its image as further lines of it."""
        others: dict[tuple[str, PurePosixPath], list[str]] = defaultdict(list)
        for caption in self.conflicting:
            others[caption.source, caption.target].append(caption.text)
        used = {(caption.source, caption.target) for caption in self.captions if caption}
        captions = tuple(
            replace(each, text="\n".join([each.text, *more]))
            if each and (more := others[each.source, each.target])
            else each
            for each in self.captions
        )
        left = tuple(each for each in self.conflicting if (each.source, each.target) not in used)
        return Pairing(captions, self.unused, left)


Tail = tuple[str, ...]  # a file name, then its folders from the innermost outwards


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Captions whose paths share a tail with the paths of some images, and the images that they may belong to."""

    agreement: int  # length of the shared tail
    captions: list[Caption]  # sorted by rank
    images: list[int]  # indices


def pair_captions(images: list[str], captions: Iterable[Caption]) -> Pairing:
    """Match each image with the caption of the same name.

    Names are compared in Unicode normal form NFC. A caption in the folder of the image takes precedence, then one that
    shares the innermost folders (as `captions/x/a.txt` and `photos/x/a.png` do), unless it matches images in several
    folders. Among those, a caption whose name has the same case takes precedence, then one with a lower rank, then
    `a.png.txt` over `a.txt`.
    """
    all_captions, paths = list(captions), [sanitize_path(image) for image in images]
    candidates = _find_candidates(paths, all_captions)
    selected = _select(paths, candidates)
    matched_captions = {id(caption) for candidate in candidates if candidate.images for caption in candidate.captions}
    unused = [caption for caption in all_captions if id(caption) not in matched_captions]
    return Pairing(tuple(selected), tuple(unused), tuple(_conflicting(candidates, selected)))


def _find_candidates(images: list[PurePosixPath], captions: list[Caption]) -> list[_Candidates]:
    """The candidates, those with the longest shared tails first. The time is linear in images and captions."""
    by_tail: dict[Tail, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        for name in {image.name.casefold(), image.stem.casefold()}:
            for tail in _tails(name, image):
                by_tail[tail].append(index)
    groups: dict[Tail, list[Caption]] = defaultdict(list)
    for caption in captions:
        known = [tail for tail in _tails(caption.target.name, caption.target) if tail in by_tail]
        groups[known[-1] if known else ()].append(caption)
    candidates, matched = [], set[int]()
    for tail in sorted(groups, key=len, reverse=True):
        matching = _matching_images(images, by_tail.get(tail, []), matched)
        matched.update(matching)
        candidates.append(_Candidates(len(tail), sorted(groups[tail], key=lambda caption: caption.rank), matching))
    return candidates


def _tails(name: str, path: PurePosixPath) -> Iterator[Tail]:
    """The case-folded name alone, then with its folder, then with the next folder outwards, and so on."""
    parts = [part.casefold() for part in (name, *path.parts[-2::-1][:MAX_FOLDERS], TOP)]
    for length in range(1, len(parts) + 1):
        yield tuple(parts[:length])


def _matching_images(images: list[PurePosixPath], named: list[int], matched: set[int]) -> list[int]:
    """The matching images, if all are in one folder; otherwise those without a closer caption, if all are in one."""
    for some in (named, [index for index in named if index not in matched]):
        if len({images[index].parent for index in some}) == 1:
            return some
    return []


def _select(images: list[PurePosixPath], candidates: list[_Candidates]) -> list[Caption | None]:
    """The best candidate for each image."""
    choices: list[list[tuple[tuple[int, bool, int, bool], Caption]]] = [[] for _ in images]
    for candidate in candidates:
        by_name = {caption.target.name: caption for caption in reversed(candidate.captions)}
        for index in candidate.images:
            names = images[index].name, images[index].stem
            exact = [by_name[name] for name in names if name in by_name]
            for caption in exact or candidate.captions[:1]:
                is_whole_name = caption.target.name.casefold() == images[index].name.casefold()
                distance = (-candidate.agreement, not exact, caption.rank, not is_whole_name)
                choices[index].append((distance, caption))
    return [min(image_choices, key=itemgetter(0))[1] if image_choices else None for image_choices in choices]


def _conflicting(candidates: list[_Candidates], selected: list[Caption | None]) -> Iterator[Caption]:
    """Captions that differ from the ones selected for the same images."""
    for candidate in candidates:
        used = {_words(caption) for caption in (selected[index] for index in candidate.images) if caption}
        yield from (caption for caption in candidate.captions if used and _words(caption) not in used)


def _words(caption: Caption) -> str:
    return " ".join(caption.text.split())
