"""Readings of nvidia-smi are parsed, and clocks that are too far apart cause a warning."""

from bench.clocks import Reading, as_line, clock_readings, median_mhz, readings_in


def test_lines_without_two_numbers_are_skipped():
    assert readings_in("1980, 650.12\n[N/A], 3\n1965, 640\n19") == [Reading(1980, 650.12), Reading(1965, 640)]


def test_the_clock_is_the_median_of_the_readings():
    assert median_mhz([Reading(mhz, 0) for mhz in (1000, 1980, 1985)]) == 1980
    assert median_mhz([]) is None


def test_clocks_that_differ_by_more_than_two_percent_ask_for_another_run():
    assert as_line([1980, 1970, None]) == "SM clock: 1970 to 1980 MHz"
    assert as_line([1980, 1900]).endswith("more than 2 % apart, so run it again")
    assert as_line([None]) == "SM clock: unknown"


def test_without_a_gpu_there_are_no_readings():
    with clock_readings() as readings:
        pass
    assert readings == []
