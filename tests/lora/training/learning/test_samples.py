"""A training shows what it has learned: the same picture for the same weights, and nothing of it leaves a trace."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.training.learning import samples as samples_module
from lora.training.learning.adapter import add_lora
from lora.training.learning.samples import GUIDANCE, STEPS, SampleGenerator
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
PROMPTS = tuple(tiny_prompt(seed=seed) for seed in (1, 2))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def painted(base, tmp_path):
    """A sample_generator, and what it paints with."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    return SampleGenerator(transformer, base, PROMPTS, side=50, into=tmp_path / "samples"), transformer


def content(tmp_path):
    return {path.name: path.read_bytes() for path in sorted((tmp_path / "samples").iterdir())}


def test_each_prompt_is_one_picture_of_the_training_size(painted, tmp_path):
    """In whole tokens of 16 pixels."""
    sample_generator, _ = painted
    sample_generator.draw(250, stop=NO_STOP)
    assert list(content(tmp_path)) == ["step-000250-1.jpg", "step-000250-2.jpg"]
    with Image.open(tmp_path / "samples/step-000250-1.jpg") as picture:
        assert (picture.size, picture.format) == ((48, 48), "JPEG")


def test_the_same_weights_draw_the_same_pictures_and_others_draw_others(painted, tmp_path):
    sample_generator, transformer = painted
    for step in (0, 1):
        sample_generator.draw(step, stop=NO_STOP)
    randomize_lora(transformer, seed=1, spread=0.5)
    sample_generator.draw(2, stop=NO_STOP)
    files = content(tmp_path)
    assert files["step-000000-1.jpg"] == files["step-000001-1.jpg"]
    assert files["step-000000-2.jpg"] == files["step-000001-2.jpg"]
    assert files["step-000000-1.jpg"] != files["step-000002-1.jpg"]
    assert files["step-000000-1.jpg"] != files["step-000000-2.jpg"]


def test_drawing_changes_no_weight_no_gradient_and_no_random_number(painted):
    """Trap 47."""
    sample_generator, transformer = painted
    before = {name: each.detach().clone() for name, each in transformer.named_parameters()}
    random = torch.get_rng_state()
    sample_generator.draw(0, stop=NO_STOP)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(each, before[name]) for name, each in transformer.named_parameters())
    assert all(each.requires_grad and each.grad is None for each in lora_parameters(transformer).values())


def test_it_is_drawn_as_flux_is_used(painted):
    """With guidance, unlike training."""
    sample_generator, transformer = painted
    with recorded_calls(transformer) as calls:
        sample_generator.draw(0, stop=NO_STOP)
    assert len(calls) == STEPS * len(PROMPTS)
    assert {call["guidance"].item() for call in calls} == {GUIDANCE}


def test_a_wish_for_an_end_is_heard_between_two_denoising_steps(painted, tmp_path):
    sample_generator, transformer = painted
    stop = Stop(a_log(), Termination(), minutes=None, wish=tmp_path / "stop")
    ask = lambda: (tmp_path / "stop").write_text("it was cancelled")  # noqa: E731
    asking = on_nth_call(transformer, STEPS + 2, ask, without_grad=True)
    with recorded_calls(transformer) as calls, asking, pytest.raises(StopRequestedError):
        sample_generator.draw(0, stop=stop)
    assert len(calls) == STEPS + 2
    assert list(content(tmp_path)) == ["step-000000-1.jpg"], "the first was finished, of the second there is nothing"


def test_a_picture_is_whole_or_not_there(painted, tmp_path, monkeypatch):
    """The tar takes what is there."""
    sample_generator, _ = painted

    class Full:
        """A picture for which the disk has no room."""

        def save(self, path, *_args, **_options):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(samples_module, "generate_image", lambda *_args, **_options: Full())
    with pytest.raises(OSError, match="No space"):
        sample_generator.draw(0, stop=NO_STOP)
    assert not [name for name in content(tmp_path) if name.endswith(".jpg")]


def test_it_is_the_picture_that_the_pipeline_would_draw(tmp_path):
    """On the embedded base, from a prompt in words."""
    transformer = load_transformer(TINY_FLUX, WeightPlacement("fp32", False, torch.device("cpu")))
    pipeline = FluxPipeline.from_pretrained(TINY_FLUX, transformer=transformer, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        "a red circle",
        max_sequence_length=TINY_TEXT_TOKENS,
        width=64,
        height=64,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(42),
    ).images[0]
    tokens, pooled, _ = pipeline.encode_prompt("a red circle", None, max_sequence_length=TINY_TEXT_TOKENS)
    add_lora(transformer, layers=all_layers(transformer), rank=2, seed=0)
    prompt = type(PROMPTS[0])(tokens[0], pooled[0])
    SampleGenerator(transformer, TINY_FLUX, (prompt,), side=64, into=tmp_path / "samples").draw(0, stop=NO_STOP)
    with Image.open(tmp_path / "samples/step-000000-1.jpg") as drawn:
        difference = np.abs(np.asarray(drawn, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 3, "JPEG alone"
