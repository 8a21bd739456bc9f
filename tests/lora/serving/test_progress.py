"""How far a request is, as Replicate's own client reads it out of the log."""

from replicate.prediction import Prediction

from lora.serving import progress as progress_module
from lora.serving.progress import Progress


def said(monkeypatch, *, seconds, steps, images):
    """The lines of a request whose steps each take so many seconds."""
    lines, times = [], iter(range(1000))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: seconds * next(times))
    progress = Progress(lines.append, images=images)
    for _ in range(steps * images):
        progress.step(of=steps)
    return lines


def read(line):
    found = Prediction.Progress.parse(line)
    return round(found.percentage * 100), found.current, found.total


def test_slow_steps_are_each_told_of(monkeypatch):
    lines = said(monkeypatch, seconds=2, steps=4, images=1)
    assert [read(line) for line in lines] == [(25, 1, 4), (50, 2, 4), (75, 3, 4), (100, 4, 4)]


def test_steps_of_all_images_are_counted(monkeypatch):
    assert read(said(monkeypatch, seconds=2, steps=3, images=2)[2]) == (50, 3, 6)


def test_quick_steps_are_told_of_once_a_second_and_at_the_end(monkeypatch):
    lines = said(monkeypatch, seconds=0.25, steps=10, images=1)
    assert [read(line)[1] for line in lines] == [4, 8, 10]
