"""Models of no kind that can be loaded, and mixed ones, are refused by what their configurations say."""

import json

import diffusers
import pytest

from lora.families.registry import FAMILIES
from tests.base_services import small_base
from tests.tiny import assert_one_sentence, linked_base, replace
from weights.base_kind import FLUX1, INDEX, KINDS, KLEIN, MODELS, TRANSFORMER, VAE, check_kind, kind_of, model_name
from weights.bases import Base, check_base, find_trainable_base, takes_guidance

TEXT = "text_encoder/config.json"
PIPELINES = [name for kind in KINDS for name in kind.pipelines]


def changed(folder, file, kind=FLUX1, **values):
    """A base of this kind with changed values in a configuration; without those that are None."""
    base = linked_base(folder) if kind is FLUX1 else small_base(folder, kind)
    config = json.loads((base / file).read_bytes()) | values
    replace(base / file, json.dumps({name: value for name, value in config.items() if value is not None}).encode())
    return base


@pytest.mark.parametrize(
    ("kind", "file", "values", "found"),
    [
        *(
            (FLUX1, INDEX, {"_class_name": name}, f"{name!r}, that of {model}: expected FLUX.1-dev")
            for name, model in MODELS.items()
        ),
        (FLUX1, INDEX, {"_class_name": "NewPipeline"}, "has the class 'NewPipeline': expected FLUX.1-dev"),
        (FLUX1, TRANSFORMER, {"in_channels": 384}, "has 384 for in_channels, not 64, that of FLUX.1 Fill"),
        (FLUX1, TRANSFORMER, {"in_channels": 128}, "not 64, that of FLUX.1 Canny or Depth"),
        (FLUX1, TRANSFORMER, {"in_channels": 17}, "has 17 for in_channels, not 64: expected"),
        (KLEIN, TRANSFORMER, {"in_channels": 64}, "has 64 for in_channels, not 128: expected"),
        (KLEIN, TRANSFORMER, {"guidance_embeds": True}, "True for guidance_embeds, not False, that of FLUX.2-dev"),
        (KLEIN, TRANSFORMER, {"guidance_embeds": None}, "True for guidance_embeds, not False, that of FLUX.2-dev"),
        (KLEIN, TEXT, {"model_type": "mistral3"}, "has 'mistral3' for model_type, not qwen3: expected"),
    ],
)
def test_another_model_is_refused_by_its_name(tmp_path, kind, file, values, found):
    base = changed(tmp_path / "base", file, kind, **values)
    with pytest.raises(ValueError) as error:
        check_kind(base)
    assert_one_sentence(error.value, f"{base / file} has ", found)


@pytest.mark.parametrize(
    ("kind", "file", "values", "found"),
    [
        (FLUX1, INDEX, {"_class_name": "Flux2KleinPipeline"}, f"{TRANSFORMER} has the class 'FluxTransformer2DModel'"),
        (
            FLUX1,
            TRANSFORMER,
            {"_class_name": KLEIN.transformer},
            "that of FLUX.2 [klein]: expected all components of one",
        ),
        (
            FLUX1,
            VAE,
            {"_class_name": KLEIN.vae},
            "'AutoencoderKLFlux2', that of FLUX.2 [klein]: expected all components",
        ),
        (
            FLUX1,
            TRANSFORMER,
            {"joint_attention_dim": 4096},
            "text_encoder_2/config.json has 128 for d_model, not 4096:",
        ),
        (KLEIN, INDEX, {"_class_name": "FluxPipeline"}, f"{TRANSFORMER} has the class 'Flux2Transformer2DModel'"),
        (KLEIN, TRANSFORMER, {"_class_name": FLUX1.transformer}, "that of FLUX.1: expected all components of one base"),
        (KLEIN, VAE, {"_class_name": FLUX1.vae}, "that of FLUX.1: expected all components of one base, FLUX.2 [klein]"),
        (
            KLEIN,
            TRANSFORMER,
            {"joint_attention_dim": 12288},
            f"{TEXT} has 2560 for hidden_size, not 4096: expected all",
        ),
    ],
)
def test_components_of_different_bases_in_one_folder_are_refused(tmp_path, kind, file, values, found):
    base = changed(tmp_path / "base", file, kind, **values)
    with pytest.raises(ValueError) as error:
        check_kind(base)
    assert_one_sentence(error.value, str(base), found)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_pipelines_with_the_components_of_a_kind_are_accepted(tmp_path, kind):
    base = changed(tmp_path / "base", INDEX, kind)
    for name in kind.pipelines:
        replace(base / INDEX, json.dumps(json.loads((base / INDEX).read_bytes()) | {"_class_name": name}).encode())
        check_kind(base)
        assert kind_of(base) is kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_folder_is_checked_as_far_as_it_has_arrived(tmp_path, kind):
    """A tar may bring the index last."""
    base = changed(tmp_path / "base", TRANSFORMER, kind, in_channels=384)
    (base / INDEX).unlink()
    with pytest.raises(ValueError, match=r"config\.json has 384 for in_channels"):
        check_kind(base)
    (base / TRANSFORMER).unlink()
    (base / VAE).unlink()
    check_kind(base)


