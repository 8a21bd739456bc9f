"""The LoRA in the tar has the same effect in the stock pipeline as in training."""

import copy
import io
import json
import shutil
import tarfile
import warnings
import zipfile
from pathlib import PurePosixPath

import pytest
import torch
import yaml
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from lora.formats.kohya import kohya_tensors
from lora.formats.layer_names.flux1 import FLUX1
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.learning.history import StepNumbers
from lora.training.learning.summary import TrainingResult, TrainingSummary, Usage
from lora.training.result.output import LORA_NAME, check_tar, safetensors_file
from tests.servers import Tar
from tests.tiny import (
    LAYERS,
    a_recipe,
    all_layers,
    encoded,
    load_tensors,
    lora_parameters,
    noisy_image,
    randomize_lora,
    read_archive,
    tiny_lora_transformer,
    tiny_pipeline,
    trained,
    write,
    written,
    zipped,
)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def found(tmp_path):
    return read(tmp_path, {"a.png": "a TOK in a.png, é", "b.png": "a TOK in b.png, é"})


def read(tmp_path, captions):
    """A data set of images by their names, with these captions."""
    members = {name: encoded(noisy_image(seed=index)) for index, name in enumerate(captions)}
    table = {"captions.json": json.dumps(captions)}
    return read_archive(write(tmp_path / "images.zip", zipped(members | table)), into=tmp_path / "into").dataset


def lora_file(transformer):
    """The bytes of a LoRA file without much metadata."""
    return safetensors_file(lora_tensors(transformer), {"format": "pt"})


def captions_in(path):
    """The captions in a tar, by the names of their files."""
    folder = "output/flux_train_replicate/captions/"
    with tarfile.open(path) as tar:
        names = [name for name in tar.getnames() if name.startswith(folder)]
        return {name.removeprefix(folder): tar.extractfile(name).read().decode() for name in names}


def velocity(transformer):
    """The output of a transformer for fixed inputs."""
    config, generator = transformer.config, torch.Generator().manual_seed(0)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(1, 15, config.in_channels, generator=generator),
            timestep=torch.tensor([0.7]),
            guidance=torch.ones(1),
            pooled_projections=torch.randn(1, config.pooled_projection_dim, generator=generator),
            encoder_hidden_states=torch.randn(1, 8, config.joint_attention_dim, generator=generator),
            txt_ids=torch.zeros(8, 3),
            img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(5.0)),
        ).sample


def representable(transformer):
    """Round a LoRA to the precision of the file, so that saving loses nothing."""
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.bfloat16().float()


def reloaded(pipeline, path):
    """The output of the stock pipeline's transformer with a LoRA file, and the number of layers with a LoRA."""
    pipeline.load_lora_weights(path)
    try:
        layers = [module for module in pipeline.transformer.modules() if isinstance(module, LoraLayer)]
        return velocity(pipeline.transformer), len(layers)
    finally:
        pipeline.unload_lora_weights()


@pytest.mark.parametrize("alpha", [8, 16])
def test_the_stock_pipeline_computes_the_same_as_the_trained_transformer(pipeline, tmp_path, alpha):
    """Traps 24, 29: every layer is loaded, the LoRA has an effect, and twice the alpha is twice the effect."""
    trained = copy.deepcopy(pipeline.transformer)
    trained.add_adapter(LoraConfig(r=8, lora_alpha=alpha, target_modules=list(all_layers(trained))))
    randomize_lora(trained)
    representable(trained)
    path = write(tmp_path / "lora.safetensors", lora_file(trained))
    base = velocity(pipeline.transformer)
    found_velocity, layers = reloaded(pipeline, path)
    assert 2 * layers == len(lora_tensors(trained))
    assert (found_velocity - base).abs().max() > 1e-3
    assert torch.allclose(found_velocity, velocity(trained), atol=1e-5)
    assert torch.equal(velocity(pipeline.transformer), base)


def test_the_stock_pipeline_loads_our_loras(pipeline, tmp_path):
    """Trap 29."""
    trained = copy.deepcopy(pipeline.transformer)
    add_lora(trained, layers=all_layers(trained), rank=4, seed=0)
    randomize_lora(trained)
    path = write(tmp_path / "lora.safetensors", lora_file(trained))
    found_velocity, _ = reloaded(pipeline, path)
    expected, base = velocity(trained), velocity(pipeline.transformer)
    assert (found_velocity - expected).norm() / (expected - base).norm() < 0.02


