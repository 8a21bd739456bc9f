"""Both engines train the same LoRA: the fast engine and PEFT under autocast give the same loss, and each can resume the
other's checkpoints."""

import pytest
import torch

from lora.engine.lora_layers import fuse_lora
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.learning.validation import validate
from tests.lora.training.trainers import unseen_examples
from tests.tiny import a_recipe, tiny_batches, tiny_lora_transformer, trained

RECIPE = a_recipe(steps=6, learning_rate=1e-3)


def transformer_on(engine, *, dtype=torch.float32):
    transformer = tiny_lora_transformer(dtype=dtype)
    if engine == "fast":
        fuse_lora(transformer)
    return transformer


def take_steps(transformer, state, steps):
    """Take more steps, and return the state."""
    batches = tiny_batches(RECIPE)
    for _ in range(steps):
        take_step(transformer, state, batches, RECIPE, process_group=SingleProcess())
    return state


def start_training(engine):
    transformer = transformer_on(engine)
    return transformer, TrainingState(transformer, RECIPE)


def test_after_50_steps_in_bf16_both_engines_have_the_same_held_out_loss():
    losses, held_out = {}, unseen_examples(1)
    for engine in ("plain", "fast"):
        transformer = transformer_on(engine, dtype=torch.bfloat16)
        before = validate(transformer, held_out, step=0, batch_size=1).mean
        trained(transformer, a_recipe(steps=50, learning_rate=3e-3, batch_size=4))
        losses[engine] = validate(transformer, held_out, step=50, batch_size=1).mean
        assert losses[engine] < 0.95 * before
    assert losses["fast"] == pytest.approx(losses["plain"], rel=0.01)


@pytest.mark.parametrize(("first", "second"), [("plain", "fast"), ("fast", "plain")])
def test_a_checkpoint_of_one_engine_can_be_resumed_with_the_other(first, second):
    transformer, state = start_training(first)
    take_steps(transformer, state, 3)
    tensors, values = state.tensors(), state.values()
    other, resumed = start_training(second)
    resumed.restore(tensors, values)
    take_steps(other, resumed, 3)
    take_steps(transformer, state, 3)
    assert resumed.names == state.names
    for kind, expected in state.tensors().items():
        found = resumed.tensors()[kind]
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