def test_an_index_that_names_no_pipeline_is_refused(tmp_path):
    base = changed(tmp_path / "base", INDEX, _class_name=None)
    with pytest.raises(ValueError) as error:
        kind_of(base)
    assert_one_sentence(error.value, f"{base / INDEX} names no pipeline: ", "FluxPipeline or Flux2KleinPipeline")


def test_the_names_of_classes_are_those_of_diffusers():
    classes = (name for kind in KINDS for name in (kind.transformer, kind.vae))
    assert [name for name in (*PIPELINES, *MODELS, *classes) if not hasattr(diffusers, name)] == []


@pytest.mark.parametrize(
    ("kind", "file", "values", "takes"),
    [
        (FLUX1, TRANSFORMER, {"guidance_embeds": True}, True),
        (FLUX1, TRANSFORMER, {"guidance_embeds": False}, False),
        (FLUX1, TRANSFORMER, {"guidance_embeds": None}, False),
        (KLEIN, INDEX, {"is_distilled": False}, True),
        (KLEIN, INDEX, {"is_distilled": None}, True),
        (KLEIN, INDEX, {"is_distilled": True}, False),
    ],
)
def test_a_base_that_takes_guidance_can_be_trained(monkeypatch, tmp_path, kind, file, values, takes):
    """FLUX.1 by its embedding; klein unless it is distilled, as in diffusers' pipeline, whose default is false."""
    base = changed(tmp_path / "base", file, kind, **values)
    assert takes_guidance(Base("mine", base, "")) is takes
    monkeypatch.setenv("FLUX_BASE", str(base))
    if takes:
        assert find_trainable_base().path == base
        return
    with pytest.raises(ValueError) as error:
        find_trainable_base()
    found = "FLUX_BASE is folder base: this base is distilled, so that it can generate, but not be trained"
    assert_one_sentence(error.value, found, "expected one of dev, krea, klein, klein-9b")


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


def test_a_published_base_in_the_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        check_base(Base("klein", linked_base(tmp_path / "klein"), "download it"))
    assert_one_sentence(
        error.value,
        f"the base klein cannot be used: {tmp_path / 'klein' / INDEX} is that of FLUX.1: expected FLUX.2 [klein]",
    )


@pytest.mark.parametrize(
    ("heads", "name"),
    [(24, "FLUX.2 [klein] 4B"), (32, "FLUX.2 [klein] 9B"), (1, "FLUX.2 [klein]"), (None, "FLUX.2 [klein]")],
)
def test_what_loras_are_made_for_has_the_size_of_the_base(tmp_path, heads, name):
    values = {"num_attention_heads": heads, "attention_head_dim": 128}
    assert model_name(changed(tmp_path / "base", TRANSFORMER, KLEIN, **values)) == name
    assert model_name(linked_base(tmp_path / "flux1")) == "FLUX.1"


def test_what_the_catalogue_says_of_reference_images_is_what_each_family_takes():
    for family in FAMILIES:
        (kind,) = (kind for kind in KINDS if set(kind.pipelines) == family.components.served_pipelines)
        assert kind.takes_references == family.transformer.takes_references == (family.sampling.references is not None)
