"""Processes that a launcher has started do the same at the same time, and notice what happens to one another."""

import ctypes
import socket
import threading
import time
from _thread import interrupt_main
from datetime import timedelta

import pytest
import torch

from lora.training.runs.process_groups import interruptible
from tests.launched_pair import CONTENT, SILENCE, run_process
from tests.warm_process import FORKING

pytestmark = pytest.mark.xdist_group("warm")

SECONDS_TO_RUN = 120
SECONDS_TO_WAIT = 5  # of a call in C that no signal ends


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The results of the first and of the second process."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "blocked").mkdir()
    (folder / "blocked/a").write_text("a file in the place of a folder")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [FORKING.Process(target=run_process, args=(rank, port, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS_TO_RUN)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}") for rank in (0, 1)]


def test_files_arrive_as_they_were_sent(pair):
    assert pair[1]["shared"] == CONTENT


def test_a_file_that_cannot_be_written_ends_the_attempt_in_all_with_the_rank(pair):
    assert pair[0]["unwritable"].startswith("RuntimeError: rank 1 has failed: [Errno 17] File exists: ")
    assert pair[1]["unwritable"].startswith("FileExistsError: ")


def test_memory_that_runs_out_in_one_process_ends_the_attempt_in_all_and_the_next_one_works(pair):
    assert pair[0]["out of memory"] == [
        "OutOfMemoryError: a process of the training ran out of memory",
        "sum 2",
    ]
    assert pair[1]["out of memory"] == ["OutOfMemoryError: full", "sum 2"]


def test_the_first_process_gets_the_error_of_another_one_with_its_rank(pair):
    assert pair[0]["error"] == ["RuntimeError: rank 1 has failed: no such layer", "sum 2"]
    assert pair[1]["error"] == ["ValueError: no such layer", "sum 2"]


def test_an_error_that_nobody_expects_ends_the_attempt_in_all_instead_of_letting_the_others_wait(pair):
    assert pair[0]["unexpected error"] == ["RuntimeError: rank 1 has failed: 'no such key'", "sum 2"]
    assert pair[1]["unexpected error"] == ["KeyError: 'no such key'", "sum 2"]


def test_ctrl_c_ends_a_wait_for_other_processes_at_once():
    began = time.monotonic()
    threading.Timer(0.2, interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: ctypes.CDLL(None).usleep(ctypes.c_uint(SECONDS_TO_WAIT * 10**6)))
    assert time.monotonic() - began < SECONDS_TO_WAIT


def test_a_wait_for_other_processes_ends_after_its_longest_time():
    """As that of a process too many, which was started with the rank of another one."""
    with pytest.raises(TimeoutError):
        interruptible(lambda: time.sleep(SECONDS_TO_WAIT), longest=timedelta(seconds=0.1))


def test_a_process_that_is_alive_and_silent_counts_as_lost_after_its_time(pair):
    """The first process waits for the others before it answers, so that they give it more time."""
    (lost, seconds), (lost_by_second, more_seconds) = (each["silent"] for each in pair)
    assert (lost, lost_by_second) == (1, 0)
    assert SILENCE.total_seconds() <= seconds < 15
    assert 1.5 * SILENCE.total_seconds() <= more_seconds < 15


def test_a_number_of_processes_that_is_not_the_launchers_is_refused(pair):
    expected = "FLUX_LORA_PROCESSES is '3', and the launcher has started 2 processes: unset it"
    assert pair[0]["processes"] == expected
