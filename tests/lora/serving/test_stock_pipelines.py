"""Images are those of the stock pipeline of each family, with LoRAs those of diffusers and PEFT."""

import dataclasses

import numpy as np
import pytest
import torch

from lora.formats.kohya import kohya_tensors
from lora.formats.reading import convert_lora
from lora.serving.generation import generate
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.serving.models import Model
from lora.serving.reference_images import ReferenceImage
from lora.serving.request import Request
from tests.families import KLEIN
from tests.lora.serving.test_request import INPUTS
from tests.tiny import noisy_image, random_lora, recorded_calls

PROMPT, NEGATIVE, SEED, STEPS = "a red star in a meadow", "a blue heart in the desert", 5, 3
SIZES = [(64, 64), (96, 64), (80, 144)]


@pytest.fixture(scope="module")
def loras(pipeline):
    return {name: random_lora(pipeline.transformer, seed=seed, spread=0.1) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def with_peft(tiny, loras):
    """A stock pipeline that has loaded the LoRAs."""
    pipeline = tiny.pipeline()
    for name, tensors in loras.items():
        pipeline.load_lora_weights(dict(tensors), adapter_name=name)
    return pipeline


def request(tiny, *, size=(96, 64), takes_guidance=True, **changes):
    """A request that leaves the guidance to the base."""
    width, height = size
    custom = {"prompt": PROMPT, "aspect_ratio": "custom", "width": width, "height": height, "seed": SEED}
    settings = custom | {"num_inference_steps": STEPS, "output_format": "png"} | changes
    defaults = tiny.family.sampling.defaults_of(takes_guidance=takes_guidance)
    return Request.checked(defaults=defaults, **INPUTS | settings)


def pixels(images):
    (image,) = images
    return np.asarray(image, dtype=int)


def stock(tiny, pipeline, request, **options):
    """What the pipeline generates by itself; it takes no negative prompt as text."""
    length = tiny.family.text.length(pipeline)
    if request.negative_prompt:
        options["negative_prompt_embeds"], _ = pipeline.encode_prompt(
            request.negative_prompt, max_sequence_length=length
        )
    width, height = request.custom_size
    return pixels(
        pipeline(
            prompt=request.prompt,
            width=width,
            height=height,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            max_sequence_length=length,
            generator=torch.Generator().manual_seed(request.seed),
            **options,
        ).images
    )


@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_the_stock_pipelines_at_its_own_guidance_bit_for_bit(tiny, pipeline, size):
    given = request(tiny, size=size)
    assert np.array_equal(pixels(generate(pipeline, given)), stock(tiny, pipeline, given))


@pytest.mark.parametrize("tiny", [KLEIN], indirect=True)
def test_a_negative_prompt_is_that_of_the_stock_pipeline_bit_for_bit(tiny, pipeline):
    given = request(tiny, negative_prompt=NEGATIVE)
    found = pixels(generate(pipeline, given))
    assert np.array_equal(found, stock(tiny, pipeline, given))
    assert not np.array_equal(found, pixels(generate(pipeline, request(tiny))))


@pytest.mark.parametrize("scales", [{"a": 1.0}, {"a": -1.0}, {"a": 0.5, "b": 1.5}])
def test_images_with_loras_are_those_of_diffusers_and_peft(tiny, pipeline, loras, with_peft, scales):
    """W + BA is rounded once, W x and B A x twice."""
    merger, names, given = LoraMerger(pipeline), tiny.family.layer_names, request(tiny)
    merger.apply([AppliedLora(name, convert_lora(loras[name], names), scale, name) for name, scale in scales.items()])
    found = pixels(generate(pipeline, given))
    merger.apply([])
    with_peft.set_adapters(list(scales), list(scales.values()))
    assert np.abs(found - stock(tiny, with_peft, given)).max() <= 1
    assert np.abs(found - pixels(generate(pipeline, given))).mean() > 1


@pytest.mark.parametrize("tiny", [KLEIN], indirect=True)
def test_a_lora_of_another_tool_edits_as_in_diffusers_and_peft(tiny, pipeline, loras, with_peft, tmp_path):
    """In the layout of musubi-tuner; nothing in the file of an editing LoRA says that it is one."""
    merger, names, given = LoraMerger(pipeline), tiny.family.layer_names, request(tiny)
    lora = convert_lora(kohya_tensors(loras["a"], names), names)
    shown = [ReferenceImage(noisy_image(96, 64), tmp_path), ReferenceImage(noisy_image(64, 80), tmp_path)]
    merger.apply([AppliedLora("a", lora, 1.0, "a")])
    found = pixels(generate(pipeline, given, references=shown))
    merger.apply([])
    with_peft.set_adapters(["a"], [1.0])
    assert np.abs(found - stock(tiny, with_peft, given, image=[each.image for each in shown])).max() <= 1
    assert np.abs(found - pixels(generate(pipeline, given, references=shown))).mean() > 1


@pytest.mark.parametrize("tiny", [KLEIN], indirect=True)
def test_a_distilled_base_predicts_once_in_each_of_four_steps_and_ignores_guidance(tiny, tmp_path):
    model = Model(tiny.changed(tmp_path / "base", "model_index.json", is_distilled=True), "plain", print)
    given = request(tiny, num_inference_steps=None, takes_guidance=False)
    with recorded_calls(model.pipeline.transformer) as calls:
        found = pixels(model.generate(given, None, []))
    assert len(calls) == given.num_inference_steps == 4
    assert np.array_equal(found, stock(tiny, model.pipeline, given))
    ignored = dataclasses.replace(given, guidance_scale=4.0, negative_prompt=NEGATIVE)
    assert np.array_equal(found, pixels(model.generate(ignored, None, [])))
