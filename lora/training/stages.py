"""A prepared training, stage by stage: encode, teach, pack."""

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
from lora.training.memory.configurations import ENCODER_PLACEMENTS, EncoderPlacement
from lora.training.memory.requirements import encoder_execution_device, encoder_offload_device
from lora.training.preparation import Prepared
from lora.training.progress import Log
from lora.training.recipe.neutral import neutral_side
from lora.training.result.output import Product, check_tar, write_tar
from lora.training.runs.attempt import Job
from lora.training.runs.fallbacks import Trained, run_with_fallbacks, train_lora
from lora.training.stop import Stop

SAMPLES = "samples"


def encode(prepared: Prepared, *, folder: Path, log: Log) -> EncodedDataset:
    """Images and texts become tensors, once; then the encoders are gone, and so are the images."""
    config, images = prepared.config, prepared.images
    extra_texts = len(config.sample_prompts) + len(prepared.neutral_prompts)
    needed = encoded_bytes(images, prepared.base, extra_texts=extra_texts)
    cache = open_cache(on_disk=config.cache_latents_to_disk, needed=needed)
    places = ENCODER_PLACEMENTS[ENCODER_PLACEMENTS.index(prepared.plans[0].encoders) :]
    dataset = run_with_fallbacks(places, lambda place: _encoded(prepared, place, cache), log)
    log.say(dataset.summary())
    free_memory()
    shutil.rmtree(folder / "dataset")
    return dataset


def _encoded(prepared: Prepared, place: EncoderPlacement, cache: Cache) -> EncodedDataset:
    base, recipe, config = prepared.base, prepared.recipe, prepared.config
    extra = ExtraTexts(recipe.dropped_text(config.trigger_word), config.sample_prompts, prepared.neutral_prompts)
    encoders, work_on = load_encoders(base, on=encoder_offload_device(place)), encoder_execution_device(place)
    keys = Keys.of(encoders, base, on=work_on)
    return encode_dataset(encoders, prepared.images, prepared.inspector, extra, on=work_on, keys=keys, cache=cache)


def teach(prepared: Prepared, dataset: EncodedDataset, *, folder: Path, log: Log, stop: Stop) -> Trained:
    """The training itself, on whichever plan memory suffices for."""
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
        prepared.beginning,
        store=store,
        processes=prepared.processes,
        folder=folder,
        log=log,
        stop=stop,
    )


def pack(prepared: Prepared, trained: Trained, *, folder: Path, log: Log) -> Path:
    """The tar, read back before it is given away."""
    config, images, result = prepared.config, prepared.images, trained.result
    product = Product(
        result=result,
        settings=prepared.settings(),
        plan=trained.plan.settings(),
        dataset=images,
        report=prepared.report,
        samples=folder / SAMPLES,
        layout=config.extra_layout,
        checkpoints=_checkpoints(prepared.store) if config.keep_resume_state else {},
    )
    tar = write_tar(product, into=folder)
    check_tar(tar, result.tensors)
    with suppress(OSError):  # the LoRA is there: what cannot be tidied up stays
        prepared.store.keep_only_newest()
    log.say(result.account.line())
    return tar


def _checkpoints(store: CheckpointStore) -> dict[str, Checkpoint]:
    found = {LAST: store.newest(), BEST: store.best()}
    return {folder: checkpoint for folder, checkpoint in found.items() if checkpoint is not None}
