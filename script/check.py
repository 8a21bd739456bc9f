"""Check a data set before training: which images are trained, at which sizes and with which prompts. Needs no weights.

Takes the flags of script/train, and reports the same errors. With --captions, it also writes the captions into a
folder, where a captioner is installed also those of images that have none.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from lora.dataset.inspection import Inspector
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import report_on
from lora.training.progress import print_line
from lora.training.recipe.config import TrainConfig
from script.caption_folder import refuse_folder, write_captions
from script.dataset_sheet import dataset_sheet
from script.training_flags import ARCHIVE, CAPTIONS, RESUME, add_inputs, archived, refuse_output
from weights.captioner import find_captioner


def main() -> None:
    """Parse the flags, print the report, and write the contact sheet."""
    parser = argparse.ArgumentParser(prog="script/check", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("check.png"), help="the contact sheet (default: check.png)")
    parser.add_argument("--captions", "--describe", type=Path, help="a new folder, for captions that can be edited")
    add_inputs(parser)
    arguments = vars(parser.parse_args())
    output: Path = arguments.pop("output")
    written: Path | None = arguments.pop("captions")
    arguments.pop(RESUME)  # does not affect the images
    refuse_output(output)
    if written:
        refuse_folder(written)
    try:
        with (
            archived(arguments.pop(ARCHIVE)) as archive,
            archived(arguments.pop(CAPTIONS), named=CAPTIONS) as captions,
            tempfile.TemporaryDirectory(prefix="flux-lora-check-") as folder,
        ):
            _check(Archives.from_inputs(archive, captions=captions), arguments, Path(folder), output, written)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _check(archives: Archives, settings: dict[str, Any], folder: Path, output: Path, written: Path | None) -> None:
    config = TrainConfig.checked(**settings)
    inspector = Inspector(config.resolutions, None, crops=1)
    dataset = read_dataset(archives, into=folder, inspector=inspector, rule=config.prompt_rule)
    if written:
        dataset = _described(dataset, config)
    print(report_on(dataset, rule=config.prompt_rule, resolutions=config.resolutions).as_text())
    _write_sheet(dataset, inspector, output)
    if written:
        print(write_captions(dataset, inspector, written))


def _described(dataset: Dataset, config: TrainConfig) -> Dataset:
    """The data set with captions as a training would have them."""
    from lora.training.captions import (  # noqa: PLC0415 - imports torch, which takes seconds
        Captioning,
        with_captions,
    )

    return with_captions(dataset, config, Captioning(find_captioner, lambda: None), print_line)


def _write_sheet(dataset: Dataset, inspector: Inspector, output: Path) -> None:
    sheet, shown = dataset_sheet(dataset, inspector)
    sheet.save(output, "PNG")
    which = "all images" if shown == len(dataset.images) else f"the first {shown} of {len(dataset.images)} images"
    print(f"wrote {output}: {which}, cropped as in training")


if __name__ == "__main__":
    main()
