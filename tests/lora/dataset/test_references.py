"""A data set of pairs is read as images and their references: what each image was before the edit."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from lora.dataset.captions import PromptRule
from lora.dataset.crops import WHOLE
from lora.dataset.encoding import encoded_bytes
from lora.dataset.inspection import Inspector
from lora.dataset.mask_settings import NO_MASKS, ORIGINAL, MaskSettings
from lora.dataset.pixels import PixelStore
from lora.dataset.previews import preview
from lora.dataset.reading import Archives, read_dataset
from lora.dataset.references import crop_of_reference, reference_pixels
from lora.dataset.report import report_on
from lora.images.size import Size
from tests.tiny import (
    TINY_FLUX,
    ReadArchive,
    assert_one_sentence,
    encoded,
    noisy_image,
    solid_image,
    tiny_pipeline,
    write,
    zipped,
)

RULE = PromptRule("", "", "")
BEFORE = encoded(solid_image(color=(30, 60, 200)))


def after(seed=0, width=96, height=80):
    return encoded(noisy_image(width, height, seed=seed))


def read(
    tmp_path, members, *, with_references=True, captions=None, resolutions=(64,), crops=1, masks=NO_MASKS
) -> ReadArchive:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    archives = Archives(write(folder / "images.zip", zipped(members)), captions)
    inspector = Inspector(resolutions, PixelStore(folder / "pixels"), crops=crops, masks=masks)
    dataset = read_dataset(archives, into=folder, inspector=inspector, rule=RULE, with_references=with_references)
    return ReadArchive(dataset, inspector, "")


def paired(tmp_path, names, **options):
    """The references of each image, for files of these names, of which those of references are all equal."""
    members = {name: after(seed) for seed, name in enumerate(names)}
    dataset = read(tmp_path, members, **options).dataset
    return {image.name: [reference.name for reference in image.references] for image in dataset.images}


@pytest.mark.parametrize(
    "names",
    [
        {"1.png": ["1_reference.png"], "2.png": ["2_reference.png", "2_reference_2.png", "2_reference_10.png"]},
        {"1.png": ["1_reference.webp", "1_reference2.png"], "2.png": ["2-ref.png"]},
        {"1.jpg": ["references/1.png"], "2.jpg": ["references/2.jpg"]},
        {"1.jpg": ["references/1/1.png", "references/2/1.png"], "2.jpg": ["references/1/2.png"]},
        {"1.jpg": ["references/1.png", "references_2/1.png"], "2.jpg": ["references/2.png"]},
        {"main/1.jpg": ["control_1/1.jpg", "control_2/1.png", "control_3/1.jpg"], "main/2.jpg": ["control_1/2.jpg"]},
        {"1.jpg": ["control/1_0.png", "control/1_1.png"], "2.jpg": ["control/2_0000.png", "control/2_0001.png"]},
        {"a_end.jpg": ["a_start.jpg", "a_start2.jpg"], "b_end.png": ["b_start.jpg"]},
        {"0_tgt.jpg": ["0_src.jpg"], "1_tgt.jpg": ["1_src.jpg"]},
        {"after/1.jpg": ["before/1.jpg"], "after/2.jpg": ["before/2.jpg"]},
        {
            "data/after/a_after.jpg": ["data/before/a_before.jpg"],
            "data/after/b_after.jpg": ["data/before/b_before.jpg"],
        },
        {"source/target/1.jpg": ["source/input_images/1.jpg"], "source/target/2.jpg": ["source/input_images/2.jpg"]},
        {"edits/1.png": ["edits_conditioning/1.png"], "edits/2.png": ["edits_conditioning/2.png"]},
        {"x_edited.png": ["x.png"], "y_edited.png": ["y.png"]},
        {"after_1.png": ["before_1.png"], "after_2.png": ["before_2.png"]},
        {"1.png": ["1-condlabel.png"], "2.png": ["2_depth.png"]},
        {"1/after.png": ["1/before.png", "1/before2.png"], "2/After.JPG": ["2/Before.png"]},
        {"end.png": ["start.png"]},
        {"output1.png": ["input1.png"], "output2.png": ["input2.png"]},
        {"images/1.png": ["control/1.png", "depth/1.png"], "images/2.png": ["control/2.png", "depth/2.png"]},
        {"masks/1.png": ["control/1.png"], "masks/2.png": ["control/2.png"]},
    ],
)
def test_references_are_found_by_the_conventions_of_trainers_of_edits(tmp_path, names):
    files = [*names, *(reference for references in names.values() for reference in references)]
    assert paired(tmp_path, files) == names


def test_what_is_a_control_image_otherwise_is_a_reference_and_is_named_with_the_lora_type_that_uses_it(tmp_path):
    members = {"1.png": after(1), "2.png": after(2), "control/1.png": BEFORE, "control/2.png": BEFORE}
    (image, _) = read(tmp_path, members).dataset.images
    assert image.references[0].name == "control/1.png"
    dataset = read(tmp_path, members, with_references=False).dataset
    assert [image.references for image in dataset.images] == [(), ()]
    assert {file.reason for file in dataset.not_trained} == {
        "a control image: only the image that it belongs to is trained; lora_type edit trains with both"
    }


def test_pairs_that_are_trained_as_single_images_are_reported(tmp_path):
    members = {"a_start.png": BEFORE, "a_end.png": after(1), "b_start.png": BEFORE, "b_end.png": after(2)}
    dataset = read(tmp_path, members, with_references=False).dataset
    assert len(dataset.images) == 4
    (warning,) = (line for line in report_on(dataset, rule=RULE, resolutions=(64,)).warnings if "lora_type" in line)
    assert warning.startswith(
        "2 images trained like the others, but named as references of edits: 'a_start.png', 'b_start.png'"
    )


def test_names_of_two_images_alone_are_no_pair(tmp_path):
    members = {"1.png": after(1), "1_original.png": after(2), "3.png": after(3), "4.png": after(4), "5.png": after(5)}
    assert read(tmp_path, members, with_references=False).dataset.pairs == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.png", "2.png"], "input_images holds 2 images and no reference: lora_type edit expects"),
        (["1.png", "1_ref.png", "2.png", "3.png"], "holds '2.png' without a reference, and 1 more: lora_type edit"),
        (["1.png", "1_ref.png", "9_ref.png"], "holds the reference '9_ref.png' without an image of that name that is"),
        (
            ["1.jpg", "2.jpg", "references/1.png", "references/2.png", "references/9.png"],
            "reference 'references/9.png'",
        ),
        (
            ["1.png", *(f"1_ref{number}.png" for number in range(5))],
            "holds 5 references of '1.png': expected at most 4",
        ),
        (["1.jpg", "1.webp", "1_ref.png"], "holds the reference '1_ref.png' and several images of that name: expected"),
    ],
)
def test_a_data_set_without_complete_pairs_is_refused(tmp_path, names, message):
    with pytest.raises(ValueError, match=r"^input_images holds") as error:
        paired(tmp_path, names)
    assert_one_sentence(error)
    assert message in str(error.value)


def test_an_image_with_an_unreadable_reference_is_left_out_and_named(tmp_path):
    members = {"1.png": after(1), "1_ref.png": BEFORE, "2.png": after(2), "2_ref.png": BEFORE[:60]}
    dataset = read(tmp_path, members).dataset
    assert [image.name for image in dataset.images] == ["1.png"]
    (skipped,) = dataset.skipped
    assert skipped.name == "2.png"
    assert skipped.reason.startswith("its reference '2_ref.png' cannot be used: ")
    with pytest.raises(ValueError, match=r"2 of 2 images that cannot be used; the first is '1\.png': its reference"):
        read(tmp_path, {**members, "1_ref.png": encoded(solid_image(20, 20))})


def test_the_caption_of_a_pair_has_the_name_that_both_share_or_that_of_either(tmp_path):
    members = {name: after(seed) for seed, name in enumerate(("a_end.jpg", "b_end.jpg", "c.png", "d_edited.png"))}
    members |= {"a_start.jpg": BEFORE, "b_start.jpg": BEFORE, "c_reference.png": BEFORE, "d.png": BEFORE}
    members |= {"a.txt": "make it red", "b_start.txt": "make it blue", "c.txt": "make it old", "d.txt": "make it new"}
    members |= {"c_reference.txt": "a photo of a car"}
    prompts = {image.name: image.prompt for image in read(tmp_path, members).dataset.images}
    expected = {"a_end.jpg": "make it red", "b_end.jpg": "make it blue"}
    assert prompts == {**expected, "c.png": "make it old", "d_edited.png": "make it new"}


def test_a_table_and_separate_captions_name_pairs_too(tmp_path):
    members = {"a_end.jpg": after(1), "a_start.jpg": BEFORE, "b_end.jpg": after(2), "b_start.jpg": BEFORE}
    members["metadata.jsonl"] = '{"file_name": "a.jpg", "text": "one"}\n{"file_name": "b_end.jpg", "text": "two"}'
    captions = write(tmp_path / "captions.zip", zipped({"captions/b.txt": "three"}))
    prompts = [image.prompt for image in read(tmp_path, members, captions=captions).dataset.images]
    assert prompts == ["one", "three"]


@pytest.mark.parametrize("key", ["text", "edit_prompt", "instruction", "edit_instruction"])
def test_a_table_of_another_trainer_names_result_reference_and_instruction(tmp_path, key):
    members = {"out/a.jpg": after(1), "out/b.jpg": after(2), "control/a.png": BEFORE, "control/b.png": BEFORE}
    rows = [{"image_path": f"out/{name}.jpg", "control_path": f"control/{name}.png", key: name} for name in "ab"]
    members["data.jsonl"] = "\n".join(map(json.dumps, rows))
    dataset = read(tmp_path, members).dataset
    assert [(image.prompt, len(image.references)) for image in dataset.images] == [("a", 1), ("b", 1)]
    assert dataset.skipped == ()


def both(tmp_path, image, reference, **options):
    """An image and its only reference, read from these files, and what decodes them."""
    archive = read(tmp_path, {"1.png": image, "1_reference.png": reference}, **options)
    (found,) = archive.dataset.images
    return found, found.references[0], archive.inspector


@pytest.mark.parametrize("crops", [1, 4])
def test_each_crop_of_a_reference_of_the_same_shape_shows_what_that_of_the_image_shows(tmp_path, crops):
    same = encoded(noisy_image(200, 120))
    image, reference, inspector = both(tmp_path, same, same, crops=crops, resolutions=(64, 96))
    every = image.inspection.crops
    assert [crop_of_reference(reference, image.inspection, crop) for crop in every] == list(every)
    found = reference_pixels(reference, image.inspection, every, large=inspector.large)
    expected = inspector.pixels(image.path, image.inspection.content, every)
    assert all(map(np.array_equal, found, expected))
    assert len(found) == 2 * crops


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 80), (80, 64)),
        ((960, 800), (80, 64)),
        ((80, 96), (64, 80)),
        ((300, 100), (128, 48)),
        ((640, 80), (208, 32)),
    ],
)
def test_a_reference_of_another_shape_keeps_it_at_about_the_area_of_its_image(tmp_path, size, expected):
    image, reference, inspector = both(tmp_path, after(), encoded(solid_image(*size)), resolutions=(72,))
    (crop,) = image.inspection.crops
    assert crop.size == Size(80, 64)
    found = crop_of_reference(reference, image.inspection, crop)
    assert (found.size, found.number) == (Size(*expected), WHOLE)
    (pixels,) = reference_pixels(reference, image.inspection, [found], large=inspector.large)
    assert pixels.shape == (expected[1], expected[0], 3)


def test_a_reference_is_turned_upright_and_put_on_white(tmp_path):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    cut_out = solid_image(80, 96, mode="RGBA", color=(200, 30, 60, 0))
    image, reference, inspector = both(tmp_path, after(), encoded(cut_out, exif=tags))
    assert reference.original == Size(96, 80)
    (pixels,) = reference_pixels(reference, image.inspection, image.inspection.crops, large=inspector.large)
    assert (pixels == 255).all()


@pytest.mark.parametrize(
    ("image", "reference", "mask"),
    [
        ("1.png", "1_reference.png", "1_mask.png"),
        ("images/1.png", "control/1.png", "masks/1.png"),
        ("1.png", "references/1.png", "masks/1.png"),
        ("1_end.png", "1_start.png", "1_end_mask.png"),
        ("1_end.png", "1_start.png", "1_mask.png"),
        ("1_end.png", "1_start.png", "masks/1.png"),
    ],
)
def test_an_image_with_a_reference_may_have_a_mask_that_only_weights_its_loss(tmp_path, image, reference, mask):
    half = Image.new("L", (96, 80))
    half.paste(255, (0, 0, 48, 80))
    members = {image: after(), reference: BEFORE, mask: encoded(half)}
    archive = read(tmp_path, members, masks=MaskSettings(0.1, ORIGINAL))
    (found,) = archive.dataset.images
    assert (found.name, found.mask and found.mask.name) == (image, mask)
    assert [each.name for each in found.references] == [reference]
    assert archive.dataset.skipped == ()


def test_a_preview_shows_the_references_to_the_left_of_their_image(tmp_path):
    image, _, inspector = both(tmp_path, encoded(solid_image(color=(200, 30, 60))), BEFORE)
    (crop,) = image.inspection.crops
    shown = preview(image, crop, inspector)
    assert shown.width > 2 * crop.size.width
    middle = shown.height // 2
    assert shown.getpixel((4, middle)) == (30, 60, 200)
    assert shown.getpixel((shown.width - 4, middle)) == (200, 30, 60)


def test_references_are_no_duplicates_and_pairs_are_only_if_both_images_are(tmp_path):
    first, second = (encoded(noisy_image(seed=seed).resize((8, 8)).resize((96, 80))) for seed in (1, 2))
    members = {"1.png": first, "1_ref.png": first, "2.png": first, "2_ref.png": second, "3.png": second}
    members |= {"3_ref.png": first, "4.png": second, "4_ref.png": first}
    report = report_on(read(tmp_path, members).dataset, rule=RULE, resolutions=(64,))
    assert report.look_alikes == (("3.png", "4.png"),)
    assert report.worth_a_look.keys() >= {"3.png", "4.png"}
    assert not [mark for name in ("1.png", "2.png") for mark in report.worth_a_look.get(name, ()) if "png" in mark]
    assert "same file as its reference" in report.worth_a_look["1.png"]
    assert [line for line in report.warnings if "which teaches to change nothing" in line] == [
        "the same file as their reference, which teaches to change nothing: '1.png'"
    ]


def test_the_report_names_references_and_accepts_one_instruction_for_all(tmp_path):
    members = {f"{number}{end}.png": after(number) for number in range(2) for end in ("", "_ref", "_ref2")}
    members |= {"0.txt": "make it red", "1.txt": "make it red"}
    report = report_on(read(tmp_path, members).dataset, rule=RULE, resolutions=(64,))
    assert [image["references"] for image in report.images] == [
        ["0_ref.png", "0_ref2.png"],
        ["1_ref.png", "1_ref2.png"],
    ]
    assert report.notes == (
        "4 references, up to 2 of an image: the LoRA learns the edit that turns '0_ref.png' into '0.png', with captions"
        " as instructions",
    )
    assert not any("captions are the same" in warning for warning in report.warnings)
    assert "only 2 pairs: ten or more, of different pictures, give much better results" in report.warnings


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def test_encoding_keeps_each_reference_with_its_image_at_every_size(pipeline, tmp_path):
    members = {f"{number}.png": encoded(solid_image(128, 128, color=(90 * number,) * 3)) for number in (1, 2)}
    members |= {
        "1_ref.png": encoded(solid_image(128, 64)),
        "2_ref.png": encoded(solid_image(128, 128, color=(9, 9, 9))),
    }
    members["2_ref2.png"] = members["3_ref.png"] = members["1_ref.png"]
    members["3.png"] = encoded(solid_image(128, 64, color=(200, 9, 9)))
    archive = read(tmp_path, members, resolutions=(64, 128))
    examples = archive.encoded(pipeline).examples
    assert [[tuple(each.shape[1:]) for each in example.references] for example in examples] == [
        *([(6, 12)], [(12, 22)]),
        *([(8, 8), (6, 12)], [(16, 16), (12, 22)]),
        *([(4, 8)], [(6, 12)]),
    ]
    assert examples[0].references[0] is examples[2].references[1]
    alone = read(tmp_path, {"1.png": members["2_ref.png"]}, with_references=False, resolutions=(64,)).encoded(pipeline)
    assert torch.allclose(examples[2].references[0], alone.examples[0].latents, atol=1e-3)
    tensors = {id(each): each for e in examples for each in (e.latents, *e.references)}
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    texts = encoded_bytes(archive.dataset, TINY_FLUX, extra_texts=0) - size
    assert 0 < texts < encoded_bytes(archive.dataset, TINY_FLUX, extra_texts=1) - size
