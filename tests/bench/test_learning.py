"""The learning benchmark resumes after an interruption, and its tables show the measures."""

import json
from pathlib import Path

import pytest

from bench.arms import DEFAULT_ARMS
from bench.learning import SMALL, Job, all_runs, identity_of
from bench.learning_tables import as_markdown, closed, world_rise


def a_run(arm: str, seed: int, *, after: float, concept: str = "fox") -> dict:
    """A run with two images of each kind, and its final loss on the figure."""
    of_images = {"colours": [0.1, 0.1], "form": [0.1, 0.1], "change": [0.0, 0.0]}
    of_images |= {"right_colour": [1.0, 1.0], "right_shape": [1.0, 0.0], "exact_shape": [0.0, 0.0]}
    before = {"held_out": [0.2, 0.4], "world": [0.1, 0.1], **of_images}
    end = {"held_out": [after, after + 0.2], "world": [0.11, 0.13], **of_images}
    job = Job(concept, seed, arm, SMALL, None)
    real = {"colours": [0.01], "form": [0.02]}
    return identity_of(job) | {"seconds": 1.0, "real": real, "at": {"0": before, "4": end}}


def test_the_gap_is_between_the_figure_and_the_world():
    assert closed(a_run("subject", 1, after=0.15), "4") == pytest.approx([25.0, 12.5 * 2])
    assert closed(a_run("subject", 1, after=0.15), "0") == [0.0, 0.0]


def test_the_rise_of_the_worlds_loss_is_relative_to_itself():
    assert world_rise(a_run("subject", 1, after=0.15), "4") == pytest.approx([10.0, 30.0])


def test_completed_runs_are_not_run_again(tmp_path: Path):
    kept, jobs = tmp_path / "runs.jsonl", [Job("fox", 1, arm, SMALL, None) for arm in ("subject", "plain")]
    runs = [a_run("plain", 1, after=0.2), a_run("subject", 1, after=0.15), a_run("subject", 2, after=0.1)]
    kept.write_text("".join(json.dumps(run) + "\n" for run in runs))
    assert all_runs(jobs, kept, workers=1) == [runs[1], runs[0]]


def test_an_incomplete_line_counts_as_not_run(tmp_path: Path):
    kept, job = tmp_path / "runs.jsonl", Job("fox", 1, "plain", SMALL, None)
    run = json.dumps(a_run("plain", 1, after=0.2))
    kept.write_text(f"{run[:40]}\n{run}\n{run[:80]}")
    assert all_runs([job], kept, workers=1) == [json.loads(run)]


def test_the_tables_name_every_arm_and_say_which_is_better():
    after = {"plain": 0.19, "replicate": 0.16, "subject": 0.15}
    runs = [a_run(arm, seed, after=after[arm] + 0.001 * seed) for arm in DEFAULT_ARMS for seed in (1, 2, 3)]
    tables = as_markdown(runs).split("\n\n")
    assert all(f"| {arm} |" in tables[0] for arm in DEFAULT_ARMS)
    (comparison,) = [table for table in tables if table.startswith("| subject minus replicate |")]
    rows = [line.split(" | ") for line in comparison.splitlines()]
    assert rows[2][0] == "| gap closed, %"
    assert rows[2][-1] == "better |"
    assert rows[3][-1] == "no difference beyond two standard errors |"


def test_each_of_many_arms_is_compared_with_the_first_alone():
    runs = [a_run(arm, 1, after=0.15) for arm in ("subject", "0", "0.25 x 1", "0.5 x 1")]
    compared = [line for line in as_markdown(runs).splitlines() if " minus " in line]
    assert [line.split(" | ")[0] for line in compared] == [
        "| 0 minus subject", "| 0.25 x 1 minus subject", "| 0.5 x 1 minus subject",
    ]  # fmt: skip


def test_the_tables_have_only_the_measures_of_their_runs():
    of_figure = a_run("subject", 1, after=0.15)
    of_style = {**of_figure, "at": {step: found | {"styled": [1.0, 0.0]} for step, found in of_figure["at"].items()}}
    assert "images with the style" not in as_markdown([of_figure])
    assert "images with the style, %" in as_markdown([of_style])
