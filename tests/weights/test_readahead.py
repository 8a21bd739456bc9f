"""Files are read ahead in their order, as far as that is of use; nothing that happens to them is an error."""

from types import SimpleNamespace

import psutil
import pytest

from weights.readahead import PIECE_BYTES, read_ahead

MIB = 2**20
SLACK = MIB  # of what else a process reads meanwhile
SECONDS = 30  # within which some MiB are read, however busy the machine is

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def sparse(tmp_path):
    """Makes a file of so many bytes, none of which is on disk."""

    def make(name, size):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
        return tmp_path / name

    return make


def read_until_done(*files):
    """How many bytes this process read from files while these were read ahead, until that ended by itself."""
    before = psutil.Process().io_counters().read_chars
    with read_ahead(files) as thread:
        thread.join(SECONDS)
        assert not thread.is_alive()
    return psutil.Process().io_counters().read_chars - before


def test_all_of_every_file_is_read(sparse):
    count = read_until_done(sparse("a", 20 * MIB + 5), sparse("b", 0), sparse("c", 3 * MIB))
    assert 23 * MIB + 5 <= count < 23 * MIB + SLACK


def test_the_end_of_the_block_ends_it_early(sparse):
    before = psutil.Process().io_counters().read_chars
    with read_ahead([sparse("endless", 2**40)]) as thread:
        pass
    assert not thread.is_alive()
    assert psutil.Process().io_counters().read_chars - before < psutil.virtual_memory().available // 4


def test_an_error_in_the_block_is_that_of_the_block(sparse):
    with pytest.raises(KeyboardInterrupt), read_ahead([sparse("endless", 2**40)]) as thread:
        raise KeyboardInterrupt
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_a_file_that_cannot_be_read_ends_it_in_silence(sparse, tmp_path, kind):
    bad = tmp_path if kind == "a folder" else tmp_path / "missing"
    assert 9 * MIB <= read_until_done(sparse("a", 9 * MIB), bad, sparse("b", 50 * MIB)) < 9 * MIB + SLACK


def test_no_more_is_read_than_half_of_the_free_memory(sparse, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=200 * MIB))
    count = read_until_done(sparse("a", 70 * MIB), sparse("endless", 2**40), sparse("b", 2**40))
    assert 100 * MIB <= count < 100 * MIB + PIECE_BYTES + SLACK


def test_no_file_is_no_work():
    assert read_until_done() < SLACK
