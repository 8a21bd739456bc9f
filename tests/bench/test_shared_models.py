"""Arms that share a model measure the same as each on its own."""

import pytest
import torch
from accelerate.state import AcceleratorState

from bench.random_flux import random_dataset, tiny_sizes
from bench.shared_models import SharedModels
from bench.step_arms import ARMS, BASELINE, set_up_training
from bench.step_loops import Inputs
from bench.step_proofs import loss_and_gradients
from lora.dataset.encoding import EncodedDataset

SIZES = tiny_sizes()
EXAMPLES = random_dataset(SIZES, side=64, count=2, dtype=torch.bfloat16).examples
INPUTS = Inputs(EncodedDataset(EXAMPLES, dropped=EXAMPLES[0].prompt), batch_size=1, patch=SIZES.family.latents.patch)
SCRIPT, OURS, OURS_RECOMPUTING, INT8 = (
    next(arm for arm in ARMS if arm.name == name)
    for name in ("script", "ours bf16", "ours bf16, recomputing", "ours int8")
)


@pytest.fixture(autouse=True, scope="module")
def reset_accelerate():
    """Accelerate stores its precision in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(("first", "second"), [(OURS_RECOMPUTING, OURS), (BASELINE, SCRIPT)], ids=["ours", "script"])
def test_the_second_arm_of_a_model_computes_as_on_a_model_of_its_own(first, second):
    models = SharedModels(SIZES)
    before = models.setup_for(first)
    before.begin(INPUTS)
    before.loop.step()
    assert before.model.transformer.is_gradient_checkpointing
    shared = models.setup_for(second)
    assert shared.model is before.model
    assert not shared.model.transformer.is_gradient_checkpointing
    own = set_up_training(second, SIZES)
    assert shared.begin(INPUTS) == own.begin(INPUTS)
    assert len({len(each.model.transformer._forward_pre_hooks) for each in (shared, own)}) == 1  # its copies once
    assert torch.equal(*(loss_and_gradients(each.model, INPUTS).gradients for each in (shared, own)))


def test_an_arm_of_another_placement_or_loop_has_another_model_and_the_same_arm_the_same_setup():
    models = SharedModels(SIZES)
    ours = models.setup_for(OURS)
    assert models.setup_for(OURS) is ours
    int8 = models.setup_for(INT8)
    script = models.setup_for(SCRIPT)
    assert len({id(each.model) for each in (ours, int8, script)}) == 3
