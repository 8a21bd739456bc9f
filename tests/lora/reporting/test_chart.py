"""The loss chart: curves inside of the axes, with the returned step marked."""

import dataclasses
import math

import pytest

from lora.reporting.chart import MOST_POINTS, chart_of
from lora.reporting.contents import Point, Validation
from tests.lora.reporting.reports import STEPS, some_contents


def points_of(curve):
    return [tuple(map(float, pair.split(","))) for pair in curve.split()]


def chart_with(tmp_path, **changes):
    return chart_of(dataclasses.replace(some_contents(tmp_path, samples=0), **changes))


def test_a_curve_goes_from_left_to_right_and_lower_losses_are_further_down(tmp_path):
    chart = chart_with(tmp_path)
    curve = points_of(chart.smoothed)
    assert curve == sorted(curve), "the losses of these contents fall"
    assert chart.left <= curve[0][0] < curve[-1][0] <= chart.right
    assert all(chart.top <= y <= chart.bottom for _, y in curve)


def test_a_long_training_has_no_more_points_than_can_be_seen(tmp_path):
    points = tuple(Point(step, 0.5, 0.5) for step in range(1, 6001))
    assert len(points_of(chart_with(tmp_path, points=points).raw)) <= MOST_POINTS


def test_a_step_that_is_not_finite_is_left_out(tmp_path):
    points = (Point(1, 0.5, 0.5), Point(2, None, 0.5), Point(3, math.inf, 0.5), Point(4, 0.4, 0.45))
    assert len(points_of(chart_with(tmp_path, points=points).raw)) == 2
    assert chart_with(tmp_path, points=points[1:3]) is None


def test_an_outlier_does_not_flatten_the_curve(tmp_path):
    points = tuple(Point(step, 50.0 if step == 10 else 0.5, 0.5) for step in range(1, 101))
    chart = chart_with(tmp_path, points=points)
    assert points_of(chart.smoothed)[0][1] < (chart.top + chart.bottom) / 2
    assert min(y for _, y in points_of(chart.raw)) == chart.top, "it is cut at the edge"


def test_the_validation_of_the_returned_step_is_marked(tmp_path):
    chart = chart_with(tmp_path)
    assert [dot.is_exported for dot in chart.dots] == [False, True, False]
    assert chart.exported_x == chart.dots[1].x


@pytest.mark.parametrize("losses", [(0.0, 0.0), (1e-9, 1e-9), (1e6, 2e6)])
def test_ticks_are_few_round_numbers_for_any_size_of_loss(tmp_path, losses):
    points = tuple(Point(step, loss, loss) for step, loss in enumerate(losses, 1))
    chart = chart_with(tmp_path, points=points, validations=(Validation(0, losses[0]),))
    assert 2 <= len(chart.y_ticks) <= 7
    assert [tick.text for tick in chart.x_ticks][-1] == f"{STEPS:,}"
