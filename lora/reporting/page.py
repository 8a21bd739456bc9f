"""The report page of a training: one HTML file without any request, which the same training gives byte for byte."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from lora.reporting.chart import chart_of
from lora.reporting.contents import Contents, Fixed, Sample, example_prompt
from lora.reporting.pictures import data_uri, sample_uri
from lora.reporting.whole_page import whole_page

FOLDER = Path(__file__).parent
MARK = "flux-lora report"  # in the page's head: a file with it may be replaced by a newer page
SECONDS_BETWEEN_RELOADS = 20  # of a page that is opened while the training runs
POST = "curl -X POST localhost:5000/predictions -H 'Content-Type: application/json' -d @-"


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample image at a step."""

    step: int
    uri: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All images of one prompt: the first and the last, large, and those in between."""

    number: int
    prompt: str
    seed: int
    references: tuple[str, ...]  # data URIs of the pictures that they were generated beside
    before: Picture
    after: Picture | None  # None before there are two
    between: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Code that uses the LoRA."""

    where: str
    code: str


def page_of(contents: Contents) -> str:
    """The page as HTML. Everything from a user's files is escaped. Raises OSError if a sample cannot be read."""
    content = {
        "contents": contents,
        "fixed": contents.fixed,
        "chart": chart_of(contents),
        "comparisons": list(_comparisons(contents.samples)),
        "usages": list(_usages(contents.fixed)),
        "data_uri": data_uri,
        "mark": MARK,
        "seconds": SECONDS_BETWEEN_RELOADS,
    }
    return whole_page(_asset("page.html"), content, style=_asset("page.css"), script=_asset("page.js"))


def write_page(contents: Contents, path: Path) -> None:
    """Write the page, so that a reader sees the old one or the new one. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(page_of(contents), encoding="utf-8")
    unfinished.replace(path)


def _comparisons(samples: tuple[Sample, ...]) -> Iterator[Comparison]:
    """One for each seed and prompt: a resumed training may have other prompts, with the same seeds."""
    by_prompt = sorted(samples, key=lambda sample: (sample.seed, sample.prompt, sample.step))
    groups = groupby(by_prompt, key=lambda sample: (sample.seed, sample.prompt))
    for number, ((seed, prompt), group) in enumerate(groups, 1):
        images = list(group)
        ends = {0, len(images) - 1}
        pictures = [
            Picture(each.step, sample_uri(each.path, is_large=index in ends)) for index, each in enumerate(images)
        ]
        after = pictures[-1] if len(pictures) > 1 else None
        references = tuple(sample_uri(path, is_large=False) for path in images[0].references)
        yield Comparison(number, prompt, seed, references, pictures[0], after, tuple(pictures[1:-1]))


def _usages(fixed: Fixed) -> Iterator[Usage]:
    yield Usage("diffusers", fixed.base.program)
    prompt = example_prompt(fixed.trigger_word, edits=fixed.edits)
    inputs = {"prompt": prompt, "lora_weights": "trained_model.tar", "lora_scale": 1}
    request = _edit_request(inputs) if fixed.edits else f"{POST} <<'END'\n{json.dumps({'input': inputs})}\nEND\n"
    yield Usage("this package", f"script/serve    # and, in another terminal:\n{request}")


def _edit_request(inputs: dict[str, object]) -> str:
    """A request with an image to edit, which a server takes as a data URI, not as a path."""
    return (
        f"python3 - <<'END' | {POST}\n"
        "import base64, json\n"
        'before = base64.b64encode(open("before.png", "rb").read()).decode()\n'
        f"inputs = {inputs}\n"
        'inputs["reference_images"] = ["data:image/png;base64," + before]\n'
        'print(json.dumps({"input": inputs}))\n'
        "END\n"
    )


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
