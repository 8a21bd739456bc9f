"""The numbers of all steps: rounded, smoothed, and the same after a resume."""

import json
import math

import pytest

from lora.training.learning.history import History, json_lines
from lora.training.learning.loop import Step

HALF = {"step": 1, "loss": 0.5, "smoothed_loss": 0.5, "learning_rate": 4e-4, "grad_norm": 0.1, "mean_sigma": 0.5}


def a_step(loss, *, preservation=None, grad_norm=0.1):
    return Step(
        loss=loss,
        preservation_loss=preservation,
        grad_norm=grad_norm,
        learning_rate=4e-4,
        mean_sigma=0.5,
        is_finite=math.isfinite(grad_norm),
        is_stop_requested=False,
    )


def history_of(*losses):
    history = History()
    for number, loss in enumerate(losses, 1):
        history.add(number, a_step(loss))
    return history


def lines(history):
    return [json.loads(line) for line in json_lines(history.steps)]


def test_a_line_has_the_numbers_of_its_step():
    assert lines(history_of(0.5)) == [HALF]


def test_a_line_has_a_preservation_loss_only_if_its_step_has_one():
    history = history_of(0.5)
    history.add(2, a_step(0.5, preservation=0.25))
    first, second = lines(history)
    assert "preservation_loss" not in first
    assert second["preservation_loss"] == 0.25


def test_numbers_are_rounded_to_six_significant_digits():
    assert lines(history_of(1 / 3))[0]["loss"] == 0.333333


def test_the_smoothed_loss_is_the_mean_of_the_first_losses_and_then_a_moving_average():
    losses = [float(number) for number in range(1, 31)]
    smoothed = [step.smoothed_loss for step in history_of(*losses).steps]
    assert smoothed[:20] == pytest.approx([sum(losses[:count]) / count for count in range(1, 21)], rel=1e-5)
    assert smoothed[20] == pytest.approx(0.95 * smoothed[19] + 0.05 * losses[20], rel=1e-5)


def test_a_loss_that_is_not_finite_is_null_and_does_not_change_the_smoothed_one():
    steps = lines(history_of(math.nan, 1.0, math.inf, 3.0))
    assert [step["loss"] for step in steps] == [None, 1.0, None, 3.0]
    assert [step["smoothed_loss"] for step in steps] == [None, 1.0, 1.0, 2.0]


def test_a_restored_history_continues_as_if_it_had_not_been_interrupted():
    losses = [0.3, math.nan, 0.7, 0.1]
    continued = History()
    continued.restore(json.loads(json.dumps(history_of(*losses[:2]).values())))
    for number, loss in enumerate(losses[2:], 3):
        continued.add(number, a_step(loss))
    assert continued.steps == history_of(*losses).steps


@pytest.mark.parametrize("damaged", [{}, [1], [{**HALF, "loss": "0.5", "preservation_loss": None}], [HALF], None])
def test_a_damaged_history_is_refused(damaged):
    with pytest.raises(TypeError, match="history of steps is damaged"):
        History().restore(damaged)
