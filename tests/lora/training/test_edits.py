"""What a training of edits makes of its inputs before it loads anything, and what it shows and publishes afterwards."""

import dataclasses
from pathlib import Path

import pytest

from lora.base.presets import Preset
from lora.dataset.crops import Crop
from lora.dataset.mask_settings import MaskSettings
from lora.dataset.reading import Archives
from lora.images.metadata import exif
from lora.images.size import Size
from lora.publishing.card import CardImage
from lora.reporting.page import page_of
from lora.training.captions import Captioning
from lora.training.checkpoints.resume import ResumeSource
from lora.training.memory.requirements import memory_requirements
from lora.training.preparation import Prepared, prepare
from lora.training.progress import Log
from lora.training.recipe.config import NO_TRIGGER, OPEN_TRIGGER
from lora.training.recipe.samples import SamplePair, sample_settings
from lora.training.report import write_fixed, write_sample_references, write_thumbnails
from lora.training.result.card import public_samples, training_card
from lora.training.result.publication import Publication, write_publication
from script.openapi import training_inputs
from script.presets import preset_of
from script.training_flags import archived
from tests.families import KLEIN
from tests.lora.reporting.reports import some_contents
from tests.tiny import TINY_FLUX, assert_one_sentence, checked_config, encoded, noisy_image, write, zipped
from weights.bases import WEIGHTS

ROOT = WEIGHTS.parent


def pairs(*, count=3, other=0):
    """Files of pairs; the first has a second reference, of another shape."""
    files = {}
    for number in range(count):
        files[f"{number}.png"] = encoded(noisy_image(128, 96, seed=number))
        files[f"{number}_reference.png"] = encoded(noisy_image(128, 96, seed=100 + number + other))
        files[f"{number}.txt"] = f"edit {number}"
    return {**files, "0_reference2.png": encoded(noisy_image(64, 64, seed=99))}


def prepared(folder, files=None, *, base=KLEIN.folder, archive=None, **inputs) -> Prepared:
    folder.mkdir(exist_ok=True)
    archive = archive or write(folder / "a.zip", zipped(pairs() if files is None else files))
    return prepare(
        checked_config(lora_type="edit", resolution="64,128", **inputs),
        Archives(Path(archive), None),
        ResumeSource(),
        Captioning(never, lambda: None),
        base=base,
        base_name="tiny" if base is TINY_FLUX else "tiny-flux2",
        into=folder / "into",
        log=Log(lambda _name, _value: None, None),
    )


def never():
    pytest.fail("no captioner is looked for")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_LORA_CHECKPOINTS", str(tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A prepared training of three pairs, of which the last has no caption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLUX_LORA_CHECKPOINTS", str(tmp_path_factory.mktemp("checkpoints")))
        files = {name: content for name, content in pairs().items() if name != "2.txt"}
        yield prepared(tmp_path_factory.mktemp("ready"), files, steps=0, learning_rate=0, lora_rank=0)


def test_edits_with_a_base_that_takes_no_references_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"^lora_type is 'edit', and the base tiny takes no reference images") as error:
        prepared(tmp_path, {}, base=TINY_FLUX)
    assert_one_sentence(error)
    assert "a FLUX_BASE that does (klein, klein-9b, tiny-flux2), or another lora_type (subject, " in str(error.value)


def test_edits_have_the_documented_preset_on_klein(ready):
    recipe, preset = ready.recipe, KLEIN.family.presets["edit"]
    assert isinstance(preset, Preset)
    assert (recipe.lora_rank, recipe.learning_rate, recipe.steps) == (32, 1.1e-4, 1000)
    assert (recipe.caption_dropout_rate, recipe.drops_to_trigger, recipe.dropped_text("TOK")) == (0.05, False, "")
    assert (recipe.sigma_rule.logit_mean, recipe.sigma_rule.style_share) == (None, 0)
    assert (recipe.preservation, recipe.views, recipe.ema_decay, recipe.weight_decay) == (0, 1, 0.99, 1e-4)


def test_the_default_trigger_word_is_not_put_into_instructions_and_another_one_is(ready):
    assert [image.prompt for image in ready.images.images] == ["edit 0", "edit 1", ""]
    assert NO_TRIGGER in ready.config.notes
    assert training_inputs(ROOT)["trigger_word"]["default"] == OPEN_TRIGGER
    other = checked_config(lora_type="edit", trigger_word="PENCIL")
    assert other.prompt_rule.prompt("edit 0") == "PENCIL edit 0"
    assert NO_TRIGGER not in other.notes
    assert checked_config(lora_type="general").prompt_rule.prompt("edit 0") == "TOK edit 0"


def test_masks_of_edits_only_weight_the_loss():
    assert checked_config(lora_type="edit").masks == MaskSettings(0.1, "original")
    assert checked_config(lora_type="general").masks == MaskSettings(0.1, "white")


