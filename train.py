"""The training interface: one signature, then the stages of the job from top to bottom."""

from lora.garbage import collect_garbage_again

# isort: split
from functools import partial
from typing import Optional

import coglet
from cog import BaseModel, Input, Path, Secret, current_scope

from lora.dataset.reading import Archives
from lora.gpu import check_gpu
from lora.parent_server import ParentServer
from lora.reporting.trackers.choosing import chosen_trackers
from lora.reporting.trackers.trackers import Trackers
from lora.serving.compatibility import refuse_unusable
from lora.threads import protect_new_threads
from lora.training.captions import Captioning
from lora.training.checkpoints.folder import checkpoints_folder
from lora.training.checkpoints.resume import ResumeSource, find_resume_source
from lora.training.preparation import prepare
from lora.training.progress import Log
from lora.training.publishing import open_hub, publish
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.public_trainer import PublicTrainerInputs
from lora.training.result.output import write_lora_tar
from lora.training.stages import encode, run_training, write_output
from lora.training.stop import Stop, Termination
from lora.workspace import clear_folder, named_file, own_temporary_folder, workspace
from weights.base_files import weight_files
from weights.bases import find_base, find_trainable_base, model_of
from weights.caption_model import find_captioner
from weights.local_files import ReadableFolders
from weights.network.network import Tokens
from weights.readahead import read_ahead
from weights.references import open_lora, read_lora

collect_garbage_again()
protect_new_threads()

FILES = ("input_images", "input_captions", "resume_from")  # inputs that are no settings
SKIP_TRAINING = "skip_training_and_use_pretrained_hf_lora_url"

# Only the main thread can install signal handlers, and Cog's worker runs Python in it only while it imports this file.
TERMINATION = Termination.install()

# In Cog's worker. Cog writes the uploads of a request before it calls `train`, so they need their folder now.
SERVER = ParentServer() if coglet.server.active else None
UPLOADS = own_temporary_folder("inputs") if coglet.server.active else None
if SERVER:
    SERVER.end_if_this_process_dies()


class TrainingOutput(BaseModel):
    """The output from which Replicate creates a new model version."""

    weights: Path