def test_keys_and_precision_are_those_that_other_programs_read():
    tensors = load_tensors(lora_file(tiny_lora_transformer()))
    assert len(tensors) == 2 * LAYERS
    assert all(name.startswith("transformer.") for name in tensors)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_the_metadata_has_the_rank_and_the_trigger_word(tmp_path, found):
    with tarfile.open(written(tiny_lora_transformer(), found, tmp_path)) as tar:
        path = write(tmp_path / "lora.safetensors", tar.extractfile(LORA_NAME).read())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.trigger_phrase"] == "TOK"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "4")
    assert json.loads(metadata["trainer_config"])["steps"] == 3


def test_the_tar_holds_one_lora_where_clients_look_for_it(tmp_path, found):
    """Trap 49."""
    transformer = tiny_lora_transformer()
    path = written(transformer, found, tmp_path)
    with tarfile.open(path) as tar:
        names = tar.getnames()
        assert path.name == "trained_model.tar"
        assert [name for name in names if name.endswith(".safetensors")] == [LORA_NAME]
        assert LORA_NAME == "output/flux_train_replicate/lora.safetensors"
        assert load_tensors(tar.extractfile(LORA_NAME).read()).keys() == lora_tensors(transformer).keys()


def test_the_memory_plan_is_in_the_config_and_does_not_affect_the_lora(tmp_path, found):
    files = {}
    for precision in ("bf16", "int8"):
        (tmp_path / precision).mkdir()
        path = written(tiny_lora_transformer(), found, tmp_path / precision, plan={"precision": precision})
        with tarfile.open(path) as tar:
            settings = yaml.safe_load(tar.extractfile("output/flux_train_replicate/config.yaml").read())
            files[precision] = tar.extractfile(LORA_NAME).read()
        assert settings["plan"] == {"precision": precision}
    assert files["bf16"] == files["int8"]


def test_the_tar_has_the_settings_and_the_captions(tmp_path, found):
    path = written(tiny_lora_transformer(), found, tmp_path)
    with tarfile.open(path) as tar:
        settings = yaml.safe_load(tar.extractfile("output/flux_train_replicate/config.yaml").read())
        report = json.loads(tar.extractfile("output/flux_train_replicate/report/dataset.json").read())
    assert settings["base_model"] == "dev"
    assert settings["resolutions"] == [64]
    assert captions_in(path) == {"a.txt": "a TOK in a.png, é", "b.txt": "a TOK in b.png, é"}
    assert [image["name"] for image in report["images"]] == ["a.png", "b.png"]
    assert report["caption_sources"] == {"captions.json": 2}


def test_the_tar_has_a_line_for_each_step_and_the_record_of_the_run(tmp_path, found):
    transformer = tiny_lora_transformer()
    steps = tuple(StepNumbers(step, 0.5, 0.5, 4e-4, 1.0, 0.5, None) for step in (1, 2))
    summary = TrainingSummary(2, "the last", 2, 2, 0, 0, None, (), steps)
    result = TrainingResult(lora_tensors(transformer), summary, Usage(2, 0.2, 0.0, None))
    tar = Tar(written(transformer, found, tmp_path, result=result, run={"steps_taken": 2}).read_bytes())
    lines = tar.file("output/flux_train_replicate/report/losses.jsonl").decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert json.loads(tar.file("output/flux_train_replicate/report/run.json")) == {"steps_taken": 2}


def test_captions_in_all_folders_have_the_names_of_their_images(tmp_path):
    """Trap T9: ostris/flux-dev-lora-trainer lost those in folders. Images that share a name keep their own captions."""
    captions = {"a.png": "TOK 1", "x/a.png": "TOK 2", "x/a.jpg": "TOK 3", "x/y.1.png": "TOK 4"}
    path = written(tiny_lora_transformer(), read(tmp_path, captions), tmp_path)
    expected = {"a.txt": "TOK 1", "x/a.png.txt": "TOK 2", "x/a.jpg.txt": "TOK 3", "x/y.1.txt": "TOK 4"}
    assert captions_in(path) == expected


def test_every_caption_is_in_the_tar_whatever_the_name_of_its_image(tmp_path):
    """Equal names, and a name that looks like the numbered name of another."""
    names = ["a.jpg-2.png", "a.jpg", "a.jpg", "a.jpg", "a.png", "con:1?.png"]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns about duplicate names
        for index, name in enumerate(names):
            archive.writestr(name, encoded(noisy_image(seed=index)))
    found = read_archive(write(tmp_path / "images.zip", file.getvalue()), into=tmp_path / "into")
    captions = captions_in(written(tiny_lora_transformer(), found.dataset, tmp_path))
    assert len(captions) == len(names)
    assert not any(character in name for name in captions for character in '<>:"|?*')


