"""The names of the images in an archive, and which image another name means. Knows no captions."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from lora.dataset.file_kinds import IMAGE_NAME
from lora.dataset.names import sanitize_path


@dataclass(frozen=True, slots=True)
class ImageNames:
    """The file names of the images in an archive: case-folded, and without their folders."""

    whole: frozenset[str]
    stems: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str]) -> "ImageNames":
        """Create it from names in the archive."""
        whole = {_folded(each) for name in names for each in (name, str(sanitize_path(name)))}
        return cls(frozenset(whole), frozenset(PurePosixPath(name).stem for name in whole))

    def has_whole(self, name: str) -> bool:
        """Whether a name is that of an image, with its suffix and in any folder."""
        return _folded(name) in self.whole

    def stem(self, name: str) -> str | None:
        """The stem of the image that a name means, or None. The name may have folders, no suffix or that of another
        image format: `photos/a.jpg` means `a.png` if there is no `a.jpg`."""
        folded = _folded(name)
        if folded in self.stems:
            return folded
        stem = folded.rpartition(".")[0]
        return stem if stem in self.stems and IMAGE_NAME.search(folded) else None

    def target(self, path: PurePosixPath) -> PurePosixPath:
        """The path, without its suffix if the image has that name in another image format."""
        folded = _folded(path.name)
        is_exact = folded in self.whole or folded in self.stems
        return path if is_exact or self.stem(folded) is None else path.with_suffix("")


def _folded(name: str) -> str:
    """The file name alone, as it is compared."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").strip().rpartition("/")[2]).casefold()
