"""The two programs whose starts are compared, on a FLUX.1; tests/test_bench.py starts them as processes, on klein."""

import sys
import tempfile
from types import ModuleType

import pytest

from bench import start_diffusers, start_ours
from bench.marks import parse_timestamps
from tests.families import FIRST
from weights.bases import SETTING


@pytest.mark.parametrize("program", [start_diffusers, start_ours])
def test_a_program_imports_loads_and_generates(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", str(FIRST.folder), "64"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv(SETTING, str(FIRST.folder))
    program.main()
    times = parse_timestamps(capsys.readouterr().out)
    assert times.imported < times.ready < times.first_image
