"""Loaded base models: each has its own LoRAs, none is loaded twice, and they are released if memory runs short."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from lora.serving import models as models_module
from lora.serving.lora_merger import AppliedLora
from lora.serving.models import Model, Models
from lora.serving.reference_images import ReferenceImage
from tests.generation_requests import a_source
from tests.lora.serving.test_generation import request
from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, noisy_image, random_lora, tiny_transformer

PLENTY = 2**50
HUGE = 1e12


def silent(_line):
    pass


@pytest.fixture
def models():
    return Models(silent)


@pytest.fixture(scope="module")
def model():
    return Model(TINY_FLUX, "fast", silent)


@pytest.fixture(scope="module")
def lora(model):
    return convert_lora(random_lora(model.pipeline.transformer, spread=0.1), FLUX1)


@pytest.fixture(scope="module")
def huge_lora(model):
    """A LoRA whose weights are finite in the base's precision; activations are not."""
    tensors = random_lora(model.pipeline.transformer, spread=0.1)
    return convert_lora({name: tensor.float() * HUGE for name, tensor in tensors.items()}, FLUX1)


@pytest.fixture
def other(tmp_path):
    """A second base: a folder with links to the files of the first."""
    return linked_base(tmp_path / "other")


def generated(model, *, loras=(), **changes):
    changes = {"aspect_ratio": "custom", "custom_size": (64, 64), "num_inference_steps": 2} | changes
    (image,) = model.generate(request(**changes), None, loras)
    return np.asarray(image)


def too_much(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


def test_a_base_is_loaded_once(models, other):
    first = models.model(TINY_FLUX)
    assert models.model(other) is not first
    assert models.model(TINY_FLUX) is first


def test_a_lora_on_one_base_does_not_change_another(models, tiny, tmp_path):
    """Whether they are of one family or not."""
    folder = tiny.linked(tmp_path / "other")
    lora = convert_lora(random_lora(models.model(folder).pipeline.transformer, spread=0.1), tiny.family.layer_names)
    bare = [generated(models.model(each)) for each in (TINY_FLUX, folder)]
    applied = generated(models.model(folder), loras=[AppliedLora("a", lora, 1.0, "a")])
    assert not np.array_equal(applied, bare[1])
    assert all(np.array_equal(generated(models.model(each)), bare[i]) for i, each in enumerate((TINY_FLUX, folder)))


def test_requests_in_any_order_have_the_pixels_of_a_fresh_model(tiny, pipeline):
    tensors = [random_lora(pipeline.transformer, seed=seed, spread=0.1) for seed in (1, 2)]
    loras = [
        AppliedLora(str(i), convert_lora(each, tiny.family.layer_names), 1.0, "a") for i, each in enumerate(tensors)
    ]
    requests = [
        {},
        {"loras": loras},
        {"loras": loras[:1], "go_fast": True},
        {"negative_prompt": "a star", "loras": loras[1:]},
        {"go_fast": True},
        {"custom_size": (96, 64), "guidance_scale": 1.0},
    ]
    fresh, used = Model(tiny.folder, "plain", silent), Model(tiny.folder, "plain", silent)
    forwards = [generated(fresh, **each) for each in requests]
    for each in (requests[1], requests[4], requests[3]):
        generated(used, **each)
    backwards = [generated(used, **each) for each in reversed(requests)]
    assert all(np.array_equal(*each) for each in zip(forwards, reversed(backwards), strict=True))
    assert len({each.tobytes() for each in forwards}) == len(requests)


def test_loaded_bases_stay_if_memory_suffices_for_another(models, other, monkeypatch):
    monkeypatch.setattr(models_module, "_free_bytes", lambda: PLENTY)
    first, second = models.model(TINY_FLUX), models.model(other)
    monkeypatch.setattr(models_module, "_free_bytes", lambda: 0)
    assert (models.model(TINY_FLUX), models.model(other)) == (first, second)


def test_without_enough_memory_the_others_are_released_before_the_next_is_loaded(models, other, monkeypatch):
    monkeypatch.setattr(models_module, "_free_bytes", lambda: 0)
    first = models.model(TINY_FLUX)
    models.model(other)
    assert models.model(TINY_FLUX) is not first


def test_models_are_intact_only_if_each_of_them_is(models, other, lora):
    """A base that is not restored is noticed; here the test overwrites its original weights."""
    models.model(TINY_FLUX)
    second = models.model(other)
    list(second.generate(request(num_inference_steps=1), None, [AppliedLora("a", lora, 1.0, "a")]))
    assert models.are_intact
    original = next(iter(second._merger._originals.values()))  # no public call changes it
    original.weight[0, 0] += 1
    list(second.generate(request(num_inference_steps=1), None, []))
    assert not models.are_intact


@pytest.mark.parametrize(
    ("go_fast", "wanted"), [(False, "a smaller image"), (True, "a smaller image, or go_fast false")]
)
def test_an_out_of_memory_error_is_one_sentence_and_the_next_image_is_generated(model, monkeypatch, go_fast, wanted):
    """D38: the error of a GPU, raised where a GPU would raise it."""
    before = generated(model)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.pipeline.transformer), "forward", too_much)
        with pytest.raises(RuntimeError) as error:
            generated(model, go_fast=go_fast)
    assert str(error.value).endswith(f"expected {wanted}")
    assert_one_sentence(error.value)
    assert np.array_equal(generated(model), before)


