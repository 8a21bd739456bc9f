"""Names in captions are compared with the names of images."""

from pathlib import PurePosixPath

import pytest

from lora.dataset.image_names import ImageNames

NAMES = ImageNames.of(["x/A.jpg", "y\\cafe\u0301.png", "v1.5.webp"])


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.jpg", "a"),
        ("a", "a"),
        (" /home/me/a.JPG", "a"),
        ("C:\\me\\a.jpg", "a"),
        ("a.png", "a"),
        ("café", "café"),
        ("v1.5", "v1.5"),
        ("v1.5.jpg", "v1.5"),
        ("v1", None),
        ("a.txt", None),
        ("b.jpg", None),
        ("", None),
    ],
)
def test_a_name_means_an_image_with_any_folder_and_with_or_without_a_suffix(name, stem):
    assert NAMES.stem(name) == stem


@pytest.mark.parametrize(("path", "target"), [("x/a.png", "x/a"), ("x/a.jpg", "x/a.jpg"), ("x/b.png", "x/b.png")])
def test_the_suffix_of_another_image_format_is_left_out(path, target):
    assert NAMES.target(PurePosixPath(path)) == PurePosixPath(target)
