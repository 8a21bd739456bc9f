"""Worker processes read the same inputs that the parent process wrote."""

from dataclasses import replace

import torch

from lora.dataset.encoding import EncodedDataset
from lora.training.memory.configurations import Plan
from lora.training.memory.host import HostMemory
from lora.training.memory.weights import MemoryConfiguration
from lora.training.recipe.samples import SampleSettings
from lora.training.runs.attempt import Job
from lora.training.runs.worker_files import (
    WorkerInput,
    numbered_examples,
    numbered_prompts,
    read_data,
    read_worker_input,
    write_worker_input,
)
from tests.random_models import with_each_model
from tests.tiny import TINY_FLUX, a_recipe, tiny_dataset


def worker_input_for(dataset, folder):
    job = Job(
        recipe=a_recipe(),
        base=TINY_FLUX,
        layers=(),
        is_validated=False,
        checkpoint_every=1,
        samples=SampleSettings((), 64, 0, 1, 3.5),
        neutral_side=64,
        samples_folder=folder,
        page=None,
    )
    return WorkerInput(
        job=job,
        plan=Plan(
            MemoryConfiguration("fp32", "nothing", False),
            *(6, "GELU", "together", "fast", 0.0, 0.0, 0.0, HostMemory(0, 0, 0, 0), ()),
        ),
        examples=numbered_examples(dataset),
        samples=len(dataset.samples),
        has_negative=dataset.negative is not None,
        prompts=numbered_prompts(dataset),
        checkpoint=None,
        has_lora=False,
        store=folder,
        identity={},
    )


@with_each_model
def test_prompts_keep_their_order_and_equal_prompts_are_written_once(tmp_path, model):
    sample, *neutral = (model.prompt(seed=seed) for seed in (1, 2, 3))
    dataset = model.dataset(3)
    repeated = replace(dataset.examples[1], repeats=5)
    others = (model.prompt(seed=4), model.prompt(seed=5))
    several = replace(model.masked(dataset.examples[2], 0.1), other_prompts=others)
    dataset = replace(dataset, examples=(dataset.examples[0], repeated, several))
    negative = model.prompt(seed=6) if model.family.text.has_negative else None
    dataset = replace(dataset, samples=(sample, dataset.dropped), neutral=(*neutral, sample), negative=negative)
    write_worker_input(tmp_path, worker_input_for(dataset, tmp_path), dataset, None)
    found = read_data(tmp_path, read_worker_input(tmp_path))
    for ours, theirs in zip(all_prompts(found), all_prompts(dataset), strict=True):
        assert ours.tensors().keys() == theirs.tensors().keys()
        assert all(torch.equal(each, theirs.tensors()[name]) for name, each in ours.tensors().items())
    assert [example.repeats for example in found.examples] == [1, 5, 1]
    assert [len(example.other_prompts) for example in found.examples] == [0, 0, 2]
    assert [example.weights is None for example in found.examples] == [True, True, False]
    assert torch.equal(found.examples[2].weights, several.weights)
    assert (len(found.samples), len(found.neutral)) == (2, 3)
    assert found.neutral[2].tokens is found.samples[0].tokens


def test_latents_and_references_that_examples_share_keep_their_order_and_are_written_once(tmp_path):
    first, second = tiny_dataset(2).examples
    before, other = second.latents + 1, second.latents[:, :2] - 1
    shared = replace(first, latents=second.latents, references=(before,)), replace(second, references=(other, before))
    dataset = EncodedDataset((*shared, first), first.prompt)
    write_worker_input(tmp_path, worker_input_for(dataset, tmp_path), dataset, None)
    found = read_data(tmp_path, read_worker_input(tmp_path)).examples
    assert [len(example.references) for example in found] == [1, 2, 0]
    for ours, theirs in zip(found, dataset.examples, strict=True):
        assert all(map(torch.equal, (ours.latents, *ours.references), (theirs.latents, *theirs.references)))
    tensors = 3 * first.latents.numel() + other.numel()
    assert (tmp_path / "data.tensors").stat().st_size < 1.5 * 4 * tensors + 2 * 4 * first.prompt.tokens.numel() + 4000


def all_prompts(dataset):
    of_examples = [each for example in dataset.examples for each in (example.prompt, *example.other_prompts)]
    negatives = [dataset.negative] if dataset.negative else []
    return [*of_examples, dataset.dropped, *dataset.samples, *negatives, *dataset.neutral]
