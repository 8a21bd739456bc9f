"""Other models than FLUX.1 are refused by their configurations, before anything is loaded or trained."""

import json

import diffusers
import pytest

from tests.tiny import assert_one_sentence, linked_base, replace
from weights.base_kind import MODELS, PIPELINES, check_kind
from weights.bases import Base, check_base, find_trainable_base

INDEX, TRANSFORMER = "model_index.json", "transformer/config.json"


def changed(folder, file, **values):
    base = linked_base(folder)
    replace(base / file, json.dumps(json.loads((base / file).read_bytes()) | values).encode())
    return base


@pytest.mark.parametrize(
    ("file", "values", "found"),
    [
        *(
            (INDEX, {"_class_name": name}, f"{name!r}, that of {model}: expected FLUX.1-dev")
            for name, model in MODELS.items()
        ),
        (INDEX, {"_class_name": "NewPipeline"}, "has the class 'NewPipeline': expected FLUX.1-dev"),
        (TRANSFORMER, {"_class_name": "Flux2Transformer2DModel"}, "has the class 'Flux2Transformer2DModel'"),
        (TRANSFORMER, {"in_channels": 384}, "has 384 for in_channels, not 64, that of FLUX.1 Fill"),
        (TRANSFORMER, {"in_channels": 128}, "not 64, that of FLUX.1 Canny or Depth"),
        (TRANSFORMER, {"in_channels": 17}, "has 17 for in_channels, not 64: expected"),
    ],
)
def test_another_model_is_refused_by_its_name(tmp_path, file, values, found):
    base = changed(tmp_path / "base", file, **values)
    with pytest.raises(ValueError) as error:
        check_kind(base)
    assert_one_sentence(error.value, f"{base / file} has ", found)


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_pipelines_with_the_components_of_flux_are_accepted(tmp_path, name):
    check_kind(changed(tmp_path / "base", INDEX, _class_name=name))


def test_the_names_of_pipelines_are_those_of_diffusers():
    assert [name for name in (*PIPELINES, *MODELS) if not hasattr(diffusers, name)] == []


def test_a_training_names_the_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_BASE", str(changed(tmp_path / "base", INDEX, _class_name="FluxKontextPipeline")))
    with pytest.raises(ValueError) as error:
        find_trainable_base()
    assert_one_sentence(error.value, "FLUX_BASE is folder base: ", "that of FLUX.1 Kontext")


def test_a_request_names_the_base(tmp_path):
    kontext = Base("krea", changed(tmp_path / "base", INDEX, _class_name="FluxKontextPipeline"), "download it")
    with pytest.raises(ValueError) as error:
        check_base(kontext)
    assert_one_sentence(error.value, "the base krea cannot be used: ", "that of FLUX.1 Kontext")
