"""Reference images are shown to the transformer as the stock pipeline shows them with `image`."""

import dataclasses

import pytest
import torch
from diffusers import Flux2KleinInpaintPipeline, Flux2KleinPipeline
from PIL import Image

from lora.base.family import ImageSource
from lora.flux2.prompt import encode_prompt, text_tokens
from lora.flux2.sampling import encode_reference, fit_reference, generate_from_image, generate_image
from lora.flux2.velocity import predict_velocity
from tests.lora.flux2.test_sampling import HEIGHT, MASK, SETTINGS, SOURCE, TEXT, TOKENS, WIDTH, equal, stock
from tests.tiny import assert_same_call, noisy_image, recorded_calls

ONE = [noisy_image(70, 100, seed=1)]  # no multiples of 16
SEVERAL = [*ONE, noisy_image(64, 64, seed=2), noisy_image(96, 65, seed=3)]


@pytest.fixture(scope="module")
def prompts(klein):
    return encode_prompt(klein, TEXT), encode_prompt(klein, "")


def with_references(klein, images, **changes):
    encoded = tuple(encode_reference(klein, image) for image in images)
    return dataclasses.replace(SETTINGS, references=encoded, **changes)


@pytest.mark.parametrize("images", [ONE, SEVERAL], ids=["one", "several"])
def test_an_image_beside_references_is_the_stock_pipelines_with_true_guidance(klein, prompts, images):
    theirs = stock(klein, image=images, prompt=TEXT, max_sequence_length=text_tokens(klein), num_inference_steps=2)
    ours = generate_image(klein, *prompts, with_references(klein, images, steps=2))
    assert equal(ours, theirs)


def test_an_image_beside_references_is_the_stock_pipelines_of_a_distilled_base(klein, prompts):
    distilled = Flux2KleinPipeline(**klein.components, is_distilled=True)
    distilled.set_progress_bar_config(disable=True)
    theirs = stock(distilled, image=ONE, prompt_embeds=prompts[0].tokens[None], num_inference_steps=2)
    settings = with_references(klein, ONE, steps=2)
    assert equal(generate_image(distilled, prompts[0], None, settings), theirs)
    assert not equal(generate_image(distilled, prompts[0], None, dataclasses.replace(settings, references=())), theirs)


class EncodedError(Exception):
    """Ends a call when its pixels have arrived at the VAE."""


def encoded_pixels(klein, call):
    """The first pixels that a call encodes."""
    pixels = []

    def stop(_encoder, inputs):
        pixels.append(inputs[0])
        raise EncodedError

    hook = klein.vae.encoder.register_forward_pre_hook(stop)
    with pytest.raises(EncodedError):
        call()
    hook.remove()
    return pixels[0]


@pytest.mark.parametrize("size", [(70, 100), (1024, 1024), (1500, 1000), (700, 1801), (64, 512)])
def test_a_reference_is_resized_as_by_the_stock_pipeline(klein, prompts, size):
    """Above a megapixel it is reduced to that."""
    image, prompt = noisy_image(64, 64).resize(size), prompts[0].tokens[None]
    theirs = encoded_pixels(klein, lambda: stock(klein, image=[image], prompt_embeds=prompt, guidance_scale=1.0))
    assert torch.equal(encoded_pixels(klein, lambda: encode_reference(klein, image)), theirs)
    assert fit_reference(image).size == (theirs.shape[3], theirs.shape[2])
    assert equal(fit_reference(fit_reference(image)), fit_reference(image))


def test_the_predicted_velocity_has_the_keywords_of_the_stock_pipeline(klein, prompts):
    with recorded_calls(klein.transformer) as calls:
        stock(klein, image=SEVERAL, prompt=TEXT, max_sequence_length=text_tokens(klein), num_inference_steps=1)
        noise = calls[0]["hidden_states"][:, :TOKENS].mT.unflatten(2, (HEIGHT // 16, WIDTH // 16))
        references = with_references(klein, SEVERAL).references
        inputs = {"sigmas": calls[0]["timestep"], "prompt": prompts[0].map(lambda each: each[None]), "guidance": 1.0}
        with torch.no_grad():
            velocity = predict_velocity(klein.transformer, noise, references=references, **inputs)
            predicted = klein.transformer(**calls[0])[0]
    assert_same_call(calls[2], calls[0])
    assert torch.equal(velocity.flatten(2).mT, predicted[:, :TOKENS])


def test_each_sample_of_a_batch_sees_its_own_references(klein, prompts):
    noise, sigmas = torch.randn(2, 128, 2, 3), torch.tensor([0.3, 0.8])
    prompt = prompts[0].map(lambda each: torch.stack([each, each]))
    references = torch.randn(2, 128, 3, 2), torch.randn(2, 128, 2, 2)

    def predicted(index):
        inputs = {"sigmas": sigmas[index], "prompt": prompt.map(lambda each: each[index]), "guidance": 1.0}
        seen = tuple(each[index] for each in references)
        return predict_velocity(klein.transformer, noise[index], references=seen, **inputs)

    with torch.no_grad():
        together, alone = predicted(slice(0, 2)), torch.cat([predicted(slice(0, 1)), predicted(slice(1, 2))])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("mask", [Image.new("L", SOURCE.size, 255), MASK], ids=["image to image", "inpainting"])
def test_a_start_image_beside_references_is_that_of_the_stock_inpainting(klein, prompts, mask):
    """Which always shows the start image as the first reference."""
    inpainting = Flux2KleinInpaintPipeline(**klein.components)
    inpainting.set_progress_bar_config(disable=True)
    theirs = stock(
        inpainting,
        image=SOURCE,
        image_reference=ONE[0],
        mask_image=mask,
        strength=0.6,
        prompt_embeds=prompts[0].tokens[None],
        negative_prompt_embeds=prompts[1].tokens[None],
    )
    settings, source = with_references(klein, [SOURCE, *ONE]), ImageSource(image=SOURCE, mask=mask, strength=0.6)
    assert equal(generate_from_image(klein, *prompts, settings, source), theirs)
