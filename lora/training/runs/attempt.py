"""One try at a training: on a transformer held as a plan says, in this process alone or as one of several.

A job is plain values, so that it can be handed to other processes.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

from lora.dataset.encoding import EncodedDataset
from lora.engine.checkpointing import configure_blocks
from lora.engine.compilation import can_be_compiled
from lora.engine.lora_layers import fuse_lora
from lora.flux.frozen_transformer import load_transformer
from lora.training.checkpoints.resume import InitialState
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, Draws
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.preservation import NeutralImages, Preservation
from lora.training.learning.samples import SampleGenerator
from lora.training.learning.trainer import Callbacks, Outcome, Schedule, Trainer
from lora.training.learning.validation import DatasetSplit, hold_out
from lora.training.learning.warm_start import load_initial_lora
from lora.training.memory.configurations import GB, Plan
from lora.training.memory.requirements import held
from lora.training.progress import Log
from lora.training.recipe.recipe import Recipe, steps_that_preserve
from lora.training.recipe.sigmas import Shift
from lora.training.stop import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train, on what, and what to do meanwhile."""

    recipe: Recipe
    base: Path
    layers: tuple[str, ...]
    is_validated: bool
    schedule: Schedule
    sample_side: int  # pixels
    neutral_side: int  # pixels of the images for preservation
    samples: Path  # the folder for them


def run_job(
    job: Job,
    dataset: EncodedDataset,
    plan: Plan,
    beginning: InitialState,
    *,
    store: CheckpointStore,
    team: SingleProcess,
    log: Log,
    stop: Stop,
) -> Outcome | None:
    """Train; the result is that of the team's first process, the others have none.

    Raises torch.OutOfMemoryError if the plan does not fit, and what `Trainer` raises.
    """
    transformer = _transformer(job, plan, beginning)
    if transformer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trained, held_out = _parted(job, dataset)
    draws, size = _draws(job), job.recipe.batch_size * team.size
    batches = Batches(trained, batch_size=size, draws=draws, seed=job.recipe.seed)
    sample_generator = _painter(job, transformer, dataset) if team.rank == 0 else None
    preservation = _preservation(job, transformer, dataset, draws)
    meanwhile = Callbacks(job.schedule, held_out, sample_generator, preservation, store)
    session = Trainer(transformer, batches, job.recipe, meanwhile, team=team, log=log, stop=stop)
    if beginning.checkpoint is not None:
        session.load_checkpoint(beginning.checkpoint)
    stopped = session.run()
    if transformer.device.type == "cuda":
        peak = torch.cuda.max_memory_reserved()
        log.say(f"peak memory: {plan.peak_bytes / GB:.1f} GB predicted, {peak / GB:.1f} GB measured")
    return session.result(stopped) if team.rank == 0 else None


def _transformer(job: Job, plan: Plan, beginning: InitialState) -> FluxTransformer2DModel:
    """A frozen transformer that computes as planned, with a LoRA that changes nothing yet or the initial one."""
    how = held(plan)
    transformer = load_transformer(job.base, how)
    add_lora(transformer, layers=job.layers, rank=job.recipe.lora_rank, seed=job.recipe.seed)
    if beginning.lora is not None:
        load_initial_lora(transformer, beginning.lora)
    if plan.engine == "fast":
        fuse_lora(transformer)
    configure_blocks(
        transformer, plan.rung.recomputed, are_compiled=plan.engine == "fast" and can_be_compiled(how.device)
    )
    return transformer


def _parted(job: Job, dataset: EncodedDataset) -> DatasetSplit:
    return hold_out(dataset, seed=job.recipe.seed) if job.is_validated else DatasetSplit(dataset, ())


def _draws(job: Job) -> Draws:
    recipe = job.recipe
    shift = Shift.of(FlowMatchEulerDiscreteScheduler.from_pretrained(job.base, subfolder="scheduler"))
    return Draws(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, shift)


def _preservation(
    job: Job, transformer: FluxTransformer2DModel, dataset: EncodedDataset, draws: Draws
) -> Preservation | None:
    if not steps_that_preserve(job.recipe.steps, job.recipe.preservation):
        return None
    images = NeutralImages(job.base, dataset.neutral, job.neutral_side)
    return Preservation(transformer, job.recipe, draws, images)


def _painter(job: Job, transformer: FluxTransformer2DModel, dataset: EncodedDataset) -> SampleGenerator | None:
    if not dataset.samples:
        return None
    return SampleGenerator(transformer, job.base, dataset.samples, side=job.sample_side, into=job.samples)
