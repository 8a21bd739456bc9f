"""Images and captions become tensors that the pipeline would understand, each with its own."""

import itertools

import pytest
import torch

from lora.dataset.encoding import encode_dataset, encode_picture
from lora.dataset.images import open_picture
from lora.dataset.reading import read_dataset
from lora.dataset.sizes import Size, fit
from lora.flux.prompt import encode_prompt
from lora.training.batches import endless_batches
from tests.tiny import encoded, noisy_picture, picture, tiny_pipeline, write, zipped

GREYS = (0, 60, 120, 180, 240)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def dataset_of(tmp_path, images, *, trigger_word="TOK"):
    members = {f"{index}.png": encoded(image) for index, image in enumerate(images)}
    members |= {f"{index}.txt": f"a TOK of shade {index}" for index in range(len(images))}
    archive = write(tmp_path / "images.zip", zipped(members))
    return read_dataset(archive, into=tmp_path / "into", trigger_word=trigger_word)


def shades():
    """Images of two shapes, each of its own shade."""
    return [picture(96, 64 + 32 * (index % 2), color=(grey,) * 3) for index, grey in enumerate(GREYS)]


def encode(pipeline, dataset, *resolutions, trigger_word="TOK"):
    return encode_dataset(pipeline, dataset, resolutions=resolutions, trigger_word=trigger_word)


def test_each_image_keeps_its_own_caption_through_encoding_and_shuffling(pipeline, tmp_path):
    """Trap 34: what stands beside an image's latents in any batch is the encoding of that image's caption."""
    dataset = dataset_of(tmp_path, shades())
    encodings = encode(pipeline, dataset, 64, 96)
    known = {
        image.caption: [
            encode_picture(pipeline.vae, fit(open_picture(image.path), Size(*size)))
            for size in {(e.latents.shape[2] * 8, e.latents.shape[1] * 8) for e in encodings.examples}
        ]
        for image in dataset.images
    }
    generator = torch.Generator().manual_seed(0)
    batches = endless_batches(encodings, batch_size=2, caption_dropout=0.0, generator=generator)
    for batch in itertools.islice(batches, 3 * len(encodings.examples)):
        for latents, tokens, pooled in zip(batch.latents, batch.prompt.tokens, batch.prompt.pooled, strict=True):
            (caption,) = {text for text, all_ in known.items() for one in all_ if torch.equal(one, latents)}
            expected = encode_prompt(pipeline, caption)
            assert torch.equal(tokens, expected.tokens)
            assert torch.equal(pooled, expected.pooled)


def test_what_is_encoded_is_what_the_pipeline_decodes(pipeline):
    """Trap 11: our shift and scale, undone by the pipeline's, leave what the VAE itself decodes."""
    image = noisy_picture(96, 64)
    latents = encode_picture(pipeline.vae, image)[None]
    pixels = pipeline.image_processor.preprocess(image)
    with torch.no_grad():
        direct = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mean).sample
        unscaled = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        ours = pipeline.vae.decode(unscaled).sample
    assert (ours - direct).abs().max() < 1e-4


def test_latents_are_fp32_with_rows_before_columns(pipeline):
    latents = encode_picture(pipeline.vae, picture(96, 64))
    assert latents.dtype == torch.float32
    assert latents.shape == (16, 64 // 8, 96 // 8)


def test_encoding_is_the_mean_and_throws_no_dice(pipeline):
    image = noisy_picture()
    assert torch.equal(encode_picture(pipeline.vae, image), encode_picture(pipeline.vae, image))


def test_an_image_is_encoded_at_every_resolution_it_supports(pipeline, tmp_path):
    examples = encode(pipeline, dataset_of(tmp_path, [picture(128, 128)]), 64, 96, 128).examples
    assert [example.latents.shape[1:] for example in examples] == [(8, 8), (12, 12), (16, 16)]


def test_a_small_image_is_encoded_once(pipeline, tmp_path):
    """Trap 38."""
    assert len(encode(pipeline, dataset_of(tmp_path, [picture(64, 64)]), 64, 512, 1024).examples) == 1


@pytest.mark.parametrize("trigger_word", ["TOK", ""])
def test_a_dropped_caption_is_the_trigger_word(pipeline, tmp_path, trigger_word):
    """Trap 33: or the empty prompt, encoded, where there is no trigger word; never zeros."""
    dataset = dataset_of(tmp_path, [picture(64, 64)], trigger_word=trigger_word)
    dropped = encode(pipeline, dataset, 64, trigger_word=trigger_word).dropped
    assert torch.equal(dropped.tokens, encode_prompt(pipeline, trigger_word).tokens)
    assert dropped.pooled.any()


def test_nothing_of_the_encoders_hangs_on_the_tensors(pipeline, tmp_path):
    (example,) = encode(pipeline, dataset_of(tmp_path, [picture(64, 64)]), 64).examples
    assert not any(t.requires_grad for t in (example.latents, example.prompt.tokens, example.prompt.pooled))
