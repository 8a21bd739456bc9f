"""Samples during a training: the same weights give the same images, and generating them has no side effects."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from lora.base.prompt import Prompt
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.images.metadata import settings_in
from lora.training.learning.adapter import add_lora
from lora.training.learning.samples import SampleGenerator, SamplePrompt
from lora.training.recipe.samples import SampleSettings
from lora.training.stop import Stop, StopRequestedError, Termination
from tests.lora.training.trainers import a_log, on_nth_call, small_base
from tests.tiny import (
    TINY_FLUX,
    TINY_TEXT_TOKENS,
    all_layers,
    lora_parameters,
    randomize_lora,
    recorded_calls,
    tiny_lora_transformer,
    tiny_prompt,
)

NO_STOP = Stop(a_log(), Termination(), minutes=None)
BLOCKS = 4
STEPS, GUIDANCE = 4, 2.5
TEXTS = ("a TOK, in a meadow!", "狐")
PROMPTS = tuple(SamplePrompt(text, tiny_prompt(seed=seed)) for seed, text in enumerate(TEXTS))
NAMES = "step-{:06}-1-seed-42-a-tok-in-a-meadow.jpg", "step-{:06}-2-seed-43.jpg"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("base"))


def settings(*, side, steps=STEPS, guidance=GUIDANCE):
    return SampleSettings(TEXTS, side, 0, steps, guidance)


@pytest.fixture
def generator(base, tmp_path):
    """A sample generator and its transformer."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    return SampleGenerator(
        transformer, base, PROMPTS, settings(side=50), negative=None, into=tmp_path / "samples"
    ), transformer


def content(tmp_path):
    return {path.name: path.read_bytes() for path in sorted((tmp_path / "samples").iterdir())}


def test_each_prompt_gives_one_image_of_the_training_size(generator, tmp_path):
    """In whole tokens of 16 pixels."""
    sample_generator, _ = generator
    sample_generator.generate(250, stop=NO_STOP)
    assert list(content(tmp_path)) == [name.format(250) for name in NAMES]
    with Image.open(tmp_path / "samples" / NAMES[0].format(250)) as image:
        assert (image.size, image.format) == ((48, 48), "JPEG")


def test_an_image_has_its_prompt_seed_and_step_in_its_metadata(generator, tmp_path):
    sample_generator, _ = generator
    sample_generator.generate(250, stop=NO_STOP)
    assert [settings_in(path) for path in sorted((tmp_path / "samples").iterdir())] == [
        {"prompt": text, "seed": seed, "training_step": 250, "num_inference_steps": STEPS, "guidance": GUIDANCE}
        for seed, text in enumerate(TEXTS, 42)
    ]


def test_only_the_same_weights_give_the_same_images(generator, tmp_path):
    sample_generator, transformer = generator
    for step in (0, 1):
        sample_generator.generate(step, stop=NO_STOP)
    randomize_lora(transformer, seed=1, spread=0.5)
    sample_generator.generate(2, stop=NO_STOP)
    files = {path.name: Image.open(path).tobytes() for path in (tmp_path / "samples").iterdir()}
    assert files[NAMES[0].format(0)] == files[NAMES[0].format(1)]
    assert files[NAMES[1].format(0)] == files[NAMES[1].format(1)]
    assert files[NAMES[0].format(0)] != files[NAMES[0].format(2)]
    assert files[NAMES[0].format(0)] != files[NAMES[1].format(0)]


def test_generating_changes_no_weight_no_gradient_and_no_random_number(generator):
    """Trap 47."""
    sample_generator, transformer = generator
    before = {name: each.detach().clone() for name, each in transformer.named_parameters()}
    random = torch.get_rng_state()
    sample_generator.generate(0, stop=NO_STOP)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(each, before[name]) for name, each in transformer.named_parameters())
    assert all(each.requires_grad and each.grad is None for each in lora_parameters(transformer).values())


def test_samples_have_the_steps_and_the_guidance_of_their_settings(generator):
    """Unlike training, which has no guidance."""
    sample_generator, transformer = generator
    with recorded_calls(transformer) as calls:
        sample_generator.generate(0, stop=NO_STOP)
    assert len(calls) == STEPS * len(PROMPTS)
    assert {call["guidance"].item() for call in calls} == {GUIDANCE}


