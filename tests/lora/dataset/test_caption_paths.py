"""Captions are written under names by which they are found again for the same images."""

from itertools import combinations

import pytest

from lora.dataset.caption_paths import caption_paths
from tests.tiny import encoded, noisy_image, read_archive, write, zipped

IMAGE = encoded(noisy_image(64, 64))


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.jpg"),
        ("b.png", "b.png.png"),
        ("a.png", "x/a.png", "x/a.webp", "y/x/a.png"),
        ("A.png", "a.jpg", "photo.txt.png", "no_suffix"),
        ("1.5.png", "1.png", "x/<b>?.png", "\U0001f680 שלום #1.png"),
    ],
)
def test_each_caption_is_found_again_for_its_image_whichever_others_are_empty(tmp_path, names):
    archive = write(tmp_path / "images.zip", zipped(dict.fromkeys(names, IMAGE)))
    paths = caption_paths(read_archive(archive, into=tmp_path / "first").dataset.images)
    assert len(paths) == len(names)
    for number, empty in enumerate([(), *combinations(paths, 1), *combinations(paths, len(paths) - 1)]):
        texts = {path: "" if path in empty else f"of {image.name}" for path, image in paths.items()}
        captions = write(tmp_path / "captions.zip", zipped(texts))
        found = read_archive(archive, into=tmp_path / f"{number}", captions=captions).dataset
        expected = {image.name: texts[path] for path, image in paths.items()}
        assert {image.name: image.caption.text if image.caption else "" for image in found.images} == expected
