"""The inputs of a request: sizes for any base, and one sentence for a bad input."""

import pytest

from lora.flux.family import FLUX1
from lora.flux.sampling import SAMPLING
from lora.flux2.family import FLUX2
from lora.images.size import Size
from lora.serving.request import CUSTOM, SIZES, STEP, Request, size_for_image
from tests.tiny import assert_one_sentence

INPUTS = {
    "prompt": "a photo of TOK",
    "megapixels": "1",
    "aspect_ratio": "1:1",
    "width": None,
    "height": None,
    "num_outputs": 1,
    "num_inference_steps": 28,
    "guidance_scale": None,
    "guidance": None,
    "negative_prompt": None,
    "go_fast": False,
    "seed": 7,
    "output_format": "webp",
    "output_quality": 80,
}


def checked(**changes):
    return Request.checked(defaults=SAMPLING.defaults, **INPUTS | changes)


def custom_size(width, height):
    return checked(aspect_ratio=CUSTOM, width=width, height=height).size(native=1024)


@pytest.mark.parametrize("aspect_ratio", SIZES)
def test_a_base_of_1024_pixels_has_the_public_sizes(aspect_ratio):
    assert checked(aspect_ratio=aspect_ratio).size(native=1024) == SIZES[aspect_ratio]


@pytest.mark.parametrize(
    ("aspect_ratio", "size"), [("1:1", (128, 128)), ("16:9", (176, 96)), ("9:21", (80, 192)), ("3:4", (112, 144))]
)
def test_a_base_of_128_pixels_has_an_eighth_of_them(aspect_ratio, size):
    assert checked(aspect_ratio=aspect_ratio).size(native=128) == size


@pytest.mark.parametrize("native", [64, 128, 512, 1024])
@pytest.mark.parametrize("aspect_ratio", SIZES)
def test_sides_are_multiples_of_16(aspect_ratio, native):
    assert all(side > 0 and side % STEP == 0 for side in checked(aspect_ratio=aspect_ratio).size(native=native))


@pytest.mark.parametrize(
    ("requested", "rounded"),
    [((64, 1440), (64, 1440)), ((100, 105), (96, 112)), ((1000.0, 513.0), (1008, 512)), ((71, 73), (64, 80))],
)
def test_a_custom_size_is_rounded_to_multiples_of_16(requested, rounded):
    assert custom_size(*requested) == rounded


@pytest.mark.parametrize(("requested", "rounded"), [((72, 88), (80, 96)), ((104, 120), (112, 128))])
def test_a_side_between_two_multiples_of_16_is_rounded_up_as_the_public_predictors_do(requested, rounded):
    assert custom_size(*requested) == rounded
    assert size_for_image(Size(*requested), megapixels="1", native=1024) == Size(*rounded)


def test_a_custom_size_is_the_same_for_every_base():
    request = checked(aspect_ratio=CUSTOM, width=256, height=128)
    assert request.size(native=128) == request.size(native=1024) == (256, 128)


def test_width_and_height_matter_for_a_custom_shape_only():
    assert checked(width=64, height=9999).size(native=1024) == (1024, 1024)


@pytest.mark.parametrize(("width", "height"), [(None, None), (64, None), (None, 64)])
def test_a_custom_shape_needs_both_sides(width, height):
    with pytest.raises(ValueError) as error:
        custom_size(width, height)
    assert_one_sentence(error.value, "aspect_ratio is custom", "width and height", "expected both")


@pytest.mark.parametrize(("name", "value"), [("width", 63), ("width", 1441), ("height", 0), ("height", 100.5)])
def test_a_custom_side_out_of_bounds_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} is") as error:
        checked(**{"aspect_ratio": CUSTOM, "width": 64, "height": 64} | {name: value})
    assert_one_sentence(error.value, str(value), "64 to 1440")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", None),
        ("prompt", "x" * 10_001),
        ("prompt", "a\0b"),
        ("megapixels", "2"),
        ("guidance", 11.0),
        ("guidance", float("nan")),
        ("aspect_ratio", "1:2"),
        ("aspect_ratio", 1),
        ("num_outputs", 0),
        ("num_outputs", 5),
        ("num_inference_steps", 0),
        ("num_inference_steps", 51),
        ("num_inference_steps", 1.5),
        ("guidance_scale", -0.1),
        ("guidance_scale", 10.1),
        ("seed", 1.5),
        ("output_format", "gif"),
        ("output_quality", 101),
    ],
)
def test_a_bad_input_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} ") as error:
        checked(**{name: value})
    assert_one_sentence(error.value, "expected")


@pytest.mark.parametrize("given", [None, "match_input_image"])
def test_an_image_is_square_if_its_shape_is_left_open_or_that_of_no_image(given):
    assert checked(aspect_ratio=given).size(native=1024) == (1024, 1024)
    assert checked(aspect_ratio=given).without_match() == checked(aspect_ratio="1:1")
    assert checked(aspect_ratio="16:9").without_match() == checked(aspect_ratio="16:9")


def test_0_follows_the_largest_seed_so_that_every_seed_is_a_valid_input():
    assert checked(seed=2**31 - 2, num_outputs=4).seeds == (2**31 - 2, 2**31 - 1, 0, 1)


def test_a_quarter_of_a_megapixel_is_half_of_each_side():
    assert checked(megapixels="0.25").size(native=1024) == (512, 512)
    assert checked(megapixels="0.25", aspect_ratio="16:9").size(native=1024) == (672, 384)


def test_guidance_has_two_names_and_is_3_5_if_neither_is_given():
    assert checked().guidance_scale == 3.5
    assert checked(guidance=2).guidance_scale == checked(guidance_scale=2).guidance_scale == 2.0
    assert checked(guidance=0.0).guidance_scale == 0.0
    assert checked(guidance=3, guidance_scale=3.0).guidance_scale == 3.0


def test_two_different_guidances_are_refused():
    with pytest.raises(ValueError) as error:
        checked(guidance=2, guidance_scale=3)
    assert_one_sentence(error.value, "guidance_scale is 3 and guidance is 2", "expected only one of them")


@pytest.mark.parametrize(
    ("family", "takes_guidance", "steps", "guidance"),
    [(FLUX1, True, 28, 3.5), (FLUX1, False, 4, 3.5), (FLUX2, True, 50, 4.0), (FLUX2, False, 4, 1.0)],
)
def test_the_default_steps_and_guidance_depend_on_the_base(family, takes_guidance, steps, guidance):
    defaults = family.sampling.defaults_of(takes_guidance=takes_guidance)
    left_open = Request.checked(defaults=defaults, **INPUTS | {"num_inference_steps": None})
    assert (left_open.num_inference_steps, left_open.guidance_scale) == (steps, guidance)
    given = Request.checked(defaults=defaults, **INPUTS | {"num_inference_steps": 9, "guidance_scale": 2})
    assert (given.num_inference_steps, given.guidance_scale) == (9, 2.0)
