"""The measures of the learning benchmark's runs, and the tables of them. Knows no training."""

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.measures import paired, standard_error
from bench.report import table

MAX_ARMS_IN_PAIRS = 3

Run = dict[str, Any]  # as it is stored in JSON


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the tables: values of a run at a step, by image."""

    title: str
    of: Callable[[Run, str], list[float]]
    better: str  # the better direction
    name: str = "world"  # of the values that it needs, which not every run has
    times: float = 1  # these are multiplied by it, where they are of images


def closed(run: Run, step: str) -> list[float]:
    """How much of the gap between the bare base's losses on the figure and on its own world is closed, in percent."""
    before, after = run["at"]["0"], run["at"][step]
    gap = statistics.fmean(before["held_out"]) - statistics.fmean(before["world"])
    return [100 * (one - other) / gap for one, other in zip(before["held_out"], after["held_out"], strict=True)]


def world_rise(run: Run, step: str) -> list[float]:
    """The rise of the loss on the base's own world, in percent of its initial value."""
    before, after = run["at"]["0"]["world"], run["at"][step]["world"]
    return [100 * (other - one) / statistics.fmean(before) for one, other in zip(before, after, strict=True)]


def of_images(title: str, name: str, better: str, *, times: float = 100) -> Measure:
    """A measure of generated images."""
    return Measure(title, lambda run, step: [times * value for value in run["at"][step][name]], better, name, times)


MEASURES = (
    Measure("gap closed, %", closed, "higher"),
    Measure("rise of the loss on the world, %", world_rise, "lower"),
    of_images("images without trigger, mean squared change x 1000", "change", "lower", times=1000),
    of_images("images without trigger with the right colour, %", "right_colour", "higher"),
    of_images("images without trigger with the right shape, %", "right_shape", "higher"),
    of_images("images without trigger with the exact shape, %", "exact_shape", "higher"),
    of_images("colour distance x 100", "colours", "lower"),
    of_images("form distance x 100", "form", "lower"),
    of_images("images that show all that was asked for, %", "asked", "higher"),
    of_images("images with the style, %", "styled", "higher"),
    of_images("images with the colour that was asked for, %", "asked_colour", "higher"),
    of_images("images with the shape that was asked for, %", "asked_shape", "higher"),
    of_images("images without trigger with the style, %", "styled_without", "lower"),
)


def measures_of(runs: list[Run]) -> list[Measure]:
    """The measures that these runs have."""
    return [measure for measure in MEASURES if all(measure.name in run["at"]["0"] for run in runs)]


def as_markdown(runs: list[Run]) -> str:
    """The tables: over the steps, at the end, and each pair of arms; of more than three, each beside the first."""
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    pairs = (
        itertools.combinations(reversed(arms), 2)
        if len(arms) <= MAX_ARMS_IN_PAIRS
        else [(arm, arms[0]) for arm in arms[1:]]
    )
    end = str(runs[0]["extent"]["steps"])
    over = [_over_steps(measure, runs, arms) for measure in MEASURES[:2]]
    comparisons = [_compare(ours, theirs, runs, end) for ours, theirs in pairs]
    return "\n\n".join([*over, _at_end(runs, arms, end), *comparisons])


def _over_steps(measure: Measure, runs: list[Run], arms: list[str]) -> str:
    """A table of means and standard errors over runs, at each step."""
    steps = [step for step in runs[0]["at"] if step != "0"]
    rows = [[arm, *(_mean_of_runs(measure, runs, arm, step) for step in steps)] for arm in arms]
    return table([f"{measure.title}, at step", *steps], rows)


def _at_end(runs: list[Run], arms: list[str], end: str) -> str:
    measures = measures_of(runs)
    rows = [[arm, *(_mean_of_runs(measure, runs, arm, end) for measure in measures)] for arm in arms]
    base = [_spread([statistics.fmean(measure.of(run, "0")) for run in runs]) for measure in measures]
    titles = [f"{measure.title} ({measure.better} is better)" for measure in measures]
    rows += [["base without LoRA", *base], ["real renders", *(_of_real(measure, runs) for measure in measures)]]
    return table([f"at step {end}", *titles], rows)


def _of_real(measure: Measure, runs: list[Run]) -> str:
    """What real renders reach, or nothing if that is not measured."""
    if any(measure.name not in run["real"] for run in runs):
        return ""
    return _spread([measure.times * statistics.fmean(run["real"][measure.name]) for run in runs])


def _compare(ours: str, theirs: str, runs: list[Run], end: str) -> str:
    """A table of differences between two arms, paired by figure, seed and image."""
    rows = []
    for measure in measures_of(runs):
        by_arm = [{_run_id(run): measure.of(run, end) for run in runs if run["arm"] == arm} for arm in (ours, theirs)]
        found = paired(*by_arm)
        errors = [f"{found.error_by_image:.2f}", f"{found.error_by_run:.2f}"]
        conclusion = _as_better_or_worse(found.conclusion(), better=measure.better)
        rows.append([measure.title, f"{found.mean:+.2f}", *errors, conclusion])
    return table([f"{ours} minus {theirs}", "mean", "error by image", "error by run", f"{ours} is"], rows)


def _as_better_or_worse(conclusion: str, *, better: str) -> str:
    if conclusion not in ("higher", "lower"):
        return conclusion
    return "better" if conclusion == better else "worse"


def _run_id(run: Run) -> tuple[str, int]:
    return run["concept"], run["seed"]


def _mean_of_runs(measure: Measure, runs: list[Run], arm: str, step: str) -> str:
    return _spread([statistics.fmean(measure.of(run, step)) for run in runs if run["arm"] == arm])


def _spread(means: list[float]) -> str:
    mean = f"{statistics.fmean(means):.2f}"
    return f"{mean} ± {standard_error(means):.2f}" if len(means) > 1 else mean