def test_references_are_part_of_the_identity_of_a_training(tmp_path):
    same, again, other = (
        prepared(tmp_path / str(number), pairs(other=number // 2)).store.identity for number in range(3)
    )
    assert same == again
    assert {name for name in same if same[name] != other[name]} == {"references"}


def test_the_plan_counts_the_tokens_of_the_references_of_the_image_that_has_most(ready, tmp_path):
    alone = {name: content for name, content in pairs().items() if name != "0_reference2.png"}
    one = prepared(tmp_path, alone, steps=0, learning_rate=0, lora_rank=0)
    counts = [
        memory_requirements(
            KLEIN.folder,
            each.images,
            each.recipe,
            each.layers.names,
            neutral_side=0,
            sample_side=0,
            is_validated=False,
            processes=1,
            may_be_int8=False,
        )
        for each in (ready, one)
    ]
    assert [(each.image_tokens, each.reference_tokens) for each in counts] == [(35, 35 + 36), (35, 35)]


def test_samples_are_beside_the_references_of_the_first_pairs_in_turn_in_their_size(ready):
    images, large = ready.images.images, Crop(Size(112, 80), 0)
    assert ready.samples.prompts == ("edit 0", "edit 1")
    assert ready.samples.pairs == (SamplePair(0, large, 1), SamplePair(1, large, 3))
    config = checked_config(lora_type="edit", resolution="64", sample_prompts="a\nb\nc\nd", sample_every=7)
    found = sample_settings(config, images, default_guidance=4.0)
    assert (found.prompts, found.every) == (("a", "b", "c", "d"), 7)
    assert [(pair.image, pair.example) for pair in found.pairs] == [(0, 0), (1, 2), (2, 4), (0, 0)]
    assert {pair.crop for pair in found.pairs} == {Crop(Size(64, 48), 0)}
    none = checked_config(lora_type="edit", sample_prompts="none")
    assert sample_settings(none, images, default_guidance=4.0).pairs == ()


def test_the_report_page_shows_the_references_of_samples_and_images(ready, tmp_path):
    write_thumbnails(ready.images, ready.inspector, into=tmp_path)
    write_sample_references(ready.images, ready.inspector, ready.samples, into=tmp_path / "samples")
    write_fixed(ready, folder=tmp_path)
    references = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert references == ["reference-1-1.jpg", "reference-1-2.jpg", "reference-2-1.jpg"]
    assert len(list((tmp_path / "thumbnails").iterdir())) == 3
    assert "reference: 0_reference.png, 0_reference2.png" in (tmp_path / "page.json").read_text()
    (folder := tmp_path / "others").mkdir()
    contents = some_contents(folder)
    paths = tuple(tmp_path / "samples" / name for name in references[:2])
    shown = dataclasses.replace(
        contents,
        fixed=dataclasses.replace(contents.fixed, edits=True),
        samples=tuple(dataclasses.replace(sample, references=paths) for sample in contents.samples),
    )
    page = page_of(shown)
    assert page.count('alt="Reference 2"') == 2
    assert "inputs[&#34;reference_images&#34;] = [&#34;data:image/png;base64,&#34; + before]" in page
    assert "Reference" not in page_of(contents)


def test_samples_beside_images_of_the_data_set_are_shown_to_others_only_with_captions(tmp_path):
    write(tmp_path / "reference-1-1.jpg", encoded(noisy_image(64, 64), "JPEG"))
    for step in (0, 3):
        described = {"prompt": "make it red", "seed": 42, "training_step": step, "references": ["reference-1-1.jpg"]}
        content = encoded(noisy_image(64, 64), "JPEG", exif=exif(described))
        write(tmp_path / f"step-{step:06}-1-seed-42-make-it-red.jpg", content)
    captions, settings = ("another",), {"lora_type": "edit", "base_model": "klein", "trigger_word": ""}
    assert list(public_samples(tmp_path, captions=captions, trigger_word="")) == []
    private = training_card(settings, {}, tmp_path, captions=captions, repository=None)
    assert "samples/" not in private
    first, _ = public_samples(tmp_path, captions=(), trigger_word="")
    assert first.references == ("samples/reference-1-1.jpg",)
    assert isinstance(first, CardImage)
    card = training_card(settings, {}, tmp_path, captions=(), repository="me/lora")
    assert "![reference](<samples/reference-1-1.jpg>) ![step 0](<samples/step-000000" in card
    assert 'pipe(image=[load_image("before.png")], prompt=prompt, guidance_scale=4.0' in card
    assert "pipeline_tag: image-to-image" in card


def test_references_of_samples_are_published_with_captions(tmp_path):
    described = {"prompt": "make it red", "seed": 42, "training_step": 3, "references": ["reference-1-1.jpg"]}
    jpegs = {
        "samples/reference-1-1.jpg": encoded(noisy_image(64, 64), "JPEG"),
        "samples/reference-2-1.jpg": encoded(noisy_image(64, 64), "JPEG"),
        "samples/step-000003-1-seed-42-x.jpg": encoded(noisy_image(64, 64), "JPEG", exif=exif(described)),
    }
    settings = {"lora_type": "edit", "base_model": "klein", "trigger_word": ""}
    publication = Publication({"lora.safetensors": b"", "captions/1.txt": b"make it red", **jpegs}, settings, {})
    write_publication(publication, into=tmp_path, repository="me/lora", with_captions=True)
    found = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert found == ["reference-1-1.jpg", "step-000003-1-seed-42-x.jpg"]


def test_a_command_without_weights_refuses_edits_with_the_same_sentence(monkeypatch):
    monkeypatch.setenv("FLUX_BASE", "tiny")
    with pytest.raises(
        ValueError, match=r"the base tiny takes no reference images: .* \(klein, klein-9b, tiny-flux2\)"
    ):
        preset_of("edit")
    assert preset_of("edit", "klein") is KLEIN.family.presets["edit"]


def test_a_folder_of_pairs_is_packed_with_its_references(tmp_path):
    (folder := tmp_path / "photos").mkdir()
    (folder / "control").mkdir()
    for name in ("1.png", "2.png", "control/1.png", "control/2.png"):
        write(folder / name, encoded(noisy_image(64, 64, seed=len(name))))
    with archived(str(folder)) as tar:
        found = prepared(tmp_path / "into", {}, archive=tar).images.images
    assert [[reference.name for reference in image.references] for image in found] == [
        ["control/1.png"],
        ["control/2.png"],
    ]
