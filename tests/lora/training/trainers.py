"""Small real trainings with all that goes on beside their steps."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn

from lora.dataset.encoding import EncodedDataset, Example
from lora.training.checkpoints.files import Checkpoint
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.samples import SampleGenerator
from lora.training.learning.trainer import Callbacks, Schedule, Trainer
from lora.training.progress import Log
from lora.training.recipe.recipe import Recipe
from lora.training.stop import Stop, Termination
from tests.tiny import (
    CHANNELS,
    TINY_FLUX,
    tiny_batches,
    tiny_example,
    tiny_lora_transformer,
    tiny_preservation,
    tiny_prompt,
)

SELDOM = 1000


@dataclass
class Training:
    """A session, and what it works with."""

    session: Trainer
    transformer: FluxTransformer2DModel
    store: CheckpointStore
    stop: Path  # whoever writes this file asks for an end

    def ask_to_stop(self) -> None:
        """As a parent process does."""
        self.stop.write_text("a test asked")

    def end(self) -> Checkpoint:
        """The checkpoint that it leaves."""
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
    termination: Termination | None = None,
    minutes: int | None = None,
    begin: Checkpoint | None = None,
) -> Training:
    """A session on the small transformer; with `base` it draws a sample."""
    transformer = tiny_lora_transformer(rank=recipe.lora_rank)
    store = CheckpointStore(folder, {"of": "a test"}, report_damage=print)
    sample_generator = None
    preservation = tiny_preservation(transformer, recipe) if recipe.preservation else None
    if base is not None:
        sample_generator = SampleGenerator(transformer, base, (tiny_prompt(seed=7),), side=32, into=folder / "samples")
    log = log or a_log()
    session = Trainer(
        transformer,
        tiny_batches(recipe, dataset),
        recipe,
        Callbacks(Schedule(checkpoint_every, sample_every), held_out, sample_generator, preservation, store),
        team=SingleProcess(),
        log=log,
        stop=Stop(log, termination or Termination(), minutes=minutes, wish=folder / "stop"),
    )
    if begin is not None:
        session.load_checkpoint(begin)
    return Training(session, transformer, store, folder / "stop")


def a_log() -> Log:
    """A log for a person who keeps no numbers."""
    return Log(lambda _name, _value: None)


def strangers(count: int = 2) -> tuple[Example, ...]:
    """Examples that are in no data set of `tiny_dataset`."""
    return tuple(tiny_example(seed=100 + index) for index in range(count))


def small_base(folder: Path) -> Path:
    """A base for drawing with the small transformer: its scheduler, and a VAE for latents of so few channels."""
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
    """Do something when the transformer is called for the n-th time, counted from 1, in steps or in looking at what
    they led to; it may raise."""
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
    """To its last step, or to the end that is said."""
    assert training.session.run() == stops
    return training


def stopped_in(training, step, *, reason="a test asked"):
    """Asked to stop in the midst of a step, which is the last."""
    with on_nth_call(training.transformer, step, training.ask_to_stop):
        return run(training, stops=reason)


def assert_same_end(one: Checkpoint, other: Checkpoint) -> None:
    """Bit for bit: weights, their average, the optimizer, the learning rate, the counts and what was judged."""
    assert one.step == other.step
    assert one.names == other.names
    for name in one.names:
        ours, theirs = one.tensors(name), other.tensors(name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert json.dumps(one.values) == json.dumps(other.values)
