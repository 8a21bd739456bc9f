"""Any whole number becomes a seed that every way in takes: Cog's command line has 32 bits with a sign."""

import pytest

from lora.seeds import check_seed, seed_notes
from tests.tiny import assert_one_sentence

LARGEST = 2**31 - 1


@pytest.mark.parametrize("seed", [0, 7, 7.0, LARGEST])
def test_a_seed_that_every_way_in_takes_is_kept_without_a_note(seed):
    assert check_seed("seed", seed) == seed
    assert isinstance(check_seed("seed", seed), int)
    assert seed_notes(seed, check_seed("seed", seed)) == ()


@pytest.mark.parametrize(
    ("given", "used", "shown"),
    [
        (2**31, 0, "2147483648"),
        (2**53 + 7, 7, "9007199254740999"),
        (1e20, 10**20 % 2**31, "1e+20"),
        (7 + 10**5000 * 2**31, 7, "a huge number"),
    ],
    ids=["one more", "JavaScript's largest", "a float", "huge"],
)
def test_a_larger_seed_is_reduced_and_the_log_says_so(given, used, shown):
    assert check_seed("seed", given) == used
    (note,) = seed_notes(given, used)
    assert_one_sentence(note, f"seed is {shown}", f"beyond the largest of {LARGEST}", f"{used} is used")


def test_without_a_seed_and_below_zero_each_seed_is_a_new_one_that_every_way_in_takes():
    seeds = [check_seed("seed", given) for given in (None, -1, -(10**30)) * 20]
    assert len(set(seeds)) > 50
    assert all(0 <= seed <= LARGEST for seed in seeds)
    assert seed_notes(None, seeds[0]) == seed_notes(-1, seeds[1]) == ()


@pytest.mark.parametrize("given", [1.5, "7", True, [7], float("nan"), float("inf")])
def test_anything_but_a_whole_number_is_refused(given):
    with pytest.raises(ValueError, match=r"^seed is") as error:
        check_seed("seed", given)
    assert_one_sentence(error.value, "expected a whole number")
