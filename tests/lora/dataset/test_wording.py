"""Counts and sizes in messages have a unit in which they are not 0."""

import pytest

from lora.dataset.wording import sized


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (20 * 2**20, "20.0 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (5000 * 2**30, "5000.0 GiB"),
    ],
)
def test_a_size_has_the_largest_unit_in_which_it_is_at_least_one(count, expected):
    assert sized(count) == expected
