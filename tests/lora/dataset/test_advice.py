"""Problems of a data set are reported before training, in one sentence each; a good data set has no warnings."""

import json

import pytest
from PIL import ImageFilter

from bench.planted import faded, photograph
from lora.dataset.advice import warnings_about
from lora.dataset.captions import PromptRule
from lora.dataset.similarity import near_duplicates
from tests.tiny import encoded, noisy_image, read_archive, solid_image, write, zipped


def images(count=6, *, side=128):
    return {f"{index}.png": encoded(noisy_image(side, side, seed=index)) for index in range(count)}


def captions(count=6, *, text="TOK at place"):
    return {f"{index}.txt": f"{text} {index}" for index in range(count)}


def warnings(tmp_path, members, *, trigger_word="TOK", prefix="", suffix="", resolutions=(128,), other_captions=None):
    archive = write(tmp_path / "images.zip", zipped(members))
    caption_archive = write(tmp_path / "captions.zip", zipped(other_captions)) if other_captions else None
    wrapped = {"trigger_word": trigger_word, "prefix": prefix, "suffix": suffix}
    into = tmp_path / "into"
    dataset = read_archive(archive, into=into, resolutions=resolutions, captions=caption_archive, **wrapped).dataset
    groups = near_duplicates([image.inspection.thumbnail for image in dataset.images])
    similar = [[dataset.images[index] for index in group] for group in groups]
    rule = PromptRule(trigger_word, prefix, suffix)
    found = list(warnings_about(dataset, similar, rule=rule, resolutions=resolutions))
    assert all(warning.isprintable() for warning in found)
    return found


def the_warning(tmp_path, members, **options):
    (warning,) = warnings(tmp_path, members, **options)
    return warning


@pytest.mark.parametrize("members", [images() | captions(), images()])
def test_a_good_data_set_has_no_warnings(tmp_path, members):
    """With captions, or without any."""
    assert warnings(tmp_path, members) == []


@pytest.mark.parametrize(("count", "expected"), [(1, "only 1 image:"), (4, "only 4 images:")])
def test_a_data_set_of_few_images_is_reported(tmp_path, count, expected):
    assert the_warning(tmp_path, images(count)).startswith(expected)


def test_five_images_are_enough(tmp_path):
    assert warnings(tmp_path, images(5)) == []


def test_of_many_groups_of_copies_only_some_are_named(tmp_path):
    copies = {f"{index}-{copy}": image for index, image in images(7).items() for copy in "ab"}
    found = warnings(tmp_path, copies)
    assert len(found) == 6
    assert found[-1] == "and 2 more groups like that"


def test_the_same_file_twice_is_named_once(tmp_path):
    """A49."""
    members = images() | {"x/copy.jpg": images()["0.png"]}
    assert the_warning(tmp_path, members).startswith("'0.png', 'x/copy.jpg' are the same file")


def test_images_that_look_the_same_are_named(tmp_path):
    shapes = noisy_image(8, 8, seed=7).resize((160, 160))
    members = images() | {"x.png": encoded(shapes), "y.jpg": encoded(shapes.resize((124, 124)), "JPEG")}
    assert warnings(tmp_path, members)[0].startswith("'x.png', 'y.jpg' look almost the same")


def test_small_images_are_named_with_their_size(tmp_path):
    members = images() | {"small.png": encoded(noisy_image(116, 116, seed=9))}
    expected = "smaller than 128x128, and trained at their own size: 'small.png (116x116)'"
    assert the_warning(tmp_path, members, resolutions=(128, 256)) == expected


def test_an_image_that_is_enlarged_by_less_than_a_tenth_is_not_small(tmp_path):
    assert warnings(tmp_path, images() | {"small.png": encoded(noisy_image(117, 117, seed=9))}) == []


def test_blurred_images_are_named(tmp_path):
    blurred = photograph("astronaut").filter(ImageFilter.GaussianBlur(4))
    warning = the_warning(tmp_path, images(side=512) | {"b.png": encoded(blurred)}, resolutions=(512,))
    assert warning == "blurred at the size they are trained at, which the LoRA will learn: 'b.png'"


def test_an_image_that_is_sharp_at_its_training_size_is_not_blurred(tmp_path):
    """A blur of 4 pixels is one of 1 pixel in a quarter of the size."""
    blurred = photograph("astronaut").filter(ImageFilter.GaussianBlur(4))
    assert warnings(tmp_path, images() | {"b.png": encoded(blurred)}, resolutions=(128,)) == []