def test_a_stop_request_takes_effect_between_two_denoising_steps(generator, tmp_path):
    sample_generator, transformer = generator
    stop = Stop(a_log(), Termination(), minutes=None, stop_file=tmp_path / "stop")
    request_stop = lambda: (tmp_path / "stop").write_text("it was cancelled")  # noqa: E731
    stopping = on_nth_call(transformer, STEPS + 2, request_stop, without_grad=True)
    with recorded_calls(transformer) as calls, stopping, pytest.raises(StopRequestedError):
        sample_generator.generate(0, stop=stop)
    assert len(calls) == STEPS + 2
    assert list(content(tmp_path)) == [NAMES[0].format(0)], "the first is finished, and there is no file of the second"


def test_an_image_file_is_complete_or_missing(generator, tmp_path, monkeypatch):
    """The tar includes every image in the folder."""
    sample_generator, _ = generator

    class Full:
        """An image that does not fit on the disk."""

        def save(self, path, *_args, **_options):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    full = dataclasses.replace(sample_generator._sampling, generate_image=lambda *_: Full())
    monkeypatch.setattr(sample_generator, "_sampling", full)
    with pytest.raises(OSError, match="No space"):
        sample_generator.generate(0, stop=NO_STOP)
    assert not [name for name in content(tmp_path) if name.endswith(".jpg")]


def test_a_sample_equals_the_image_of_the_stock_pipeline(tmp_path):
    """On the embedded base, with a real prompt."""
    transformer = load_transformer(TINY_FLUX, WeightPlacement("fp32", False, torch.device("cpu")))
    pipeline = FluxPipeline.from_pretrained(TINY_FLUX, transformer=transformer, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        "a red circle",
        max_sequence_length=TINY_TEXT_TOKENS,
        width=64,
        height=64,
        num_inference_steps=28,
        generator=torch.Generator().manual_seed(42),
    ).images[0]
    tokens, pooled, _ = pipeline.encode_prompt("a red circle", None, max_sequence_length=TINY_TEXT_TOKENS)
    add_lora(transformer, layers=all_layers(transformer), rank=2, seed=0)
    prompt = SamplePrompt("a red circle", Prompt(tokens[0], pooled[0]))
    usual = settings(side=64, steps=28, guidance=3.5)
    SampleGenerator(transformer, TINY_FLUX, (prompt,), usual, negative=None, into=tmp_path / "samples").generate(
        0, stop=NO_STOP
    )
    with Image.open(tmp_path / "samples/step-000000-1-seed-42-a-red-circle.jpg") as image:
        difference = np.abs(np.asarray(image, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 3, "JPEG alone"


def test_samples_call_the_blocks_as_a_step_does(generator):
    """With gradients, which are not kept: diffusers calls blocks that are set up for training only then."""
    sample_generator, transformer = generator
    calls = []

    def call(block, *inputs):
        calls.append(torch.is_grad_enabled())
        return block(*inputs)

    transformer.enable_gradient_checkpointing(call)
    sample_generator.generate(0, stop=NO_STOP)
    assert calls == [True] * len(PROMPTS) * STEPS * BLOCKS
    assert all(each.grad is None for each in lora_parameters(transformer).values())


def test_images_of_a_checkpoint_replace_those_that_are_there(generator, tmp_path):
    """Those of steps that the checkpoint did not reach would otherwise be in the result of a resumed training."""
    sample_generator, _ = generator
    sample_generator.generate(1, stop=NO_STOP)
    saved, before = sample_generator.files(), content(tmp_path)
    sample_generator.generate(2, stop=NO_STOP)
    assert len(content(tmp_path)) == 4
    sample_generator.restore(saved)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("../../step-000001-1-seed-42.jpg", torch.zeros(3, dtype=torch.uint8)),
        ("step-000001-1-seed-42.png", torch.zeros(3, dtype=torch.uint8)),
        ("step-000001-1-seed-42.jpg", torch.zeros(3)),
        ("step-000001-1-seed-42.jpg", torch.zeros(3, 3, dtype=torch.uint8)),
    ],
)
def test_what_is_no_image_of_a_sample_generator_is_refused_before_anything_is_written(
    generator, tmp_path, name, values
):
    sample_generator, _ = generator
    with pytest.raises(TypeError, match="is no sample image"):
        sample_generator.restore({"step-000009-1-seed-42.jpg": torch.zeros(3, dtype=torch.uint8), name: values})
    assert not (tmp_path / "samples").exists()
