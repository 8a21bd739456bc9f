"""Masks are found, checked and cropped with their images; a file that is no mask of its image is named."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch.nn import functional

from bench.planted import photograph
from lora.dataset import masks
from lora.dataset.captions import PromptRule
from lora.dataset.encoding import encoded_bytes
from lora.dataset.loss_weights import loss_weights, weights_of
from lora.dataset.masks import crops_of_mask
from lora.dataset.previews import preview
from lora.dataset.report import report_on
from lora.dataset.training_pixels import training_pixels
from lora.images import files
from lora.images.masks import crop_mask
from lora.images.size import Size
from tests.tiny import TINY_FLUX, encoded, noisy_image, read_archive, tiny_pipeline, write, zipped

SIDES = 128, 96


def photo(seed=0, *, size=SIDES, **options):
    return encoded(noisy_image(*size, seed=seed), "JPEG", **options)


def mask(*, size=SIDES, level=255, box=(32, 16, 96, 64), kind="PNG"):
    image = Image.new("L", SIDES)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=level)
    return encoded(image.resize(size, Image.Resampling.BOX), kind)


def cut_out(seed=0):
    image = noisy_image(*SIDES, seed=seed)
    image.putalpha(Image.open(io.BytesIO(mask())))
    return encoded(image)


def read(tmp_path, members, *, weight=0.1, **options):
    archive = write(tmp_path / "images", zipped(members))
    return read_archive(archive, into=tmp_path / "into", resolutions=(96,), unmasked_weight=weight, **options)


def report(tmp_path, members, **options):
    dataset = read(tmp_path, members, **options).dataset
    return report_on(dataset, rule=PromptRule("TOK", "", ""), resolutions=(96,))


@pytest.mark.parametrize(
    "name",
    [
        *("masks/1.png", "mask/1.png", "masks/1_mask.png", "mask_dir/1.png", "alpha_masks/1.png", "masks/1.jpg.png"),
        *("1-masklabel.png", "1_mask.png", "1.mask.png", "1-mask.png", "mask_1.png", "1_MASK.PNG", "1 mask.png"),
    ],
)
def test_a_mask_is_found_by_the_names_that_other_trainers_give(tmp_path, name):
    first, second = read(tmp_path, {"1.jpg": photo(), "2.jpg": photo(1), name: mask()}).dataset.images
    assert (first.mask.name, first.mask.is_opacity, second.mask) == (name, False, None)


def conditioning(kind):
    """A control image of a kind, in the folder that sd-scripts reads masks from, too."""
    image = Image.new("RGB", SIDES, "white" if kind == "ink lines" else "black")
    pen = ImageDraw.Draw(image)
    if kind == "mask":
        return mask()
    if kind == "depth":
        return encoded(Image.linear_gradient("L").resize(SIDES))
    if kind == "pose":
        for number, color in enumerate(("red", "lime", "blue", "yellow")):
            pen.line((20 + 9 * number, 10, 90 - 9 * number, 80), fill=color, width=4)
    else:
        for number in range(5):
            pen.ellipse((8 * number, 6 * number, 120 - 8 * number, 90 - 6 * number), outline=pen_color(kind), width=2)
    return encoded(image)


def pen_color(kind):
    return "black" if kind == "ink lines" else "white"


@pytest.mark.parametrize("kind", ["mask", "depth", "pose", "edges", "ink lines"])
@pytest.mark.parametrize("folder", ["conditioning", "conditioning_data_dir"])
def test_of_the_images_in_a_conditioning_folder_only_masks_are_masks(tmp_path, kind, folder):
    dataset = read(tmp_path, {"1.jpg": photo(), f"{folder}/1.png": conditioning(kind)}).dataset
    (image,) = dataset.images
    assert (image.mask is not None) is (kind == "mask")
    assert [each.reason.partition(":")[0] for each in dataset.not_trained] == ["a control image"] * (kind != "mask")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_mask_may_be_an_image_of_any_kind_and_size(tmp_path, kind):
    content = mask(size=(97, 73), kind=kind)  # three quarters, rounded
    (image,) = read(tmp_path, {"1.jpg": photo(), "masks/1": content}).dataset.images
    assert image.mask is not None


def test_the_transparency_of_a_cut_out_is_its_mask_unless_it_has_a_file(tmp_path):
    members = {"1.png": cut_out(), "2.png": cut_out(1), "masks/2.png": mask()}
    first, second = read(tmp_path, members).dataset.images
    assert first.mask.is_opacity
    assert second.mask.name == "masks/2.png"
    assert first.inspection.is_cutout


def test_with_a_weight_of_1_there_are_no_masks(tmp_path):
    images = read(tmp_path, {"1.png": cut_out(), "2.jpg": photo(), "masks/2.png": mask()}, weight=1.0).dataset.images
    assert [image.mask for image in images] == [None, None]
    assert not images[0].inspection.is_cutout


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (mask(size=(96, 96)), "96x96 is not the shape of its image, which has 128x96"),
        (mask(level=0), "it has no white pixel, the brightest is 0 of 255"),
        (mask(level=1), "it has no white pixel, the brightest is 1 of 255"),
        (encoded(Image.new("L", SIDES, 255)), "it is entirely white"),
        (mask()[:60], "cannot be decoded"),
        (encoded(Image.new("L", (40, 30), 255)), "40x30 is too small"),
    ],
    ids=["shape", "black", "zeros and ones", "white", "damaged", "small"],
)
def test_a_file_that_is_no_mask_of_its_image_is_named_and_the_image_trained_as_a_whole(tmp_path, content, reason):
    found = report(tmp_path, {"1.jpg": photo(), "2.jpg": photo(1), "masks/1.png": content, "masks/2.png": mask()})
    (line,) = (line for line in found.warnings if "is not used" in line)
    assert line.startswith("the mask 'masks/1.png' is not used: ")
    assert line.endswith("; the image is trained as a whole")
    assert reason in line
    assert [image["mask"] for image in found.images] == [None, "masks/2.png"]


def test_a_mask_that_selects_next_to_nothing_is_used_and_named(tmp_path):
    members = {"1.jpg": photo(), "2.jpg": photo(1), "masks/1.png": mask(box=(40, 40, 41, 41)), "masks/2.png": mask()}
    found = report(tmp_path, members)
    (line,) = (line for line in found.warnings if "next to nothing" in line)
    assert line.endswith(": 'masks/1.png (0.01% of its image)'")
    assert [image["mask"] for image in found.images] == ["masks/1.png", "masks/2.png"]


@pytest.mark.parametrize(
    ("orphan", "members"),
    [("masks/9.png", {"masks/1.png": mask()}), ("9_mask.png", {"1_mask.png": mask()}), ("9-masklabel.png", {})],
)
def test_a_mask_without_an_image_is_named_and_not_trained(tmp_path, orphan, members):
    found = report(tmp_path, {"1.jpg": photo(), orphan: mask(), **members})
    assert [image["name"] for image in found.images] == ["1.jpg"]
    assert any(f"a mask, and no image has its name: '{orphan}'" in line for line in found.warnings)


def test_a_second_mask_of_an_image_is_named(tmp_path):
    found = report(tmp_path, {"1.jpg": photo(), "1_mask.png": mask(), "1-masklabel.png": mask()})
    assert any("a mask of an image that has another one, '1_mask.png': '1-masklabel.png'" in w for w in found.warnings)


def masks_of(tmp_path, members):
    """The names of the masks, by images; and the reasons by files that are not used."""
    tmp_path.mkdir(exist_ok=True)
    dataset = read(tmp_path, members).dataset
    used = {image.name: image.mask.name if image.mask else None for image in dataset.images}
    return used, {file.name: file.reason for file in dataset.not_trained}


@pytest.mark.parametrize("folder", ["", "photos/"])
def test_masks_in_folders_belong_to_the_images_in_folders_of_the_same_names(tmp_path, folder):
    images = {f"{folder}a/1.jpg": photo(), f"{folder}b/1.jpg": photo(1)}
    found = masks_of(tmp_path, images | {"masks/b/1.png": mask(), "masks/a/1.png": mask(level=200)})
    assert found == ({f"{folder}{name}/1.jpg": f"masks/{name}/1.png" for name in "ab"}, {})


def test_a_mask_belongs_to_the_image_with_its_whole_name_before_one_with_its_stem(tmp_path):
    images = {"1.jpg": photo(), "1.webp": photo(1), "2.jpg": photo(2)}
    of_them = {"masks/1.webp": mask(), "masks/1.jpg": mask(level=200), "masks/2-MaskLabel.PNG": mask(level=150)}
    used, _ = masks_of(tmp_path, images | of_them)
    assert used == {"1.jpg": "masks/1.jpg", "1.webp": "masks/1.webp", "2.jpg": "masks/2-MaskLabel.PNG"}


SEVERAL = "a mask, and several images have its name (give them different names)"


@pytest.mark.parametrize("name", ["1_mask.png", "mask_1.png", "1-masklabel.png", "masks/1.png"])
def test_a_mask_belongs_to_none_of_two_images_that_differ_in_their_suffix(tmp_path, name):
    used, unused = masks_of(tmp_path, {"1.jpg": photo(), "1.webp": photo(1), name: mask()})
    assert used == {"1.jpg": None, "1.webp": None}
    assert unused == {name: SEVERAL}


@pytest.mark.parametrize("name", ["1.webp_mask.png", "1_mask.webp", "1.webp-masklabel.png", "masks/1.webp.png"])
def test_a_mask_beside_two_such_images_belongs_to_the_one_whose_suffix_it_has(tmp_path, name):
    used, unused = masks_of(tmp_path, {"1.jpg": photo(), "1.webp": photo(1), name: mask()})
    assert (used, unused) == ({"1.jpg": None, "1.webp": name}, {})


@pytest.mark.parametrize("name", ["{}_mask.png", "masks/{}.png", "{}-masklabel.png"])
def test_masks_of_images_that_differ_in_case_belong_to_those_in_their_own(tmp_path, name):
    both = {name.format("A"): mask(), name.format("a"): mask(level=200)}
    used, _ = masks_of(tmp_path, {"a.jpg": photo(), "A.jpg": photo(1), **both})
    assert used == {f"{each}.jpg": name.format(each) for each in "aA"}
    assert masks_of(tmp_path / "b", {"B.JPG": photo(), name.format("b"): mask()})[0] == {"B.JPG": name.format("b")}


def test_a_mask_that_may_belong_to_several_images_is_named_and_used_for_none(tmp_path):
    used, unused = masks_of(tmp_path, {"a/1.jpg": photo(), "b/1.jpg": photo(1), "masks/1.png": mask()})
    assert used == {"a/1.jpg": None, "b/1.jpg": None}
    assert unused == {"masks/1.png": SEVERAL}


def test_a_cut_out_photograph_that_may_be_the_mask_of_several_images_is_not_trained(tmp_path):
    cut = photograph("astronaut").resize(SIDES)
    cut.putalpha(Image.open(io.BytesIO(mask())))
    members = {"1.jpg": photo(), "1.webp": photo(1), "1_mask.png": encoded(cut)}
    assert masks_of(tmp_path, members) == ({"1.jpg": None, "1.webp": None}, {"1_mask.png": SEVERAL})


@pytest.mark.parametrize("name", ["masks/1.png", "1_mask.png", "1-masklabel.png"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_cut_out_photograph_with_the_name_of_a_mask_selects_what_it_shows(tmp_path, name, mode):
    cut = photograph("astronaut").resize(SIDES)
    cut.putalpha(Image.open(io.BytesIO(mask())))
    archive = read(tmp_path, {"1.jpg": photo(), name: encoded(cut.convert(mode))})
    (image,) = archive.dataset.images
    _, levels = crop_of(archive, image, image.inspection.crops[0])
    assert (levels > 250).mean() == pytest.approx(64 * 48 / (128 * 96), abs=0.03)
    assert ((levels > 5) & (levels < 250)).mean() < 0.05


def test_a_cut_out_whose_mask_cannot_be_used_is_masked_by_its_transparency(tmp_path):
    white = encoded(Image.new("L", SIDES, 255))
    members = {"1.png": cut_out(), "masks/1.png": white}
    found = report(tmp_path, members)
    line = "the mask 'masks/1.png' is not used: it is entirely white; the transparency of its image is used"
    assert line in found.warnings
    assert found.images[0]["mask"] == "1.png"


def test_the_report_says_how_many_images_have_a_mask_and_where_from(tmp_path):
    members = {"1.png": cut_out(), "2.jpg": photo(), "masks/2.png": mask(), "3.jpg": photo(1)}
    found = report(tmp_path, members)
    line = "2 of 3 images with a mask (1 file such as 'masks/2.png', 1 by transparency)"
    outside = "what is outside is white (mask_background) and counts 0.1 times as much (unmasked_weight)"
    assert f"{line}: {outside}" in found.as_text().splitlines()
    assert "1 image without a mask, trained as a whole: '3.jpg'" in found.warnings
    assert not any("not trained, a mask" in warning for warning in found.warnings)


def crop_of(archive, image, crop):
    """The image and its mask at a crop, as arrays of levels [H, W]."""
    (pixels,) = archive.inspector.pixels(image.path, image.inspection.content, [crop])
    (found,) = crops_of_mask(
        image.mask, image.path, image.inspection, [crop], pixels_per_cell=1, large=archive.inspector.large
    )
    return pixels.mean(axis=2), np.asarray(found, dtype=float)


@pytest.mark.parametrize(
    ("orientation", "turns_mask"),
    [*((number, True) for number in range(1, 9)), *((number, False) for number in (1, 5, 6, 7, 8))],
)
def test_a_mask_is_turned_and_cropped_exactly_as_its_image(tmp_path, orientation, turns_mask):
    """The image is white where its mask is, so that both are the same at every crop. A mask without EXIF is turned with
    its image if its shape says that it was not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", SIDES)
    ImageDraw.Draw(picture).ellipse((10, 20, 70, 60), fill="white")
    image = encoded(picture, "PNG", exif=exif)
    content = encoded(picture.convert("L"), "PNG", **({"exif": exif} if turns_mask else {}))
    archive = read(tmp_path, {"1.png": image, "masks/1.png": content}, crops=3)
    (found,) = archive.dataset.images
    assert len(found.inspection.crops) == 3
    for crop in found.inspection.crops:
        pixels, levels = crop_of(archive, found, crop)
        assert np.abs(pixels - levels).mean() < 6
        assert 0.05 < (levels > 127).mean() < 0.3


