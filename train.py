"""The training interface: one signature, then the job, read downwards."""

import shutil
from typing import Optional

from cog import BaseModel, Input, Path, current_scope

from lora.dataset.cache import open_cache
from lora.dataset.encoding import encode_dataset, encoded_bytes
from lora.dataset.inspection import Inspector
from lora.dataset.keys import Keys
from lora.dataset.pixels import PixelStore
from lora.dataset.reading import Archives, read_dataset
from lora.dataset.report import report_on
from lora.flux.loading import free_memory, load_encoders, load_transformer
from lora.training.adapter import add_lora
from lora.training.config import TrainConfig
from lora.training.flow import Shift
from lora.training.loop import train_lora
from lora.training.output import check_tar, write_tar
from lora.training.progress import Progress
from lora.workspace import workspace
from weights.bases import find_trainable_base


class TrainingOutput(BaseModel):
    """What Replicate makes a new model version of."""

    weights: Path


def train(
    # What to learn
    input_images: Path = Input(
        description="A zip, tar or tar.gz of images; captions, if any, in .txt files of the same names"
    ),
    trigger_word: str = Input(description="The word that will stand for what is learned", default="TOK"),
    input_captions: Optional[Path] = Input(
        description="Captions from elsewhere: the tar of an earlier training, or an archive of .txt files", default=None
    ),
    autocaption_prefix: Optional[str] = Input(
        description="Text at the start of every caption, such as 'a photo of TOK,'", default=None
    ),
    autocaption_suffix: Optional[str] = Input(
        description="Text at the end of every caption, such as 'in the style of TOK'", default=None
    ),
    # How long, and how hard
    steps: int = Input(description="Training steps", default=1000, ge=3, le=6000),
    learning_rate: float = Input(description="How far a step goes", default=4e-4, ge=1e-7, le=0.1),
    batch_size: int = Input(description="Images per step", default=1, ge=1, le=16),
    resolution: str = Input(description="Sides of the training images in pixels", default="512,768,1024"),
    lora_rank: int = Input(description="Size of the LoRA: higher holds more detail", default=16, ge=1, le=128),
    caption_dropout_rate: float = Input(
        description="Share of captions replaced by the trigger word alone", default=0.05, ge=0.0, le=1.0
    ),
    cache_latents_to_disk: bool = Input(
        description="Keep encoded images on disk: for large sets, and for training again on the same images",
        default=False,
    ),
    seed: int = Input(description="The same seed gives the same LoRA", default=42, ge=0, le=2147483647),
) -> TrainingOutput:
    """Teach FLUX.1 a subject or a style from an archive of images."""
    config = TrainConfig.checked(
        trigger_word=trigger_word,
        autocaption_prefix=autocaption_prefix,
        autocaption_suffix=autocaption_suffix,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        resolution=resolution,
        lora_rank=lora_rank,
        caption_dropout_rate=caption_dropout_rate,
        cache_latents_to_disk=cache_latents_to_disk,
        seed=seed,
    )
    with workspace("train") as folder:
        inspector = Inspector(config.resolutions, PixelStore(folder / "dataset/pixels"))
        archives = Archives.given(input_images, captions=input_captions)
        images = read_dataset(archives, into=folder / "dataset", inspector=inspector, rule=config.prompt_rule)
        report = report_on(images, rule=config.prompt_rule, resolutions=config.resolutions)
        print(report.as_text())
        base = find_trainable_base()
        cache = open_cache(on_disk=config.cache_latents_to_disk, needed=encoded_bytes(images, base.path))

        encoders = load_encoders(base.path)
        keys = Keys.of(encoders, base.path)
        dataset = encode_dataset(encoders, images, inspector, config.trigger_word, keys=keys, cache=cache)
        print(dataset.summary())
        shift = Shift.of(encoders.scheduler)
        del encoders
        free_memory()
        shutil.rmtree(folder / "dataset")

        transformer = load_transformer(base.path)
        add_lora(transformer, rank=config.lora_rank, seed=config.seed)
        progress = Progress(config.steps, record_metric=current_scope().record_metric)
        train_lora(transformer, dataset, config, shift=shift, report=progress.report)

        tar = write_tar(transformer, images, report, config, base=base.name, into=folder)
        check_tar(tar, transformer)
        return TrainingOutput(weights=Path(tar))
