"""What the processes of one training hand to each other, in the files of one folder."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.prompt import Prompt
from lora.training.learning.trainer import Outcome, TrainingSummary
from lora.training.memory.configurations import Plan
from lora.training.runs.attempt import Job

WORK, DATA, LORA, MADE, ACCOUNT = "work.json", "data.tensors", "begin.tensors", "made.tensors", "account.json"
STOP, OUT_OF_MEMORY, FAILED = "stop", "out-of-memory", "failed"  # a wish of the one who started it; what went wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that a process of a team needs to know, but for tensors."""

    job: Job
    plan: Plan
    contents: tuple[str, ...]  # of the examples
    samples: int  # how many there are
    prompts: tuple[int, ...]  # which prompt each example has, each sample, a dropped caption and each neutral image
    begin: Path | None  # the folder of a checkpoint
    has_lora: bool
    store: Path
    identity: dict[str, object]


WORKS, ACCOUNTS = TypeAdapter(Work), TypeAdapter(TrainingSummary)


def numbered_prompts(dataset: EncodedDataset) -> tuple[int, ...]:
    """Which prompt each example has, then each sample, a dropped caption, each neutral image; equal ones have one
    number."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(id(prompt.tokens), len(numbers)) for prompt in _prompts(dataset))


def write_worker_input(folder: Path, work: Work, dataset: EncodedDataset, lora: Mapping[str, Tensor] | None) -> None:
    """For the team to read."""
    tensors = {f"latents.{number}": example.latents.contiguous() for number, example in enumerate(dataset.examples)}
    for number, prompt in zip(work.prompts, _prompts(dataset), strict=True):
        tensors |= {f"tokens.{number}": prompt.tokens, f"pooled.{number}": prompt.pooled}
    save_file(tensors, folder / DATA)
    if lora is not None:
        save_file(dict(lora), folder / LORA)
    (folder / WORK).write_bytes(WORKS.dump_json(work))


def read_worker_input(folder: Path) -> Work:
    """What `write_worker_input` wrote."""
    return WORKS.validate_json((folder / WORK).read_bytes())


def read_data(folder: Path, work: Work) -> EncodedDataset:
    """The data set, mapped from the file: processes share its memory."""
    tensors = load_file(folder / DATA)
    prompts = [Prompt(tensors[f"tokens.{number}"], tensors[f"pooled.{number}"]) for number in work.prompts]
    examples = tuple(
        Example(tensors[f"latents.{number}"], prompts[number], content) for number, content in enumerate(work.contents)
    )
    rest = iter(prompts[len(examples) :])
    samples = tuple(itertools.islice(rest, work.samples))
    return EncodedDataset(examples, next(rest), samples, tuple(rest))


def read_initial_lora(folder: Path, work: Work) -> Mapping[str, Tensor] | None:
    """The LoRA to begin with, if there is one."""
    return load_file(folder / LORA) if work.has_lora else None


def write_result(folder: Path, result: Outcome) -> None:
    """For the process that started the team."""
    save_file(result.tensors, folder / MADE)
    (folder / ACCOUNT).write_bytes(ACCOUNTS.dump_json(result.account))


def read_result(folder: Path) -> Outcome:
    """What `write_result` wrote."""
    return Outcome(load_file(folder / MADE), ACCOUNTS.validate_json((folder / ACCOUNT).read_bytes()))


def _prompts(dataset: EncodedDataset) -> list[Prompt]:
    return [*(example.prompt for example in dataset.examples), *dataset.samples, dataset.dropped, *dataset.neutral]
