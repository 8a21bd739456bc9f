"""Images of free shapes share sizes so that batches fill, and are cropped little for it."""

import math
import random
from collections import Counter
from functools import cache

import pytest

from lora.dataset.captions import PromptRule
from lora.dataset.inspection import Inspector
from lora.dataset.reading import Archives, read_dataset
from lora.dataset.report import report_on
from lora.dataset.shared_sizes import OWN_SIZES, share_sizes
from lora.dataset.sizes import MAX_UPSCALING, training_size, training_sizes
from lora.images.size import Size, cover_scale
from tests.tiny import encoded, solid_image, write, zipped

RESOLUTIONS = (512, 768, 1024)


@cache
def free_shapes(count=304, *, smallest=0.1):
    """Sizes of photos of 1:2 to 2:1, of `smallest` to 24 megapixels."""
    rng = random.Random(0)
    ratios, areas = [2 ** rng.uniform(-1, 1) for _ in range(count)], [rng.uniform(smallest, 24) for _ in range(count)]
    pairs = zip(ratios, areas, strict=True)
    return [Size(round(1000 * math.sqrt(area * ratio)), round(1000 * math.sqrt(area / ratio))) for ratio, area in pairs]


@cache
def shared(batch_size):
    return share_sizes(free_shapes(), resolutions=RESOLUTIONS, batch_size=batch_size)


def sizes(original, found):
    return found.sizes(original, training_sizes(original, resolutions=RESOLUTIONS))


def images_in_a_batch(found, batch_size):
    counts = Counter(size for original in free_shapes() for size in sizes(original, found))
    return sum(counts.values()) / sum(-(-count // batch_size) for count in counts.values())


@pytest.mark.parametrize(("batch_size", "before", "after"), [(2, 1.8, 1.9), (4, 2.7, 3.6), (8, 3.6, 6.6)])
def test_batches_of_free_shapes_fill(batch_size, before, after):
    assert images_in_a_batch(OWN_SIZES, batch_size) < before
    assert images_in_a_batch(shared(batch_size), batch_size) > after


def test_the_sizes_are_few():
    own, few = (
        {size for original in free_shapes() for size in sizes(original, found)} for found in (OWN_SIZES, shared(2))
    )
    assert len(own) > 240
    assert len(few) <= 32 * len(RESOLUTIONS)
    assert f"{len(own)} sizes became {len(few)}" in shared(2).note


def test_the_sizes_are_few_even_if_batches_are_full():
    originals = free_shapes() * 8
    found = share_sizes(originals, resolutions=(1024,), batch_size=2)
    own = [training_size(original, resolution=1024) for original in free_shapes()]
    shared_sizes = {
        size for original, each in zip(free_shapes(), own, strict=True) for size in found.sizes(original, [each])
    }
    assert len(set(own)) > 90
    assert len(shared_sizes) <= 32


def pairs():
    """Each image's own and shared size at each resolution."""
    for original in free_shapes():
        for resolution in RESOLUTIONS:
            own = training_size(original, resolution=resolution)
            (size,) = shared(8).sizes(original, [own])
            yield original, resolution, own, size


def test_an_image_is_cropped_by_an_eighth_at_most():
    moved = [(original, size) for original, _, own, size in pairs() if size != own]
    kept = [size.pixels / (original.pixels * cover_scale(original, size) ** 2) for original, size in moved]
    assert len(moved) > 300
    assert 0.875 <= min(kept) < 0.95
    assert f"at most {1 - min(kept):.1%} of an image is cropped" in shared(8).note


def test_a_shared_size_has_about_the_area_of_the_own_one():
    assert all(0.875 * own.pixels <= size.pixels <= resolution**2 for _, resolution, own, size in pairs())


def test_no_image_is_enlarged_by_more_than_a_tenth_for_a_shared_size():
    small = [(original, size) for original, resolution, own, size in pairs() if own.pixels < 0.8 * resolution**2]
    assert len(small) > 1
    assert all(cover_scale(original, size) <= MAX_UPSCALING for original, _, _, size in pairs())


def test_a_portrait_has_the_shared_sizes_of_a_landscape_turned():
    for original in free_shapes():
        turned = sizes(Size(original.height, original.width), shared(4))
        assert [Size(size.height, size.width) for size in turned] == sizes(original, shared(4))


@pytest.mark.parametrize(
    ("originals", "batch_size"),
    [
        (free_shapes(), 1),
        ([Size(6000, 4000)] * 60 + [Size(4000, 3000)] * 40 + [Size(3000, 3000)], 4),
        ([Size(800, 600)], 4),
        ([], 4),
    ],
    ids=["batches of one", "full batches", "one image", "no image"],
)
def test_every_image_keeps_its_own_size_if_batches_are_full_anyway(originals, batch_size):
    assert share_sizes(originals, resolutions=RESOLUTIONS, batch_size=batch_size) == OWN_SIZES


def test_an_image_that_is_not_known_has_its_own_size():
    assert sizes(Size(4001, 2903), shared(4)) == training_sizes(Size(4001, 2903), resolutions=RESOLUTIONS)


@pytest.mark.parametrize(
    ("batch_size", "count", "note"),
    [(1, 4, ""), (4, 1, "batches of 4: 4 sizes became 1, so that a batch holds 4.0 images instead of 1.0; at most")],
)
def test_a_data_set_is_trained_at_the_shared_sizes_and_the_report_says_so(tmp_path, batch_size, count, note):
    """The image on its side by EXIF has the sides of the others after it is turned."""
    exif = solid_image().getexif()
    exif[0x0112] = 6
    members = {f"{side}.png": encoded(solid_image(400, side)) for side in (288, 300, 316)}
    members["turned.png"] = encoded(solid_image(324, 400), exif=exif)
    inspector, rule = Inspector((256,), None, crops=1, batch_size=batch_size), PromptRule("TOK", "", "")
    archive = Archives(write(tmp_path / "images.zip", zipped(members)), None)
    dataset = read_dataset(archive, into=tmp_path / "into", inspector=inspector, rule=rule)
    found = {size for image in dataset.images for size in image.inspection.sizes}
    assert (len(found), dataset.size_note[: len(note) or None]) == (count, note)
    assert dataset.size_note in report_on(dataset, rule=rule, resolutions=(256,)).as_text()
    for image in dataset.images:
        (pixels,) = inspector.pixels(image.path, image.inspection.content, image.inspection.crops)
        assert Size(pixels.shape[1], pixels.shape[0]) in found
