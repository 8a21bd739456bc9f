"""Runs the handler in a process of the tests, with RunPod's own package, which has an environment of its own."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from script.cog_server import ROOT

VARIABLE = "RUNPOD_PACKAGES"  # the folder with RunPod's package
REQUIREMENTS = ROOT / "deploy/runpod/requirements.txt"
SMALL = {  # the inputs of a job that takes a moment
    "prompt": "a red star",
    "aspect_ratio": "custom",
    "width": 64,
    "height": 64,
    "num_inference_steps": 2,
    "seed": 7,
}


def install_runpod(folder: Path) -> Path:
    """Install what the worker needs beside the packages of the tests into a folder; skips the tests if that fails."""
    ours = set((ROOT / "requirements.txt").read_text().splitlines())
    more = [
        line for line in REQUIREMENTS.read_text().splitlines() if line not in ours and not line.startswith(("#", " "))
    ]
    command = [
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--python",
        sys.executable,
        "--target",
        str(folder),
        *more,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("RunPod's package cannot be installed: there is no uv; script/test brings it")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"RunPod's package cannot be installed: {error.stderr.strip().splitlines()[-1]}")
    return folder


if __name__ == "__main__":
    sys.path.insert(0, os.environ[VARIABLE])
    runpy.run_module("deploy.runpod.handler", run_name="__main__", alter_sys=True)
