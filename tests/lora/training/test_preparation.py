"""A training is checked before anything expensive starts, and every choice is logged."""

import pytest
import torch
from PIL import Image

from lora.base.fingerprint import fingerprint
from lora.dataset.reading import Archives
from lora.training.captions import Captioning
from lora.training.checkpoints.resume import ResumeSource
from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.adapter import lora_tensors
from lora.training.preparation import count_trained, prepare
from lora.training.progress import Log
from tests.families import FIRST, KLEIN, TINY_BASES, of_each_family
from tests.random_models import MODELS
from tests.tiny import (
    TINY_FLUX,
    assert_one_sentence,
    checked_config,
    encoded,
    read_archive,
    solid_image,
    tiny_lora_transformer,
    write,
    zipped,
)

SDXL = "lora_unet_down_blocks_1_attentions_0_proj_in"


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_LORA_CHECKPOINTS", str(tmp_path / "checkpoints"))


def archive_of(colors, folder):
    return write(folder / "a.zip", zipped({f"{i}.png": encoded(solid_image(color=c)) for i, c in enumerate(colors)}))


def prepared(archive, folder, *, resume_source=None, base=TINY_FLUX, base_name="tiny", **inputs):
    return prepare(
        checked_config(resolution="64", **inputs),
        Archives(archive, None),
        resume_source or ResumeSource(),
        Captioning(lambda: None, lambda: None),
        base=base,
        base_name=base_name,
        into=folder,
        log=Log(lambda _name, _value: None, None),
    )


def refusal(lora, tmp_path, *, checkpoint=None, **base):
    """The error for an initial LoRA or a checkpoint, which is checked before the archive, here an invalid one."""
    not_an_archive = write(tmp_path / "a.zip", b"nothing")
    with pytest.raises(ValueError) as error:
        prepared(not_an_archive, tmp_path, resume_source=ResumeSource(lora=lora, checkpoint=checkpoint), **base)
    assert_one_sentence(error.value, "resume_from")
    return str(error.value)


def checkpoint_of(base, name, folder):
    """A checkpoint whose identity has this base, which is compared before everything else."""
    identity = {"base_model": name, "base_weights": fingerprint(base, ["transformer"])}
    store = CheckpointStore(folder / "run", identity, report_damage=print)
    store.save(1, {"lora": {"a": torch.ones(3)}}, {})
    return store.newest()


@of_each_family
def test_a_checkpoint_of_the_other_family_is_refused_before_the_images_are_read(tmp_path, tiny):
    (other,) = (each for each in TINY_BASES if each is not tiny)
    checkpoint = checkpoint_of(other.folder, other.folder.name, tmp_path)
    said = refusal(None, tmp_path, checkpoint=checkpoint, base=tiny.folder, base_name=tiny.folder.name)
    assert f"with base_model {other.folder.name!r}: expected {tiny.folder.name!r}; train on the base of that" in said


@pytest.mark.parametrize(
    ("there", "name", "here", "sentence"),
    [
        (KLEIN, "klein-9b", "klein", "with base_model 'klein-9b': expected 'klein'"),
        (FIRST, "mine", "mine", "with base_weights of another model than 'mine': expected the same files"),
    ],
)
def test_a_checkpoint_of_another_size_or_of_another_model_of_the_same_name_is_refused(
    tmp_path, there, name, here, sentence
):
    checkpoint = checkpoint_of(there.folder, name, tmp_path)
    assert sentence in refusal(None, tmp_path, checkpoint=checkpoint, base=KLEIN.folder, base_name=here)


@of_each_family
def test_a_lora_of_the_other_family_is_refused_by_name_before_the_images_are_read(tmp_path, tiny):
    (other,) = (each for each in MODELS.values() if each.family is not tiny.family)
    lora = lora_tensors(other.lora_transformer())
    said = refusal(lora, tmp_path, base=tiny.folder, base_name=tiny.folder.name)
    assert f"(it was made for {other.family.name.split()[0]}" in said


def test_a_lora_of_another_size_is_refused_before_the_images_are_read(tmp_path):
    """The LoRA is for a base with a width of 32; the layers of this base are wider."""
    assert "expected 1152 x 192" in refusal(lora_tensors(tiny_lora_transformer()), tmp_path)


@pytest.mark.parametrize(
    ("lora", "found"),
    [
        (
            {f"{SDXL}.lora_down.weight": torch.ones(4, 320), f"{SDXL}.lora_up.weight": torch.ones(320, 4)},
            "Stable Diffusion",
        ),
        ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 192)}, "incomplete"),
        (
            {
                "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 192),
                "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(192, 3),
            },
            "have the ranks 4 and 3",
        ),
        ({"text_encoder.layers.0.q_proj.lora_A.weight": torch.ones(4, 32)}, "not match any layer of FLUX.1"),
    ],
)
def test_an_invalid_initial_lora_is_refused_with_the_reason(tmp_path, lora, found):
    assert found in refusal(lora, tmp_path)


