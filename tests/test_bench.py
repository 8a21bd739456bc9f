"""The benchmarks run on any machine: a small configuration of each, with meaningless numbers."""

import json
import math
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from bench import (
    cold_start,
    dataset,
    edits,
    generation,
    gpu_run,
    learning,
    masks,
    photo_faults,
    preservation,
    rates,
    serving,
    tiers,
    train_step,
)
from bench.arms import DEFAULT_ARMS
from bench.records import Record, read_records
from bench.stages import Result, Stage

pytestmark = pytest.mark.xdist_group("warm")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a benchmark in this process, where everything is imported already; returns its numbers and its output."""

    def run(benchmark: ModuleType, *flags: str) -> tuple[dict[str, Any], str]:
        output = tmp_path / "numbers.json"
        monkeypatch.setattr(sys, "argv", [benchmark.__name__, "--small", "--output", str(output), *flags])
        benchmark.main()
        return json.loads(output.read_text()), capsys.readouterr().out

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)  # it stores its precision in the process


def test_the_dataset_benchmark_compares_the_same_work(small):
    numbers, printed = small(dataset)
    (row,) = numbers["rows"]
    assert [len(row["runs"][name]) for name in ("plain", "ours")] == [1, 1]
    assert row["runs"]["plain"][0]["tensors"] == row["runs"]["ours"][0]["tensors"] == 6
    assert numbers["machine"]["pillow"]
    assert "| archive | plain loop | ours |" in printed


def test_the_benchmark_of_planted_faults_finds_the_plain_ones_without_false_alarms(small):
    numbers, printed = small(photo_faults)
    rows = {row["fault"]: row for row in numbers["rows"]}
    assert rows["12 px"]["found"] == rows["half the size"]["found"] == rows["contrast of 15 %"]["found"] >= 1
    assert all(row["false_alarms"] == 0 for row in numbers["rows"] if row["planted"])
    assert "| kind | planted fault | found |" in printed


@pytest.mark.parametrize("base", ["tiny", "tiny-flux2"])
def test_the_serving_benchmark_times_all_tasks_of_both_contenders(small, monkeypatch: pytest.MonkeyPatch, base: str):
    monkeypatch.setenv("FLUX_BASE", base)
    numbers, printed = small(serving)
    assert len(numbers["seconds"]) == 7
    assert all(len(found[name]) == 1 for found in numbers["seconds"].values() for name in ("ours", "stock"))
    assert "| an image with 3 LoRAs |" in printed


def test_the_benchmark_of_rates_measures_what_a_cpu_supports(small):
    numbers, printed = small(rates)
    assert {rate["what"] for rate in numbers["rates"]} == {"bf16", "int8", "attention, any", "copy on the device"}
    assert all(rate["seconds"] for rate in numbers["rates"])
    assert printed.splitlines()[-1].startswith("| copy on the device |")


def test_the_benchmark_of_the_training_step_compares_losses_that_agree(small):
    numbers, printed = small(train_step)
    assert [each["arm"] for each in numbers["visits"]] == [arm.name for arm in train_step.SOME]
    assert numbers["refused"] == []
    losses = [each["first_loss"] for each in numbers["visits"]]
    assert max(losses) < 1.001 * min(losses)
    ours = [arm for arm in train_step.SOME if arm.is_ours]
    assert [each["arm"] for each in numbers["nearness"]] == [arm.name for arm in ours]
    assert all(each["cosine"] > 0.99 and each["loss_error"] < 1e-3 for each in numbers["nearness"])
    assert "outside the tolerance: none" in printed
    assert printed.splitlines()[-1].startswith(f"| 64 | {train_step.SOME[-1].name} |")


def test_the_benchmark_of_the_training_step_measures_ours_alone_for_klein(small):
    numbers, printed = small(train_step, "--base", "klein-4B")
    ours = [arm.name for arm in train_step.SOME if arm.is_ours]
    assert [each["arm"] for each in numbers["visits"]] == [each["arm"] for each in numbers["nearness"]] == ours
    assert "outside the tolerance: none" in printed


@pytest.mark.parametrize("base", ["dev", "klein-4B"])
def test_the_benchmark_of_cards_measures_the_plan_of_one(small, base: str):
    numbers, printed = small(tiers, "--base", base)
    (found,) = numbers["tried"]
    assert found["seconds"] > 0
    assert printed.splitlines()[-1].startswith("| 8 GB | 64 | base in fp32")


def test_the_serving_benchmark_refuses_random_weights_beside_a_base(small, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    with pytest.raises(SystemExit):
        small(serving, "--base", "klein-4B")
    assert "--base klein-4B is for random weights, and FLUX_BASE is tiny: unset one" in capsys.readouterr().err


@pytest.mark.parametrize("base", ["dev", "klein-4B"])
def test_without_a_base_the_serving_benchmark_compares_all_arms(small, monkeypatch: pytest.MonkeyPatch, base: str):
    monkeypatch.delenv("FLUX_BASE", raising=False)
    numbers, printed = small(serving, "--base", base)
    assert numbers["settings"]["guidance"] == {"dev": 3.5, "klein-4B": 4.0}[base]
    assert [each["arm"] for each in numbers["visits"]] == [arm.name for arm in generation.ARMS]
    for arm, measured in zip(generation.ARMS, numbers["visits"], strict=True):
        assert {"image", "text", "decoding"} <= measured["seconds"].keys()
        assert ("another LoRA" in measured["seconds"]) is arm.has_lora
    assert printed.splitlines()[-1].startswith("| ours, go_fast |")


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch, warm_python: Path) -> None:
    """Benchmarks start processes that have imported everything already."""
    monkeypatch.setattr(sys, "executable", str(warm_python))


@pytest.mark.usefixtures("warm")
def test_the_benchmark_of_cold_starts_leaves_no_weights(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    numbers, printed = small(cold_start, "--base", "klein-4B")
    assert [start["contender"] for start in numbers["starts"]] == ["diffusers", "ours"]
    assert all(0 < start["imported"] < start["ready"] < start["first_image"] for start in numbers["starts"])
    assert printed.splitlines()[-1].startswith("| ours |")
    assert not list(folder.glob("flux-lora-bench-*"))


@pytest.mark.usefixtures("warm")
def test_the_preservation_benchmark_counts_what_a_lora_and_the_base_alone_generate(small):
    numbers, printed = small(preservation, "--shares", "0")
    assert [each["arm"] for each in numbers["found"]] == ["the base alone", "preservation 0"]
    assert [(each["with_trigger"], each["without"]) for each in numbers["found"]] == [(2, 1), (2, 1)]
    assert numbers["found"][0]["colours"] == 1
    assert numbers["found"][1]["seconds"] > 0
    assert "| the base alone | 0 of 2 | 1 of 1 |" in printed


def test_the_benchmark_of_masks_counts_grounds_and_monsters(small):
    numbers, printed = small(masks, "--arms", "cut out, 0.1 outside")
    base, arm = numbers["found"]
    assert (base["named"], base["unnamed"], base["monsters"]) == (3, 1, 0)
    assert arm["seconds"] > 0
    assert printed.splitlines()[-1].startswith("| cut out, 0.1 outside (seed 42) | 0 of 3 |")


def test_the_benchmark_of_edits_measures_unseen_pairs_with_and_without_a_lora_and_a_reference(small):
    numbers, printed = small(edits)
    assert [each["images"] for each in numbers["found"]] == [1, 1, 1]
    before, after = numbers["losses"]
    assert before != after
    assert numbers["found"][0]["overlap"] != numbers["found"][2]["overlap"]
    assert printed.splitlines()[-1].startswith("| the LoRA without it | ")


def test_the_learning_benchmark_trains_and_measures_every_arm(small, tmp_path: Path):
    strips = tmp_path / "images" / "new"
    numbers, printed = small(learning, "--workers", "1", "--images", str(strips))
    assert [each["arm"] for each in numbers["runs"]] == list(DEFAULT_ARMS)
    assert all(list(each["at"]) == ["0", "1", "2", "3", "4"] for each in numbers["runs"])
    assert all(each["at"]["4"]["colours"] and each["at"]["4"]["change"] for each in numbers["runs"])
    assert all(f"| {arm} |" in printed for arm in DEFAULT_ARMS)
    assert len(list(strips.glob("*.png"))) == len(DEFAULT_ARMS)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "images", tmp_path / "numbers.json"]


@pytest.mark.parametrize(("lora_type", "learned"), [("style", "outline"), ("general", "figures")])
def test_the_learning_benchmark_trains_a_style_and_a_collection_of_things(small, lora_type: str, learned: str):
    numbers, printed = small(learning, "--workers", "1", "--lora-type", lora_type, "--arms", lora_type)
    (run,) = numbers["runs"]
    assert (run["concept"], run["settings"]["lora_type"]) == (learned, lora_type)
    assert all(0 <= value <= 1 for value in run["at"]["4"]["asked"] + run["real"]["asked"])
    assert "images that show all that was asked for, %" in printed


@pytest.mark.parametrize("flags", [("--concepts", "fox"), ("--arms", "subject")])
def test_the_learning_benchmark_refuses_what_is_of_another_type(small, capsys, flags):
    with pytest.raises(SystemExit):
        small(learning, "--lora-type", "style", *flags)
    assert f"{flags[0]} {flags[1]!r} is of another type: --lora-type style has" in capsys.readouterr().err


@pytest.fixture
def gpu_run_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs script/gpu-run with these flags, and before its stages one that fails and one that takes too long; returns
    what it printed."""
    real_stages = gpu_run.all_stages

    def fail():
        raise LookupError("nobody thought of this")

    def with_bad_ones(*arguments: Any, **named: Any) -> list[Stage]:
        bad = [Stage("bad", "bad", 1, fail), Stage("endless", "endless", 9999, lambda: [Result("never", {})])]
        return [*bad, *real_stages(*arguments, **named)]

    def run(*flags: object) -> str:
        monkeypatch.setattr(sys, "argv", ["gpu-run", *map(str, flags), "--cache", str(tmp_path / "no-cache")])
        gpu_run.main()
        return capsys.readouterr().out

    monkeypatch.setattr(gpu_run, "all_stages", with_bad_ones)
    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def ended(records: list[Record], outcome: str) -> list[str]:
    return [each.stage for each in records if each.kind == "stage" and each.values["outcome"] == outcome]


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict | list | tuple):
        return [
            number for each in (value.values() if isinstance(value, dict) else value) for number in numbers_in(each)
        ]
    return [value] if isinstance(value, int | float) else []


