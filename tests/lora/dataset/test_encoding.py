"""Images and captions are encoded as the pipeline expects them, and stay together."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from lora.dataset.cache import DiskCache
from lora.dataset.encoding import encoded_bytes
from lora.dataset.latents import encode_pixels
from lora.families.loading import load_encoders
from lora.flux.latents import LATENTS
from lora.flux.prompt import encode_prompt, token_count
from lora.training.stop import StopRequestedError
from tests.tiny import (
    TINY_FLUX,
    TINY_TEXT_TOKENS,
    a_recipe,
    base_with_text_length,
    encoded,
    noisy_image,
    read_archive,
    solid_image,
    tiny_batches,
    tiny_pipeline,
    write,
    zipped,
)

GRAYS = (0, 60, 120, 180, 240)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def read(tmp_path, images, *resolutions, trigger_word="TOK", name="images"):
    """A data set of these images, each with its own caption."""
    members = {f"{index}.png": encoded(image) for index, image in enumerate(images)}
    members |= {f"{index}.txt": f"a TOK of shade {index}" for index in range(len(images))}
    archive = write(tmp_path / f"{name}.zip", zipped(members))
    return read_archive(archive, into=tmp_path / name, resolutions=resolutions, trigger_word=trigger_word)


def shades():
    """Images of two sizes, each of a different gray."""
    return [solid_image(96, 64 + 32 * (index % 2), color=(gray,) * 3) for index, gray in enumerate(GRAYS)]


def encode_image(vae, image):
    return encode_pixels(partial(LATENTS.encode, vae), np.asarray(image)[None])[0]


def test_each_image_keeps_its_own_caption_through_encoding_and_shuffling(pipeline, tmp_path):
    """Trap 34: in every batch, the latents of an image are paired with the encoding of its own caption."""
    archive = read(tmp_path, shades(), 64, 96)
    encodings = archive.encoded(pipeline)
    known = {
        image.prompt: [
            encode_pixels(partial(LATENTS.encode, pipeline.vae), pixels[None])[0]
            for pixels in archive.inspector.pixels(image.path, image.inspection.content, image.inspection.crops)
        ]
        for image in archive.dataset.images
    }
    batches = tiny_batches(a_recipe(batch_size=2), encodings)
    for index in range(3 * len(encodings.examples)):
        batch = batches.noisy_batch(index).batch
        for latents, tokens, pooled in zip(batch.latents, batch.prompt.tokens, batch.prompt.pooled, strict=True):
            (caption,) = {
                text
                for text, all_ in known.items()
                for one in all_
                if one.shape == latents.shape and torch.allclose(one, latents, atol=1e-3)
            }
            expected = encode_prompt(pipeline, caption)
            assert torch.equal(tokens, expected.tokens)
            assert torch.equal(pooled, expected.pooled)


def test_images_are_encoded_the_same_in_a_batch_and_alone(pipeline):
    images = np.stack([np.asarray(noisy_image(64, 96, seed=seed)) for seed in range(5)])
    alone = torch.stack([encode_image(pipeline.vae, image) for image in images])
    assert torch.allclose(encode_pixels(partial(LATENTS.encode, pipeline.vae), images), alone, atol=1e-3)


def test_the_pipeline_decodes_the_encoded_latents(pipeline):
    """Trap 11: the pipeline's shift and scale invert ours, so the VAE decodes the same as without either."""
    image = noisy_image(96, 64)
    latents = encode_image(pipeline.vae, image)[None]
    pixels = pipeline.image_processor.preprocess(image)
    with torch.no_grad():
        direct = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mean).sample
        unscaled = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        ours = pipeline.vae.decode(unscaled).sample
    assert (ours - direct).abs().max() < 1e-4


