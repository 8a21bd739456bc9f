"""Check a data set before training: which images are trained, at which sizes and with which prompts. Needs no weights.

Takes the flags of script/train, and reports the same errors.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from lora.dataset.inspection import Inspector
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import report_on
from lora.training.recipe.config import TrainConfig
from script.config_flag import parse_with_config
from script.dataset_sheet import dataset_sheet
from script.training_flags import ARCHIVE, CAPTIONS, RESUME, add_inputs, archived, refuse_output


def main() -> None:
    """Parse the flags, print the report, and write the contact sheet."""
    parser = argparse.ArgumentParser(prog="script/check", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("check.png"), help="the contact sheet (default: check.png)")
    add_inputs(parser)
    arguments = parse_with_config(parser, names_output=False)
    output: Path = arguments.pop("output")
    arguments.pop(RESUME)  # does not affect the images
    refuse_output(output)
    try:
        with (
            archived(arguments.pop(ARCHIVE)) as archive,
            tempfile.TemporaryDirectory(prefix="flux-lora-check-") as folder,
        ):
            _check(Archives.from_inputs(archive, captions=arguments.pop(CAPTIONS)), arguments, Path(folder), output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _check(archives: Archives, settings: dict[str, Any], folder: Path, output: Path) -> None:
    config = TrainConfig.checked(**settings)
    inspector = Inspector(config.resolutions, None, crops=1)
    dataset = read_dataset(archives, into=folder, inspector=inspector, rule=config.prompt_rule)
    print(report_on(dataset, rule=config.prompt_rule, resolutions=config.resolutions).as_text())
    _write_sheet(dataset, inspector, output)


def _write_sheet(dataset: Dataset, inspector: Inspector, output: Path) -> None:
    sheet, shown = dataset_sheet(dataset, inspector)
    sheet.save(output, "PNG")
    which = "all images" if shown == len(dataset.images) else f"the first {shown} of {len(dataset.images)} images"
    print(f"wrote {output}: {which}, cropped as in training")


if __name__ == "__main__":
    main()