def test_the_run_for_a_gpu_machine_measures_every_stage_and_survives_what_goes_wrong(gpu_run_small, tmp_path: Path):
    output = tmp_path / "results.jsonl"
    printed = gpu_run_small("--small", "--output", output)
    records = read_records(output)
    assert ended(records, "failed") == ["bad"]
    assert ended(records, "skipped") == ["endless"]
    done = ended(records, "done")
    assert done[:4] == ["machine", "loading compiled code", "rates", "reference in fp32"]
    assert done[-1] == "saving compiled code"
    with_results = {each.stage for each in records if each.kind != "stage"}
    assert with_results == set(done)
    arms = [each.values["measurement"]["arm"] for each in records if each.kind == "step"]
    assert {"ours bf16", "script, recomputing", "script", "ours int8", "ours nf4, recomputing"} < set(arms) < set(done)
    deviations = [each.values for each in records if each.kind == "deviation"]
    assert [each["arm"] for each in deviations] == [arm for arm in arms if arm.startswith("ours")]
    assert all(each["is_enough"] for each in deviations)
    assert all(math.isfinite(number) for each in records for number in numbers_in(each.values))
    tables = gpu_run_small("--table", output)
    assert tables.strip() in printed  # the last of those that the run printed
    assert "| bad | failed | 0.0 | LookupError: nobody thought of this |" in tables
    assert "| endless | skipped |  | it takes about 9999 s" in tables
    for text in ("| bf16 | forward |", "| 64 | ours bf16 |", "the device busy", "| image without LoRA |", "torch: "):
        assert text in tables
    for text in ("1 neutral images, when compiled", "| predicted, without copies of merged weights | 5.0 GB |  |  |"):
        assert text in tables


