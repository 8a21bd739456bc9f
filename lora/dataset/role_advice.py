"""Warnings about images that are not trained because of their role, and about what names of folders mean."""

from collections import defaultdict
from collections.abc import Iterator

from lora.dataset.captions import PromptRule
from lora.dataset.folder_names import KohyaFolder
from lora.dataset.reading import Dataset
from lora.dataset.wording import counted, named

LEAST_SELECTED = 0.01  # the share of an image below which a mask gets a warning; our choice


def warnings_about_roles(dataset: Dataset, rule: PromptRule) -> Iterator[str]:
    """Yield a warning for each role of images that are not trained, then those about folders of sd-scripts."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    unusable = {mask.name for mask in dataset.masks.unusable}
    for file in dataset.not_trained:
        if file.name not in unusable:
            by_reason[file.reason].append(file.name)
    for reason, names in by_reason.items():
        yield f"{counted(len(names), 'image')} not trained, {reason}: {named(names)}"
    yield from _about_masks(dataset)
    if dataset.pairs:
        count = counted(len(dataset.pairs), "image")
        yield (
            f"{count} trained like the others, but named as references of edits: {named(list(dataset.pairs))};"
            " with lora_type edit, on a base of FLUX.2, a LoRA learns the edit from such pairs"
        )
    folders = {image.folder for image in dataset.images if image.folder}
    subjects = sorted({folder.words for folder in folders})
    if len(subjects) > 1:
        trigger = f", all under {rule.trigger_word!r}" if rule.trigger_word else ""
        yield (
            f"the names of folders are those of {len(subjects)} subjects, {named(subjects)}: one LoRA learns them"
            f"{trigger}; train each alone, or name it in every caption and leave trigger_word empty"
        )
    yield from _about_repeats(dataset, folders)


def _about_masks(dataset: Dataset) -> Iterator[str]:
    """Masks that are not used or select next to nothing, and images without one where others have one."""
    for mask in dataset.masks.unusable:
        yield f"the mask {mask.name!r} is not used: {mask.reason}"
    shares = {image.mask.name: image.mask.selected for image in dataset.images if image.mask}
    small = [f"{name} ({share:.2%} of its image)" for name, share in shares.items() if (share or 1) < LEAST_SELECTED]
    if small:
        yield f"masks that select next to nothing, so that next to nothing is learned from their images: {named(small)}"
    whole = [image.name for image in dataset.images if not image.mask]
    if whole and len(whole) < len(dataset.images):
        yield f"{counted(len(whole), 'image')} without a mask, trained as a whole: {named(whole)}"


def _about_repeats(dataset: Dataset, folders: set[KohyaFolder]) -> Iterator[str]:
    if len({folder.repeats for folder in folders}) < 1 or max(folder.repeats for folder in folders) == 1:
        return
    shares = {image.folder: image.repeats for image in dataset.images if image.folder}
    if len(set(shares.values())) > 1:
        weights = named([f"{folder.path.name}: {shares[folder]}" for folder in sorted(shares, key=str)])
        yield f"an image of each folder is trained as often as its repeats say, relative to the others: {weights}"
    elif any(image.folder is None for image in dataset.images):
        yield f"repeats are not used, as some images are in no such folder: {named(_names(folders))}"
    else:
        reason = "they are the same for all images, and steps sets the length"
        yield f"repeats are not used, as {reason}: {named(_names(folders))}"


def _names(folders: set[KohyaFolder]) -> list[str]:
    return sorted(folder.path.name for folder in folders)
