"""The inputs of a training, checked once. Has no defaults: those are in the signature in train.py."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, Self

from lora.base.presets import EDIT, LORA_TYPES
from lora.checks import check_bool, check_choice, check_float, check_int, check_text, short_repr
from lora.dataset.captions import PLACEHOLDER, PromptRule, one_line
from lora.dataset.mask_settings import BACKGROUNDS, ORIGINAL, MaskSettings
from lora.engine.precision import Precision
from lora.seeds import check_seed, seed_notes
from lora.training.recipe.choices import EXTRA_LAYOUTS, OPTIMIZERS, PRECISIONS, SCHEDULES
from lora.training.recipe.public_trainer import PublicTrainerInputs, public_trainer_checks

SMALLEST_RESOLUTION, LARGEST_RESOLUTION = 64, 2048
MAX_RESOLUTIONS, MAX_STEPS, MAX_SAMPLE_PROMPTS = 8, 6000, 8
MIN_RATE, MAX_RATE = 1e-7, 1.0
PRODIGY, MAX_PRODIGY_RATE = "prodigy", 10.0  # a factor, usually 1, of the rate that it finds by itself
NO_SAMPLES = "none"
OPEN_TRIGGER = "TOK"  # the default, which a request sends whether or not its user thought of it
MAX_BATCH_SIZE = 256  # our choice; whether a batch fits into memory is decided by the plan
NO_TRIGGER = (
    f"trigger_word {OPEN_TRIGGER} is the default, and is not put into the instructions of lora_type {EDIT}; any other"
    " word would be"
)
SEPARATORS = str.maketrans("", "", "-_ ")  # in names of optimizers: AdamW 8-bit

Check = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The checked inputs. Zero steps, learning rate or rank, and None, leave the choice to the recipe."""

    trigger_word: str
    autocaption_prefix: str
    autocaption_suffix: str
    multiline_split: bool  # whether each line of a caption is one
    lora_type: str
    steps: int
    learning_rate: float
    batch_size: int
    gradient_accumulation: int
    resolutions: tuple[int, ...]
    lora_rank: int
    layers: str
    layers_to_optimize_regex: str
    unmasked_weight: float  # of the loss outside of masks; 1 turns them off
    mask_background: str  # what is outside of masks that are files
    preservation: float | None  # share of steps
    caption_dropout_rate: float | None
    timestep_logit_mean: float | None
    optimizer: str
    lr_scheduler: str
    ema_decay: float | None
    precision: Precision | Literal["auto"]
    gradient_checkpointing: bool
    cache_latents_to_disk: bool
    validation: bool
    sample_prompts: tuple[str, ...] | None  # None makes prompts from the captions
    sample_every: int
    sample_steps: int
    sample_guidance: float | None  # None is the default of the base's family
    checkpoint_every: int
    time_limit: int | None  # minutes
    keep_resume_state: bool
    extra_layout: str
    seed: int
    public_trainer: PublicTrainerInputs
    notes: tuple[str, ...]  # for the log, on inputs that have another effect than they seem to

    @property
    def prompt_rule(self) -> PromptRule:
        """How captions become prompts."""
        affixes = self.autocaption_prefix, self.autocaption_suffix
        return PromptRule(self.trigger_word, *affixes, multiline_split=self.multiline_split)

    @property
    def masks(self) -> MaskSettings:
        """What masks do."""
        return MaskSettings(self.unmasked_weight, self.mask_background)

    @property
    def has_references(self) -> bool:
        """Whether each image has references: what it was before the edit that is learned."""
        return self.lora_type == EDIT

    @classmethod
    def checked(cls, **inputs: object) -> Self:
        """Check the inputs as they arrive. Raises ValueError with one sentence that names the input."""
        if inputs.keys() != CHECKS.keys():
            raise TypeError(f"unknown or missing inputs: {sorted(inputs.keys() ^ CHECKS.keys())}")
        values = {name: check(name, inputs[name]) for name, check in CHECKS.items()}
        other_name, resolutions = values.pop("training_steps"), values.pop("resolution")
        steps = values["steps"] if other_name is None else other_name
        rate = _rate_within(values["learning_rate"], values["optimizer"])
        theirs = PublicTrainerInputs(**{name: values.pop(name) for name in PUBLIC_TRAINER_CHECKS})
        values |= theirs.samples(values["sample_prompts"])
        notes = (*seed_notes(inputs["seed"], values["seed"]), *theirs.notes())
        if values["lora_type"] == EDIT:
            values["mask_background"] = ORIGINAL  # white would be learned as a part of the edit
            if values["trigger_word"] == OPEN_TRIGGER:
                values["trigger_word"] = ""
                notes += (NO_TRIGGER,)
        own = {**values, "steps": steps, "resolutions": resolutions, "learning_rate": rate}
        return cls(**own, public_trainer=theirs, notes=notes)

    def settings(self) -> dict[str, object]:
        """The inputs that have an effect on the LoRA or its files as plain values, by name."""
        return {name: value for name, value in asdict(self).items() if name not in ("public_trainer", "notes")}


def _whole(at_least: int, at_most: int) -> Check:
    return partial(check_int, at_least=at_least, at_most=at_most)


def _number(at_least: float, at_most: float) -> Check:
    return partial(check_float, at_least=at_least, at_most=at_most)


