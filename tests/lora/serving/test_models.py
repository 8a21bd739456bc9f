"""Bases that are loaded: each wears its own, none is loaded twice, and none stays that would not let another in."""

import gc
import weakref

import numpy as np
import pytest
import torch

from lora.formats.reading import convert_lora
from lora.serving import models as models_module
from lora.serving.lora_merger import AppliedLora
from lora.serving.models import Model, Models
from tests.lora.serving.test_generation import request
from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, random_lora, tiny_transformer

PLENTY = 2**50


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
    return convert_lora(random_lora(model.pipeline.transformer, spread=0.1))


@pytest.fixture
def other(tmp_path):
    """Another base, as far as anyone can tell."""
    return linked_base(tmp_path / "other")


def drawn(model, *, outfit=(), **changes):
    changes = {"aspect_ratio": "custom", "custom_size": (64, 64), "num_inference_steps": 2} | changes
    (image,) = model.draw(request(**changes), None, outfit)
    return np.asarray(image)


def too_much(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")


def test_a_base_is_loaded_once(models, other):
    first = models.model(TINY_FLUX)
    assert models.model(other) is not first
    assert models.model(TINY_FLUX) is first


def test_what_one_base_wears_another_does_not(models, other, lora):
    bare = drawn(models.model(TINY_FLUX))
    worn = drawn(models.model(other), outfit=[AppliedLora("a", lora, 1.0, "a")])
    assert not np.array_equal(worn, bare)
    assert np.array_equal(drawn(models.model(TINY_FLUX)), bare)


def test_bases_stay_as_long_as_another_has_room_beside_them(models, other, monkeypatch):
    monkeypatch.setattr(models_module, "_free_bytes", lambda: PLENTY)
    first, second = models.model(TINY_FLUX), models.model(other)
    monkeypatch.setattr(models_module, "_free_bytes", lambda: 0)
    assert (models.model(TINY_FLUX), models.model(other)) == (first, second)


def test_without_room_the_others_go_before_the_next_is_loaded(models, other, monkeypatch):
    monkeypatch.setattr(models_module, "_free_bytes", lambda: 0)
    first = models.model(TINY_FLUX)
    models.model(other)
    assert models.model(TINY_FLUX) is not first


def test_all_are_sound_or_none_is(models, other, lora):
    """A base that does not come back as it was, here because somebody wrote on it, is told of."""
    models.model(TINY_FLUX)
    second = models.model(other)
    list(second.draw(request(num_inference_steps=1), None, [AppliedLora("a", lora, 1.0, "a")]))
    assert models.are_intact
    original = next(iter(second._merger._originals.values()))  # no public way spoils it
    original.weight[0, 0] += 1
    list(second.draw(request(num_inference_steps=1), None, []))
    assert not models.are_intact


@pytest.mark.parametrize(
    ("go_fast", "wanted"), [(False, "a smaller image"), (True, "a smaller image, or go_fast false")]
)
def test_memory_that_does_not_suffice_is_told_and_the_next_image_is_drawn(model, monkeypatch, go_fast, wanted):
    """D38; the GPU's error, raised where it would be."""
    before = drawn(model)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.pipeline.transformer), "forward", too_much)
        with pytest.raises(RuntimeError) as error:
            drawn(model, go_fast=go_fast)
    assert str(error.value).endswith(f"expected {wanted}")
    assert_one_sentence(error.value)
    assert np.array_equal(drawn(model), before)


def test_without_memory_to_draw_in_8_bits_these_are_let_go(model, monkeypatch):
    held = []

    def draw(pipeline, *_, **__):
        held.append(weakref.ref(pipeline.transformer))
        too_much()

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="go_fast false"):
        patch.setattr(models_module, "draw", draw)
        drawn(model, go_fast=True)
    gc.collect()
    assert held[0]() is None
    drawn(model, go_fast=True)


def test_a_cancel_as_the_8_bit_transformer_is_taken_out_leaves_the_next_image_plain(model, monkeypatch):
    plain, before = model.pipeline.transformer, drawn(model)
    whole, cancels = type(model.pipeline).__setattr__, [KeyboardInterrupt]

    def cancelled(self, name, value):
        if value is plain and self.transformer is not plain and cancels:
            raise cancels.pop()
        whole(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(type(model.pipeline), "__setattr__", cancelled)
        with pytest.raises(KeyboardInterrupt):
            drawn(model, go_fast=True)
        assert model.pipeline.transformer is not plain
    assert np.array_equal(drawn(model), before)
    fast = drawn(model, go_fast=True)
    assert not np.array_equal(fast, before)
    assert np.array_equal(drawn(model), before)


def test_a_lora_that_does_not_fit_is_refused_and_the_next_image_is_drawn(model):
    before = drawn(model)
    misfit = convert_lora(random_lora(tiny_transformer()))
    with pytest.raises(ValueError, match=r"^loras\[1\] 'a.tar' was made for another model"):
        drawn(model, outfit=[AppliedLora("misfit", misfit, 1.0, "loras[1] 'a.tar'")])
    assert np.array_equal(drawn(model), before)
