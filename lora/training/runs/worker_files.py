"""The files in which the parent process and the worker processes of a training exchange inputs and results."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
from lora.training.learning.summary import TrainingResult, TrainingSummary, Usage
from lora.training.memory.configurations import Plan
from lora.training.runs.attempt import Job

INPUT, DATA, LORA = "input.json", "data.tensors", "initial.tensors"
RESULT, SUMMARY, USAGE = "lora.tensors", "summary.json", "usage.json"
STOP, OUT_OF_MEMORY, FAILED = "stop", "out-of-memory", "failed"  # written by the parent process; by a worker process


@dataclass(frozen=True, slots=True)
class WrittenExample:
    """An example, with the numbers of its latents and weights in the file. Copies of an image share theirs."""

    content: str
    repeats: int
    prompts: int  # how many it has
    latents: int
    references: tuple[int, ...]  # of their latents
    weights: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInput:
    """Everything that a worker process needs, except for tensors."""

    job: Job
    plan: Plan
    examples: tuple[WrittenExample, ...]
    samples: int  # number of sample prompts
    has_negative: bool  # whether there is a negative prompt
    prompts: tuple[int, ...]  # their numbers, in the order of `numbered_prompts`
    checkpoint: Path | None  # the folder of the checkpoint from which to resume
    has_lora: bool
    store: Path
    identity: dict[str, object]


INPUT_ADAPTER, SUMMARY_ADAPTER = TypeAdapter(WorkerInput), TypeAdapter(TrainingSummary)
USAGE_ADAPTER = TypeAdapter(Usage)


def numbered_prompts(dataset: EncodedDataset) -> tuple[int, ...]:
    """The numbers of the prompts of all examples, of samples, of a dropped caption, of the negative prompt if there is
    one, and of neutral images, in this order. Equal prompts have the same number."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(id(prompt.tokens), len(numbers)) for prompt in _prompts(dataset))


def numbered_examples(dataset: EncodedDataset) -> tuple[WrittenExample, ...]:
    """The examples with numbers for their tensors, in the order of `_tensors`. A tensor that several share has one."""
    numbers = {id(tensor): number for number, tensor in enumerate(_tensors(dataset))}
    return tuple(
        WrittenExample(
            each.content,
            each.repeats,
            1 + len(each.other_prompts),
            numbers[id(each.latents)],
            tuple(numbers[id(reference)] for reference in each.references),
            None if each.weights is None else numbers[id(each.weights)],
        )
        for each in dataset.examples
    )


def write_worker_input(
    folder: Path, worker_input: WorkerInput, dataset: EncodedDataset, lora: Mapping[str, Tensor] | None
) -> None:
    """Write the inputs of the worker processes."""
    tensors = {f"example.{number}": tensor.contiguous() for number, tensor in enumerate(_tensors(dataset))}
    for number, prompt in zip(worker_input.prompts, _prompts(dataset), strict=True):
        tensors |= {f"{name}.{number}": tensor for name, tensor in prompt.tensors().items()}
    save_file(tensors, folder / DATA)
    if lora is not None:
        save_file(dict(lora), folder / LORA)
    (folder / INPUT).write_bytes(INPUT_ADAPTER.dump_json(worker_input))


def read_worker_input(folder: Path) -> WorkerInput:
    """Read what `write_worker_input` wrote, without tensors."""
    return INPUT_ADAPTER.validate_json((folder / INPUT).read_bytes())


def read_data(folder: Path, worker_input: WorkerInput) -> EncodedDataset:
    """Read the data set, memory-mapped, so that processes share its memory."""
    tensors = load_file(folder / DATA)
    rest = (Prompt(tensors[f"tokens.{number}"], tensors.get(f"pooled.{number}")) for number in worker_input.prompts)
    examples = []
    for each in worker_input.examples:
        prompt, *others = itertools.islice(rest, each.prompts)
        weights = None if each.weights is None else tensors[f"example.{each.weights}"]
        references = tuple(tensors[f"example.{number}"] for number in each.references)
        latents = tensors[f"example.{each.latents}"]
        examples.append(Example(latents, prompt, each.content, each.repeats, weights, tuple(others), references))
    samples = tuple(itertools.islice(rest, worker_input.samples))
    dropped, negative = next(rest), next(rest) if worker_input.has_negative else None
    return EncodedDataset(tuple(examples), dropped, samples, tuple(rest), negative)


def read_initial_lora(folder: Path, worker_input: WorkerInput) -> Mapping[str, Tensor] | None:
    """Read the initial LoRA, if there is one."""
    return load_file(folder / LORA) if worker_input.has_lora else None


def write_result(folder: Path, result: TrainingResult) -> None:
    """Write the result for the parent process."""
    save_file(result.tensors, folder / RESULT)
    (folder / SUMMARY).write_bytes(SUMMARY_ADAPTER.dump_json(result.summary))
    (folder / USAGE).write_bytes(USAGE_ADAPTER.dump_json(result.usage))


def read_result(folder: Path) -> TrainingResult:
    """Read what `write_result` wrote."""
    summary = SUMMARY_ADAPTER.validate_json((folder / SUMMARY).read_bytes())
    return TrainingResult(
        load_file(folder / RESULT), summary, USAGE_ADAPTER.validate_json((folder / USAGE).read_bytes())
    )


def _tensors(dataset: EncodedDataset) -> list[Tensor]:
    """The latents and weights of all examples, each once."""
    every = (
        tensor
        for each in dataset.examples
        for tensor in (each.latents, *each.references, each.weights)
        if tensor is not None
    )
    return list({id(tensor): tensor for tensor in every}.values())


def _prompts(dataset: EncodedDataset) -> list[Prompt]:
    of_examples = (prompt for example in dataset.examples for prompt in (example.prompt, *example.other_prompts))
    negatives = () if dataset.negative is None else (dataset.negative,)
    return [*of_examples, *dataset.samples, dataset.dropped, *negatives, *dataset.neutral]