def test_a_mask_is_reduced_by_area():
    levels = np.random.default_rng(0).integers(0, 256, (96, 128), dtype=np.uint8)
    found = crop_mask(Image.fromarray(levels), Size(128, 96), (0.0, 0.0, 128.0, 96.0), Size(16, 12))
    expected = functional.interpolate(torch.tensor(levels)[None, None].float(), size=(12, 16), mode="area")[0, 0]
    assert np.abs(np.asarray(found, dtype=float) - expected.numpy()).max() <= 1


def test_the_smooth_edge_of_a_small_mask_is_enlarged_without_steps():
    levels = np.zeros((8, 8), dtype=np.uint8)
    levels[:, 4:] = 255
    found = np.asarray(crop_mask(Image.fromarray(levels), Size(64, 64), (0.0, 0.0, 64.0, 64.0), Size(64, 64)), int)
    assert np.ptp(found) == 255
    assert np.abs(np.diff(found)).max() < 40


def test_a_preview_is_as_trained_on_white_or_pale_outside_of_the_mask_and_unchanged_inside(tmp_path):
    members = {"1.png": encoded(Image.new("RGB", SIDES, (200, 30, 60))), "masks/1.png": mask()}
    for background, outside in (("white", 255), ("original", 190)):
        (tmp_path / background).mkdir()
        archive = read(tmp_path / background, members, mask_background=background)
        (image,) = archive.dataset.images
        crop = image.inspection.crops[-1]
        shown = preview(image, crop, archive.inspector)
        assert shown.getpixel((crop.size.width // 2, crop.size.height // 3)) == (200, 30, 60)
        assert outside <= min(shown.getpixel((2, 2))) < outside + 20


@pytest.mark.parametrize("name", ["masks/1.png", "1-masklabel.png", "1_mask.png"])
def test_outside_of_the_file_of_a_mask_each_crop_is_white_and_inside_it_is_the_image(tmp_path, name):
    archive = read(tmp_path, {"1.jpg": photo(), name: mask(), "2.jpg": photo(1)}, crops=3)
    first, second = archive.dataset.images
    for image in (first, second):
        crops = image.inspection.crops
        plain = archive.inspector.pixels(image.path, image.inspection.content, crops)
        for crop, found, expected in zip(crops, training_pixels(image, crops, archive.inspector), plain, strict=True):
            levels = crop_of(archive, image, crop)[1] if image.mask else np.full(expected.shape[:2], 255)
            assert (found[levels == 0] == 255).all()
            assert np.array_equal(found[levels > 128], expected[levels > 128])


def test_with_the_original_background_masks_only_weight_the_loss(tmp_path):
    archive = read(tmp_path, {"1.jpg": photo(), "masks/1.png": mask()}, mask_background="original")
    (image,) = archive.dataset.images
    (found,) = training_pixels(image, image.inspection.crops, archive.inspector)
    (expected,) = archive.inspector.pixels(image.path, image.inspection.content, image.inspection.crops)
    assert np.array_equal(found, expected)


def test_the_log_says_that_what_is_outside_of_masks_is_white(tmp_path):
    lines = {
        "white": "is white (mask_background) and counts",
        "original": "is white only where it is transparent, and counts",
    }
    for background, line in lines.items():
        (tmp_path / background).mkdir()
        members = {"1.png": cut_out(), "2.jpg": photo(), "masks/2.png": mask()}
        assert (
            f"what is outside {line} 0.1 times"
            in report(tmp_path / background, members, mask_background=background).as_text()
        )


def test_one_large_mask_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """As images are, whose lock they share."""
    archive = read(tmp_path, {"1.jpg": photo(), "masks/1.png": mask(), "2.png": cut_out(1)})
    opened = []
    monkeypatch.setattr(masks, "crop_mask", lambda *_: opened.append(archive.inspector.large.locked()))
    for limit in (128 * 96, 128 * 96 - 1):
        monkeypatch.setattr(files, "LARGE_PIXELS", limit)
        for image in archive.dataset.images:
            crop_of_mask = image.mask, image.path, image.inspection, image.inspection.crops
            crops_of_mask(*crop_of_mask, pixels_per_cell=8, large=archive.inspector.large)
    assert opened == [False, False, True, True]
    assert not archive.inspector.large.locked()


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def assert_same_examples(ours, theirs):
    for one, other in zip(ours.examples, theirs.examples, strict=True):
        assert torch.equal(one.latents, other.latents)
        assert one.weights is None
        assert other.weights is None


def test_at_a_weight_of_1_the_examples_are_those_without_masks(tmp_path, pipeline):
    """Transparency is white then, as if the image had been put on white."""
    on_white = noisy_image(*SIDES)
    on_white.paste("white", mask=ImageOps.invert(Image.open(io.BytesIO(mask()))))
    members, plain = {"1.png": cut_out(), "2.jpg": photo()}, {"1.png": encoded(on_white), "2.jpg": photo()}
    (tmp_path / "plain").mkdir()
    theirs = read(tmp_path / "plain", plain).encoded(pipeline)
    assert_same_examples(read(tmp_path, members | {"masks/2.png": mask()}, weight=1.0).encoded(pipeline), theirs)


def test_an_image_with_a_mask_is_encoded_as_one_that_is_cut_out_or_as_it_is(tmp_path, pipeline):
    members = {"1.png": cut_out(), "2.png": encoded(noisy_image(*SIDES)), "3.png": encoded(noisy_image(*SIDES))}
    members |= {"masks/2.png": mask(), "masks/3.png": mask(box=(0, 0, 64, 96))}
    cut, masked, otherwise = read(tmp_path, members).encoded(pipeline).examples
    assert torch.equal(masked.weights, cut.weights)
    assert cut.weights.shape == cut.latents.shape[1:]
    assert not torch.equal(otherwise.latents, masked.latents), "another mask of a copy"
    (tmp_path / "plain").mkdir()
    plain = read(tmp_path / "plain", members, weight=1.0).encoded(pipeline).examples
    (tmp_path / "original").mkdir()
    original = read(tmp_path / "original", members, mask_background="original").encoded(pipeline).examples
    assert all(torch.equal(one.latents, other.latents) for one, other in zip(plain, original, strict=True))
    as_it_is, as_cut_out = ((masked.latents - each.latents).abs().mean() for each in (plain[1], cut))
    assert as_cut_out < 0.1 * as_it_is, "equal but for the edge, which is scaled before the image is put on white"


def test_the_memory_of_masks_is_counted(tmp_path):
    (tmp_path / "plain").mkdir()
    plain = read(tmp_path / "plain", {"1.jpg": photo()}).dataset
    masked = read(tmp_path, {"1.jpg": photo(), "masks/1.png": mask()}).dataset
    few, more = (encoded_bytes(dataset, TINY_FLUX, extra_texts=0) for dataset in (plain, masked))
    pixels = masked.images[0].inspection.crops[0].size.pixels
    assert more - few == 2 * 4 * pixels // 64


class Recorder:
    """A cache in memory that counts what is put into it."""

    outlives_job = False

    def __init__(self):
        self.tensors, self.puts = {}, 0

    def get(self, key):
        return self.tensors.get(key)

    def put(self, key, tensors):
        self.puts += 1
        return self.tensors.setdefault(key, tensors)


class AnyKeys:
    """Keys without a base."""

    images = "v"

    @staticmethod
    def mask(*parts):
        return str(parts)


def weights(archive, cache):
    options = {"pixels_of_a_latent": 8, "keys": AnyKeys(), "cache": cache, "check": lambda: None}
    found = loss_weights(archive.dataset, archive.inspector, **options)
    return [weights_of(image, crop, found) for image in archive.dataset.images for crop in image.inspection.crops]


def test_weights_are_1_inside_and_the_given_one_outside_and_between_at_an_edge(tmp_path):
    members = {"1.jpg": photo(size=(96, 96)), "masks/1.png": encoded(_half_white(44)), "2.jpg": photo(1)}
    found, none = weights(read(tmp_path, members, weight=0.2), Recorder())
    assert found.dtype == torch.float32
    assert found.shape == (12, 12)
    assert none is None
    assert torch.allclose(found[:, :5], torch.ones(12, 5))
    assert torch.allclose(found[:, 5], torch.tensor(0.2 + 0.8 * 128 / 255), atol=1e-3)
    assert torch.allclose(found[:, 6:], torch.tensor(0.2))


def _half_white(width):
    image = Image.new("L", (96, 96))
    image.paste(255, (0, 0, width, 96))
    return image


def test_masks_are_cached_by_the_content_of_image_and_mask(tmp_path):
    cache, members = Recorder(), {"1.jpg": photo(), "masks/1.png": mask(), "2.jpg": photo(), "masks/2.png": mask()}
    first = read(tmp_path, members)
    one, copy = weights(first, cache)
    assert torch.equal(one, copy)
    puts = cache.puts
    (tmp_path / "again").mkdir()
    weights(read(tmp_path / "again", members), cache)
    assert cache.puts == puts
    (tmp_path / "other").mkdir()
    other, _ = weights(read(tmp_path / "other", {**members, "masks/1.png": mask(box=(0, 0, 64, 96))}), cache)
    assert cache.puts == puts + 1
    assert not torch.equal(other, one)
