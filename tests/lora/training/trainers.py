"""Small real trainings, with validation, samples, preservation and checkpoints."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from lora.dataset.encoding import EncodedDataset, Example
from lora.training.checkpoints.files import Checkpoint
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.samples import SampleGenerator, SamplePrompt
from lora.training.learning.trainer import Callbacks, Schedule, Trainer
from lora.training.progress import Log
from lora.training.recipe.recipe import Recipe
from lora.training.recipe.samples import SampleSettings
from lora.training.stop import Stop, Termination
from tests.random_models import FIRST_MODEL, RandomModel
from tests.tiny import CHANNELS, TINY_FLUX, tiny_example

SELDOM, SAMPLE_STEPS = 1000, 4


@dataclass
class Training:
    """A trainer, its transformer, its checkpoints and its stop file."""

    trainer: Trainer
    transformer: ModelMixin
    store: CheckpointStore
    stop_file: Path

    def request_stop(self) -> None:
        """Write the stop file, as a parent process does."""
        self.stop_file.write_text("a test asked")

    def last_checkpoint(self) -> Checkpoint:
        """The newest checkpoint of the training."""
        checkpoint = self.store.newest()
        assert checkpoint is not None
        return checkpoint


def a_training(
    folder: Path,
    recipe: Recipe,
    *,
    dataset: EncodedDataset | None = None,
    held_out: tuple[Example, ...] = (),
    base: Path | None = None,
    sample_every: int = 1,
    checkpoint_every: int = SELDOM,
    log: Log | None = None,
    termination: Termination | int | None = None,
    checkpoint: Checkpoint | None = None,
    model: RandomModel = FIRST_MODEL,
) -> Training:
    """A trainer on the small transformer of a family; with `base` it generates a sample. It ends at `termination`, or
    after as many minutes."""
    transformer = model.lora_transformer(rank=recipe.lora_rank)
    store = CheckpointStore(folder, {"of": "a test"}, report_damage=print)
    sample_generator = None
    preservation = model.preservation(transformer, recipe) if recipe.preservation else None
    if base is not None:
        prompt, settings = SamplePrompt("TOK", model.prompt(seed=7)), SampleSettings(("TOK",), 32, 1, SAMPLE_STEPS, 3.5)
        sample_generator = SampleGenerator(
            transformer, base, (prompt,), settings, negative=None, into=folder / "samples"
        )
    log, minutes = log or a_log(), termination if isinstance(termination, int) else None
    signals = termination if isinstance(termination, Termination) else Termination()
    trainer = Trainer(
        transformer,
        model.batches(recipe, dataset),
        recipe,
        Callbacks(Schedule(checkpoint_every, sample_every), held_out, sample_generator, preservation, store, None),
        process_group=SingleProcess(),
        log=log,
        stop=Stop(log, signals, minutes=minutes, stop_file=folder / "stop"),
    )
    if checkpoint is not None:
        trainer.load_checkpoint(checkpoint)
    return Training(trainer, transformer, store, folder / "stop")


def a_log() -> Log:
    """A log that drops metrics."""
    return Log(lambda _name, _value: None, None)


def unseen_examples(count: int = 2) -> tuple[Example, ...]:
    """Examples that are in no data set of `tiny_dataset`."""
    return tuple(tiny_example(seed=100 + index) for index in range(count))


def small_base(folder: Path) -> Path:
    """A base for samples with the small transformer: a scheduler, and a VAE for latents of its number of channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(
            latent_channels=CHANNELS,
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            **blocks,
        )
    vae.register_to_config(scaling_factor=0.6, shift_factor=0.0)
    vae.save_pretrained(folder / "vae")
    shutil.copytree(TINY_FLUX / "scheduler", folder / "scheduler")
    return folder


@contextmanager
def on_nth_call(
    transformer: nn.Module, call: int, do: Callable[[], object], *, without_grad: bool = False
) -> Iterator[None]:
    """Call `do`, which may raise, when the transformer is called for the n-th time, counted from 1. Only calls with
    gradients (steps) count, or only calls without (validation and samples)."""
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += torch.is_grad_enabled() is not without_grad
        if calls == call and torch.is_grad_enabled() is not without_grad:
            do()

    handle = transformer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def run(training, *, stops=None):
    """Run a training to its last step, or until it stops for the reason `stops`."""
    assert training.trainer.run() == stops
    return training


def stopped_in(training, step, *, reason="a test asked"):
    """Run a training, and request a stop during this step, which is then its last."""
    with on_nth_call(training.transformer, step, training.request_stop):
        return run(training, stops=reason)


def assert_same_checkpoint(one: Checkpoint, other: Checkpoint) -> None:
    """Assert that two checkpoints are equal bit for bit: weights, average, optimizer, learning rate, counts and
    validation results."""
    assert one.step == other.step
    assert one.names == other.names
    for name in one.names:
        ours, theirs = one.tensors(name), other.tensors(name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert json.dumps(one.values) == json.dumps(other.values)
