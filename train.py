"""The training interface: one signature, then the job, read downwards."""

from typing import Optional

from cog import BaseModel, Input, Path, current_scope

from lora.dataset.reading import Archives
from lora.training.checkpoints.resume import find_resume_source
from lora.training.preparation import prepare
from lora.training.progress import Log
from lora.training.recipe.config import TrainConfig
from lora.training.stages import encode, pack, teach
from lora.training.stop import Stop, Termination
from lora.workspace import workspace
from weights.base_files import weight_files
from weights.bases import find_trainable_base
from weights.readahead import read_ahead
from weights.references import read_lora

TERMINATION = Termination.listening()  # Cog's worker is in its main thread, which alone can listen, only for imports


class TrainingOutput(BaseModel):
    """What Replicate makes a new model version of."""

    weights: Path


def train(
    # What to learn
    input_images: Path = Input(
        description="A zip, tar or tar.gz of images; captions, if any, in .txt files of the same names"
    ),
    trigger_word: str = Input(description="The word that will stand for what is learned", default="TOK"),
    lora_type: str = Input(
        description="What it is: sets all that is left open; replicate is the public trainer's recipe",
        default="subject",
        choices=["subject", "style", "general", "replicate"],
    ),
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
    steps: int = Input(description="Training steps; 0 lets lora_type choose", default=1000, ge=0, le=6000),
    learning_rate: float = Input(
        description="How far a step goes; 0 lets lora_type choose", default=4e-4, ge=0.0, le=1.0
    ),
    batch_size: int = Input(description="Images per step, on each GPU", default=1, ge=1, le=16),
    gradient_accumulation: int = Input(description="Batches per step, one after the other", default=1, ge=1, le=64),
    resolution: str = Input(description="Sides of the training images in pixels", default="512,768,1024"),
    lora_rank: int = Input(
        description="Size of the LoRA: higher holds more detail; 0 lets lora_type choose", default=16, ge=0, le=128
    ),
    # How it learns
    caption_dropout_rate: Optional[float] = Input(
        description="Share of captions left out, so that it works without; lora_type's if not given",
        default=None,
        ge=0.0,
        le=1.0,
    ),
    preservation: float = Input(
        description="Share of the steps that keep other prompts as the base has them; 0 is off",
        default=0.0,
        ge=0.0,
        le=1.0,
    ),
    optimizer: str = Input(
        description="How steps are made",
        default="adamw8bit",
        choices=[
            "adamw8bit",
            "adamw",
            "adam8bit",
            "adam",
            "prodigy",
            "lion8bit",
            "lion",
            "adagrad",
            "adafactor",
        ],
    ),
    lr_scheduler: str = Input(
        description="Course of the learning rate, after a warm-up",
        default="constant",
        choices=["constant", "cosine", "linear"],
    ),
    timestep_logit_mean: Optional[float] = Input(
        description="Noise that is trained: 0 is the middle, 3 near pure noise; lora_type's if not given",
        default=None,
        ge=-4.0,
        le=4.0,
    ),
    ema_decay: Optional[float] = Input(
        description="Averages the weights over steps; 0 is off; lora_type's if not given",
        default=None,
        ge=0.0,
        le=0.9999,
    ),
    layers: str = Input(
        description="all, no-modulation, attention, fast, or a pattern that a whole layer name matches", default="all"
    ),
    layers_to_optimize_regex: Optional[str] = Input(
        description="A pattern that is searched anywhere in the names of layers", default=None
    ),
    seed: int = Input(description="The same seed gives the same LoRA", default=42, ge=0, le=2147483647),
    # What it may take
    precision: str = Input(
        description="Of the frozen base; auto takes the best that memory holds",
        default="auto",
        choices=["auto", "bf16", "int8", "nf4"],
    ),
    gradient_checkpointing: bool = Input(
        description="Less memory for more time always, not only where memory is short", default=False
    ),
    cache_latents_to_disk: bool = Input(
        description="Keep encoded images on disk: for large sets, and for training again on the same images",
        default=False,
    ),
    time_limit: Optional[int] = Input(
        description="Stop after so many minutes, and return what was learned", default=None, ge=1, le=10080
    ),
    # What it shows and keeps
    validation: bool = Input(
        description="Of 12 images or more, keep a tenth back to judge the LoRA by, and return the best", default=True
    ),
    sample_prompts: Optional[str] = Input(
        description="Prompts, one a line, drawn before, during and after the training", default=None
    ),
    sample_every: int = Input(
        description="Steps between samples; 0 draws before and after only", default=250, ge=0, le=6000
    ),
    checkpoint_every: int = Input(description="Steps between checkpoints, at the most", default=250, ge=1, le=6000),
    resume_from: Optional[Path] = Input(
        description="A checkpoint folder, the tar of a training, a LoRA to begin with, or latest", default=None
    ),
    keep_resume_state: bool = Input(
        description="Put into the tar what is needed to go on: makes it several times as large", default=False
    ),
    extra_layout: str = Input(
        description="A second LoRA file in the tar, zipped, in the layout of kohya's scripts",
        default="none",
        choices=["none", "kohya"],
    ),
    training_steps: Optional[int] = Input(description="Another name for steps", default=None, ge=0, le=6000),
) -> TrainingOutput:
    """Teach FLUX.1 a subject or a style from an archive of images."""
    config = TrainConfig.checked(
        trigger_word=trigger_word,
        lora_type=lora_type,
        autocaption_prefix=autocaption_prefix,
        autocaption_suffix=autocaption_suffix,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        resolution=resolution,
        lora_rank=lora_rank,
        caption_dropout_rate=caption_dropout_rate,
        preservation=preservation,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        timestep_logit_mean=timestep_logit_mean,
        ema_decay=ema_decay,
        layers=layers,
        layers_to_optimize_regex=layers_to_optimize_regex,
        seed=seed,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        cache_latents_to_disk=cache_latents_to_disk,
        time_limit=time_limit,
        validation=validation,
        sample_prompts=sample_prompts,
        sample_every=sample_every,
        checkpoint_every=checkpoint_every,
        keep_resume_state=keep_resume_state,
        extra_layout=extra_layout,
        training_steps=training_steps,
    )
    with workspace("train") as folder, TERMINATION.during_job():
        log = Log(current_scope().record_metric)
        stop = Stop(log, TERMINATION, minutes=config.time_limit)
        base = find_trainable_base()
        start = find_resume_source(str(resume_from or ""), into=folder / "resume", read_lora=read_lora)
        archives = Archives.given(input_images, captions=input_captions)
        with read_ahead(weight_files(base.path)):  # of the encoders while images are read; then the transformer's
            prepared = prepare(config, archives, start, base=base.path, base_name=base.name, into=folder, log=log)
            dataset = encode(prepared, folder=folder, log=log)
        stop.raise_if_requested()
        trained = teach(prepared, dataset, folder=folder, log=log, stop=stop)
        return TrainingOutput(weights=Path(pack(prepared, trained, folder=folder, log=log)))
