"""The benchmarks run, on a machine of any size: a small configuration of each, whose numbers mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.arms import ARMS

ROOT = Path(__file__).resolve().parents[1]


def test_the_dataset_benchmark_compares_the_same_work(tmp_path: Path):
    output = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "bench.dataset", "--small", "--output", str(output)]
    run = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    numbers = json.loads(output.read_text())
    (row,) = numbers["rows"]
    assert [len(row["runs"][name]) for name in ("plain", "ours")] == [1, 1]
    assert row["runs"]["plain"][0]["tensors"] == row["runs"]["ours"][0]["tensors"] == 6
    assert numbers["machine"]["pillow"]
    assert "| archive | plain loop | ours |" in run.stdout


def test_the_serving_benchmark_times_both_contenders_at_everything(tmp_path: Path):
    output = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "bench.serving", "--small", "--output", str(output)]
    environment = os.environ | {"FLUX_BASE": "tiny"}
    run = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, env=environment)
    numbers = json.loads(output.read_text())
    assert len(numbers["seconds"]) == 7
    assert all(len(found[name]) == 1 for found in numbers["seconds"].values() for name in ("ours", "stock"))
    assert "| a picture with 3 LoRAs |" in run.stdout


def test_the_learning_benchmark_trains_and_judges_every_arm(tmp_path: Path):
    output = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "bench.learning", "--small", "--output", str(output)]
    run = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    numbers = json.loads(output.read_text())
    assert [each["arm"] for each in numbers["runs"]] == list(ARMS)
    assert all(list(each["at"]) == ["0", "1", "2", "3"] for each in numbers["runs"])
    assert all(each["at"]["3"]["colours"] and each["at"]["3"]["change"] for each in numbers["runs"])
    assert all(f"| {arm} |" in run.stdout for arm in ARMS)
    assert list(tmp_path.iterdir()) == [output]
