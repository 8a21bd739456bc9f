"""The warm `python` of the tests behaves as Python does: its processes take what they are given, and end as it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.xdist_group("warm")

MODULE = "tests.test_warm_python"
SECONDS = 60


def main() -> None:
    """What the processes of these tests do."""
    print(json.dumps([os.getpid(), sys.argv[1:], os.environ["GIVEN"], str(Path.cwd())]))
    print("an error", file=sys.stderr)
    if sys.argv[1] == "wait":
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(75))
        print("waiting")
        time.sleep(SECONDS)
    sys.exit(int(sys.argv[1]))


@pytest.fixture
def start(warm_python: Path, tmp_path: Path):
    """Starts such a process."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        command, pipe, given = [warm_python, "-u", "-m", MODULE, *arguments], subprocess.PIPE, {"GIVEN": "a b"}
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | given, stdout=pipe, stderr=pipe, text=True)

    return start


def test_a_process_has_the_arguments_environment_folder_streams_and_exit_code_of_the_one_that_was_started(
    start, tmp_path
):
    process = start("7", "ä\nb")
    output, errors = process.communicate(timeout=SECONDS)
    assert json.loads(output)[1:] == [["7", "ä\nb"], "a b", str(tmp_path)]
    assert (errors, process.returncode) == ("an error\n", 7)


def test_no_process_that_was_forked_had_threads(start):
    """A fork would lack them, and Python 3.12 warns of it. Before that, lora/threads.py has one and starts it again."""
    process = start("wait")
    forked = psutil.Process(json.loads(process.stdout.readline())[0])
    for_it_alone, for_all, of_multiprocessing = (each.num_threads() for each in forked.parents()[:3])
    assert (for_it_alone, for_all) == (1, 1)
    assert of_multiprocessing == (2 if sys.version_info < (3, 12) else 1)
    process.kill()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, 75), (signal.SIGINT, 1), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["ends it", "is handled", "raises KeyboardInterrupt", "kills it"],
)
@pytest.mark.parametrize("is_sent_to_the_started_one", [True, False])
def test_a_signal_to_either_process_ends_both(start, number, code, is_sent_to_the_started_one):
    process = start("wait")
    forked = psutil.Process(json.loads(process.stdout.readline())[0])
    assert process.stdout.readline() == "waiting\n"
    (process if is_sent_to_the_started_one else forked).send_signal(number)
    assert process.wait(SECONDS) == code
    assert not psutil.wait_procs([forked], timeout=SECONDS)[1]


if __name__ == "__main__":
    main()
