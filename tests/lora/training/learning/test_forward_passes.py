"""Validation, samples and preservation use the blocks that are compiled for training steps, and need no graphs of their
own.

Most tests run the graphs as they were traced, which saves the minute that generating kernels takes.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image, ImageChops
from torch._dynamo.utils import counters

from lora.engine.checkpointing import configure_blocks
from lora.engine.lora_layers import fuse_lora
from lora.engine.options import Recomputed
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning.adapter import add_lora
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.forward_passes import as_in_a_step
from lora.training.learning.loop import take_step
from lora.training.learning.preservation import STEPS
from lora.training.learning.samples import SampleGenerator, SamplePrompt
from lora.training.learning.state import TrainingState
from lora.training.learning.validation import LOSSES, validate
from lora.training.recipe.samples import SampleSettings
from lora.training.stop import Stop, Termination
from tests.lora.training.trainers import a_log, small_base, unseen_examples
from tests.tiny import (
    a_recipe,
    all_layers,
    lora_parameters,
    randomize_lora,
    save_transformer,
    tiny_batches,
    tiny_dataset,
    tiny_example,
    tiny_preservation,
    tiny_prompt,
    tiny_transformer,
)

# A failure of the compiler, to which a recompile is turned, costs only a warning.
pytestmark = pytest.mark.filterwarnings("error:torch.compile failed")
RECIPE = a_recipe(batch_size=1)
NO_STOP = Stop(a_log(), Termination(), minutes=None)
BLOCKS, CLASSES = 4, 2  # of the small transformer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = small_base(tmp_path_factory.mktemp("base"))
    save_transformer(tiny_transformer(), folder)
    return folder


def prepared(
    transformer: FluxTransformer2DModel, recomputed: Recomputed = "nothing", *, are_compiled: bool = False
) -> FluxTransformer2DModel:
    """A transformer with a LoRA that is not zero, and with blocks as in a training."""
    add_lora(transformer, layers=all_layers(transformer), rank=4, seed=0)
    randomize_lora(transformer)
    fuse_lora(transformer)
    configure_blocks(transformer, recomputed, are_compiled=are_compiled)
    return transformer


@dataclass(frozen=True)
class AfterAStep:
    """A transformer with compiled blocks and one without, after a step each, and the number of graphs by then."""

    compiled: FluxTransformer2DModel
    eager: FluxTransformer2DModel
    graphs: int


@pytest.fixture(scope="module")
def after_a_step(base):
    """With modulation layers on the host and streamed blocks, whose hooks must run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        counters.clear()
        transformers = []
        for are_compiled in (True, False):
            transformer = load_transformer(base, WeightPlacement("fp32", True, torch.device("cpu"), 3))
            transformers.append(prepared(transformer, "blocks", are_compiled=are_compiled))
            state, batches = TrainingState(transformer, RECIPE), tiny_batches(RECIPE, tiny_dataset(1))
            take_step(transformer, state, batches, RECIPE, process_group=SingleProcess())
        yield AfterAStep(*transformers, counters["stats"]["unique_graphs"])
    torch._dynamo.reset()


def test_validation_needs_no_graph_beside_those_of_a_step(after_a_step):
    held_out = (*unseen_examples(), tiny_example(seed=102, height=4, width=16))
    found = validate(after_a_step.compiled, held_out, step=1, batch_size=1)
    assert counters["stats"]["unique_graphs"] == after_a_step.graphs
    expected = validate(after_a_step.eager, held_out, step=1, batch_size=1)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)


def test_samples_need_no_graph_beside_those_of_a_step(after_a_step, base, tmp_path):
    found = sample(after_a_step.compiled, base, tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == after_a_step.graphs
    expected = sample(after_a_step.eager, base, tmp_path / "eager")
    assert max(high for _, high in ImageChops.difference(found, expected).getextrema()) <= 3, "of 255"


def sample(transformer: FluxTransformer2DModel, base: Path, folder: Path) -> Image.Image:
    prompt, settings = SamplePrompt("TOK", tiny_prompt(seed=7)), SampleSettings(("TOK",), 64, 0, 28, 3.5)
    SampleGenerator(transformer, base, (prompt,), settings, negative=None, into=folder).generate(1, stop=NO_STOP)
    return Image.open(folder / "step-000001-1-seed-42-tok.jpg")


def test_preservation_needs_no_graph_beside_those_of_a_step(after_a_step):
    """Neither for the images, which the base generates, nor for its prediction."""
    found, expected = map(preservation_loss, (after_a_step.compiled, after_a_step.eager))
    assert counters["stats"]["unique_graphs"] == after_a_step.graphs
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 0


def preservation_loss(transformer: FluxTransformer2DModel) -> float:
    """Of the image and the noise of the first step, with its gradients."""
    with compiled_calls(transformer) as calls:
        preservation = tiny_preservation(transformer, replace(RECIPE, preservation=1.0))
        assert preservation.generate(SingleProcess(), steps=range(1), stop=NO_STOP)
        loss = preservation.add_gradients(0, process_group=SingleProcess()).item()
    transformer.zero_grad()
    assert len(calls) == BLOCKS * (STEPS + 2), "of the image, of the base's prediction, and with the LoRA"
    return loss


@contextmanager
def compiled_calls(transformer: FluxTransformer2DModel) -> Iterator[list[None]]:
    """A list with an entry for each call of a block as a step calls it, inside the `with` block."""
    calls: list[None] = []
    as_configured = transformer._gradient_checkpointing_func

    def call(*inputs):
        calls.append(None)
        return as_configured(*inputs)

    transformer.enable_gradient_checkpointing(call)
    yield calls
    transformer.enable_gradient_checkpointing(as_configured)


def test_a_pass_as_in_a_step_calls_the_blocks_with_gradients_and_has_none_itself():
    transformer, used = prepared(tiny_transformer()), []
    transformer.enable_gradient_checkpointing(
        lambda block, *inputs: used.append(torch.is_grad_enabled()) or block(*inputs)
    )
    outputs = []
    transformer.register_forward_hook(lambda _module, _inputs, output: outputs.extend(output))
    found = validate(transformer, unseen_examples(1), step=1, batch_size=1)
    assert used == [True] * BLOCKS * LOSSES
    assert not any(output.requires_grad for output in outputs)
    assert all(each.grad is None for each in lora_parameters(transformer).values())
    assert found == validate(prepared(tiny_transformer()), unseen_examples(1), step=1, batch_size=1)


def test_afterwards_the_transformer_is_as_it_was_even_if_a_pass_fails():
    transformer = prepared(tiny_transformer(), "blocks")
    with pytest.raises(KeyboardInterrupt), as_in_a_step(transformer):
        raise KeyboardInterrupt
    assert "forward" not in vars(transformer)


def test_generated_kernels_compute_the_same_validation_without_another_graph_for_another_size():
    """Real ones, of one block of each class."""
    counters.clear()
    compiled, eager = (prepared(tiny_transformer(blocks=1), are_compiled=each) for each in (True, False))
    examples = [unseen_examples(1), (tiny_example(seed=102, height=4, width=16),)]
    for held_out in examples:
        found, expected = (validate(each, held_out, step=1, batch_size=5) for each in (compiled, eager))
        assert found.losses == pytest.approx(expected.losses, rel=1e-4)
        assert counters["stats"]["unique_graphs"] == CLASSES
    torch._dynamo.reset()
