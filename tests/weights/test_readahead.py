"""Files are read ahead in the given order, within limits and without errors."""

from types import SimpleNamespace

import psutil
import pytest

from weights.readahead import CHUNK_BYTES, read_ahead

MIB = 2**20
SLACK = MIB  # for other reads of this process
SECONDS = 30  # enough to read some MiB on a busy machine

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def sparse(tmp_path):
    """A function that creates a file of a given size without any content on the disk."""

    def make(name, size):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        return tmp_path / name

    return make


def read_until_done(*files):
    """Read files ahead until the thread ends by itself, and return the number of bytes that this process read."""
    before = psutil.Process().io_counters().read_chars
    with read_ahead(files) as thread:
        thread.join(SECONDS)
        assert not thread.is_alive()
    return psutil.Process().io_counters().read_chars - before


def test_every_file_is_read_completely(sparse):
    count = read_until_done(sparse("a", 20 * MIB + 5), sparse("b", 0), sparse("c", 3 * MIB))
    assert 23 * MIB + 5 <= count < 23 * MIB + SLACK


def test_the_end_of_the_block_stops_reading(sparse):
    before = psutil.Process().io_counters().read_chars
    with read_ahead([sparse("endless", 2**40)]) as thread:
        pass
    assert not thread.is_alive()
    assert psutil.Process().io_counters().read_chars - before < psutil.virtual_memory().available // 4


def test_an_error_in_the_block_is_raised(sparse):
    with pytest.raises(KeyboardInterrupt), read_ahead([sparse("endless", 2**40)]) as thread:
        raise KeyboardInterrupt
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_a_file_that_cannot_be_read_stops_reading_silently(sparse, tmp_path, kind):
    bad = tmp_path if kind == "a folder" else tmp_path / "missing"
    assert 9 * MIB <= read_until_done(sparse("a", 9 * MIB), bad, sparse("b", 50 * MIB)) < 9 * MIB + SLACK


def test_at_most_half_of_the_available_memory_is_read(sparse, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=200 * MIB))
    count = read_until_done(sparse("a", 70 * MIB), sparse("endless", 2**40), sparse("b", 2**40))
    assert 100 * MIB <= count < 100 * MIB + CHUNK_BYTES + SLACK


def test_without_files_nothing_is_read():
    assert read_until_done() < SLACK
