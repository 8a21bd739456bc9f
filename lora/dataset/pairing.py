"""Which caption belongs to which image: the same name, as near as can be. Knows names and texts, no pictures."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import PurePosixPath

from lora.dataset.names import inside

MOST_FOLDERS = 16  # that are compared, from the end
TOP = "/"  # stands above the outermost folder, so that two paths which agree down to it are in the same one


@dataclass(frozen=True, slots=True)
class Caption:
    """A text, where it stands, and the name of the image it is for: with a suffix or without, in some folder."""

    text: str
    source: str  # the file it was read from, as it is called in the archive
    target: PurePosixPath
    rank: int  # of two that say something else, the one of the lower rank holds


@dataclass(frozen=True, slots=True)
class Pairing:
    """For each image its caption, or None; and what a person should know about them."""

    captions: tuple[Caption | None, ...]
    unused: tuple[Caption, ...]  # those for which no image was found, or several in several folders
    conflicting: tuple[Caption, ...]  # those that say something else than the one that was taken


Tail = tuple[str, ...]  # a name, then its folders from the innermost outwards


@dataclass(frozen=True, slots=True)
class _Offer:
    """Captions whose paths agree equally far with those of some images, and which of the images may have them."""

    agreement: int  # length of the tail that they share
    captions: list[Caption]  # those that hold first
    images: list[int]


def pair(images: list[str], captions: Iterable[Caption]) -> Pairing:
    """Give each image the caption of its name.

    Names are compared in one normal form of Unicode. A caption in the image's own folder comes first, then one whose
    folders agree with the image's from the end (as `captions/x/a.txt` does with `photos/x/a.png`), unless images of
    several folders could have it. Of those, one with the same upper and lower case comes before others, then one of a
    lower rank, then one named `a.png.txt` before `a.txt`.
    """
    found, paths = list(captions), [inside(image) for image in images]
    offers = _offers(paths, found)
    taken = _taken(paths, offers)
    offered = {id(caption) for offer in offers if offer.images for caption in offer.captions}
    unused = [caption for caption in found if id(caption) not in offered]
    return Pairing(tuple(taken), tuple(unused), tuple(_overruled(offers, taken)))


def _offers(images: list[PurePosixPath], captions: list[Caption]) -> list[_Offer]:
    """The nearest first. It takes time for each image and each caption, not for each two of them."""
    by_tail: dict[Tail, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        for name in {image.name.casefold(), image.stem.casefold()}:
            for tail in _tails(name, image):
                by_tail[tail].append(index)
    groups: dict[Tail, list[Caption]] = defaultdict(list)
    for caption in captions:
        known = [tail for tail in _tails(caption.target.name, caption.target) if tail in by_tail]
        groups[known[-1] if known else ()].append(caption)
    offers, served = [], set[int]()
    for tail in sorted(groups, key=len, reverse=True):
        receivers = _receivers(images, by_tail.get(tail, []), served)
        served.update(receivers)
        offers.append(_Offer(len(tail), sorted(groups[tail], key=lambda caption: caption.rank), receivers))
    return offers


def _tails(name: str, path: PurePosixPath) -> Iterator[Tail]:
    """A name alone, with the folder of its path, and so on outwards, in one case."""
    parts = [part.casefold() for part in (name, *path.parts[-2::-1][:MOST_FOLDERS], TOP)]
    for length in range(1, len(parts) + 1):
        yield tuple(parts[:length])


def _receivers(images: list[PurePosixPath], named: list[int], served: set[int]) -> list[int]:
    """Where images of several folders could have a caption, those come first that no nearer caption is for."""
    for some in (named, [index for index in named if index not in served]):
        if len({images[index].parent for index in some}) == 1:
            return some
    return []


def _taken(images: list[PurePosixPath], offers: list[_Offer]) -> list[Caption | None]:
    """For each image the best that it is offered."""
    choices: list[list[tuple[tuple[int, bool, int, bool], Caption]]] = [[] for _ in images]
    for offer in offers:
        by_name = {caption.target.name: caption for caption in reversed(offer.captions)}
        for index in offer.images:
            names = images[index].name, images[index].stem
            exact = [by_name[name] for name in names if name in by_name]
            for caption in exact or offer.captions[:1]:
                is_whole_name = caption.target.name.casefold() == images[index].name.casefold()
                distance = (-offer.agreement, not exact, caption.rank, not is_whole_name)
                choices[index].append((distance, caption))
    return [min(mine, key=itemgetter(0))[1] if mine else None for mine in choices]


def _overruled(offers: list[_Offer], taken: list[Caption | None]) -> Iterator[Caption]:
    """What nobody took of what was offered, and would have said something else."""
    for offer in offers:
        said = {_words(caption) for caption in (taken[index] for index in offer.images) if caption}
        yield from (caption for caption in offer.captions if said and _words(caption) not in said)


def _words(caption: Caption) -> str:
    return " ".join(caption.text.split())
