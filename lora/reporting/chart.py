"""The loss curves of a training as an SVG: the loss of each step, smoothed, and on held-out images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lora.reporting.contents import Contents

WIDTH, HEIGHT = 720, 300  # of the drawing; a browser scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 16, 34  # margins for the axes
MOST_POINTS = 480  # of a curve: more than a screen can show apart
TICKS = 5


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float  # pixels
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A validation."""

    x: float
    y: float
    text: str
    is_exported: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """Coordinates in pixels, for the template. Curves are the points of polylines."""

    width: int
    height: int
    left: int
    right: int  # x of the right end
    top: int
    bottom: int  # y of the lower end
    raw: str
    smoothed: str
    dots: tuple[Dot, ...]
    exported_x: float | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps steps and losses to pixels."""

    steps: int
    least: float
    most: float

    def x(self, step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / max(self.steps, 1), 1)

    def y(self, loss: float) -> float:
        share = (min(max(loss, self.least), self.most) - self.least) / (self.most - self.least)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def chart_of(contents: Contents) -> Chart | None:
    """The chart of a training; None before its first finite loss."""
    raw = _finite((point.step, point.loss) for point in contents.points)
    smoothed = _finite((point.step, point.smoothed) for point in contents.points)
    held_out = _finite((each.step, each.loss) for each in contents.validations)
    if not raw:
        return None
    scale = _scale(contents, raw, [*smoothed, *held_out])
    exported = contents.outcome.exported_step if contents.outcome else None
    return Chart(
        *(WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM),
        raw=_curve(raw, scale),
        smoothed=_curve(smoothed, scale),
        dots=tuple(Dot(scale.x(s), scale.y(v), f"step {s}: {v:.4f}", s == exported) for s, v in held_out),
        exported_x=None if exported is None else scale.x(exported),
        x_ticks=tuple(Tick(scale.x(step), f"{step:,.0f}") for step in _ticks(0, contents.fixed.steps)),
        y_ticks=tuple(Tick(scale.y(loss), f"{loss:.3g}") for loss in _ticks(scale.least, scale.most)),
    )


def _finite(values: Iterable[tuple[int, float | None]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in values if value is not None and math.isfinite(value)]


def _scale(contents: Contents, raw: Sequence[tuple[int, float]], others: Sequence[tuple[int, float]]) -> _Scale:
    """From 0 to a little more than nine tenths of the single losses and all others: outliers are cut at the edge."""
    losses = sorted(loss for _, loss in raw)
    usual = losses[min(len(losses) * 9 // 10, len(losses) - 1)]
    most = max([usual, *(loss for _, loss in others)]) * 1.1
    return _Scale(max(contents.fixed.steps, contents.points[-1].step), 0.0, most if most > 0 else 1.0)


def _curve(values: Sequence[tuple[int, float]], scale: _Scale) -> str:
    """The points of a polyline; of many values, the means of equal groups."""
    size = -(-len(values) // MOST_POINTS)
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    means = [(sum(step for step, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]
    return " ".join(f"{scale.x(step)},{scale.y(value)}" for step, value in means)


def _ticks(least: float, most: float) -> list[float]:
    """Round numbers from `least` to `most`, about five: 1, 2 or 5 times a power of ten apart."""
    if most <= least:
        return [least]
    rough = (most - least) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    apart = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
    first, count = math.ceil(least / apart), int(most / apart)
    return [number * apart for number in range(first, count + 1)]
