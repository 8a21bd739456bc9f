"""Folder names of sd-scripts have repeats and words; other names with numbers have not."""

import pytest

from lora.dataset.folder_names import kohya_folders, relative_repeats


def folders(*names):
    return {name: (folder.repeats, folder.words) for name, folder in kohya_folders(names).items()}


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("10_ohwx person", (10, "ohwx person")),
        ("set/img/10_ohwx person", (10, "ohwx person")),
        ("1_a_b_c", (1, "a b c")),
        ("100_ohwx", (100, "ohwx")),
        ("10_猫", (10, "猫")),
        ("10_ohwx man/close", (10, "ohwx man")),
        ("10_1girl", (10, "1girl")),
        ("100_OHWX man", (100, "OHWX man")),
    ],
)
def test_a_folder_of_sd_scripts_has_repeats_and_words(folder, found):
    assert folders(f"{folder}/1.jpg") == {f"{folder}/1.jpg": found}


@pytest.mark.parametrize(
    "folder", ["photos", "2024_holiday", "01_front", "0_x", "10_", "10_ ", "_10_x", "10 ohwx", "10ohwx", "-5_x"]
)
def test_other_names_with_numbers_are_not(folder):
    assert folders(f"{folder}/1.jpg", "10_x.jpg") == {}


@pytest.mark.parametrize("folder", ["DCIM/100_PANA", "101_0512", "24_12_2023", "12_2023", "5_12-holiday", "3_4"])
def test_folders_of_cameras_and_dates_are_not(folder):
    assert folders(f"{folder}/1.jpg") == {}


def test_a_series_of_numbered_folders_is_not_repeated():
    assert folders("1_front/a.jpg", "2_side/a.jpg", "3_back/a.jpg") == {}
    assert len(folders("1_man/a.jpg", "2_dog/a.jpg")) == 2
    assert len(folders("1_man/a.jpg", "5_dog/a.jpg", "10_cat/a.jpg")) == 3


def test_repeats_have_no_common_factor():
    names = ["15_a/1.jpg", "15_a/2.jpg", "10_b/1.jpg"]
    assert relative_repeats(kohya_folders(names), names) == dict(zip(names, [3, 3, 2], strict=True))


def test_repeats_do_not_count_if_some_images_have_none():
    names = ["15_a/1.jpg", "2.jpg"]
    assert relative_repeats(kohya_folders(names), names) == dict.fromkeys(names, 1)
