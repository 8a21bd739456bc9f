"""The benchmarks run, on a machine of any size: a small configuration of each, whose numbers mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

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
    assert run.stdout.splitlines()[0].startswith("| archive | plain loop | ours |")
