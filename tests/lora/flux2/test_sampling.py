"""Images are those of the stock pipeline, with true guidance, and of the stock inpainting without its reference."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinInpaintPipeline
from PIL import Image

from lora.base.family import ImageSource, SamplingSettings
from lora.base.forward import replaced_forward
from lora.flux2.prompt import encode_prompt, text_tokens
from lora.flux2.sampling import SAMPLING, build_pipeline, generate_from_image, generate_image, generate_latents
from tests.families import KLEIN
from tests.tiny import recorded_calls

WIDTH, HEIGHT = 80, 48
TOKENS = (WIDTH // 16) * (HEIGHT // 16)
TEXT = "a red star in a meadow"
SETTINGS = SamplingSettings(width=WIDTH, height=HEIGHT, steps=4, guidance=4.0, seed=100, after_step=lambda _steps: None)
SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
MASK = Image.new("L", (WIDTH, HEIGHT))
MASK.paste(255, (16, 16, 64, 48))  # whole tokens


@pytest.fixture(scope="module")
def prompts(klein):
    return encode_prompt(klein, TEXT), encode_prompt(klein, "")


def equal(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def stock(pipeline, **options):
    settings = {
        "width": WIDTH,
        "height": HEIGHT,
        "num_inference_steps": SETTINGS.steps,
        "guidance_scale": SETTINGS.guidance,
        "generator": torch.Generator().manual_seed(SETTINGS.seed),
    }
    return pipeline(**settings | options).images[0]


def test_at_guidance_1_an_image_is_the_stock_pipelines_and_needs_no_negative_prompt(klein, prompts):
    theirs = stock(klein, prompt=TEXT, max_sequence_length=text_tokens(klein), guidance_scale=1.0)
    assert equal(generate_image(klein, prompts[0], None, dataclasses.replace(SETTINGS, guidance=1.0)), theirs)


def test_guidance_leads_away_from_the_negative_prompt(klein, prompts):
    """As in a step that is computed by hand: two predictions, extrapolated."""
    prompt, negative = prompts[0], encode_prompt(klein, "a blue heart")
    one_step = dataclasses.replace(SETTINGS, steps=1)
    with recorded_calls(klein.transformer) as calls:
        guided = generate_latents(klein, prompt, negative, one_step)
    with torch.no_grad():
        towards, away = (klein.transformer(**call)[0] for call in calls)
    expected = calls[0]["hidden_states"] - (away + SETTINGS.guidance * (towards - away))
    assert torch.equal(calls[1]["encoder_hidden_states"][0], negative.tokens)
    assert torch.allclose(guided.flatten(1).T, expected[0], atol=1e-5)


def test_latents_are_those_that_the_image_is_decoded_from_and_need_no_vae(klein, prompts):
    latents = generate_latents(klein, *prompts, SETTINGS)
    without_vae = build_pipeline(klein.transformer, KLEIN.folder)
    assert torch.equal(generate_latents(without_vae, *prompts, SETTINGS), latents)
    assert latents.shape == (klein.transformer.config.in_channels, HEIGHT // 16, WIDTH // 16)
    unnormalized = stock(klein, prompt=TEXT, max_sequence_length=text_tokens(klein), output_type="latent")
    mean, deviation = klein.vae.bn.running_mean, (klein.vae.bn.running_var + klein.vae.config.batch_norm_eps).sqrt()
    own = latents * deviation[:, None, None] + mean[:, None, None]
    assert torch.allclose(torch.nn.functional.pixel_shuffle(own, 2), unnormalized, atol=1e-5)


def test_a_distilled_base_predicts_once_a_step_and_needs_no_negative_prompt(klein, prompts, tmp_path):
    base = KLEIN.changed(tmp_path / "base", "model_index.json", is_distilled=True)
    distilled = build_pipeline(klein.transformer, base, vae=klein.vae)
    with recorded_calls(klein.transformer) as calls:
        image = generate_image(distilled, prompts[0], None, SETTINGS)
    assert len(calls) == SETTINGS.steps
    assert equal(image, generate_image(klein, prompts[0], None, dataclasses.replace(SETTINGS, guidance=1.0)))
    needed = [SAMPLING.needs_negative(*each) for each in ((klein, 4.0), (klein, 1.0), (distilled, 4.0))]
    assert needed == [True, False, False]


@pytest.mark.parametrize("mask", [None, Image.new("L", (WIDTH, HEIGHT), 255)])
def test_at_strength_1_an_image_is_ignored(klein, prompts, mask):
    from_image = generate_from_image(klein, *prompts, SETTINGS, ImageSource(image=SOURCE, mask=mask, strength=1.0))
    assert equal(from_image, generate_image(klein, *prompts, SETTINGS))


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("strength", [0.01, 0.3, 0.6, 1.0])
def test_an_image_from_an_image_is_that_of_the_stock_inpainting_without_reference(klein, prompts, strength, mask):
    inpainting = Flux2KleinInpaintPipeline(**klein.components)
    inpainting.set_progress_bar_config(disable=True)

    def without_reference(forward):
        return lambda hidden_states, img_ids, **inputs: forward(
            hidden_states=hidden_states[:, :TOKENS], img_ids=img_ids[:, :TOKENS], **inputs
        )

    with replaced_forward(klein.transformer, without_reference):
        theirs = stock(
            inpainting,
            image=SOURCE,
            mask_image=mask or Image.new("L", SOURCE.size, 255),
            strength=strength,
            prompt_embeds=prompts[0].tokens[None],
            negative_prompt_embeds=prompts[1].tokens[None],
        )
    counted = []
    settings = dataclasses.replace(SETTINGS, after_step=counted.append)
    ours = generate_from_image(klein, *prompts, settings, ImageSource(image=SOURCE, mask=mask, strength=strength))
    assert equal(ours, theirs)
    assert counted == [inpainting.num_timesteps] * inpainting.num_timesteps


def test_a_latent_with_one_white_pixel_is_regenerated_and_others_are_the_sources(klein, prompts):
    mask = Image.new("L", SOURCE.size)
    mask.putpixel((33, 17), 255)  # in the token of row 1 and column 2
    decoded = []
    hook = klein.vae.decoder.register_forward_pre_hook(lambda _decoder, inputs: decoded.append(inputs[0]))
    generate_from_image(klein, *prompts, SETTINGS, ImageSource(image=SOURCE, mask=mask, strength=0.5))
    hook.remove()
    pixels = klein.image_processor.preprocess(SOURCE)
    with torch.no_grad():
        mean = klein.vae.encode(pixels).latent_dist.mean
    expected = mean if klein.vae.post_quant_conv is None else klein.vae.post_quant_conv(mean)
    changed = (decoded[0] - expected).abs().amax((0, 1)) > 1e-3
    assert changed.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
