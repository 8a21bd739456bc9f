"""One attempt at a training, with the memory configuration of a plan, in this process alone or as one of several.

A job consists of plain values, so that it can be sent to other processes.
"""

from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin

from lora.base.transformer import spaced_blocks
from lora.dataset.encoding import EncodedDataset
from lora.engine.checkpointing import configure_blocks
from lora.engine.compilation import can_be_compiled
from lora.engine.lora_layers import fuse_lora
from lora.families.frozen_transformer import load_transformer
from lora.families.registry import family_of
from lora.reporting.contents import FIXED
from lora.training.checkpoints.resume import InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.live_page import LivePage
from lora.training.learning.preservation import NeutralImages, Preservation
from lora.training.learning.samples import SampleGenerator, SamplePrompt
from lora.training.learning.summary import TrainingResult
from lora.training.learning.trainer import Callbacks, Schedule, Trainer
from lora.training.learning.validation import DatasetSplit, hold_out
from lora.training.learning.warm_start import load_initial_lora
from lora.training.memory.configurations import GB, Plan
from lora.training.memory.requirements import weight_placement
from lora.training.progress import Log
from lora.training.recipe.recipe import Recipe, steps_that_preserve
from lora.training.recipe.samples import SampleSettings
from lora.training.recipe.sigmas import Shift
from lora.training.stop import Stop


@dataclass(frozen=True, slots=True)
class PageFiles:
    """The files of the report page."""

    fixed: Path  # what is known before the first step, as JSON
    page: Path  # HTML, rewritten while the training runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train, on which base, and what to do between the steps."""

    recipe: Recipe
    base: Path
    layers: tuple[str, ...]
    is_validated: bool
    checkpoint_every: int  # steps
    samples: SampleSettings
    neutral_side: int  # pixels of the images for preservation
    samples_folder: Path
    page: PageFiles | None


def run_job(
    job: Job,
    dataset: EncodedDataset,
    plan: Plan,
    initial_state: InitialState,
    *,
    store: CheckpointStore,
    process_group: SingleProcess,
    log: Log,
    stop: Stop,
) -> TrainingResult | None:
    """Train, and return the result in the first process of the group, and None in the others.

    Raises torch.OutOfMemoryError if the plan does not fit into memory, and what `Trainer` raises.
    """
    transformer = _transformer(job, plan, initial_state)
    if transformer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train_set, held_out = _split_dataset(job, dataset)
    noise_settings, size = _noise_settings(job), job.recipe.batch_size * process_group.size
    batches = Batches(train_set, batch_size=size, noise_settings=noise_settings, seed=job.recipe.seed)
    sample_generator = _sample_generator(job, transformer, dataset) if process_group.rank == 0 else None
    preservation = _preservation(job, transformer, dataset, noise_settings, process_group)
    schedule = Schedule(job.checkpoint_every, job.samples.every)
    page = _live_page(job) if process_group.rank == 0 else None
    callbacks = Callbacks(schedule, held_out, sample_generator, preservation, store, page)
    trainer = Trainer(transformer, batches, job.recipe, callbacks, process_group=process_group, log=log, stop=stop)
    if initial_state.checkpoint is not None:
        trainer.load_checkpoint(initial_state.checkpoint)
    stopped = trainer.run()
    if transformer.device.type == "cuda":
        peak = torch.cuda.max_memory_reserved()
        log.write(f"peak memory: {plan.peak_bytes / GB:.1f} GB predicted, {peak / GB:.1f} GB measured")
    return trainer.result(stopped) if process_group.rank == 0 else None


def _transformer(job: Job, plan: Plan, initial_state: InitialState) -> ModelMixin:
    """The frozen transformer in the plan's configuration, with a new LoRA or the initial one."""
    placement = weight_placement(plan)
    transformer = load_transformer(job.base, placement)
    add_lora(transformer, layers=job.layers, rank=job.recipe.lora_rank, seed=job.recipe.seed)
    if initial_state.lora is not None:
        load_initial_lora(transformer, initial_state.lora)
    if plan.engine == "fast":
        fuse_lora(transformer)
    configure_blocks(
        transformer,
        plan.configuration.recomputed,
        are_compiled=plan.engine == "fast" and can_be_compiled(placement.device),
        whole=spaced_blocks(transformer, plan.configuration.whole_blocks),
    )
    return transformer


def _split_dataset(job: Job, dataset: EncodedDataset) -> DatasetSplit:
    return hold_out(dataset, seed=job.recipe.seed) if job.is_validated else DatasetSplit(dataset, ())


def _noise_settings(job: Job) -> NoiseSettings:
    recipe = job.recipe
    shift = Shift.of(FlowMatchEulerDiscreteScheduler.from_pretrained(job.base, subfolder="scheduler"))
    patch = family_of(job.base).latents.patch
    return NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, shift, patch)


def _preservation(
    job: Job,
    transformer: ModelMixin,
    dataset: EncodedDataset,
    noise_settings: NoiseSettings,
    process_group: SingleProcess,
) -> Preservation | None:
    if not steps_that_preserve(job.recipe.steps, job.recipe.preservation):
        return None
    images = NeutralImages(job.base, dataset.neutral, dataset.negative, job.neutral_side)
    return Preservation(transformer, job.recipe, noise_settings, images, processes=process_group.size)


def _live_page(job: Job) -> LivePage | None:
    if job.page is None:
        return None
    return LivePage(FIXED.validate_json(job.page.fixed.read_bytes()), job.samples_folder, job.page.page)


def _sample_generator(job: Job, transformer: ModelMixin, dataset: EncodedDataset) -> SampleGenerator | None:
    if not dataset.samples:
        return None
    prompts = tuple(starmap(SamplePrompt, zip(job.samples.prompts, dataset.samples, strict=True)))
    if job.samples.pairs:
        paired = zip(prompts, job.samples.pairs, strict=True)
        prompts = tuple(
            replace(prompt, references=dataset.examples[pair.example].references, size=pair.crop.size)
            for prompt, pair in paired
        )
    negative, into = dataset.negative, job.samples_folder
    return SampleGenerator(transformer, job.base, prompts, job.samples, negative=negative, into=into)