def test_latents_are_fp32_in_channels_rows_columns_order(pipeline):
    latents = encode_image(pipeline.vae, solid_image(96, 64))
    assert latents.dtype == torch.float32
    assert latents.shape == (16, 64 // 8, 96 // 8)


def test_encoding_is_deterministic(pipeline):
    image = noisy_image()
    assert torch.equal(encode_image(pipeline.vae, image), encode_image(pipeline.vae, image))


def test_an_image_is_encoded_at_every_resolution_that_it_is_large_enough_for(pipeline, tmp_path):
    examples = read(tmp_path, [solid_image(128, 128)], 64, 96, 128).encoded(pipeline).examples
    assert [example.latents.shape[1:] for example in examples] == [(8, 8), (12, 12), (16, 16)]


def test_a_small_image_is_encoded_once(pipeline, tmp_path):
    """Trap 38."""
    assert len(read(tmp_path, [solid_image(64, 64)], 64, 512, 1024).encoded(pipeline).examples) == 1


def test_copies_of_an_image_share_latents_but_not_captions(pipeline, tmp_path):
    one, other = read(tmp_path, [solid_image(64, 64), solid_image(64, 64)], 64).encoded(pipeline).examples
    assert one.latents is other.latents
    assert not torch.equal(one.prompt.tokens, other.prompt.tokens)


def test_an_image_in_a_folder_with_more_repeats_is_in_an_epoch_more_often(pipeline, tmp_path):
    members = {"20_a/1.png": encoded(solid_image()), "10_b/1.png": encoded(solid_image(color=(0, 0, 0)))}
    found = read_archive(write(tmp_path / "a.zip", zipped(members)), into=tmp_path / "into").encoded(pipeline)
    assert [example.repeats for example in found.examples] == [2, 1]


@pytest.mark.parametrize("trigger_word", ["TOK", ""])
def test_a_dropped_caption_is_the_trigger_word(pipeline, tmp_path, trigger_word):
    """Trap 33: without a trigger word it is the encoded empty prompt, never zeros."""
    dropped = read(tmp_path, [solid_image(64, 64)], 64, trigger_word=trigger_word).encoded(pipeline).dropped
    assert torch.equal(dropped.tokens, encode_prompt(pipeline, trigger_word).tokens)
    assert dropped.pooled.any()


def test_the_encoded_tensors_do_not_require_gradients(pipeline, tmp_path):
    (example,) = read(tmp_path, [solid_image(64, 64)], 64).encoded(pipeline).examples
    assert not any(t.requires_grad for t in (example.latents, example.prompt.tokens, example.prompt.pooled))


def test_a_prompt_longer_than_the_text_length_is_truncated_with_one_warning(pipeline, tmp_path, capfd):
    """A59: the warning gives the number of tokens; CLIP, which always truncates to 77, does not warn."""
    members = {
        "a.png": encoded(solid_image()),
        "a.txt": "a dog " * 700,
        "b.png": encoded(solid_image()),
        "b.txt": "a cat " * 4,
    }
    encodings = read_archive(write(tmp_path / "a.zip", zipped(members)), into=tmp_path / "into").encoded(pipeline)
    first, warning = encodings.summary().splitlines()
    assert first == "encoded 2 examples"
    count = token_count(pipeline, "TOK " + "a dog " * 700)
    assert warning == f"1 prompt longer than {TINY_TEXT_TOKENS} tokens, cut: 'a.png ({count} tokens)'"
    assert encodings.examples[0].prompt.tokens.shape[0] == TINY_TEXT_TOKENS
    assert "truncated" not in "".join(capfd.readouterr())


def test_encoded_bytes_predicts_the_size_of_the_tensors(pipeline, tmp_path):
    """All sizes of the images, and the captions, each distinct one once; the dropped caption is not counted."""
    archive = read(tmp_path, [*shades(), shades()[0]], 64, 96)
    examples = archive.encoded(pipeline).examples
    latents = {id(example.latents): example.latents.nbytes for example in examples}
    tokens = {id(example.prompt.tokens): example.prompt.tokens.nbytes for example in examples}
    predicted = [encoded_bytes(archive.dataset, TINY_FLUX, extra_texts=count) for count in (0, 1)]
    assert predicted[0] == sum(latents.values()) + sum(tokens.values())
    assert predicted[1] - predicted[0] == next(iter(tokens.values()))


def test_neutral_prompts_are_encoded_in_order(pipeline, tmp_path):
    texts = ("a dog", "a cat", "a bird")
    archive = read(tmp_path, [solid_image(64, 64)], 64)
    with_neutral = replace(archive, neutral_prompts=texts).encoded(pipeline)
    assert [prompt.tokens.tolist() for prompt in with_neutral.neutral] == [
        encode_prompt(pipeline, text).tokens.tolist() for text in texts
    ]
    assert read(tmp_path, [solid_image(64, 64)], 64, name="again").encoded(pipeline).neutral == ()


def test_the_disk_cache_distinguishes_text_lengths(pipeline, tmp_path):
    cache = DiskCache(tmp_path / "cache", most_bytes=2**30)
    read(tmp_path, [solid_image(64, 64)], 64).encoded(pipeline, cache=cache)
    longer = base_with_text_length(48, tmp_path / "base")
    encoders = load_encoders(longer, on=torch.device("cpu"))
    (example,) = (
        read(tmp_path, [solid_image(64, 64)], 64, name="again").encoded(encoders, base=longer, cache=cache).examples
    )
    assert len(example.prompt.tokens) == 48


@pytest.mark.parametrize("passed", [0, 7])
def test_the_encoding_ends_as_soon_as_a_check_raises_an_error(pipeline, tmp_path, passed):
    """Here are eight: before two batches of images and six texts. A request to stop need not wait for all of them."""
    checks = iter([None] * passed)

    def check():
        if next(checks, "over") == "over":
            raise StopRequestedError("enough")

    with pytest.raises(StopRequestedError, match="enough"):
        read(tmp_path, shades(), 64).encoded(pipeline, check=check)