def train(
    # What to learn
    input_images: Optional[Path] = Input(
        description="A zip, tar or tar.gz of images; optional captions in .txt files with the same names", default=None
    ),
    trigger_word: str = Input(
        description="The word that stands for your subject or style in prompts, e.g. TOK", default="TOK"
    ),
    lora_type: str = Input(
        description="What you train; sets what is left open. edit takes pairs; replicate is the public recipe",
        default="subject",
        choices=["subject", "style", "general", "edit", "replicate"],
    ),
    input_captions: Optional[Path] = Input(
        description="Captions for the images: the tar of an earlier training, or an archive of .txt files",
        default=None,
    ),
    autocaption: bool = Input(
        description="Describe images without a caption, if a captioner is installed", default=True
    ),
    autocaption_prefix: Optional[str] = Input(
        description="Text added before every caption, e.g. 'a photo of TOK,'", default=None
    ),
    autocaption_suffix: Optional[str] = Input(
        description="Text added after every caption, e.g. 'in the style of TOK'", default=None
    ),
    multiline_split: bool = Input(
        description="Use one line per step of captions of several lines; by default lines are joined", default=False
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
    unmasked_weight: float = Input(
        description="Weight of what is outside of masks or transparent, e.g. 0.1; 1 turns masks off",
        default=0.1,
        ge=0.0,
        le=1.0,
    ),
    mask_background: str = Input(
        description="Outside of mask files: white keeps a room out; original lets them only weight the loss",
        default="white",
        choices=["white", "original"],
    ),
    preservation: Optional[float] = Input(
        description="Share of steps that keep other prompts as they are; by default lora_type chooses",
        default=None,
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
        description="Prompts of sample images, one per line; none: no images. By default two from captions",
        default=None,
    ),
    sample_every: int = Input(
        description="Steps between sample images; 0 or no prompts: only before and after", default=250, ge=0, le=6000
    ),
    sample_steps: int = Input(description="Denoising steps of sample images", default=20, ge=1, le=100),
    sample_guidance: Optional[float] = Input(
        description="Guidance of sample images; 3.5 by default, 4 for klein", default=None, ge=0.0, le=20.0
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
    # For clients of other trainers; what is not there yet is noted in the log, or refused before the training
    training_steps: Optional[int] = Input(
        description="Another name for steps, as in replicate/fast-flux-trainer", default=None, ge=0, le=6000
    ),
    skip_training_and_use_pretrained_hf_lora_url: Optional[str] = Input(
        description="An existing LoRA to return instead of training one: a URL, or as lora_weights", default=None
    ),
    hf_token: Optional[Secret] = Input(
        description="Hugging Face token with write access for hf_repo_id, or for an existing LoRA", default=None
    ),
    hf_repo_id: Optional[str] = Input(
        description="Repository on Hugging Face to upload the LoRA to, e.g. me/my-lora", default=None
    ),
    hf_private: bool = Input(
        description="Create hf_repo_id as private; that of the public trainer is always public", default=True
    ),
    wandb_api_key: Optional[Secret] = Input(
        description="Key for Weights & Biases, to which the training is logged then", default=None
    ),
    wandb_sample_prompts: Optional[str] = Input(
        description="Another name for sample_prompts, used only with wandb_api_key", default=None
    ),
    wandb_sample_interval: int = Input(
        description="Another name for sample_every, used only with wandb_sample_prompts", default=100, ge=1
    ),
    wandb_project: str = Input(description="Project in Weights & Biases", default="flux_train_replicate"),
    wandb_run: Optional[str] = Input(description="Name of the run in Weights & Biases", default=None),
    wandb_entity: Optional[str] = Input(description="Entity in Weights & Biases", default=None),
    wandb_save_interval: int = Input(
        description="Has no effect: LoRAs are not sent to W&B; checkpoint_every saves them here", default=100, ge=1
    ),
) -> TrainingOutput:
    """Teach FLUX.1 or FLUX.2 [klein] a subject or a style from an archive of images."""
    config = TrainConfig.checked(**{name: value for name, value in locals().items() if name not in FILES})
    with workspace("train") as folder, TERMINATION.during_job():
        trackers = Trackers(chosen_trackers(config.public_trainer.wandb_target()))
        log = Log(current_scope().record_metric, trackers)
        if config.public_trainer.skip_training_and_use_pretrained_hf_lora_url:
            return TrainingOutput(weights=_repackage(config.public_trainer, into=Path(folder), log=log))
        hub = open_hub(config.public_trainer, log)
        stop = Stop(log, TERMINATION, minutes=config.time_limit, server=SERVER)
        base = find_trainable_base(check_gpu, log_line=log.write)
        captioning = Captioning(partial(find_captioner, log.write), stop.raise_if_requested)
        archives, source = _find_files(
            input_images, input_captions, resume_from, folder=folder, base_model=model_of(base)
        )
        with read_ahead(weight_files(base.path)):  # the encoders' while images are read, then the transformer's
            prepared = prepare(
                config, archives, source, captioning, base=base.path, base_name=base.name, into=folder, log=log
            )
            dataset = encode(prepared, folder=folder, log=log, stop=stop)
        stop.raise_if_requested()
        with trackers.recording(prepared.settings(), log.write):
            trained = run_training(prepared, dataset, folder=folder, log=log, stop=stop)
        tar = write_output(prepared, trained, folder=folder, log=log)
        publish(tar, hub, into=folder, log=log, interrupted=stop.interruption)
        return TrainingOutput(weights=Path(tar))


def _repackage(inputs: PublicTrainerInputs, *, into: Path, log: Log) -> Path:
    """Return an existing LoRA in the form of a training's output; it is read and checked as for a prediction."""
    base, reference = find_base(log_line=log.write), inputs.skip_training_and_use_pretrained_hf_lora_url
    tokens, model = Tokens(inputs.hf_token), model_of(base)
    with open_lora(reference, named=SKIP_TRAINING, tokens=tokens, base_model=model) as file:
        lora = file.read()
        refuse_unusable(lora.tensors, base.path)
    log.write(*(f"{file.named} {note}" for note in lora.notes))
    log.write(
        f"{file.named} is returned without a training, so that no other input has an effect;"
        f" it is compatible with the base {base.name}"
    )
    return Path(write_lora_tar(lora.tensors, into=into))


def _find_files(
    images: object, captions: object, resume_from: object, *, folder: Path, base_model: str
) -> tuple[Archives, ResumeSource]:
    """Find the files that a request names, and delete all other uploads; `folder` is that of the job, and a LoRA to
    resume from must be made for `base_model`.

    Raises ValueError if one of them is outside of the folders that requests may read, whether or not it exists.
    """
    if UPLOADS:
        clear_folder(UPLOADS, keep=[folder, *(Path(str(given)) for given in (images, captions, resume_from) if given)])
    readable = ReadableFolders.of_deployment(checkpoints_folder(), *filter(None, [UPLOADS]))
    named_file("input_images", images, readable)
    named_file("input_captions", captions, readable)
    read = partial(read_lora, readable=readable, base_model=base_model)
    source = find_resume_source(str(resume_from or ""), into=folder / "resume", read_lora=read, readable=readable)
    return Archives.from_inputs(images, captions=captions), source
