"""An archive is read into captioned images; unusable files are reported, and too many of them are refused."""

import io
import tarfile
import unicodedata

import pytest

from lora.dataset import unpacking
from tests.tiny import assert_one_sentence, encoded, noisy_image, read_archive, solid_image, write, zipped

IMAGE = encoded(solid_image())


def read(tmp_path, members, *, captions=None, **options):
    archive = write(tmp_path / "images.zip", zipped(members))
    caption_archive = write(tmp_path / "captions.zip", zipped(captions)) if captions is not None else None
    return read_archive(archive, into=tmp_path / "into", captions=caption_archive, **options).dataset


def prompts(tmp_path, members, **options):
    return {image.name: image.prompt for image in read(tmp_path, members, **options).images}


def refusal(tmp_path, members, *, input_name="input_images", **options):
    with pytest.raises(ValueError) as error:
        read(tmp_path, members, **options)
    assert_one_sentence(error.value)
    assert str(error.value).startswith(f"{input_name} ")
    return str(error.value)


def tarred(members, mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_each_image_has_the_caption_of_its_name(tmp_path):
    members = {"b.png": IMAGE, "a.txt": "TOK in a", "a.png": IMAGE, "b.txt": "TOK in b"}
    assert prompts(tmp_path, members) == {"a.png": "TOK in a", "b.png": "TOK in b"}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_read_like_a_zip(tmp_path, mode):
    members = {"x/b.png": IMAGE, "x/b.txt": b"in b", "a.png": IMAGE, "__MACOSX/._a.png": b"junk"}
    found = read_archive(write(tmp_path / "images", tarred(members, mode)), into=tmp_path / "into")
    assert {image.name: image.prompt for image in found.dataset.images} == {"x/b.png": "TOK in b", "a.png": "TOK"}
    assert found.dataset.skipped == ()


def test_the_prompt_of_an_image_without_a_caption_is_the_trigger_word(tmp_path):
    dataset = read(tmp_path, {"a.png": IMAGE, "b.png": IMAGE, "b.txt": "a dog"})
    assert [image.prompt for image in dataset.images] == ["TOK", "TOK a dog"]
    assert [image.caption and image.caption.source for image in dataset.images] == [None, "b.txt"]


def test_prefix_and_suffix_are_in_every_prompt(tmp_path):
    members = {"a.png": IMAGE, "b.png": IMAGE, "b.txt": "a dog"}
    assert prompts(tmp_path, members, prefix="a photo of TOK,", suffix="at sea") == {
        "a.png": "a photo of TOK at sea",
        "b.png": "a photo of TOK, a dog at sea",
    }


def test_the_size_is_that_of_the_upright_image(tmp_path):
    exif = solid_image().getexif()
    exif[0x0112] = 6
    (image,) = read(tmp_path, {"a.png": encoded(solid_image(96, 80), exif=exif)}).images
    assert str(image.inspection.original) == "80x96"


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".Jpg", ".JPEG", ".webp", ".data", ""])
def test_an_image_is_recognized_by_its_content_whatever_its_suffix(tmp_path, suffix):
    assert prompts(tmp_path, {f"a{suffix}": IMAGE, "a.TXT": "a dog"}) == {f"a{suffix}": "TOK a dog"}


