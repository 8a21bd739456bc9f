"""The training interface: one signature, then the stages of the job from top to bottom."""

from typing import Optional

from cog import BaseModel, Input, Path, current_scope

from lora.dataset.reading import Archives
from lora.gpu import check_gpu
from lora.threads import protect_new_threads
from lora.training.checkpoints.resume import find_resume_source
from lora.training.preparation import prepare
from lora.training.progress import Log
from lora.training.recipe.config import TrainConfig
from lora.training.stages import encode, run_training, write_output
from lora.training.stop import Stop, Termination
from lora.workspace import workspace
from weights.base_files import weight_files
from weights.bases import find_trainable_base
from weights.readahead import read_ahead
from weights.references import read_lora

protect_new_threads()

# Only the main thread can install signal handlers, and Cog's worker runs Python in it only while it imports this file.
TERMINATION = Termination.install()


class TrainingOutput(BaseModel):
    """The output from which Replicate creates a new model version."""

    weights: Path


def train(
    # What to learn
    input_images: Path = Input(
        description="A zip, tar or tar.gz of images; optional captions in .txt files with the same names"
    ),
    trigger_word: str = Input(
        description="The word that stands for your subject or style in prompts, e.g. TOK", default="TOK"
    ),
    lora_type: str = Input(
        description="What you train; sets everything left open. replicate is the public trainer's recipe",
        default="subject",
        choices=["subject", "style", "general", "replicate"],
    ),
    input_captions: Optional[Path] = Input(
        description="Captions for the images: the tar of an earlier training, or an archive of .txt files",
        default=None,
    ),
    autocaption_prefix: Optional[str] = Input(
        description="Text added before every caption, e.g. 'a photo of TOK,'", default=None
    ),
    autocaption_suffix: Optional[str] = Input(
        description="Text added after every caption, e.g. 'in the style of TOK'", default=None
    ),
    # How long, and how hard
    steps: int = Input(description="Number of training steps; 0 lets lora_type choose", default=1000, ge=0, le=6000),
    learning_rate: float = Input(
        description="Learning rate, e.g. 0.0004; 0 lets lora_type choose", default=4e-4, ge=0.0
    ),
    batch_size: int = Input(description="Images per step on each GPU, up to 256", default=1, ge=1),
    gradient_accumulation: int = Input(
        description="Number of batches whose gradients are added up for each step", default=1, ge=1, le=64
    ),
    resolution: str = Input(description="Training resolutions in pixels, separated by commas", default="512,768,1024"),
    lora_rank: int = Input(
        description="Rank of the LoRA: a higher one stores more detail; 0 lets lora_type choose",
        default=16,
        ge=0,
        le=128,
    ),
    # How it learns
    caption_dropout_rate: Optional[float] = Input(
        description="Share of captions that are dropped, e.g. 0.05; by default lora_type chooses",
        default=None,
        ge=0.0,
        le=1.0,
    ),
    preservation: float = Input(
        description="Share of steps that keep other prompts as in the base model, e.g. 0.25; 0 is off",
        default=0.0,
        ge=0.0,
        le=1.0,
    ),
    optimizer: str = Input(
        description="adamw8bit, adamw, adam8bit, adam, prodigy, lion8bit, lion, adagrad or adafactor",
        default="adamw8bit",
    ),
    lr_scheduler: str = Input(
        description="Learning rate schedule after the warm-up",
        default="constant",
        choices=["constant", "cosine", "linear"],
    ),
    timestep_logit_mean: Optional[float] = Input(
        description="Noise level to train most: 0 medium, 3 almost pure noise; by default lora_type chooses",
        default=None,
        ge=-4.0,
        le=4.0,
    ),
    ema_decay: Optional[float] = Input(
        description="Moving average of the weights, e.g. 0.99; 0 is off; by default lora_type chooses",
        default=None,
        ge=0.0,
        le=0.9999,
    ),
    layers: str = Input(
        description="Layers to train: all, no-modulation, attention, fast, or a regex for whole layer names",
        default="all",
    ),
    layers_to_optimize_regex: Optional[str] = Input(
        description="Layers to train: a regex that is searched anywhere in layer names", default=None
    ),
    seed: int = Input(description="Seed; the same seed and inputs give the same LoRA. Random if below 0", default=42),
    # What it may take
    precision: str = Input(
        description="Precision of the frozen base; auto uses the best that fits in memory",
        default="auto",
        choices=["auto", "bf16", "int8", "nf4"],
    ),
    gradient_checkpointing: bool = Input(
        description="Always trade time for memory; by default only if memory is short", default=False
    ),
    cache_latents_to_disk: bool = Input(
        description="Cache encoded images on disk, for large data sets and repeated trainings",
        default=False,
    ),
    time_limit: Optional[int] = Input(
        description="Stop after this many minutes and return the LoRA trained so far", default=None, ge=1, le=10080
    ),
    # What it shows and keeps
    validation: bool = Input(
        description="Hold out a tenth of 12 or more images, and return the step that does best on them", default=True
    ),
    sample_prompts: Optional[str] = Input(
        description="Prompts, one per line, for sample images before, during and after the training", default=None
    ),
    sample_every: int = Input(
        description="Steps between sample images; 0 generates them only before and after", default=250, ge=0, le=6000
    ),
    checkpoint_every: int = Input(
        description="Maximum number of steps between checkpoints", default=250, ge=1, le=6000
    ),
    resume_from: Optional[Path] = Input(
        description="Checkpoint folder, tar of a training or LoRA to continue from; latest is the newest one",
        default=None,
    ),
    keep_resume_state: bool = Input(
        description="Save the training state in the tar, to continue later; makes it several times as large",
        default=False,
    ),
    extra_layout: str = Input(
        description="Also save the LoRA in the layout of kohya's sd-scripts, zipped",
        default="none",
        choices=["none", "kohya"],
    ),
    training_steps: Optional[int] = Input(description="Alias of steps", default=None, ge=0, le=6000),
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
        base = find_trainable_base(check_gpu, log_line=log.write)
        source = find_resume_source(str(resume_from or ""), into=folder / "resume", read_lora=read_lora)
        archives = Archives.from_inputs(input_images, captions=input_captions)
        with read_ahead(weight_files(base.path)):  # the encoders' while images are read, then the transformer's
            prepared = prepare(config, archives, source, base=base.path, base_name=base.name, into=folder, log=log)
            dataset = encode(prepared, folder=folder, log=log)
        stop.raise_if_requested()
        trained = run_training(prepared, dataset, folder=folder, log=log, stop=stop)
        return TrainingOutput(weights=Path(write_output(prepared, trained, folder=folder, log=log)))
