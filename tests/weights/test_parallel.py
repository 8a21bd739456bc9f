"""Files are worked on side by side; the first error ends all of it, and the log says how far it is."""

import threading

import pytest

from weights import parallel
from weights.parallel import Progress, run_in_parallel
from weights.printed import size_text


def test_items_are_worked_on_at_the_same_time():
    both = threading.Barrier(2, timeout=5)
    run_in_parallel(lambda item, stop: both.wait(), [1, 2], workers=2, report_progress=lambda: None)


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_the_first_error_is_raised_and_stops_the_others(kind):
    stopped = threading.Event()

    def work(item, stop):
        if item:
            raise kind("damaged")
        stop.wait(5)
        stopped.set()

    with pytest.raises(kind, match="damaged"):
        run_in_parallel(work, [0, 1, 1], workers=2, report_progress=lambda: None)
    assert stopped.wait(1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unexpected_error_does_not_look_like_success():
    with pytest.raises(RuntimeError, match="without finishing its file"):
        run_in_parallel(lambda item, stop: [][item], [1], workers=1, report_progress=lambda: None)


def test_no_item_is_no_work():
    run_in_parallel(lambda item, stop: None, [], workers=4, report_progress=lambda: None)


def test_the_log_says_how_far_it_is_every_ten_seconds(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(parallel.time, "monotonic", lambda: now[0])
    progress = Progress("download", 30_000_000_000, lines.append, done=10_000_000_000)
    progress.add(1_000_000_000)
    now[0] = 109.9
    progress.report()
    assert lines == []
    now[0] = 110.0
    progress.report()
    progress.report()
    assert lines == ["download: 11.0 GB of 30.0 GB, 100.0 MB/s, 3 min left"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (33_740_000_000, "33.7 GB")],
)
def test_a_size_is_said_in_a_unit_in_which_it_is_not_0(count, text):
    assert size_text(count) == text