def test_every_choice_is_logged_once_before_anything_is_loaded(tmp_path, capsys):
    prepared(archive_of(["red", "blue"], tmp_path), tmp_path, steps=0, learning_rate=0, lora_rank=0)
    lines = capsys.readouterr().out.splitlines()
    for prefix in (
        "autocaption: no captioner is installed; 2 of 2 images have no caption, trained with the trigger word alone;",
        "LoRA on",
        "steps ",
        "learning_rate ",
        "lora_rank ",
        "checkpoints are saved to",
        "preservation 0.25",
        "settings:",
        "sigma:",
    ):
        assert sum(line.startswith(prefix) for line in lines) == 1, prefix


@pytest.mark.parametrize(
    ("given", "prompts"), [({}, True), ({"preservation": 0}, False), ({"lora_type": "style"}, False)]
)
def test_neutral_prompts_are_read_where_the_input_or_the_lora_type_preserves(tmp_path, given, prompts):
    found = prepared(archive_of(["red", "blue"], tmp_path), tmp_path, **given)
    assert bool(found.neutral_prompts) is bool(found.recipe.preservation) is prompts


@of_each_family
def test_the_settings_have_the_guidance_with_which_samples_are_generated(tmp_path, tiny):
    archive, base = archive_of(["red", "blue"], tmp_path), {"base": tiny.folder, "base_name": tiny.folder.name}
    for given, expected in ((None, tiny.family.sampling.defaults.guidance), (2, 2)):
        found = prepared(archive, tmp_path / f"{given}", sample_guidance=given, **base)
        assert found.settings()["sample_guidance"] == found.samples.guidance == expected


def test_copies_of_an_image_count_once_and_held_out_images_do_not_count(tmp_path):
    colors = [f"#{number:02x}{number:02x}ff" for number in range(0, 208, 16)]  # 13
    dataset = read_archive(archive_of([*colors, colors[0]], tmp_path), into=tmp_path).dataset
    assert count_trained(dataset, checked_config(validation=False)) == 13
    assert count_trained(dataset, checked_config(validation=True)) == 12


@pytest.mark.parametrize(("lora_type", "crops"), [("subject", 4), ("style", 1), ("general", 1), ("replicate", 1)])
def test_only_subjects_are_trained_on_crops(tmp_path, lora_type, crops):
    images = prepared(archive_of(["red", "blue"], tmp_path), tmp_path, lora_type=lora_type).images.images
    assert [len(image.inspection.crops) for image in images] == [crops, crops]


@pytest.mark.parametrize(("processes", "note"), [("1", ""), ("2", "batches of 2: 2 sizes became 1, so that")])
def test_images_share_sizes_if_batches_of_all_processes_have_more_than_one(tmp_path, monkeypatch, processes, note):
    monkeypatch.setenv("FLUX_LORA_PROCESSES", processes)
    archive = write(
        tmp_path / "a.zip", zipped({f"{width}.png": encoded(solid_image(width, 300)) for width in (310, 340)})
    )
    assert prepared(archive, tmp_path / "into", batch_size=1).report.size_note[: len(note) or None] == note


def test_masks_and_captions_that_take_turns_are_inputs_of_a_training(tmp_path):
    mask = Image.new("L", (96, 80))
    mask.paste(255, (0, 0, 40, 40))
    infos = {"1.png": encoded(solid_image()), "1.txt": "one\ntwo", "masks/1.png": encoded(mask)}
    archive = write(tmp_path / "a.zip", zipped(infos))
    (tmp_path / "default").mkdir()
    (image,) = prepared(archive, tmp_path / "default").images.images
    assert (image.mask.name, image.is_on_white) == ("masks/1.png", True)
    (tmp_path / "original").mkdir()
    (image,) = prepared(archive, tmp_path / "original", mask_background="original").images.images
    assert (image.mask.name, image.is_on_white) == ("masks/1.png", False)
    assert image.prompts == ("TOK one two",)
    (tmp_path / "changed").mkdir()
    changed = prepared(archive, tmp_path / "changed", unmasked_weight=1, multiline_split=True)
    assert changed.images.images[0].mask is None
    assert changed.images.images[0].prompts == ("TOK one", "TOK two")
    assert changed.settings() | {"unmasked_weight": 1.0, "multiline_split": True} == changed.settings()
