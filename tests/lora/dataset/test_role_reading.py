"""An archive is read by the roles of its files: what is not trained is not a picture of the subject, nor a limit."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bench.planted import photograph
from lora.dataset import limits, selection, tars, zips
from lora.dataset.captions import PromptRule
from lora.dataset.report import report_on
from lora.images.masks import is_color_photograph
from lora.images.products import marked, png_mark
from tests.lora.dataset.archives import tarred
from tests.tiny import assert_one_sentence, encoded, noisy_image, read_archive, solid_image, write, zipped

PHOTO = encoded(noisy_image(), "JPEG")
MEBIBYTE = 2**20


def gzipped(members):
    return gzip.compress(tarred(members), 1, mtime=0)


def deflated(members):
    return zipped(members, compression=zipfile.ZIP_DEFLATED)


every_kind = pytest.mark.parametrize("packed", [zipped, deflated, tarred, gzipped])


def drawn(mode, *, soft=False):
    """A mask: white on black, with a soft border on request."""
    mask = Image.new(mode, (96, 80))
    ImageDraw.Draw(mask).ellipse((20, 10, 70, 70), fill="white")
    return mask.resize((48, 40)).resize((96, 80)) if soft else mask


def read(tmp_path, members, *, packed=zipped, **options):
    members = {name: content.encode() if isinstance(content, str) else content for name, content in members.items()}
    return read_archive(write(tmp_path / "images", packed(members)), into=tmp_path / "into", **options).dataset


def trained(dataset):
    return {image.name: image.prompt for image in dataset.images}


def skipped(dataset):
    return {file.name: file.reason for file in dataset.skipped}


@pytest.mark.parametrize(
    ("mask", "is_usable"),
    [
        (encoded(drawn("L")), True),
        (encoded(drawn("1")), True),
        (encoded(drawn("RGB"), "JPEG"), True),
        (encoded(drawn("L", soft=True), "JPEG"), True),
        (encoded(drawn("RGBA"), "WEBP"), True),
        (encoded(Image.linear_gradient("L").resize((96, 80))), True),
        (encoded(solid_image(color=(0, 0, 0))), False),
        (encoded(solid_image(color=(200, 30, 60))), False),
    ],
)
@pytest.mark.parametrize("name", ["masks/1.png", "1_mask.png", "1-masklabel.png"])
def test_a_mask_is_kept_with_its_image_and_not_trained(tmp_path, mask, is_usable, name):
    dataset = read(tmp_path, {"1.jpg": PHOTO, "2.jpg": PHOTO, name: mask}, unmasked_weight=0.1)
    assert list(trained(dataset)) == ["1.jpg", "2.jpg"]
    assert [reason.startswith("a mask") for reason in skipped(dataset).values()] == ([] if is_usable else [True])
    first, second = dataset.images
    assert [each.name for each in dataset.masks.unusable] == ([] if is_usable else [name])
    assert first.mask.path.read_bytes() == mask if is_usable else first.mask is None
    assert second.mask is None


@pytest.mark.parametrize("name", ["masks/1.jpg", "1_mask.jpg", "depth/1.jpg"])
def test_a_color_photograph_is_trained_although_its_name_is_that_of_a_mask(tmp_path, name):
    photo = encoded(photograph("astronaut").resize((96, 96)), "JPEG")
    dataset = read(tmp_path, {"1.jpg": PHOTO, name: photo, f"{name[:-4]}.txt": "anna in Venice"})
    assert trained(dataset) == {"1.jpg": "TOK", name: "TOK anna in Venice"}


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "retina", "immunohistochemistry"])
def test_photographs_are_told_from_masks(tmp_path, name):
    photo = photograph(name)
    assert is_color_photograph(write(tmp_path / "photo", encoded(photo, "JPEG")))
    gray = photo.convert("L")
    assert not is_color_photograph(write(tmp_path / "gray", encoded(gray.point(lambda level: 255 * (level > 99)))))
    colors = np.array([(0, 0, 0), (200, 30, 60), (20, 220, 60), (90, 90, 250)], np.uint8)
    segments = Image.fromarray(colors[np.asarray(gray) // 64])
    assert not is_color_photograph(write(tmp_path / "segments", encoded(segments)))


def test_captions_of_images_that_are_not_trained_are_not_those_of_others(tmp_path):
    members = {"img/1.jpg": PHOTO, "img/2.jpg": PHOTO, "img/2.txt": "two", "reg/1_man/1.jpg": PHOTO}
    members |= {"reg/1_man/1.txt": "a man", "reg/1_man/metadata.jsonl": '{"file_name": "1.jpg", "text": "a man"}'}
    assert trained(read(tmp_path, members)) == {"img/1.jpg": "TOK", "img/2.jpg": "TOK two"}


def test_the_words_of_a_kohya_folder_are_the_caption_of_images_that_have_none(tmp_path):
    members = {"10_ohwx person/1.jpg": PHOTO, "10_ohwx person/2.jpg": PHOTO, "10_ohwx person/2.txt": "TOK at sea"}
    dataset = read(tmp_path, members)
    assert list(trained(dataset).values()) == ["TOK ohwx person", "TOK at sea"]
    assert dataset.images[0].caption.source == "10_ohwx person/"


def test_repeats_of_kohya_folders_are_relative(tmp_path):
    dataset = read(tmp_path, {"20_a man/1.jpg": PHOTO, "20_a man/2.jpg": PHOTO, "10_a dog/1.jpg": PHOTO})
    assert [image.repeats for image in dataset.images] == [2, 2, 1]


def warnings(tmp_path, members, **options):
    rule = PromptRule("TOK", "", "")
    return report_on(read(tmp_path, members, **options), rule=rule, resolutions=(64,)).warnings


def test_a_report_says_what_is_not_trained_and_what_became_of_repeats_and_subjects(tmp_path):
    members = {"img/20_a man/1.jpg": PHOTO, "img/10_a dog/1.jpg": PHOTO, "reg/1_man/1.jpg": PHOTO, "masks/1.png": PHOTO}
    members["masks/1.png"] = encoded(drawn("L"))
    lines = "\n".join(warnings(tmp_path, members))
    assert "1 image not trained, a regularization image, not the subject" in lines
    assert "1 image not trained, a mask" in lines
    assert "2 subjects, 'a dog', 'a man': one LoRA learns them, all under 'TOK'" in lines
    assert "'10_a dog: 1', '20_a man: 2'" in lines


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"10_ohwx man/1.jpg": PHOTO}, "repeats are not used, as they are the same for all images"),
        ({"10_ohwx man/1.jpg": PHOTO, "2.jpg": PHOTO}, "repeats are not used, as some images are in no such folder"),
    ],
)
def test_repeats_that_are_not_used_are_reported(tmp_path, members, said):
    assert any(line.startswith(f"{said}") and "'10_ohwx man'" in line for line in warnings(tmp_path, members))


def test_images_that_this_project_made_are_not_trained(tmp_path):
    sheet = encoded(noisy_image(), pnginfo=png_mark("script/check"))
    sample = encoded(noisy_image(), "JPEG", exif=marked(Image.Exif(), "train"))
    dataset = read(
        tmp_path, {"1.jpg": PHOTO, "renamed.png": sheet, "step.jpg": sample, "b.png": encoded(noisy_image())}
    )
    assert list(trained(dataset)) == ["1.jpg", "b.png"]
    assert skipped(dataset) == {
        "renamed.png": "made by this project (script/check)",
        "step.jpg": "made by this project (train)",
    }


def test_an_archive_of_only_such_images_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError) as error:
        read(tmp_path, {"check.png": encoded(noisy_image(), pnginfo=png_mark("script/check"))})
    assert_one_sentence(error.value, "input_images holds no images to train", "'check.png': made by this project")


@every_kind
@pytest.mark.parametrize(
    "name", ["a.mp4", "a.psd", "a.safetensors", "a.zip", "a.unknown", "a", "a.json", "masks/a.psb"]
)
@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_BYTES_OF_A_MEMBER"])
def test_what_is_not_used_counts_towards_no_limit(tmp_path, monkeypatch, packed, name, limit):
    """Neither its bytes, nor its ratio of compression, nor whether it could be read."""
    for module in (limits, tars, selection):
        if hasattr(module, limit):
            monkeypatch.setattr(module, limit, MEBIBYTE)
    for module in (tars, zips):
        monkeypatch.setattr(module, "SUSPECT_BYTES", MEBIBYTE)
        monkeypatch.setattr(module, "SUSPECT_TOTAL", MEBIBYTE)
    monkeypatch.setattr(selection, "MAX_TEXT_BYTES", MEBIBYTE)
    dataset = read(tmp_path, {"1.jpg": PHOTO, name: bytes(2 * MEBIBYTE), "2.jpg": PHOTO}, packed=packed)
    assert list(trained(dataset)) == ["1.jpg", "2.jpg"]
    assert list(skipped(dataset)) == [name]


@every_kind
def test_an_image_beyond_the_limit_of_a_file_is_left_out(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(selection, "MAX_BYTES_OF_A_MEMBER", len(PHOTO))
    dataset = read(tmp_path, {"1.jpg": PHOTO, "a.tif": bytes(2 * MEBIBYTE)}, packed=packed)
    assert skipped(dataset) == {"a.tif": f"it has 2,097,152 bytes: expected at most {len(PHOTO):,}"}


def test_an_unused_file_in_a_zip_may_be_encrypted_or_damaged(tmp_path):
    content = zipped({"1.jpg": PHOTO, "a.bin": b"1" * 99, "b.mp4": b"2" * 99}).replace(b"1" * 99, b"3" * 99)
    content = content.replace(b"2" * 99, b"3" * 99)
    dataset = read_archive(write(tmp_path / "images", content), into=tmp_path / "into").dataset
    assert list(trained(dataset)) == ["1.jpg"]


def test_a_tar_that_is_cut_off_inside_an_unused_file_is_refused(tmp_path):
    content = tarred({"1.jpg": PHOTO, "a.mp4": bytes(MEBIBYTE)})[: MEBIBYTE // 2]
    with pytest.raises(ValueError, match="unexpected end of data"):
        read_archive(write(tmp_path / "images", content), into=tmp_path / "into")


def test_the_unused_bytes_of_a_compressed_tar_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MAX_BYTES_SKIPPED", MEBIBYTE)
    with pytest.raises(ValueError) as error:
        read(tmp_path, {"1.jpg": PHOTO, "a.mp4": bytes(2 * MEBIBYTE)}, packed=gzipped)
    assert_one_sentence(error.value, "more than 1,048,576 bytes of files that are not images")


def test_regularization_images_count_towards_no_limit_either(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BYTES", 2 * len(PHOTO))
    members = {"img/1.jpg": PHOTO} | {f"reg/1_man/{number}.jpg": PHOTO for number in range(5)}
    assert list(trained(read(tmp_path, members))) == ["img/1.jpg"]


def test_a_file_with_an_unknown_name_is_an_image_if_it_begins_like_one(tmp_path):
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as tar:
        for name, content in (
            ("photo", PHOTO),
            ("b.data", b"II*\0 no tiff" + bytes(99_000)),
            ("c.data", bytes(99_000)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    dataset = read_archive(write(tmp_path / "images", file.getvalue()), into=tmp_path / "into").dataset
    assert list(trained(dataset)) == ["photo"]
    assert set(skipped(dataset).values()) == {"neither an image nor a caption"}
