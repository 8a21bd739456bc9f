"""A prediction: what the safety checker sees, and the size that the settings name."""

import dataclasses

import pytest
import torch
from PIL import Image

from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.images.metadata import settings_in
from lora.serving.inputs import PredictionInputs
from lora.serving.models import Model
from lora.serving.prediction import predict
from lora.serving.safety import SafetyChecker
from lora.serving.usage import Usage
from tests.classifiers import trained_classifier
from tests.generation_requests import a_source
from tests.lora.serving.test_generation import request
from tests.tiny import TINY_FLUX, encoded, noisy_image, write

SIZE = (100, 70)  # no multiples of 16


@pytest.fixture(scope="module")
def model():
    return Model(TINY_FLUX, "plain", print)


@pytest.fixture
def inpainting(tmp_path):
    """The inputs of an inpainting."""
    image = noisy_image(*SIZE)
    mask = Image.new("L", SIZE, 0)
    mask.paste(255, (0, 0, 20, 20))
    files = [write(tmp_path / f"{name}.png", encoded(each)) for name, each in (("image", image), ("mask", mask))]
    return PredictionInputs(
        request=request(num_inference_steps=1, output_format="png"),
        loras=(),
        seed_notes=(),
        source=a_source(image, mask, 1.0),
        references=(),
        image=files[0],
        mask=files[1],
        are_sides_given=False,
        is_checker_disabled=False,
    )


def predicted(inputs, model, folder, *, checker=None, record_metric=lambda *_: None):
    (path,) = predict(
        inputs,
        model,
        [],
        base_name="tiny",
        checker=checker,
        log_line=print,
        usage=Usage(),
        record_metric=record_metric,
        into=folder,
    )
    return path


def test_an_inpainted_image_its_settings_and_its_metrics_have_the_size_of_the_source(inpainting, model, tmp_path):
    metrics = {}
    path = predicted(inpainting, model, tmp_path, record_metric=metrics.__setitem__)
    settings = settings_in(path)
    assert Image.open(path).size == (settings["width"], settings["height"]) == SIZE
    assert metrics["predict.megapixels"] == 0.007


def test_the_safety_checker_sees_the_image_with_the_source_pasted_back(inpainting, model, tmp_path):
    source = inpainting.source.decoded.image
    nearly = dataclasses.replace(inpainting.source, mask=None, strength=0.02)  # decoded again, and not pasted
    others = list(model.generate(dataclasses.replace(inpainting.request, num_inference_steps=50), nearly, []))
    folder = trained_classifier(tmp_path / "classifier", allowed=others, blocked=[source])
    with pytest.raises(RuntimeError, match="the safety checker blocked the image"):
        predicted(inpainting, model, tmp_path, checker=SafetyChecker(folder))


def test_go_fast_is_ignored_with_a_note_where_weights_are_streamed(inpainting, model, tmp_path, monkeypatch, capsys):
    """black-forest-labs/flux-dev-lora has it on by default, so its clients send it."""
    inputs = dataclasses.replace(inpainting, request=dataclasses.replace(inpainting.request, go_fast=True))
    placement = WeightPlacement("fp32", False, torch.device("cpu"), 1)
    monkeypatch.setattr(model, "_plain", load_transformer(TINY_FLUX, placement))
    path = predicted(inputs, model, tmp_path)
    assert settings_in(path)["go_fast"] is False
    assert "note: go_fast is ignored, because the GPU has no memory" in capsys.readouterr().out
