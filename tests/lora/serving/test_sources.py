"""The source of a request: an upright image, and a mask that is resized to the same size."""

import numpy as np
import pytest
from PIL import Image

from lora.images.size import Size
from lora.serving import sources
from lora.serving.request import size_for_image
from lora.serving.sources import read_source
from tests.tiny import assert_one_sentence, encoded, noisy_image, solid_image, write


@pytest.fixture
def image(tmp_path):
    return write(tmp_path / "image.png", encoded(noisy_image(192, 128)))


def test_without_an_image_there_is_no_source():
    assert read_source(None, None, 0.8) is None


def test_a_mask_without_an_image_is_refused(image):
    """P6: it must not be ignored."""
    with pytest.raises(ValueError) as error:
        read_source(None, image, 0.8)
    assert_one_sentence(error.value, "mask is given without image", "expected")


@pytest.mark.parametrize("name", ["image", "mask"])
def test_a_file_that_is_no_image_is_refused_with_its_inputs_name(tmp_path, image, name):
    broken = write(tmp_path / "broken.png", b"no image")
    with pytest.raises(ValueError) as error:
        read_source(**{"image": image, "mask": image} | {name: broken}, prompt_strength=0.8)
    assert_one_sentence(error.value, f"{name} can", "not a JPEG")
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("strength", [-0.1, 1.1, None, float("nan")])
def test_a_strength_out_of_bounds_is_refused(image, strength):
    with pytest.raises(ValueError, match=r"^prompt_strength is"):
        read_source(image, None, strength)


def test_a_strength_that_is_0_but_for_rounding_is_0(image):
    assert read_source(image, None, 0.1 + 0.2 - 0.3).strength == read_source(image, None, 1e-17).strength == 0
    assert read_source(image, None, 1e-3).strength == 1e-3


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), (1024, 1024)), ((6000, 4000), (1248, 832)), ((100, 70), (96, 64)), ((4000, 500), (2896, 368))],
)
def test_an_image_keeps_its_shape_at_about_one_megapixel_or_less(size, expected):
    """D11, P5."""
    assert size_for_image(Size(*size), megapixels="1", native=1024) == Size(*expected)


def test_a_quarter_of_a_megapixel_is_half_of_each_side():
    assert size_for_image(Size(1024, 1024), megapixels="0.25", native=1024) == Size(512, 512)


@pytest.mark.parametrize("size", [(192, 128), (96, 64), (400, 300)])
def test_a_mask_of_any_size_covers_the_image(tmp_path, image, size):
    """D14."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    source = read_source(image, write(tmp_path / "mask.png", encoded(mask)), 0.8).fitted(Size(96, 64), latent_pixels=8)
    assert source.image.size == source.inpainting.mask.size == (96, 64)
    values = np.asarray(source.inpainting.mask)
    assert set(np.unique(values)) == {0, 255}
    assert abs(int((values == 255).sum()) - 48 * 64) <= 64


def test_an_image_is_rotated_as_its_exif_says(tmp_path):
    """P5."""
    image = solid_image(192, 128)
    exif = image.getexif()
    exif[0x0112] = 6
    source = read_source(write(tmp_path / "a.jpg", encoded(image, "JPEG", exif=exif)), None, 0.8)
    assert source.decoded.original == Size(128, 192)


@pytest.mark.parametrize("name", ["image", "mask"])
def test_more_than_50_megapixels_are_refused_before_they_are_decoded(tmp_path, image, name):
    large = write(tmp_path / "large.png", encoded(Image.new("1", (8000, 6300)), compress_level=1))
    with pytest.raises(ValueError) as error:
        read_source(**{"image": image, "mask": image} | {name: large}, prompt_strength=0.8)
    assert_one_sentence(error.value, f"{name} can", "8000x6300 is too large: expected at most 50,000,000 pixels")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_large_image_is_decoded_at_about_the_size_of_the_result_and_keeps_its_shape(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sources, "PIXELS_NEEDED", 64 * 64)
    path = write(tmp_path / "large", encoded(noisy_image(720, 680), kind))
    decoded = read_source(path, None, 0.8).decoded
    assert decoded.original == Size(720, 680)
    assert decoded.image.width * decoded.image.height < 8 * 64 * 64


@pytest.mark.parametrize("size", [(64, 96), (256, 256), (1000, 3000)])
def test_a_mask_of_another_shape_is_stretched_over_the_whole_image(tmp_path, size):
    """And image and mask are not cropped, because the result has the image's own size."""
    image = solid_image(400, 200, color="black")
    image.paste("white", (0, 0, 100, 200))
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 4, size[1]))  # the image's white quarter
    files = [write(tmp_path / f"{name}.png", encoded(each)) for name, each in (("image", image), ("mask", mask))]
    fitted = read_source(*files, 0.8).fitted(Size(192, 112), latent_pixels=8)
    for each in (fitted.image.convert("L"), fitted.inpainting.mask):
        assert abs(int((np.asarray(each) > 127).all(axis=0).sum()) - 48) <= 1


def test_with_a_mask_a_large_image_is_decoded_at_full_size_and_so_is_the_output(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIXELS_NEEDED", 64 * 64)
    path = write(tmp_path / "large.png", encoded(noisy_image(360, 340)))
    source = read_source(path, write(tmp_path / "mask.png", encoded(Image.new("L", (64, 64)))), 0.8)
    assert source.decoded.image.tobytes() == noisy_image(360, 340).tobytes()
    assert source.output_size(Size(64, 64)) == Size(360, 340)
    assert read_source(path, None, 0.8).output_size(Size(64, 64)) == Size(64, 64)


def test_transparent_pixels_that_are_kept_are_white(tmp_path):
    image = write(tmp_path / "image.png", encoded(solid_image(96, 80, color=(9, 9, 9, 0), mode="RGBA")))
    source = read_source(image, write(tmp_path / "mask.png", encoded(Image.new("L", (96, 80), 255))), 0.8)
    assert source.fitted(Size(96, 80), latent_pixels=8).inpainting.original.getcolors() == [(96 * 80, (255, 255, 255))]
