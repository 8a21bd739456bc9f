"""The progress of a request, as Replicate's own client parses it from the log."""

from replicate.prediction import Prediction

from lora.serving import progress as progress_module
from lora.serving.progress import Progress


def logged(monkeypatch, *, seconds, steps, images):
    """Return the log lines of a request whose steps take `seconds` each."""
    lines, times = [], iter(range(1000))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: seconds * next(times))
    progress = Progress(lines.append, images=images)
    for _ in range(steps * images):
        progress.step(of=steps)
    return lines


def parsed(line):
    progress = Prediction.Progress.parse(line)
    return round(progress.percentage * 100), progress.current, progress.total


def test_each_slow_step_is_logged(monkeypatch):
    lines = logged(monkeypatch, seconds=2, steps=4, images=1)
    assert [parsed(line) for line in lines] == [(25, 1, 4), (50, 2, 4), (75, 3, 4), (100, 4, 4)]


def test_steps_of_all_images_are_counted(monkeypatch):
    assert parsed(logged(monkeypatch, seconds=2, steps=3, images=2)[2]) == (50, 3, 6)


def test_quick_steps_are_logged_once_a_second_and_at_the_end(monkeypatch):
    lines = logged(monkeypatch, seconds=0.25, steps=10, images=1)
    assert [parsed(line)[1] for line in lines] == [4, 8, 10]
