"""An archive becomes images with captions; what cannot be used is named, and too much of it is refused."""

import unicodedata

import pytest

from lora.dataset.reading import read_dataset
from tests.tiny import assert_one_sentence, encoded, noisy_picture, picture, write, zipped

IMAGE = encoded(picture())


def read(tmp_path, members, *, trigger_word="TOK"):
    archive = write(tmp_path / "images.zip", zipped(members))
    return read_dataset(archive, into=tmp_path / "into", trigger_word=trigger_word)


def captions(tmp_path, members, **options):
    return {image.name: image.caption for image in read(tmp_path, members, **options).images}


def refusal(tmp_path, members):
    with pytest.raises(ValueError) as error:
        read(tmp_path, members)
    assert_one_sentence(error.value, "input_images")
    return str(error.value)


def test_each_image_has_the_caption_of_its_name(tmp_path):
    members = {"b.png": IMAGE, "a.txt": "TOK in a", "a.png": IMAGE, "b.txt": "TOK in b"}
    assert captions(tmp_path, members) == {"a.png": "TOK in a", "b.png": "TOK in b"}


def test_an_image_without_a_caption_has_the_trigger_word(tmp_path):
    dataset = read(tmp_path, {"a.png": IMAGE, "b.png": IMAGE, "b.txt": "a dog"})
    assert [image.caption for image in dataset.images] == ["TOK", "TOK a dog"]
    assert dataset.captions_found == 1


def test_the_size_is_that_of_the_upright_picture(tmp_path):
    exif = picture().getexif()
    exif[0x0112] = 6
    (image,) = read(tmp_path, {"a.png": encoded(picture(96, 80), exif=exif)}).images
    assert (image.width, image.height) == (80, 96)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".Jpg", ".JPEG", ".webp"])
def test_suffixes_count_in_any_case(tmp_path, suffix):
    assert captions(tmp_path, {f"a{suffix}": IMAGE, "a.TXT": "a dog"}) == {f"a{suffix}": "TOK a dog"}


@pytest.mark.parametrize(("image", "text"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_match_however_they_are_spelled(tmp_path, image, text):
    name = unicodedata.normalize(image, "café")
    members = {f"{name}.png": IMAGE, f"{unicodedata.normalize(text, 'café')}.txt": "a cup"}
    assert captions(tmp_path, members) == {f"{name}.png": "TOK a cup"}


def test_names_match_in_any_case(tmp_path):
    assert captions(tmp_path, {"Photo.png": IMAGE, "photo.txt": "a dog"}) == {"Photo.png": "TOK a dog"}


def test_folders_are_searched_and_kept_apart(tmp_path):
    members = {"x/a.png": IMAGE, "y/z/a.png": IMAGE, "x/a.txt": "in x", "y/z/a.txt": "in z", "a.txt": "at the top"}
    assert captions(tmp_path, members) == {"x/a.png": "TOK in x", "y/z/a.png": "TOK in z"}


def test_names_with_dots_keep_their_captions_apart(tmp_path):
    members = {"a.1.png": IMAGE, "a.2.png": IMAGE, "a.1.txt": "one", "a.2.txt": "two"}
    assert captions(tmp_path, members) == {"a.1.png": "TOK one", "a.2.png": "TOK two"}


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path):
    assert captions(tmp_path, {"a.png": IMAGE, "a.txt": b"\xef\xbb\xbfa dog"}) == {"a.png": "TOK a dog"}


def test_a_caption_is_one_line(tmp_path):
    assert captions(tmp_path, {"a.png": IMAGE, "a.txt": "a dog\r\non a mat\n"}) == {"a.png": "TOK a dog on a mat"}


def test_an_empty_caption_is_the_trigger_word(tmp_path):
    assert captions(tmp_path, {"a.png": IMAGE, "a.txt": "  \n"}) == {"a.png": "TOK"}


def test_the_content_decides_what_an_image_is(tmp_path):
    assert captions(tmp_path, {"a.jpg": IMAGE, "b.png": encoded(picture(), "JPEG")}) == {"a.jpg": "TOK", "b.png": "TOK"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.png", b"no image", "not a JPEG, PNG or WEBP image"),
        ("b.png", encoded(noisy_picture())[:9000], "cannot be decoded"),
        ("b.png", encoded(picture(20, 20)), "20x20 is too small"),
    ],
)
def test_a_bad_image_is_skipped_with_its_reason(tmp_path, name, content, reason):
    dataset = read(tmp_path, {"a.png": IMAGE, name: content})
    assert [image.name for image in dataset.images] == ["a.png"]
    (skipped,) = dataset.skipped
    assert skipped.name == name
    assert reason in skipped.reason
    assert repr(name) in dataset.summary()


@pytest.mark.parametrize(("content", "reason"), [(b"\xff\xfe\x00d", "not UTF-8"), (b"x" * 70_000, "70,000 bytes")])
def test_an_image_whose_caption_cannot_be_read_is_skipped(tmp_path, content, reason):
    dataset = read(tmp_path, {"a.png": IMAGE, "b.png": IMAGE, "b.txt": content})
    assert [image.name for image in dataset.images] == ["a.png"]
    assert reason in dataset.skipped[0].reason


def test_more_than_half_bad_images_are_refused(tmp_path):
    message = refusal(tmp_path, {"a.png": IMAGE, "b.png": b"bad", "c.png": b"bad"})
    assert "2 of 3 images" in message
    assert "'b.png'" in message


def test_half_bad_images_are_not_refused(tmp_path):
    assert len(read(tmp_path, {"a.png": IMAGE, "b.png": b"bad"}).images) == 1


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({}, "no files"),
        ({"__MACOSX/._a.png": IMAGE}, "no files"),
        ({"a.txt": "a dog", "b.pdf": b"x"}, "only 2 other files such as 'a.txt'"),
        ({"inner.zip": zipped({"a.png": IMAGE})}, "'inner.zip'"),
    ],
)
def test_a_zip_without_images_is_refused(tmp_path, members, found):
    assert found in refusal(tmp_path, members)


def test_the_summary_shows_what_will_be_trained(tmp_path):
    lines = read(tmp_path, {"a.png": IMAGE, "a.txt": "a dog", "b.png": IMAGE}).summary().splitlines()
    assert lines[0] == "Found 2 images, 1 with a caption of their own, 0 files skipped"
    assert "'TOK a dog'" in lines[-1]