@pytest.mark.parametrize(("image", "text"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_match_in_any_unicode_normal_form(tmp_path, image, text):
    name = unicodedata.normalize(image, "café")
    members = {f"{name}.png": IMAGE, f"{unicodedata.normalize(text, 'café')}.txt": "a cup"}
    assert list(prompts(tmp_path, members).values()) == ["TOK a cup"]


def test_captions_belong_to_images_in_the_same_folder(tmp_path):
    members = {"x/a.png": IMAGE, "y/z/a.png": IMAGE, "x/a.txt": "in x", "y/z/a.txt": "in z", "a.txt": "at the top"}
    assert prompts(tmp_path, members) == {"x/a.png": "TOK in x", "y/z/a.png": "TOK in z"}


def test_captions_of_input_captions_take_precedence_over_those_of_input_images(tmp_path):
    members = {"x/a.png": IMAGE, "x/a.txt": "old", "b.png": IMAGE, "b.txt": "kept"}
    captions = {"output/flux_train_replicate/captions/x/a.txt": "new", "lora.safetensors": "no caption"}
    assert prompts(tmp_path, members, captions=captions) == {"x/a.png": "TOK new", "b.png": "TOK kept"}


def test_a_caption_that_is_emptied_in_input_captions_is_none(tmp_path):
    members = {"10_ohwx/a.png": IMAGE, "b.png": IMAGE, "b.txt": "old", "c.png": IMAGE, "c.txt": "kept", "d.txt": ""}
    captions = {"10_ohwx/a.txt": "", "b.txt": "\n", "c.txt": "new", "e.txt": ""}
    dataset = read(tmp_path, members, captions=captions)
    assert [image.caption and image.caption.text for image in dataset.images] == [None, None, "new"]
    assert (dataset.pairing.unused, dataset.pairing.conflicting) == ((), ())
    assert dataset.empty_captions == ("10_ohwx/a.txt", "b.txt", "e.txt", "d.txt")


def test_input_captions_without_a_word_is_refused(tmp_path):
    error = refusal(tmp_path, {"a.png": IMAGE}, captions={"a.txt": ""}, input_name="input_captions")
    assert (
        error
        == "input_captions holds 1 caption file without a word: 'a.txt': expected a caption in at least one of them"
    )


def test_input_captions_without_captions_is_refused(tmp_path):
    assert "no captions" in refusal(tmp_path, {"a.png": IMAGE}, captions={"b.png": IMAGE}, input_name="input_captions")


def test_the_error_for_an_unreadable_caption_table_names_it(tmp_path):
    """A64."""
    assert "'captions.json'" in refusal(tmp_path, {"a.png": IMAGE, "captions.json": '{"a.png": 5}'})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.png", b"no image", "not a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC image"),
        ("b.cr2", b"raw", "unsupported image format: convert it to JPEG or PNG"),
        ("b.NEF", encoded(solid_image(), "TIFF"), "unsupported image format: convert it to JPEG or PNG"),
        ("b.jxl", b"jpeg xl", "not a JPEG"),
        ("b.png", encoded(noisy_image())[:9000], "cannot be decoded"),
        ("b.png", encoded(solid_image(20, 20)), "20x20 is too small"),
        ("b.txt", b"\x00\x01\x02" * 50, "not text"),
        ("b.txt", b"x" * 70_000, "70,000 bytes"),
        ("b.zip", zipped({"c.png": IMAGE}), "an archive inside the archive"),
        ("b.pdf", b"%PDF", "neither an image nor a caption"),
    ],
)
def test_skipped_files_are_reported_with_the_reason(tmp_path, name, content, reason):
    dataset = read(tmp_path, {"a.png": IMAGE, name: content})
    assert [image.name for image in dataset.images] == ["a.png"]
    (skipped,) = dataset.skipped
    assert skipped.name == name
    assert reason in skipped.reason


def test_more_than_half_unusable_images_are_refused(tmp_path):
    message = refusal(tmp_path, {"a.png": IMAGE, "b.png": b"bad", "c.png": b"bad"})
    assert "2 of 3 images" in message
    assert "'b.png'" in message


def test_half_unusable_images_are_accepted(tmp_path):
    assert len(read(tmp_path, {"a.png": IMAGE, "b.png": b"bad"}).images) == 1


def test_other_files_do_not_count_as_unusable_images(tmp_path):
    """Regardless of their number."""
    assert len(read(tmp_path, {"a.png": IMAGE} | {f"{index}.pdf": b"%PDF" for index in range(9)}).images) == 1


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({}, "no files"),
        ({"__MACOSX/._a.png": IMAGE}, "no files"),
        ({"a.txt": "a dog", "b.pdf": b"x"}, "only 2 other files such as 'a.txt'"),
        ({"inner.zip": zipped({"a.png": IMAGE})}, "the archive 'inner.zip'"),
    ],
)
def test_an_archive_without_images_is_refused(tmp_path, members, found):
    assert found in refusal(tmp_path, members)


def test_the_number_of_images_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_IMAGES", 2)
    assert "3 images: expected at most 2" in refusal(tmp_path, {f"{index}.png": IMAGE for index in range(3)})
