"""Reads a user's archive into validated, captioned images. Knows no tensors."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from lora.dataset.archive import Member, Skipped, unpack_archive
from lora.dataset.caption_files import CaptionFiles, GuessedEncoding, is_caption_file, read_captions
from lora.dataset.caption_hints import SEEM_TO_BE, hint_on, hint_on_table
from lora.dataset.captions import PromptRule
from lora.dataset.file_kinds import NEITHER
from lora.dataset.folder_names import KohyaFolder, kohya_folders, relative_repeats
from lora.dataset.image_names import ImageNames
from lora.dataset.inspection import Inspection, Inspector
from lora.dataset.masks import FoundMasks, Mask, find_masks
from lora.dataset.names import is_user_file
from lora.dataset.pair_captions import PairCaptions
from lora.dataset.pairing import Caption, Pairing, pair_captions
from lora.dataset.references import Reference, inspect_references
from lora.dataset.refusal import ContentError, naming_input
from lora.dataset.sorting import SortedFiles, without_captions_of
from lora.dataset.unpacking import unpack_images
from lora.dataset.wording import counted, named
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow

LAST_RANK = 100  # of the words of a folder: after any caption file


@dataclass(frozen=True, slots=True)
class Archives:
    """The archives that a user sent."""

    images: Path
    captions: Path | None  # an archive whose captions take precedence over those in the archive of images

    @classmethod
    def from_inputs(cls, images: object, *, captions: object) -> "Archives":
        """Create it from raw inputs: path objects or text. Raises ValueError if there are no images."""
        if not str(images or "").strip():
            raise ValueError("input_images is missing: expected a zip, tar or tar.gz of images")
        return cls(Path(str(images)), Path(str(captions)) if captions else None)


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image, its caption, and the prompt that it is trained with."""

    name: str  # in the archive
    path: Path
    caption: Caption | None  # as written by the user, or by a captioner (lora/captioning)
    prompts: tuple[str, ...]  # used in training: one, or several of which one is used in each step
    inspection: Inspection
    mask: Mask | None  # None too if masks have no effect
    repeats: int  # how often it is trained, relative to the other images
    folder: KohyaFolder | None  # the folder around it, if its name has repeats and words
    references: tuple[Reference, ...] = ()  # what it was before the edit that is learned, in order

    @property
    def is_on_white(self) -> bool:
        """Whether it is put on white where the file of its mask does not select it."""
        return self.mask is not None and self.mask.whitens

    @property
    def appearance(self) -> str:
        """A sha256 that is equal for images whose pixels are trained alike: of the file, and of the mask that puts it
        on white, if there is one."""
        content = self.inspection.content
        if self.mask is None or not self.is_on_white:
            return content
        return hashlib.sha256(f"{content} on white outside of {self.mask.content}".encode()).hexdigest()

    @property
    def looks(self) -> str:
        """A sha256 that is equal for images that are shown alike: for their appearance, and their references."""
        contents = (self.appearance, *(reference.content for reference in self.references))
        return hashlib.sha256(" ".join(contents).encode()).hexdigest() if self.references else self.appearance

    @property
    def prompt(self) -> str:
        """The first prompt, which is the only one unless a caption has several lines that are used one by one."""
        return self.prompts[0]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The content of an archive."""

    images: tuple[CaptionedImage, ...]
    skipped: tuple[Skipped, ...]  # those below too
    not_trained: tuple[Skipped, ...]  # images that have another role and are not used: samples and so on
    pairing: Pairing
    guessed_encodings: tuple[GuessedEncoding, ...]  # caption files that are not UTF-8
    suspected: tuple[Skipped, ...]  # files that seem to hold captions, and what to do with them
    empty_captions: tuple[str, ...]  # caption files without a word
    size_note: str  # how sizes were chosen so that batches fill; empty if each image has its own
    masks: FoundMasks
    pairs: tuple[str, ...] = ()  # images that would be references of others in a training of edits

    @property
    def has_references(self) -> bool:
        """Whether the images have references, as all or none of them do."""
        return any(image.references for image in self.images)

    def without_captions_by_models(self) -> "Dataset":
        """The data set without the images whose captions a person cannot have got wrong."""
        return replace(self, images=tuple(each for each in self.images if not (each.caption and each.caption.by_model)))


def read_dataset(
    archives: Archives, *, into: Path, inspector: Inspector, rule: PromptRule, with_references: bool = False
) -> Dataset:
    """Unpack archives into subfolders of `into`, inspect every image, and pair it with its caption, and with its
    references if the LoRA is to learn edits.

    Raises ValueError if an archive cannot be read, if there is no image, or if more than half of them are unusable;
    with references also if an image has none or too many, or a reference has no image.
    """
    caption_members = _unpack_captions(archives.captions, into=into / "captions")
    with naming_input("input_images"), quiet_pillow():
        found = unpack_images(archives.images, into=into / "images", with_references=with_references)
        by_role, not_trained, selection = found.by_role, found.not_trained, found.selection
        pairs = PairCaptions.of(by_role)
        names = ImageNames.of((*(image.name for image in by_role.trained), *pairs.names))
        own = read_captions(found.captions, names)
    with naming_input("input_captions"):
        separate = pairs.retargeted(_read_separate_captions(caption_members, names))
    with naming_input("input_images"), quiet_pillow():
        size_note = inspector.share_sizes(image.path for image in by_role.trained)
        inspected, references, bad = _inspect(by_role, inspector)
        masks = find_masks(inspected, by_role.masks, inspector.masks, large=inspector.large)
    own = pairs.retargeted(without_captions_of(own, not_trained, by_role.trained))
    pairing = _paired([member.name for member, _ in inspected], separate, own, rule)
    texts = CaptionFiles.joined([separate, own])
    suspected = (*_hints(found.others, selection.unused, names), *texts.suspected)
    unused = _unused([Skipped(file.name, NEITHER) for file in found.others], selection.unused, suspected)
    return Dataset(
        _captioned(inspected, references, pairing, masks, rule),
        skipped=(*bad, *unused, *masks.without_used(not_trained), *texts.unreadable, *map(_skipped_hint, suspected)),
        not_trained=masks.without_used(not_trained),
        pairing=pairing,
        guessed_encodings=texts.guessed_encodings,
        suspected=suspected,
        empty_captions=texts.empty,
        size_note=size_note,
        masks=masks,
        pairs=selection.pairs,
    )


def _captioned(
    inspected: list[tuple[Member, Inspection]],
    references: Mapping[str, tuple[Reference, ...]],
    pairing: Pairing,
    masks: FoundMasks,
    rule: PromptRule,
) -> tuple[CaptionedImage, ...]:
    """The records of the images. An image without a caption has the words of its kohya folder."""
    folders = kohya_folders(member.name for member, _ in inspected)
    repeats = relative_repeats(folders, (member.name for member, _ in inspected))
    records = []
    for (member, inspection), found in zip(inspected, pairing.captions, strict=True):
        folder = folders.get(member.name)
        caption = found or (_folder_caption(folder) if folder else None)
        caption = caption if caption and _has_words(caption) else None
        record = CaptionedImage(
            name=member.name,
            path=member.path,
            caption=caption,
            prompts=rule.prompts(caption.text if caption else ""),
            inspection=inspection,
            mask=masks.by_image.get(member.name),
            repeats=repeats[member.name],
            folder=folder,
            references=references[member.name],
        )
        records.append(record)
    return tuple(records)


def _folder_caption(folder: KohyaFolder) -> Caption:
    return Caption(folder.words, f"{folder.path}/", folder.path, rank=LAST_RANK)


def _unpack_captions(archive: Path | None, *, into: Path) -> list[Member] | None:
    if archive is None:
        return None
    with naming_input("input_captions"):
        return unpack_archive(archive, into=into, wanted=lambda name: is_user_file(name) and is_caption_file(name))


def _read_separate_captions(members: list[Member] | None, images: ImageNames) -> CaptionFiles:
    if members is None:
        return CaptionFiles()
    texts = read_captions(members, images)
    if texts.blank and not texts.captions:
        found = f"{counted(len(texts.blank), 'caption file')} without a word: {named(list(texts.empty))}"
        raise ContentError(f"holds {found}: expected a caption in at least one of them")
    if not texts.captions:
        raise ContentError("holds no captions: expected the tar of a training, or an archive with .txt files")
    return replace(texts, unreadable=tuple(file for file in texts.unreadable if file.reason != NEITHER))


def _inspect(
    files: SortedFiles, inspector: Inspector
) -> tuple[list[tuple[Member, Inspection]], dict[str, tuple[Reference, ...]], list[Skipped]]:
    """The images that can be used, their references by their names, and the images that cannot be used; raises
    ContentError if the latter are more than half."""

    def inspected_or_skipped(member: Member) -> tuple[Inspection, tuple[Reference, ...]] | Skipped:
        try:
            inspection = inspector.inspect(member.path)
            references = inspect_references(files.references.get(member.name, ()), inspection, large=inspector.large)
        except ValueError as error:
            return Skipped(member.name, str(error))
        return inspection, references

    inspected, found, bad = [], {}, []
    with closing(map_in_order(inspected_or_skipped, files.trained)) as results:
        for member, result in zip(files.trained, results, strict=True):
            if isinstance(result, Skipped):
                bad.append(result)
            else:
                inspected.append((member, result[0]))
                found[member.name] = result[1]
    if len(bad) > len(inspected):
        counts = f"{len(bad)} of {len(files.trained)} images that cannot be used"
        raise ContentError(f"holds {counts}; the first is {bad[0].name!r}: {bad[0].reason}")
    return inspected, found, bad


def _paired(names: list[str], separate: CaptionFiles, own: CaptionFiles, rule: PromptRule) -> Pairing:
    """Separate captions take precedence, also those that were emptied: their text is blank."""
    blank = (replace(caption, rank=LAST_RANK) for caption in separate.blank)
    both = pair_captions(names, (*separate.captions, *blank)), pair_captions(names, own.captions)
    # before they are joined, as two archives may have tables of the same name
    first, second = (pairing.with_lines() for pairing in both) if rule.multiline_split else both
    captions = tuple(one or other for one, other in zip(first.captions, second.captions, strict=True))
    unused, conflicting = first.unused + second.unused, first.conflicting + second.conflicting
    return Pairing(captions, tuple(filter(_has_words, unused)), tuple(filter(_has_words, conflicting)))


def _has_words(caption: Caption) -> bool:
    return bool(caption.text.strip())


def _hints(files: Sequence[Member], not_unpacked: Sequence[Skipped], names: ImageNames) -> list[Skipped]:
    """What to do with files that seem to hold captions, unpacked or not."""
    hints = [hint_on(file, names) for file in files] + [hint_on_table(file.name) for file in not_unpacked]
    return [hint for hint in hints if hint]


def _unused(files: Sequence[Skipped], not_unpacked: Sequence[Skipped], suspected: Sequence[Skipped]) -> list[Skipped]:
    """The files that are neither images nor captions, without those of which there is more to say."""
    named = {hint.name for hint in suspected}
    return [file for file in (*files, *not_unpacked) if file.name not in named]


def _skipped_hint(hint: Skipped) -> Skipped:
    return Skipped(hint.name, f"{SEEM_TO_BE} it: {hint.reason}")