def test_an_out_of_memory_error_beside_reference_images_asks_for_fewer(model, monkeypatch):
    monkeypatch.setattr(models_module, "generate", too_much)
    with pytest.raises(RuntimeError, match=r"expected a smaller image, or fewer or smaller reference images$"):
        list(model.generate(request(), None, [], references=[ReferenceImage(noisy_image(64, 64), Path("a.png"))]))


def test_an_out_of_memory_error_with_go_fast_releases_the_int8_transformer(model, monkeypatch):
    transformers = []

    def generate(pipeline, *_, **__):
        transformers.append(weakref.ref(pipeline.transformer))
        too_much()

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="go_fast false"):
        patch.setattr(models_module, "generate", generate)
        generated(model, go_fast=True)
    gc.collect()
    assert transformers[0]() is None
    generated(model, go_fast=True)


def test_after_a_cancel_while_the_int8_transformer_is_removed_the_next_image_is_plain(model, monkeypatch):
    plain, before = model.pipeline.transformer, generated(model)
    whole, cancels = type(model.pipeline).__setattr__, [KeyboardInterrupt]

    def cancelled(self, name, value):
        if value is plain and self.transformer is not plain and cancels:
            raise cancels.pop()
        whole(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(type(model.pipeline), "__setattr__", cancelled)
        with pytest.raises(KeyboardInterrupt):
            generated(model, go_fast=True)
        assert model.pipeline.transformer is not plain
    assert np.array_equal(generated(model), before)
    fast = generated(model, go_fast=True)
    assert not np.array_equal(fast, before)
    assert np.array_equal(generated(model), before)


def test_an_incompatible_lora_is_refused_and_the_next_image_is_generated(model):
    before = generated(model)
    incompatible = convert_lora(random_lora(tiny_transformer()), FLUX1)
    with pytest.raises(ValueError, match=r"^loras\[1\] 'a.tar' is incompatible with this model"):
        generated(model, loras=[AppliedLora("incompatible", incompatible, 1.0, "loras[1] 'a.tar'")])
    assert np.array_equal(generated(model), before)


@pytest.mark.parametrize("go_fast", [False, True])
def test_a_lora_that_generates_nan_is_named_with_its_scale_and_the_next_image_is_generated(model, huge_lora, go_fast):
    before = generated(model, go_fast=go_fast)
    loras = [AppliedLora("huge", huge_lora, -0.5, "lora_weights 'a.tar'"), AppliedLora("b", huge_lora, 0.0, "b")]
    with pytest.raises(RuntimeError) as error:
        generated(model, loras=loras, go_fast=go_fast)
    cause, remedy = (" and go_fast", "go_fast false, ") if go_fast else ("", "")
    assert str(error.value) == (
        f"lora_weights 'a.tar' at scale -0.5{cause} generates NaN or infinite pixels, a black image: "
        f"expected {remedy}a scale nearer to 0, or a LoRA that is not damaged"
    )
    assert np.array_equal(generated(model, go_fast=go_fast), before)
    assert model.is_intact


def test_several_loras_that_generate_nan_together_are_all_named(model, huge_lora, lora):
    loras = [AppliedLora("huge", huge_lora, 1.0, "lora_weights 'a'"), AppliedLora("b", lora, 0.5, "loras[0] 'b'")]
    with pytest.raises(
        RuntimeError, match=r"^lora_weights 'a' at scale 1 with loras\[0\] 'b' at scale 0.5 generates NaN"
    ):
        generated(model, loras=loras)


def test_a_base_that_generates_nan_without_a_lora_is_named(model):
    bias = model.pipeline.transformer.proj_out.bias.data
    whole = bias.clone()
    bias[0] = float("nan")
    try:
        with pytest.raises(RuntimeError, match=r"^the base model without a LoRA generates NaN .* undamaged weights$"):
            generated(model)
    finally:
        bias.copy_(whole)


def test_go_fast_keeps_the_pixels_outside_of_a_mask_too(model):
    image, mask = noisy_image(100, 70), Image.new("L", (100, 70), 0)
    mask.paste(255, (0, 0, 30, 70))
    fast = request(num_inference_steps=2, go_fast=True)
    (result,) = model.generate(fast, a_source(image, mask, 0.8), [])
    kept = (50, 0, 100, 70)
    assert result.crop(kept).tobytes() == image.crop(kept).tobytes()
    assert result.tobytes() != image.tobytes()
