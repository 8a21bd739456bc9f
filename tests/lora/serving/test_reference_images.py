"""The reference images of a request: read upright at the size that is encoded, and counted."""

import numpy as np
import pytest
from PIL import Image

from lora.flux2.sampling import fit_reference
from lora.serving import reference_images
from lora.serving.reference_images import NAMES, given_references, read_references
from tests.tiny import assert_one_sentence, encoded, noisy_image, solid_image, write

GRAY = (90, 90, 90)


def inputs(**given):
    return {name: [] for name in NAMES} | given


def read(*files, name="reference_images"):
    return [each.image for each in read_references(inputs(**{name: list(files)}), fit=fit_reference)]


def test_without_files_there_are_none():
    assert given_references(inputs()) is None
    assert read() == []


@pytest.mark.parametrize("name", NAMES)
def test_they_are_read_in_order_under_either_name_at_the_size_that_is_encoded(tmp_path, name):
    sizes, expected = [(96, 64), (70, 100), (1500, 1000)], [(96, 64), (64, 96), (1248, 832)]
    files = [write(tmp_path / f"{size[0]}.png", encoded(solid_image(*size))) for size in sizes]
    assert [image.size for image in read(*files, name=name)] == expected
    assert given_references(inputs(**{name: files})) == name


def test_one_is_upright_and_on_white(tmp_path):
    """As `image` is."""
    turned = solid_image(192, 128)
    exif = turned.getexif()
    exif[0x0112] = 6
    transparent = Image.new("RGBA", (64, 64), (*GRAY, 0))
    transparent.paste((*GRAY, 255), (0, 0, 32, 64))
    upright, on_white = read(
        write(tmp_path / "a.jpg", encoded(turned, "JPEG", exif=exif)),
        write(tmp_path / "b.png", encoded(transparent)),
    )
    assert upright.size == (128, 192)
    assert on_white.mode == "RGB"
    assert np.asarray(on_white)[0, [0, -1]].tolist() == [[*GRAY], [255] * 3]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"no image", "not a JPEG"),
        (encoded(solid_image(63, 64)), "63x64 is too small"),
        (encoded(solid_image(80, 700)), "80x700 is too long"),
        (encoded(solid_image(300, 300)), "300x300 is too large"),
    ],
    ids=["text", "small", "long", "large"],
)
def test_a_file_that_cannot_be_used_is_named_by_its_place_in_the_list(tmp_path, monkeypatch, content, found):
    monkeypatch.setattr(reference_images, "MAX_PIXELS", 299 * 300)
    files = [write(tmp_path / "a.png", encoded(noisy_image(64, 64))), write(tmp_path / "b.png", content)]
    with pytest.raises(ValueError) as error:
        read(*files)
    assert_one_sentence(error.value, "reference_images[1] cannot be used: ", found)
    assert str(tmp_path) not in str(error.value)


def test_more_than_four_are_refused(tmp_path):
    file = write(tmp_path / "a.png", encoded(noisy_image(64, 64)))
    assert len(read(*[file] * 4)) == 4
    with pytest.raises(ValueError) as error:
        read(*[file] * 5, name="images")
    assert_one_sentence(error.value, "images holds 5 images: expected at most 4")


def test_files_under_both_names_are_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        given_references({name: [tmp_path / "a.png"] for name in NAMES})
    assert_one_sentence(error.value, "reference_images and images are both given", "two names of one input")
