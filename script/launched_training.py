"""A training in the processes that accelerate or torchrun has started, for the command that each of them runs."""

import os
from pathlib import Path

from lora.gpu import check_gpu
from lora.training.runs.launched import Launched
from lora.training.runs.other_ranks import run_other_rank
from weights.bases import SETTING, find_trainable_base
from weights.catalogue import NAMES


def take_part(launched: Launched) -> int:
    """Carry out the commands of the first process, with the base of this machine, and return its exit code."""
    return run_other_rank(launched, find_own_base)


def find_own_base(expected: str) -> tuple[str, Path]:
    """The base that FLUX_BASE names, or else that of the first process, whose flags may have chosen it."""
    if expected in NAMES and not os.environ.get(SETTING):
        os.environ[SETTING] = expected
    base = find_trainable_base(check_gpu)
    return base.name, base.path
