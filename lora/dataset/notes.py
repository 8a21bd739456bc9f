"""Lines for the log on what a training makes of a data set beside its images and captions: masks, references, captions
that take turns."""

from collections.abc import Iterator, Sequence

from lora.dataset.masks import Mask
from lora.dataset.names import quoted
from lora.dataset.reading import Dataset
from lora.dataset.wording import counted


def notes_on_choices(dataset: Dataset) -> Iterator[str]:
    """Yield a line on masks, if there are any, one on references, and one on images with several captions."""
    masks = [image.mask for image in dataset.images if image.mask]
    if masks:
        files = [mask.name for mask in masks if not mask.is_opacity]
        count, own = len(masks), len(masks) - len(files)
        sources = [f"{counted(len(files), 'file')} such as {quoted(files[0])}"] if files else []
        sources += [f"{own} by transparency"] if own else []
        which = f"{count} of {counted(len(dataset.images), 'image')} with a mask ({', '.join(sources)})"
        weight = f"counts {dataset.masks.settings.unmasked_weight:g} times as much (unmasked_weight)"
        yield f"{which}: what is outside {_background(masks)}{weight}"
    references = [len(image.references) for image in dataset.images if image.references]
    if references:
        most = f", up to {max(references)} of an image" if max(references) > 1 else ""
        first = dataset.images[0]
        yield (
            f"{counted(sum(references), 'reference')}{most}: the LoRA learns the edit that turns"
            f" {quoted(first.references[0].name)} into {quoted(first.name)}, with captions as instructions"
        )
    several = [len(image.prompts) for image in dataset.images if len(image.prompts) > 1]
    if several:
        yield (
            f"{counted(len(several), 'image')} with several captions, {sum(several)} in all: one of them is used in"
            " each step (multiline_split)"
        )


def _background(masks: Sequence[Mask]) -> str:
    files = [mask for mask in masks if not mask.is_opacity]
    if all(mask.whitens for mask in files):
        return "is white (mask_background) and " if files else "is white and "
    return "" if len(files) == len(masks) else "is white only where it is transparent, and "