@pytest.mark.parametrize("name", ["../../a.png", "/a.png", "..\\a.png", "C:\\x\\..\\..\\a.png", f"{'x' * 300}/a.png"])
def test_no_name_of_an_archive_leads_out_of_the_tar(tmp_path, name):
    (name_in_tar,) = captions_in(written(tiny_lora_transformer(), read(tmp_path, {name: "TOK"}), tmp_path))
    assert not {"..", "/", "C:"} & set(PurePosixPath(name_in_tar).parts)
    assert all(len(part.encode()) <= 255 for part in PurePosixPath(name_in_tar).parts)


@pytest.mark.parametrize("trigger_word", ["TOK", "OTHER"])
def test_the_captions_in_a_tar_can_be_used_for_another_training(tmp_path, trigger_word):
    """All captions are unchanged, even if the images are in another folder by then."""
    captions = {"a.png": "TOK 1", "x/a.png": "TOK 2", "x/a.jpg": "TOK 3", "x/y.1.png": "TOK 4"}
    captions |= {"what?.png": "TOK 5", "a:b.png": "TOK 6", f"{'x' * 240}.png": "TOK 7"}
    tar = written(tiny_lora_transformer(), read(tmp_path, captions), tmp_path)
    moved = {f"elsewhere/{name}": encoded(noisy_image(seed=index)) for index, name in enumerate(captions)}
    again = read_archive(
        write(tmp_path / "moved.zip", zipped(moved)), into=tmp_path / "again", captions=tar, trigger_word=trigger_word
    )
    assert [image.caption.text for image in again.dataset.images] == list(captions.values())


def test_the_same_seed_gives_the_same_bytes(tmp_path, found):
    """Trap 50."""
    contents = []
    for index, seed in enumerate((1, 1, 2)):
        transformer = tiny_lora_transformer(seed=seed)
        trained(transformer, a_recipe(seed=seed))
        folder = tmp_path / str(index)
        folder.mkdir()
        contents.append(written(transformer, found, folder, seed=seed).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_a_valid_tar_passes_the_check(tmp_path, found):
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    check_tar(written(transformer, found, tmp_path), lora_tensors(transformer))


@pytest.mark.parametrize(("value", "fault"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (0, "zero")])
def test_a_lora_that_is_zero_or_not_finite_is_refused(tmp_path, found, value, fault):
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    name, parameter = next(iter(lora_parameters(transformer).items()))
    parameter.data.fill_(value)
    tar = written(transformer, found, tmp_path)
    with pytest.raises(RuntimeError, match=fault) as error:
        check_tar(tar, lora_tensors(transformer))
    assert name.replace(".default", "") in str(error.value)
    assert "learning_rate" in str(error.value)


def test_the_tar_holds_the_licence_of_the_base_and_how_the_training_went(tmp_path, found):
    with tarfile.open(written(tiny_lora_transformer(), found, tmp_path)) as tar:
        licence = tar.extractfile("output/flux_train_replicate/NOTICE").read().decode()
        report = json.loads(tar.extractfile("output/flux_train_replicate/report/training.json").read())
    assert "FLUX.1 [dev] Non-Commercial License" in licence
    assert (report["exported_step"], report["exported_why"], report["steps_skipped"]) == (3, "the last", 0)


def test_the_tar_has_the_samples(tmp_path, found):
    samples = tmp_path / "images"
    samples.mkdir()
    for name in ("step-000250-1.jpg", "step-000250-2.unfinished"):
        write(samples / name, encoded(noisy_image(), "JPEG"))
    with tarfile.open(written(tiny_lora_transformer(), found, tmp_path, samples=samples)) as tar:
        names = [name for name in tar.getnames() if "/samples/" in name]
    assert names == ["output/flux_train_replicate/samples/step-000250-1.jpg"]


def test_the_second_layout_is_in_a_zip_and_not_a_second_safetensors(tmp_path, found):
    """Trap 49: it has the same weight deltas as the first."""
    transformer = tiny_lora_transformer()
    randomize_lora(transformer)
    path = written(transformer, found, tmp_path, layout="kohya")
    check_tar(path, lora_tensors(transformer))
    with tarfile.open(path) as tar:
        assert [name for name in tar.getnames() if name.endswith(".safetensors")] == [LORA_NAME]
        inner = zipfile.ZipFile(io.BytesIO(tar.extractfile("output/flux_train_replicate/lora_kohya.zip").read()))
    (name,) = inner.namelist()
    assert load_tensors(inner.read(name)).keys() == kohya_tensors(lora_tensors(transformer), FLUX1).keys()


def test_a_full_disk_is_noticed_before_the_tar_is_written(tmp_path, found, monkeypatch):
    """Case B21: a truncated tar would be returned as if it were complete."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"trained_model\.tar does not fit on the disk"):
        written(tiny_lora_transformer(), found, tmp_path)
    assert not (tmp_path / "trained_model.tar").exists()
