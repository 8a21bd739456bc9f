"""Check a data set before training: which images are trained, at which sizes and with which prompts. Needs no weights.

Takes the flags of script/train, and reports the same errors. With --captions it also writes the captions into a folder,
with a page to edit them in; a captioner that is installed (script/download captioner) first describes images without a
caption.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora.dataset.inspection import Inspector
from lora.dataset.reading import Archives, Dataset, read_dataset
from lora.dataset.report import Report, report_on
from lora.images.products import png_mark
from lora.training.progress import print_line
from lora.training.recipe.config import TrainConfig
from script.caption_folder import make_folder, write_captions
from script.config_flag import parse_with_config
from script.dataset_sheet import dataset_sheet
from script.presets import preset_of
from script.progress import Progress, ReportingInspector
from script.training_flags import ARCHIVE, CAPTIONS, RESUME, add_inputs, archived, is_our_image, refuse_output
from script.training_outline import Outline
from weights.caption_model import find_captioner


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is written."""

    sheet: Path
    captions: Path | None  # a folder
    is_json: bool  # the report is JSON on stdout, so that lines go to stderr

    def say(self, *lines: str) -> None:
        """Print lines that are not the report."""
        print(*lines, sep="\n", file=sys.stderr if self.is_json else sys.stdout, flush=True)


def main() -> None:
    """Parse the flags, print the report, and write the contact sheet."""
    parser = argparse.ArgumentParser(prog="script/check", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("check.png"), help="the contact sheet (default: check.png)")
    folder = "a new folder, for captions as .txt files and index.html, a page to edit them in"
    parser.add_argument("--captions", "--describe", metavar="FOLDER", type=Path, help=folder)
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else, on stdout")
    add_inputs(parser)
    arguments = parse_with_config(parser, names_output=False)
    outputs = Outputs(arguments.pop("output"), arguments.pop("captions"), arguments.pop("json"))
    arguments.pop(RESUME)  # does not affect the images
    refuse_output(outputs.sheet, is_ours=is_our_image)
    if outputs.captions:
        make_folder(outputs.captions)
    try:
        with (
            archived(arguments.pop(ARCHIVE)) as archive,
            archived(arguments.pop(CAPTIONS), named=CAPTIONS) as captions,
            tempfile.TemporaryDirectory(prefix="flux-lora-check-") as folder,
        ):
            _check(Archives.from_inputs(archive, captions=captions), arguments, Path(folder), outputs)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _check(archives: Archives, settings: dict[str, Any], folder: Path, outputs: Outputs) -> None:
    config, progress = TrainConfig.checked(**settings), Progress("inspected {count} images")
    preset = preset_of(config.lora_type)
    sizes = {"crops": preset.views, "batch_size": config.batch_size}
    inspector = ReportingInspector(config.resolutions, **sizes, masks=config.masks, progress=progress)
    dataset = read_dataset(
        archives, into=folder, inspector=inspector, rule=config.prompt_rule, with_references=config.has_references
    )
    progress.end()
    if outputs.captions:
        dataset = _described(dataset, config, outputs)
    report = report_on(dataset, rule=config.prompt_rule, resolutions=config.resolutions)
    outline = Outline.of(dataset, config, preset)
    if outputs.is_json:
        sheet = str(outputs.sheet)
        print_line(json.dumps({**report.as_json(), "training": asdict(outline), "sheet": sheet}, indent=1))
    else:
        print_line("\n".join([report.as_text(), "training", *(f"  {line}" for line in outline.lines())]))
    outputs.say(_write_sheet(dataset, inspector, report, outline, outputs.sheet))
    if outputs.captions:
        rule, describes_empty = config.prompt_rule, config.public_trainer.autocaption and not config.has_references
        outputs.say(write_captions(dataset, inspector, outputs.captions, rule, describes_empty=describes_empty))


def _described(dataset: Dataset, config: TrainConfig, outputs: Outputs) -> Dataset:
    """The data set with captions as a training would have them."""
    from lora.training.captions import (  # noqa: PLC0415 - imports torch, which takes seconds
        Captioning,
        with_captions,
    )

    return with_captions(dataset, config, Captioning(find_captioner, lambda: None), outputs.say)


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
