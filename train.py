"""The training interface: one signature, then the job, read downwards."""

import pathlib

from cog import BaseModel, Input, Path, current_scope

from lora.dataset.encoding import encode_dataset
from lora.dataset.reading import read_dataset
from lora.flux.loading import free_memory, load_encoders, load_transformer
from lora.training.adapter import add_lora
from lora.training.config import TrainConfig
from lora.training.flow import Shift
from lora.training.loop import train_lora
from lora.training.output import check_tar, write_tar
from lora.training.progress import Progress
from lora.workspace import fresh_workspace
from weights.bases import find_trainable_base


class TrainingOutput(BaseModel):
    """What Replicate makes a new model version of."""

    weights: Path


def train(
    # What to learn
    input_images: Path = Input(description="A zip of training images, each with a caption in a .txt file of its name"),
    trigger_word: str = Input(description="The word that will stand for what is learned", default="TOK"),
    # How long, and how hard
    steps: int = Input(description="Training steps", default=1000, ge=3, le=6000),
    learning_rate: float = Input(description="How far a step goes", default=4e-4, ge=1e-7, le=0.1),
    batch_size: int = Input(description="Images per step", default=1, ge=1, le=16),
    resolution: str = Input(description="Sides of the training images in pixels", default="512,768,1024"),
    lora_rank: int = Input(description="Size of the LoRA: higher holds more detail", default=16, ge=1, le=128),
    caption_dropout_rate: float = Input(
        description="Share of captions replaced by the trigger word alone", default=0.05, ge=0.0, le=1.0
    ),
    seed: int = Input(description="The same seed gives the same LoRA", default=42, ge=0, le=2147483647),
) -> TrainingOutput:
    """Teach FLUX.1 a subject or a style from a zip of images."""
    config = TrainConfig.checked(
        trigger_word=trigger_word,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        resolution=resolution,
        lora_rank=lora_rank,
        caption_dropout_rate=caption_dropout_rate,
        seed=seed,
    )
    workspace = fresh_workspace("train")
    images = read_dataset(pathlib.Path(str(input_images)), into=workspace / "images", trigger_word=config.trigger_word)
    print(images.summary())
    base = find_trainable_base()

    encoders = load_encoders(base.path)
    dataset = encode_dataset(encoders, images, resolutions=config.resolutions, trigger_word=config.trigger_word)
    shift = Shift.of(encoders.scheduler)
    del encoders
    free_memory()

    transformer = load_transformer(base.path)
    add_lora(transformer, rank=config.lora_rank, seed=config.seed)
    progress = Progress(config.steps, record_metric=current_scope().record_metric)
    train_lora(transformer, dataset, config, shift=shift, report=progress.report)

    tar = write_tar(transformer, images, config, base=base.name, into=workspace)
    check_tar(tar, transformer)
    return TrainingOutput(weights=Path(tar))
