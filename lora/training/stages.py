"""The stages of a prepared training: encode, train, write the output."""

import shutil
from contextlib import suppress
from pathlib import Path

from lora.base.device import free_memory
from lora.dataset.cache import Cache, open_cache
from lora.dataset.cache_keys import Keys
from lora.dataset.encoding import EncodedDataset, ExtraTexts, encode_dataset, encoded_bytes
from lora.families.loading import load_encoders, transformer_config
from lora.families.registry import family_of
from lora.training.checkpoints.files import Checkpoint
from lora.training.checkpoints.resume import LAST
from lora.training.checkpoints.store import BEST
from lora.training.memory.encoders import ENCODER_PLACEMENTS, EncoderPlacement
from lora.training.memory.requirements import encoder_execution_device, encoder_offload_device
from lora.training.preparation import Prepared
from lora.training.progress import Log
from lora.training.recipe.neutral import neutral_side
from lora.training.report import (
    LIVE_PAGE,
    final_page,
    held_out_line,
    write_fixed,
    write_sample_references,
    write_thumbnails,
)
from lora.training.result.output import TrainingArtifacts, check_tar, write_tar
from lora.training.result.run_record import run_record
from lora.training.runs.attempt import Job, PageFiles
from lora.training.runs.fallbacks import TrainedLora, run_with_fallbacks, train_lora
from lora.training.stop import Stop

SAMPLES = "samples"
NEGATIVE = ""  # the negative prompt of sample images, as the pipelines of diffusers have it


def encode(prepared: Prepared, *, folder: Path, log: Log, stop: Stop) -> EncodedDataset:
    """Encode images and texts once; then free the encoders and delete the image files. The tensors are on the CPU.

    Raises ValueError if the encoders cannot be loaded or the cache lacks space, RuntimeError if memory runs out with
    the smallest placement of the encoders, StopRequestedError if there is a reason to stop, and what
    `DiskCache.put` raises.
    """
    config, images = prepared.config, prepared.images
    extra_texts = len(_extra_texts(prepared).every)
    needed = encoded_bytes(images, prepared.base, extra_texts=extra_texts)
    cache = open_cache(on_disk=config.cache_latents_to_disk, needed=needed)
    placements = ENCODER_PLACEMENTS[ENCODER_PLACEMENTS.index(prepared.plans[0].encoders) :]
    dataset = run_with_fallbacks(placements, lambda placement: _encoded(prepared, placement, cache, stop), log)
    log.write(dataset.summary())
    free_memory()
    write_thumbnails(images, prepared.inspector, into=folder)
    write_sample_references(images, prepared.inspector, prepared.samples, into=folder / SAMPLES)
    shutil.rmtree(folder / "dataset")
    stop.raise_if_requested()
    return dataset


def _encoded(prepared: Prepared, placement: EncoderPlacement, cache: Cache, stop: Stop) -> EncodedDataset:
    base = prepared.base
    extra = _extra_texts(prepared)
    encoders, device = load_encoders(base, on=encoder_offload_device(placement)), encoder_execution_device(placement)
    keys = Keys.of(encoders, base, on=device)
    images, inspector, check = prepared.images, prepared.inspector, stop.raise_if_requested
    return encode_dataset(encoders, images, inspector, extra, on=device, keys=keys, cache=cache, check=check)


def _extra_texts(prepared: Prepared) -> ExtraTexts:
    needs_negative = family_of(prepared.base).text.has_negative
    return ExtraTexts(
        dropped=prepared.recipe.dropped_text(prepared.config.trigger_word),
        samples=prepared.samples.prompts,
        neutral=prepared.neutral_prompts,
        negative=NEGATIVE if needs_negative else None,
    )


def run_training(prepared: Prepared, dataset: EncodedDataset, *, folder: Path, log: Log, stop: Stop) -> TrainedLora:
    """Train, on the first plan that fits into memory.

    Raises RuntimeError if no plan fits, if the training diverges before its first checkpoint, or if it is stopped
    before its first step; and ValueError (RuntimeError with several processes) if a checkpoint does not match.
    """
    config, store = prepared.config, prepared.store
    page = PageFiles(write_fixed(prepared, folder=folder), store.folder / LIVE_PAGE)
    log.write(*filter(None, [held_out_line(prepared)]))
    log.write(f"report page, rewritten at every sample image and validation: {page.page}")
    job = Job(
        recipe=prepared.recipe,
        base=prepared.base,
        layers=prepared.layers.names,
        is_validated=config.validation,
        checkpoint_every=config.checkpoint_every,
        samples=prepared.samples,
        neutral_side=neutral_side(config.resolutions),
        samples_folder=folder / SAMPLES,
        page=page,
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
    family = family_of(prepared.base)
    page = final_page(result.summary, folder=folder, samples=folder / SAMPLES)
    artifacts = TrainingArtifacts(
        result=result,
        identity=family.file_identity(transformer_config(prepared.base)),
        layer_names=family.layer_names,
        settings=prepared.settings(),
        plan=trained.plan.settings(),
        dataset=images,
        report=prepared.report,
        run=run_record(trained.plan, result.usage, processes=prepared.processes, seconds=log.seconds()),
        page=page,
        samples=folder / SAMPLES,
        layout=config.extra_layout,
        checkpoints=_checkpoints(prepared) if config.keep_resume_state else {},
    )
    tar = write_tar(artifacts, into=folder)
    check_tar(tar, result.tensors)
    with suppress(OSError):  # the LoRA is written; checkpoints that cannot be deleted may stay
        prepared.store.keep_only_newest()
        (prepared.store.folder / LIVE_PAGE).write_text(page, encoding="utf-8")
    log.write(result.summary.line())
    return tar


def _checkpoints(prepared: Prepared) -> dict[str, Checkpoint]:
    """The last checkpoint and the best one. A training that resumed after its last step has saved none: the one that it
    resumed from is its last."""
    last = prepared.store.newest() or prepared.initial_state.checkpoint
    found = {LAST: last, BEST: prepared.store.best()}
    return {folder: checkpoint for folder, checkpoint in found.items() if checkpoint is not None}
