"""The variables of a launcher say whether a process is one of several; leftovers of one are refused."""

import os

import pytest

from lora.training.runs.launched import Launched, LaunchError, choose_interface, launched_process
from tests.launched_pair import variables
from tests.tiny import assert_one_sentence

GIVEN = variables(1, 29500)


@pytest.mark.parametrize("size", [None, "", "1", " 1 "])
def test_a_process_that_is_the_only_one_trains_as_usual(size):
    others = {name: value for name, value in GIVEN.items() if name != "WORLD_SIZE"}
    assert launched_process(others | ({} if size is None else {"WORLD_SIZE": size})) is None


def test_a_process_of_several_knows_its_place():
    assert launched_process(GIVEN) == Launched(rank=1, size=2, local_rank=0, address="127.0.0.1", port=29500)


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_variable_is_named(missing):
    with pytest.raises(LaunchError) as error:
        launched_process({name: value for name, value in GIVEN.items() if name != missing})
    assert_one_sentence(error.value, "WORLD_SIZE is 2, and", missing, "is not set", "without WORLD_SIZE")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WORLD_SIZE", "two", "the number of processes"),
        ("WORLD_SIZE", "0", "the number of processes"),
        ("WORLD_SIZE", "-2", "the number of processes"),
        ("RANK", "2", "0 to 1"),
        ("RANK", "-1", "0 to 1"),
        ("LOCAL_RANK", "x", "0 to 1"),
        ("MASTER_PORT", "70000", "0 to 65535"),
    ],
)
def test_an_invalid_variable_is_named_with_what_is_expected(name, value, expected):
    with pytest.raises(LaunchError) as error:
        launched_process(GIVEN | {name: value})
    assert_one_sentence(error.value, f"{name} is {value!r}: expected {expected}")


@pytest.mark.parametrize(
    ("given", "address", "expected"),
    [("", "127.0.0.1", "lo"), ("eth7", "127.0.0.1", "eth7"), ("", "127.0.1.1", ""), ("", "no such host", "")],
)
def test_gloo_listens_where_the_first_machine_is_reached_unless_it_is_told(monkeypatch, given, address, expected):
    """Debian gives a machine's own name the address 127.0.1.1, which tells nothing of its interfaces."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", given)
    choose_interface(address, 29500)
    assert os.environ["GLOO_SOCKET_IFNAME"] == expected