def test_images_of_one_color_are_named_and_are_neither_blurred_nor_duplicates(tmp_path):
    members = images() | {
        "w.png": encoded(solid_image(128, 128, color="white")),
        "v.png": encoded(solid_image(128, 128, color=(250, 250, 250))),
        "b.png": encoded(solid_image(128, 128, color="black")),
    }
    expected = "of one color, with nothing to learn from: remove 'w.png (white)', 'v.png (white)', 'b.png (black)'"
    assert the_warning(tmp_path, members) == expected


def test_faded_images_are_named(tmp_path):
    warning = the_warning(tmp_path, images() | {"f.png": encoded(faded(photograph("astronaut"), 0.2))})
    assert warning == "faded, with hardly any contrast, which the LoRA will learn: 'f.png'"


def test_animations_are_named(tmp_path):
    """A43."""
    frames = [noisy_image(128, 128, seed=seed) for seed in (8, 9)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert the_warning(tmp_path, images() | {"moving.gif": moving}).endswith("multi-page files is used: 'moving.gif'")


def test_images_without_a_caption_are_named_if_others_have_one(tmp_path):
    """A53."""
    members = images() | captions(3)
    assert the_warning(tmp_path, members) == "3 images without a caption: '3.png', '4.png', '5.png'"


def test_a_single_caption_is_not_the_same_as_others(tmp_path):
    assert "5 images without a caption" in the_warning(tmp_path, images() | {"0.txt": "TOK"})


def test_identical_captions_are_reported(tmp_path):
    members = images() | {f"{index}.txt": "a photo of TOK" for index in range(6)}
    assert the_warning(tmp_path, members).startswith("all captions are the same")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (captions(text="a dog at place"), "all captions without 'TOK': it is put in front"),
        (captions() | {"0.txt": "a dog in TOKYO"}, "1 caption without 'TOK': it is put in front"),
        (captions() | captions(2, text="a dog at place"), "2 captions without 'TOK': it is put in front"),
    ],
)
def test_captions_without_the_trigger_word_are_counted(tmp_path, texts, expected):
    assert the_warning(tmp_path, images() | texts).startswith(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"trigger_word": ""},
        {"prefix": "a photo of TOK,"},
        {"suffix": "by [trigger]"},
        {"trigger_word": "a DOG"},
    ],
)
def test_no_warning_about_trigger_words_where_none_is_inserted(tmp_path, options):
    assert warnings(tmp_path, images() | captions(text="a dog at place"), **options) == []


def test_images_that_share_a_caption_are_named(tmp_path):
    """A25."""
    members = images() | captions() | {"0.jpg": encoded(noisy_image(128, 128, seed=9), "JPEG")}
    expected = "one caption is used for several images of the same name: '0.png', '0.jpg'"
    assert the_warning(tmp_path, members) == expected


def test_captions_without_an_image_are_named(tmp_path):
    rows = json.dumps({"gone.png": "TOK", "half\ud83d.png": "TOK"})
    members = images() | captions() | {"readme.txt": "TOK", "captions.json": rows}
    warning = the_warning(tmp_path, members)
    assert warning.startswith("3 captions without an image of that name: ")
    for named in ("'readme in readme.txt'", "'gone.png in captions.json'", "'half_.png in captions.json'"):
        assert named in warning


def test_many_names_do_not_make_a_long_warning(tmp_path):
    rows = json.dumps({f"{index}{'x' * 5_000}.png": "TOK" for index in range(900)})
    warning = the_warning(tmp_path, images() | captions() | {"captions.json": rows})
    assert warning.endswith(" and 895 more")
    assert len(warning) < 1_500


def test_conflicting_captions_are_reported_with_the_file_that_is_not_used(tmp_path):
    """A65."""
    rows = json.dumps({"0.png": "TOK elsewhere", "1.png": "TOK nowhere"})
    members = images() | captions() | {"captions.json": rows}
    expected = "some images have several different captions, of which one is used; the others are in 'captions.json'"
    assert the_warning(tmp_path, members) == expected


def test_captions_of_input_captions_replace_others_without_a_warning(tmp_path):
    assert warnings(tmp_path, images() | captions(), other_captions=captions(text="TOK in words of")) == []


def test_a_caption_that_is_not_unicode_is_named_with_its_guessed_encoding(tmp_path):
    members = images() | captions() | {"0.txt": "TOK l'été, à la plage".encode("cp1252")}
    assert the_warning(tmp_path, members) == "not in UTF-8, so the encoding was guessed: '0.txt as cp1252'"
