"""The stages of a prepared training: encode, train, write the output."""

import shutil
from contextlib import suppress
from pathlib import Path

from lora.dataset.cache import Cache, open_cache
from lora.dataset.cache_keys import Keys
from lora.dataset.encoding import EncodedDataset, ExtraTexts, encode_dataset, encoded_bytes
from lora.flux.loading import free_memory, load_encoders
from lora.training.checkpoints.files import Checkpoint
from lora.training.checkpoints.resume import LAST
from lora.training.checkpoints.store import BEST, CheckpointStore
from lora.training.learning.trainer import Schedule
from lora.training.memory.encoders import ENCODER_PLACEMENTS, EncoderPlacement
from lora.training.memory.requirements import encoder_execution_device, encoder_offload_device
from lora.training.preparation import Prepared
from lora.training.progress import Log
from lora.training.recipe.neutral import neutral_side
from lora.training.result.output import TrainingArtifacts, check_tar, write_tar
from lora.training.runs.attempt import Job
from lora.training.runs.fallbacks import TrainedLora, run_with_fallbacks, train_lora
from lora.training.stop import Stop

SAMPLES = "samples"


def encode(prepared: Prepared, *, folder: Path, log: Log, stop: Stop) -> EncodedDataset:
    """Encode images and texts once; then free the encoders and delete the image files. The tensors are on the CPU.

    Raises ValueError if the encoders cannot be loaded or the cache lacks space, RuntimeError if memory runs out with
    the smallest placement of the encoders, StopRequestedError if there is a reason to stop, and what
    `DiskCache.put` raises.
    """
    config, images = prepared.config, prepared.images
    extra_texts = len(config.sample_prompts) + len(prepared.neutral_prompts)
    needed = encoded_bytes(images, prepared.base, extra_texts=extra_texts)
    cache = open_cache(on_disk=config.cache_latents_to_disk, needed=needed)
    placements = ENCODER_PLACEMENTS[ENCODER_PLACEMENTS.index(prepared.plans[0].encoders) :]
    dataset = run_with_fallbacks(placements, lambda placement: _encoded(prepared, placement, cache, stop), log)
    log.write(dataset.summary())
    free_memory()
    shutil.rmtree(folder / "dataset")
    stop.raise_if_requested()
    return dataset


def _encoded(prepared: Prepared, placement: EncoderPlacement, cache: Cache, stop: Stop) -> EncodedDataset:
    base, recipe, config = prepared.base, prepared.recipe, prepared.config
    extra = ExtraTexts(recipe.dropped_text(config.trigger_word), config.sample_prompts, prepared.neutral_prompts)
    encoders, device = load_encoders(base, on=encoder_offload_device(placement)), encoder_execution_device(placement)
    keys = Keys.of(encoders, base, on=device)
    images, inspector, check = prepared.images, prepared.inspector, stop.raise_if_requested
    return encode_dataset(encoders, images, inspector, extra, on=device, keys=keys, cache=cache, check=check)


def run_training(prepared: Prepared, dataset: EncodedDataset, *, folder: Path, log: Log, stop: Stop) -> TrainedLora:
    """Train, on the first plan that fits into memory.

    Raises RuntimeError if no plan fits, if the training diverges before its first checkpoint, or if it is stopped
    before its first step; and ValueError (RuntimeError with several processes) if a checkpoint does not match.
    """
    config, store = prepared.config, prepared.store
    job = Job(
        recipe=prepared.recipe,
        base=prepared.base,
        layers=prepared.layers.names,
        is_validated=config.validation,
        schedule=Schedule(config.checkpoint_every, config.sample_every),
        sample_side=max(config.resolutions),
        neutral_side=neutral_side(config.resolutions),
        samples=folder / SAMPLES,
    )
    return train_lora(
        job,
        dataset,
        prepared.plans,
        prepared.initial_state,
        store=store,
        processes=prepared.processes,
        folder=folder,
        log=log,
        stop=stop,
    )


def write_output(prepared: Prepared, trained: TrainedLora, *, folder: Path, log: Log) -> Path:
    """Write `trained_model.tar` into a folder, check it by reading it back, and return its path.

    Raises OSError if the disk has too little space, and RuntimeError if a tensor of the LoRA is missing in the tar, is
    not finite or is all zero. Checkpoints that cannot be deleted afterwards raise no error.
    """
    config, images, result = prepared.config, prepared.images, trained.result
    artifacts = TrainingArtifacts(
        result=result,
        settings=prepared.settings(),
        plan=trained.plan.settings(),
        dataset=images,
        report=prepared.report,
        samples=folder / SAMPLES,
        layout=config.extra_layout,
        checkpoints=_checkpoints(prepared.store) if config.keep_resume_state else {},
    )
    tar = write_tar(artifacts, into=folder)
    check_tar(tar, result.tensors)
    with suppress(OSError):  # the LoRA is written; checkpoints that cannot be deleted may stay
        prepared.store.keep_only_newest()
    log.write(result.summary.line())
    return tar


def _checkpoints(store: CheckpointStore) -> dict[str, Checkpoint]:
    found = {LAST: store.newest(), BEST: store.best()}
    return {folder: checkpoint for folder, checkpoint in found.items() if checkpoint is not None}
