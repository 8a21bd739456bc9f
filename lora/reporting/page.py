"""The report page of a training: one HTML file without any request, which the same training gives byte for byte."""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from lora.reporting.chart import chart_of
from lora.reporting.contents import Contents, Fixed, Sample
from lora.reporting.pictures import data_uri, sample_uri

FOLDER = Path(__file__).parent
MARK = "flux-lora report"  # in the page's head: a file with it may be replaced by a newer page
SECONDS_BETWEEN_RELOADS = 20  # of a page that is opened while the training runs


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
    style, script = _asset("page.css"), _asset("page.js")
    return _template().render(
        contents=contents,
        fixed=contents.fixed,
        chart=chart_of(contents),
        comparisons=list(_comparisons(contents.samples)),
        usages=list(_usages(contents.fixed)),
        data_uri=data_uri,
        mark=MARK,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        seconds=SECONDS_BETWEEN_RELOADS,
    )


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
        yield Comparison(number, prompt, seed, pictures[0], after, tuple(pictures[1:-1]))


def _usages(fixed: Fixed) -> Iterator[Usage]:
    yield Usage("diffusers", fixed.base.program)
    prompt = f"a photo of {fixed.trigger_word}" if fixed.trigger_word else "your prompt"
    inputs = json.dumps({"input": {"prompt": prompt, "lora_weights": "trained_model.tar", "lora_scale": 1}})
    yield Usage(
        "this package",
        "script/serve    # and, in another terminal:\n"
        "curl -X POST localhost:5000/predictions -H 'Content-Type: application/json' -d @- <<'END'\n"
        f"{inputs}\nEND\n",
    )


def _hash(asset: str) -> str:
    """The source expression by which a Content-Security-Policy admits an inline style or script (CSP Level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(asset.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _template() -> Template:
    return _environment().from_string(_asset("page.html"))
