"""A data set is encoded in every family as its pipeline encodes: captions of several lines, the dropped caption, and
the cache on disk."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lora.dataset.cache import DiskCache, MemoryCache
from lora.dataset.encoding import encoded_bytes
from lora.families.loading import load_encoders
from tests.families import TINY_BASES
from tests.tiny import encoded, read_archive, solid_image, write, zipped

CPU = torch.device("cpu")
LARGE = 2**30


@pytest.fixture(scope="module", params=TINY_BASES, ids=lambda tiny: tiny.family.name)
def tiny(request):
    return request.param


@pytest.fixture(scope="module")
def encoders(tiny):
    return load_encoders(tiny.folder, on=CPU)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two images of different sizes: one with a caption of two lines, and one with a caption that is too long."""
    folder = tmp_path_factory.mktemp("images")
    members = {"a.png": encoded(solid_image(96, 64)), "a.txt": "a TOK\nTOK in a meadow"}
    members |= {"b.png": encoded(solid_image(64, 64, color=(0, 0, 0))), "b.txt": "a TOK " * 40}
    found = read_archive(write(folder / "a.zip", zipped(members)), into=folder / "into", multiline_split=True)
    return replace(found, sample_prompts=("a star",), neutral_prompts=("a heart", "a moon"), negative="")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folder of one cache for both families, as on a machine that trains both."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def dataset(tiny, encoders, archive, cache):
    return archive.encoded(encoders, base=tiny.folder, cache=DiskCache(cache, most_bytes=LARGE))


def tensors(dataset):
    """All tensors of a data set, in order."""
    prompts = [each for example in dataset.examples for each in (example.prompt, *example.other_prompts)]
    prompts += [dataset.dropped, *dataset.samples, *dataset.neutral, dataset.negative]
    latents = [example.latents for example in dataset.examples]
    return [*latents, *(tensor for prompt in prompts for _, tensor in sorted(prompt.tensors().items()))]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_text_is_encoded_as_the_pipeline_of_the_family_does(tiny, encoders, archive, dataset):
    """Each line of a caption; what a dropped caption becomes; the empty negative prompt, which is no row of zeros."""
    first = next(image for image in archive.dataset.images if image.name == "a.png")
    assert len(first.prompts) == 2
    example = dataset.examples[archive.dataset.images.index(first)]
    found = [example.prompt, *example.other_prompts, dataset.dropped, *dataset.samples, dataset.negative]
    for prompt, text in zip(found, [*first.prompts, "TOK", "a star", ""], strict=True):
        expected = tiny.family.text.encode(encoders, text)
        assert prompt.tensors().keys() == expected.tensors().keys()
        assert same(list(prompt.tensors().values()), list(expected.tensors().values())), text
    assert all(tensor.any() for tensor in dataset.negative.tensors().values())


def test_latents_have_the_shape_of_the_family(tiny, archive, dataset):
    pixels = tiny.family.latents.pixels
    for image, example in zip(archive.dataset.images, dataset.examples, strict=True):
        (size,) = image.inspection.sizes
        assert example.latents.shape[1:] == (size.height // pixels, size.width // pixels)


def test_a_prompt_that_is_longer_than_the_text_length_of_the_family_is_named(tiny, encoders, dataset):
    count = tiny.family.text.count(encoders, "a TOK " * 40)
    length = tiny.family.text.length(encoders)
    assert count > length
    assert dataset.summary().splitlines()[1] == (f"1 prompt longer than {length} tokens, cut: 'b.png ({count} tokens)'")


def test_a_later_job_gets_the_same_tensors_of_its_family_and_encodes_nothing(tiny, encoders, archive, cache, dataset):
    """Though the other family has put its own into the same folder."""

    class Complete(DiskCache):
        def put(self, key, _tensors):
            raise AssertionError(f"{key} is missing")

    later = archive.encoded(encoders, base=tiny.folder, cache=Complete(cache, most_bytes=LARGE))
    assert same(tensors(later), tensors(dataset))
    uncached = archive.encoded(encoders, base=tiny.folder, cache=MemoryCache())
    assert same(tensors(uncached), tensors(dataset))


def test_the_bytes_of_an_encoded_data_set_are_predicted(tiny, archive, dataset):
    latents = sum(example.latents.nbytes for example in dataset.examples)
    prompt_bytes = dataset.dropped.tokens.nbytes
    texts = sum(1 + len(example.other_prompts) for example in dataset.examples)
    assert encoded_bytes(archive.dataset, tiny.folder, extra_texts=1) == latents + (texts + 1) * prompt_bytes
