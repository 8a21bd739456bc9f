"""The script's loop learns the same as ours from the same inputs, and does all that a step of the script does."""

import pytest
import torch
from accelerate.state import AcceleratorState

from bench.random_flux import DEV, random_dataset, tiny_sizes
from bench.step_arms import ARMS, BASELINE, TrainingSetup, script_layers, set_up_training
from bench.step_loops import Inputs
from lora.dataset.encoding import EncodedDataset
from tests.tiny import recorded_calls

SIZES = tiny_sizes()
EXAMPLES = random_dataset(SIZES, side=64, count=4, dtype=torch.bfloat16).examples
INPUTS = Inputs(EncodedDataset(EXAMPLES, dropped=EXAMPLES[0].prompt), batch_size=2, patch=SIZES.family.latents.patch)
ENCODING, KEEPING, OURS = (
    next(arm for arm in ARMS if arm.name == name)
    for name in ("script, recomputing, T5 in the loop", "script", "ours bf16, recomputing")
)


@pytest.fixture(autouse=True, scope="module")
def reset_accelerate():
    """Accelerate stores its precision in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def script():
    return set_up_training(BASELINE, SIZES)


def weights(of: TrainingSetup) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in of.model.parameters])


def test_the_lora_is_on_the_342_layers_of_the_script():
    assert len(script_layers(DEV)) == 342


def test_both_loops_have_the_same_loss_in_the_first_step_and_learn_the_same(script):
    ours = set_up_training(OURS, SIZES)
    assert script.begin(INPUTS) == pytest.approx(ours.begin(INPUTS), rel=1e-3)
    before = torch.cat([value.flatten() for value in script.model.initial_lora])
    changes = weights(script) - before, weights(ours) - before
    assert torch.nn.functional.cosine_similarity(*changes, dim=0) > 0.9


def test_every_run_has_the_same_initial_lora_and_recomputing_does_not_change_the_loss(script):
    first = script.begin(INPUTS)
    script.loop.step()
    assert script.begin(INPUTS) == first
    assert set_up_training(KEEPING, SIZES).begin(INPUTS) == first


def test_later_steps_sample_sigmas_from_the_table_and_learn(script):
    with recorded_calls(script.model.transformer) as calls:
        script.begin(INPUTS)
        before = weights(script)
        script.loop.step()
    indices = calls[1]["timestep"] * 1000
    torch.testing.assert_close(indices, indices.round())
    assert not torch.equal(weights(script), before)


def test_texts_are_encoded_in_the_loop_only_if_the_arm_does_so(script):
    known = {round(each.prompt.pooled.sum().item(), 1) for each in EXAMPLES}
    for encodes, each in ((False, script), (True, set_up_training(ENCODING, SIZES))):
        with recorded_calls(each.model.transformer) as calls:
            each.begin(INPUTS)
            each.loop.step()
        found = {round(pooled.sum().item(), 1) for pooled in calls[1]["pooled_projections"].float()}
        assert found.isdisjoint(known) is encodes
