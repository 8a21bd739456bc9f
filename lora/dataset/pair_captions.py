"""The captions of images that are the results of edits: `photo.txt` is the instruction for `photo_end.jpg`, and one
that lies beside its reference counts if the image has none of its own."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lora.dataset.caption_files import RANK_BESIDE_REFERENCE, CaptionFiles
from lora.dataset.names import path_of
from lora.dataset.pairing import Caption
from lora.dataset.reference_names import base_of_result
from lora.dataset.sorting import SortedFiles


@dataclass(frozen=True, slots=True)
class _Image:
    """The image that a caption is for."""

    name: str  # of its file, without folders
    by_reference: bool  # whether the caption is named for its reference


@dataclass(frozen=True, slots=True)
class PairCaptions:
    """The names that captions of images with references may have besides those of the images."""

    images: Mapping[str, _Image]  # by the names of captions in lower case, with and without the suffix of an image

    @classmethod
    def of(cls, files: SortedFiles) -> "PairCaptions":
        """Find the names; one that several images could have is none."""
        own = {name for image in files.trained for name in _names(image.name)}
        found: defaultdict[str, set[_Image]] = defaultdict(set)
        for image in files.trained:
            references, path = files.references.get(image.name, ()), path_of(image.name)
            base = base_of_result(path.stem) if references else None
            if base:
                for name in (base, base + path.suffix):
                    found[name.casefold()].add(_Image(path.name, by_reference=False))
            for name in (name for reference in references for name in _names(reference.name)):
                if base is None or name not in (base.casefold(), (base + path.suffix).casefold()):
                    found[name].add(_Image(path.name, by_reference=True))
        return cls({name: images.pop() for name, images in found.items() if len(images) == 1 and name not in own})

    @property
    def names(self) -> tuple[str, ...]:
        """All of these names."""
        return tuple(self.images)

    def retargeted(self, files: CaptionFiles) -> CaptionFiles:
        """The captions with the names of images in place of these."""
        return replace(
            files,
            captions=tuple(map(self._retargeted, files.captions)),
            blank=tuple(map(self._retargeted, files.blank)),
        )

    def _retargeted(self, caption: Caption) -> Caption:
        image = self.images.get(caption.target.name.casefold())
        if image is None:
            return caption
        rank = max(caption.rank, RANK_BESIDE_REFERENCE) if image.by_reference else caption.rank
        return replace(caption, target=caption.target.with_name(image.name), rank=rank)


def _names(file: str) -> tuple[str, str]:
    path = path_of(file)
    return path.name.casefold(), path.stem.casefold()
