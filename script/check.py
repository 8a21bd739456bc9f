"""Check a data set before training: which images are trained, at which sizes and with which prompts. Needs no weights.

Takes the flags of script/train, and reports the same errors.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora.dataset.inspection import Inspector
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import Report, report_on
from lora.images.products import png_mark
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.presets import PRESETS
from script.config_flag import parse_with_config
from script.dataset_sheet import dataset_sheet
from script.progress import Progress, ReportingInspector
from script.training_flags import ARCHIVE, CAPTIONS, RESUME, add_inputs, archived, is_our_image, refuse_output
from script.training_outline import Outline


def main() -> None:
    """Parse the flags, print the report, and write the contact sheet."""
    parser = argparse.ArgumentParser(prog="script/check", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("check.png"), help="the contact sheet (default: check.png)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else, on stdout")
    add_inputs(parser)
    arguments = parse_with_config(parser, names_output=False)
    output, as_json = arguments.pop("output"), arguments.pop("json")
    arguments.pop(RESUME)  # does not affect the images
    refuse_output(output, is_ours=is_our_image)
    try:
        with (
            archived(arguments.pop(ARCHIVE)) as archive,
            tempfile.TemporaryDirectory(prefix="flux-lora-check-") as folder,
        ):
            archives = Archives.from_inputs(archive, captions=arguments.pop(CAPTIONS))
            _check(archives, arguments, Path(folder), output, as_json=as_json)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _check(archives: Archives, settings: dict[str, Any], folder: Path, output: Path, *, as_json: bool) -> None:
    config, progress = TrainConfig.checked(**settings), Progress("inspected {count} images")
    crops = PRESETS[config.lora_type].views
    inspector = ReportingInspector(config.resolutions, crops=crops, batch_size=config.batch_size, progress=progress)
    dataset = read_dataset(archives, into=folder, inspector=inspector, rule=config.prompt_rule)
    report = report_on(dataset, rule=config.prompt_rule, resolutions=config.resolutions)
    progress.end()
    outline = Outline.of(dataset, config)
    if as_json:
        print(json.dumps({**report.as_json(), "training": asdict(outline), "sheet": str(output)}, indent=1))
    else:
        print(report.as_text(), "training", *(f"  {line}" for line in outline.lines()), sep="\n")
    line = _write_sheet(dataset, inspector, report, outline, output)
    print(line, file=sys.stderr if as_json else sys.stdout)


def _write_sheet(dataset: Dataset, inspector: Inspector, report: Report, outline: Outline, output: Path) -> str:
    progress = Progress("drew {count} images on the contact sheet")
    sheet = dataset_sheet(dataset, inspector, report, outline, progress)
    sheet.picture.save(output, "PNG", pnginfo=png_mark("script/check"))
    progress.end()
    count = len(dataset.images)
    which = "all images" if sheet.shown == count else f"{sheet.shown} of {count} images, those worth a look first"
    return f"wrote {output}: {which}, cropped as in training"


if __name__ == "__main__":
    main()