def _optional(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _line(at_most: int) -> Check:
    return lambda name, value: one_line(check_text(name, "" if value is None else value, at_most=at_most))


def _learning_rate(name: str, value: object) -> float:
    """Check the rate, but for its maximum, which depends on the optimizer."""
    if isinstance(value, int | float) and value > MAX_RATE:
        return value
    rate = check_float(name, value, at_least=0.0, at_most=MAX_RATE)
    return rate if rate == 0 else check_float(name, value, at_least=MIN_RATE, at_most=MAX_RATE)


def _rate_within(rate: float, optimizer: str) -> float:
    most = MAX_PRODIGY_RATE if optimizer == PRODIGY else MAX_RATE
    if rate <= most:
        return float(rate)
    usual = "1 is usual" if optimizer == PRODIGY else f"0.0004 is usual, and only {PRODIGY} takes a higher one"
    raise ValueError(f"learning_rate is {short_repr(rate)}: expected at most {most:g} for {optimizer}; {usual}")


def _batch_size(name: str, value: object) -> int:
    if isinstance(value, int | float) and value > MAX_BATCH_SIZE:
        raise ValueError(
            f"{name} is {short_repr(value)}: expected 1 to {MAX_BATCH_SIZE}; for more images a step, raise"
            " gradient_accumulation, which takes no more memory"
        )
    return check_int(name, value, at_least=1, at_most=MAX_BATCH_SIZE)


def _optimizer(name: str, value: object) -> str:
    """Return the optimizer's own name; the public trainer ignores its case, and other trainers write AdamW8bit."""
    plain = value.lower().translate(SEPARATORS) if isinstance(value, str) else value
    return check_choice(name, plain if plain in OPTIMIZERS else value, OPTIMIZERS)


def _trigger_word(name: str, value: object) -> str:
    word = one_line(check_text(name, value, at_most=100))
    if PLACEHOLDER.search(word):
        raise ValueError(f"{name} is {word!r}: expected a word without [trigger], which is its placeholder in captions")
    return word


def _resolutions(name: str, value: object) -> tuple[int, ...]:
    """Parse "512,768" into (512, 768)."""
    expected = f"expected sizes in pixels such as 512,768,1024, each from {SMALLEST_RESOLUTION} to {LARGEST_RESOLUTION}"
    parts = check_text(name, value, at_most=200).split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise ValueError(f"{name} is {value!r}: {expected}")
    sides = tuple(dict.fromkeys(int(part) for part in parts))
    if len(sides) > MAX_RESOLUTIONS:
        raise ValueError(f"{name} is {value!r}: expected at most {MAX_RESOLUTIONS} sizes")
    if not all(SMALLEST_RESOLUTION <= side <= LARGEST_RESOLUTION for side in sides):
        raise ValueError(f"{name} is {value!r}: {expected}")
    return sides


def _prompts(name: str, value: object) -> tuple[str, ...] | None:
    """Split into one prompt per line, without empty lines: None without any, and no prompts for "none"."""
    lines = check_text(name, "" if value is None else value, at_most=8000).splitlines()
    prompts = tuple(line.strip() for line in lines if line.strip())
    if len(prompts) > MAX_SAMPLE_PROMPTS:
        raise ValueError(f"{name} has {len(prompts)} lines: expected at most {MAX_SAMPLE_PROMPTS} prompts")
    if len(prompts) == 1 and prompts[0].casefold() == NO_SAMPLES:
        return ()
    return prompts or None


PUBLIC_TRAINER_CHECKS = public_trainer_checks(_prompts)
CHECKS: dict[str, Check] = {
    **PUBLIC_TRAINER_CHECKS,
    "trigger_word": _trigger_word,
    "autocaption_prefix": _line(1000),
    "autocaption_suffix": _line(1000),
    "multiline_split": check_bool,
    "lora_type": partial(check_choice, choices=LORA_TYPES),
    "steps": _whole(0, MAX_STEPS),
    "training_steps": _optional(_whole(0, MAX_STEPS)),
    "learning_rate": _learning_rate,
    "batch_size": _batch_size,
    "gradient_accumulation": _whole(1, 64),
    "resolution": _resolutions,
    "lora_rank": _whole(0, 128),
    "layers": _line(512),
    "layers_to_optimize_regex": lambda name, value: check_text(name, "" if value is None else value, at_most=512),
    "unmasked_weight": _number(0.0, 1.0),
    "mask_background": partial(check_choice, choices=BACKGROUNDS),
    "preservation": _optional(_number(0.0, 1.0)),
    "caption_dropout_rate": _optional(_number(0.0, 1.0)),
    "timestep_logit_mean": _optional(_number(-4.0, 4.0)),
    "optimizer": _optimizer,
    "lr_scheduler": partial(check_choice, choices=SCHEDULES),
    "ema_decay": _optional(_number(0.0, 0.9999)),
    "precision": partial(check_choice, choices=PRECISIONS),
    "gradient_checkpointing": check_bool,
    "cache_latents_to_disk": check_bool,
    "validation": check_bool,
    "sample_prompts": _prompts,
    "sample_every": _whole(0, MAX_STEPS),
    "sample_steps": _whole(1, 100),
    "sample_guidance": _optional(_number(0.0, 20.0)),
    "checkpoint_every": _whole(1, MAX_STEPS),
    "time_limit": _optional(_whole(1, 7 * 24 * 60)),
    "keep_resume_state": check_bool,
    "extra_layout": partial(check_choice, choices=EXTRA_LAYOUTS),
    "seed": check_seed,
}