def test_the_run_for_a_gpu_machine_measures_ours_of_klein_and_its_images(gpu_run_small, tmp_path: Path):
    """The script trains FLUX.1."""
    output = tmp_path / "results.jsonl"
    printed = gpu_run_small("--small", "--base", "klein-4B", "--output", output)
    records = read_records(output)
    assert [each.values["base"] for each in records if each.kind == "machine"] == ["klein-4B"]
    assert ended(records, "failed") == ["bad"]
    arms = [each.values["measurement"]["arm"] for each in records if each.kind == "step"]
    assert arms
    assert all(arm.startswith("ours") for arm in arms)
    deviations = [each.values for each in records if each.kind == "deviation"]
    assert [each["arm"] for each in deviations] == arms
    assert all(each["is_enough"] for each in deviations)
    images = [each.values["arm"] for each in records if each.kind == "images"]
    assert images == [generation.MERGED.name, generation.EAGER.name]
    assert gpu_run_small("--table", output).strip() in printed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--budget", "0"], "budget is 0: expected a number of seconds above 0"),
        (["--table", "nothing.jsonl"], "nothing.jsonl does not exist: expected a file that script/gpu-run has written"),
    ],
)
def test_the_run_for_a_gpu_machine_refuses_a_wrong_argument_in_one_sentence(gpu_run_small, flags, sentence):
    with pytest.raises(SystemExit) as ended_with:
        gpu_run_small(*flags)
    assert ended_with.value.code == sentence
