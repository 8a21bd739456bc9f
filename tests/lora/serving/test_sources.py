"""What a request begins with: an upright image, and a mask of the same size whatever its own was."""

import numpy as np
import pytest
from PIL import Image

from lora.pictures.size import Size
from lora.serving.request import size_for_image
from lora.serving.sources import read_source
from tests.tiny import assert_one_sentence, encoded, noisy_picture, picture, write


@pytest.fixture
def image(tmp_path):
    return write(tmp_path / "image.png", encoded(noisy_picture(192, 128)))


def test_without_an_image_there_is_nothing_to_begin_with():
    assert read_source(None, None, 0.8) is None


def test_a_mask_without_an_image_is_refused(image):
    """P6: it is not ignored."""
    with pytest.raises(ValueError) as error:
        read_source(None, image, 0.8)
    assert_one_sentence(error.value, "mask is given without image", "expected")


@pytest.mark.parametrize("name", ["image", "mask"])
def test_what_is_no_image_is_refused_by_its_input(tmp_path, image, name):
    broken = write(tmp_path / "broken.png", b"no image")
    with pytest.raises(ValueError) as error:
        read_source(**{"image": image, "mask": image} | {name: broken}, prompt_strength=0.8)
    assert_one_sentence(error.value, f"{name} can", "not a JPEG")
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("strength", [-0.1, 1.1, None, float("nan")])
def test_a_strength_out_of_bounds_is_refused(image, strength):
    with pytest.raises(ValueError, match=r"^prompt_strength is"):
        read_source(image, None, strength)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((1024, 1024), (1024, 1024)), ((6000, 4000), (1248, 832)), ((100, 70), (96, 64)), ((4000, 500), (2896, 368))],
)
def test_an_image_keeps_its_shape_at_about_a_megapixel_at_the_most(size, drawn):
    """D11, P5."""
    assert size_for_image(Size(*size), megapixels="1", native=1024) == Size(*drawn)


def test_a_quarter_of_a_megapixel_is_half_of_each_side():
    assert size_for_image(Size(1024, 1024), megapixels="0.25", native=1024) == Size(512, 512)


@pytest.mark.parametrize("size", [(192, 128), (96, 64), (400, 300)])
def test_a_mask_of_any_size_covers_the_image(tmp_path, image, size):
    """D14."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    source = read_source(image, write(tmp_path / "mask.png", encoded(mask)), 0.8).fitted(Size(96, 64))
    assert source.image.size == source.mask.size == (96, 64)
    values = np.asarray(source.mask)
    assert set(np.unique(values)) == {0, 255}
    assert abs(int((values == 255).sum()) - 48 * 64) <= 64


def test_a_picture_on_its_side_is_upright(tmp_path):
    """P5."""
    image = picture(192, 128)
    exif = image.getexif()
    exif[0x0112] = 6
    source = read_source(write(tmp_path / "a.jpg", encoded(image, "JPEG", exif=exif)), None, 0.8)
    assert source.image.size == (128, 192)
