"""The predictor in this process, where no schema has checked the inputs and its internal state is visible."""

import hashlib
import io
import json
import tempfile

import numpy as np
import pytest
import torch
from cog import Path, Secret
from PIL import Image
from safetensors.torch import save_file

import weights.bases
from lora.images.metadata import settings_in
from lora.serving.inputs import complete_inputs
from predict import Runner
from tests.families import KLEIN
from tests.tiny import (
    TINY_FLUX,
    assert_one_sentence,
    encoded,
    linked_base,
    noisy_image,
    random_lora,
    tiny_pipeline,
    tiny_transformer,
    without_gpu,
    without_network,
    write,
)

# A small image.
SMALL_REQUEST = {
    "prompt": "a red star",
    "aspect_ratio": "custom",
    "width": 64,
    "height": 64,
    "num_inference_steps": 1,
    "seed": 7,
    "output_format": "png",
}


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory):
    """The predictor creates a temporary folder for itself, and keeps it until the process ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
        patch.setenv("FLUX_BASE", "tiny")
        patch.setenv("FLUX_SAFETY", "off")
        patch.delenv("FLUX_GPU", raising=False)
        yield


@pytest.fixture(scope="module")
def runner(temporary):  # noqa: ARG001 (the fixture must run first)
    runner = Runner()
    runner.setup()
    return runner


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    save_file(random_lora(tiny_pipeline().transformer, spread=0.1), path)
    return path


def generated(runner, **inputs):
    return runner.run(**SMALL_REQUEST | inputs)


def pixels(file):
    return Image.open(file).tobytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("disable_safety_checker", "false"),
        ("model", 5),
        ("hf_api_token", 5),
        ("civitai_api_token", Secret(["s3cret"])),
        ("loras", 5),
        ("lora_scale", "x"),
        ("image", 5),
        ("reference_images", "a.png"),
        ("reference_images", [5]),
        ("reference_images", [" ", "data:image/png;base64,aGk="]),
        ("images", ["/etc/passwd"]),
    ],
)
def test_an_input_of_another_type_is_refused_with_its_name(runner, name, value):
    with pytest.raises(ValueError) as error:
        generated(runner, **{name: value})
    item = "[0]" if name.endswith("images") and isinstance(value, list) else ""
    assert_one_sentence(error.value, f"{name}{item} is ", "expected")
    assert "s3cret" not in str(error.value)


def test_plain_python_needs_no_setup_and_no_other_input_than_a_prompt(runner, tmp_path, monkeypatch):
    """The defaults are those of the signature, which Cog's server passes itself."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (path,) = Runner().run(prompt="a red star", seed=7)
    image, settings = path.read_bytes(), settings_in(path)
    (expected,) = runner.generate({"prompt": "a red star", "seed": 7, "num_outputs": 1, "lora_scale": 1.0, "loras": []})
    assert path.suffix == ".webp"
    assert image == expected.read_bytes()
    assert settings["num_inference_steps"] == 28


def test_null_leaves_an_input_open(runner):
    """Some clients send null for each input that was not filled in."""
    left_open = dict.fromkeys(complete_inputs({}, entry=Runner.run))
    (expected,) = generated(runner)
    expected_bytes = expected.read_bytes()
    (path,) = runner.generate(left_open | SMALL_REQUEST)
    assert path.read_bytes() == expected_bytes


@pytest.mark.parametrize("name", ["image", "mask", "prompt", "lora_weights", "loras", "reference_images"])
def test_a_nul_character_is_refused_with_its_inputs_name(runner, name):
    with pytest.raises(ValueError) as error:
        generated(runner, **{name: ["a\0b"] if name in ("loras", "reference_images") else "a\0b"})
    assert_one_sentence(error.value, name, "has a NUL character", "expected")


@pytest.mark.parametrize(
    ("inputs", "fragments"),
    [
        ({"promt": "a red star"}, ["promt is not an input", "expected prompt"]),
        ({"prompt": "a red star", "x": 1}, ["x is not an input", "expected one of prompt, negative_prompt, image"]),
        ({}, ["prompt is None", "expected text"]),
    ],
)
def test_a_mapping_with_an_unknown_input_or_without_a_prompt_is_refused(runner, inputs, fragments):
    with pytest.raises(ValueError) as error:
        runner.generate(inputs)
    assert_one_sentence(error.value, *fragments)


def test_the_log_contains_the_seed_of_every_image(runner, capsys):
    generated(runner, num_outputs=2, seed=2**31 - 1)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("settings: ")]
    assert json.loads(line.removeprefix("settings: "))["seeds"] == [2**31 - 1, 0]


def test_the_log_says_how_a_lora_was_read_in_every_request(runner, tmp_path, capsys):
    """A lone file of PEFT has no alpha."""
    tensors = random_lora(tiny_pipeline().transformer)
    save_file(
        {name.replace("transformer.", "base_model.model.", 1): each for name, each in tensors.items()},
        tmp_path / "adapter_model.safetensors",
    )
    for _ in range(2):
        generated(runner, lora_weights=str(tmp_path))
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "alpha is not known" in line]
        assert line.startswith(f"lora_weights {str(tmp_path)!r} was saved by PEFT without its adapter_config.json")


def test_another_base_is_loaded_when_it_is_requested_and_both_stay_loaded(runner, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights.bases, "WEIGHTS", tmp_path)
    monkeypatch.setenv("FLUX_GPU", "optional")
    linked_base(tmp_path / "krea")
    first, other, again = (generated(runner, model=model)[0].read_bytes() for model in (None, "krea", None))
    assert first == again
    assert other != first, "the base's name is in the file"
    (path,) = generated(runner, model="krea")
    assert settings_in(path)["model"] == "krea"
    loaded = [runner.models.model(folder) for folder in (TINY_FLUX, tmp_path / "krea")]
    assert loaded[0] is not loaded[1]
    assert capsys.readouterr().out.count("settings: ") == 4


@pytest.fixture
def kleins(tmp_path, monkeypatch):
    """The two kinds of FLUX.2 [klein] as installed bases of the server, whose own base is a FLUX.1."""
    monkeypatch.setattr(weights.bases, "WEIGHTS", tmp_path)
    monkeypatch.setenv("FLUX_GPU", "optional")
    KLEIN.linked(tmp_path / "klein")
    KLEIN.changed(tmp_path / "klein-distilled", "model_index.json", is_distilled=True)
    return tmp_path


def log_of(capsys):
    """The notes and the settings in the log of one request."""
    lines = capsys.readouterr().out.splitlines()
    (settings,) = (json.loads(line.removeprefix("settings: ")) for line in lines if line.startswith("settings: "))
    return [line for line in lines if line.startswith("note: ")], settings


def test_a_server_has_bases_of_two_families_each_with_its_own_loras(runner, kleins, lora, tmp_path):
    of_klein = tmp_path / "klein.safetensors"
    save_file(random_lora(runner.models.model(kleins / "klein").pipeline.transformer, spread=0.1), of_klein)
    own, klein = {"lora_weights": str(lora)}, {"lora_weights": str(of_klein), "model": "klein"}
    first = [generated(runner, **given)[0].read_bytes() for given in (own, klein)]
    for given, family in ((own | {"model": "klein"}, "FLUX.1"), (klein | {"model": None}, "FLUX.2")):
        with pytest.raises(ValueError) as error:
            generated(runner, **given)
        assert_one_sentence(error.value, "lora_weights", Path(given["lora_weights"]).name, f"it was made for {family}")
    assert [generated(runner, **given)[0].read_bytes() for given in (own, klein)] == first
    at_zero, bare = (
        generated(runner, **given)[0].read_bytes() for given in (klein | {"lora_scale": 0}, {"model": "klein"})
    )
    assert at_zero == bare != first[1]


def test_a_negative_prompt_changes_an_image_of_klein_and_is_in_its_settings(runner, kleins, capsys):  # noqa: ARG001
    capsys.readouterr()
    found = []
    for text in ("a blue heart", "", None):
        (path,) = generated(runner, model="klein", negative_prompt=text)
        found.append((pixels(path), settings_in(path)))
    (led_away, settings), plain, left_open = found
    assert led_away != plain[0]
    assert settings["negative_prompt"] == "a blue heart"
    assert plain == left_open
    assert plain[1].keys() == settings.keys() - {"negative_prompt"}
    assert plain[1]["guidance_scale"] == 4
    assert "note: " not in capsys.readouterr().out


def test_distilled_klein_takes_four_steps_and_notes_what_it_ignores(runner, kleins, capsys):  # noqa: ARG001
    capsys.readouterr()
    (path,) = generated(runner, model="klein-distilled", num_inference_steps=None)
    plain = path.read_bytes()
    notes, settings = log_of(capsys)
    assert (notes, settings["num_inference_steps"], settings["guidance_scale"]) == ([], 4, 1)
    ignored = {"negative_prompt": "a blue heart", "guidance_scale": 4}
    (path,) = generated(runner, model="klein-distilled", num_inference_steps=None, **ignored)
    notes, _ = log_of(capsys)
    assert [note.split(" is ignored")[0] for note in notes] == ["note: guidance_scale 4", "note: negative_prompt"]
    assert pixels(path) == pixels(io.BytesIO(plain))


@pytest.fixture
def references(runner):
    """Two uploads, of which no size is a multiple of 16; the files of a request are deleted with the next one."""

    def upload():
        contents = [encoded(noisy_image(*size, seed=seed)) for seed, size in enumerate([(70, 114), (100, 64)])]
        return [Path(write(runner.files / f"{index}.png", content)) for index, content in enumerate(contents)]

    return upload


def test_reference_images_are_those_of_the_stock_pipeline_and_end_with_their_request(
    runner, kleins, references, capsys
):
    open_shape = {"model": "klein", "aspect_ratio": None, "width": None, "height": None}
    (path,) = generated(runner, model="klein")
    before = pixels(path)
    capsys.readouterr()
    found = []
    for name in ("reference_images", "images"):
        (path,) = generated(runner, **open_shape, **{name: references()})
        notes, settings = log_of(capsys)
        assert notes == []
        assert settings_in(path) == {key: value for key, value in (settings | {"seed": 7}).items() if key != "seeds"}
        found.append((pixels(path), settings))
    assert found[0] == found[1]
    files = references()
    assert settings["reference_images"] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert (settings["aspect_ratio"], settings["width"], settings["height"]) == ("match_input_image", 64, 112)
    pipeline = runner.models.model(kleins / "klein").pipeline
    stock = pipeline(
        image=[Image.open(file) for file in files],
        prompt=SMALL_REQUEST["prompt"],
        max_sequence_length=KLEIN.family.text.length(pipeline),
        width=settings["width"],
        height=settings["height"],
        num_inference_steps=1,
        guidance_scale=settings["guidance_scale"],
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert found[0][0] == stock.tobytes()
    (path,) = generated(runner, model="klein")
    assert pixels(path) == before


def test_an_image_has_the_shape_of_the_first_reference_unless_another_is_asked_for(runner, kleins, references):  # noqa: ARG001
    shapes = {
        (64, 112): [{}, {"aspect_ratio": "match_input_image"}],
        (128, 128): [{"aspect_ratio": "1:1"}],
        (48, 80): [{"megapixels": "0.25"}],
        (96, 64): [{"aspect_ratio": "custom", "width": 96, "height": 64}, {"image": (96, 64)}],
    }
    for size, given in ((size, given) for size, several in shapes.items() for given in several):
        inputs = {"aspect_ratio": None, "width": None, "height": None, "reference_images": references()} | given
        if "image" in given:
            inputs["image"] = Path(write(runner.files / "image.png", encoded(noisy_image(*given["image"]))))
        (path,) = generated(runner, model="klein-distilled", **inputs)
        assert Image.open(path).size == size, given


def test_go_fast_takes_reference_images(runner, kleins, references):  # noqa: ARG001
    plain, fast, alone = (
        np.asarray(Image.open(generated(runner, model="klein-distilled", **each)[0]), dtype=int)
        for each in ({"reference_images": references()}, {"reference_images": references(), "go_fast": True}, {})
    )
    assert 0 < np.abs(fast - plain).mean() < np.abs(plain - alone).mean() / 2


def test_a_base_that_takes_no_reference_images_refuses_them_and_names_those_that_do(runner, references):
    with pytest.raises(ValueError) as error:
        generated(runner, images=references())
    assert_one_sentence(error.value, "images needs a base that takes reference images, and tiny takes none")
    assert str(error.value).endswith("expected klein, klein-9b, klein-distilled")


@without_gpu
def test_a_request_of_a_published_base_is_refused_without_a_gpu(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.bases, "WEIGHTS", tmp_path)
    linked_base(tmp_path / "schnell")
    with pytest.raises(ValueError) as error:
        generated(runner, model="schnell")
    assert_one_sentence(error.value, "the base schnell needs a GPU", "set FLUX_GPU=optional")


@without_gpu
def test_a_published_base_is_not_served_without_a_gpu_and_nothing_is_downloaded(tmp_path, monkeypatch):
    """The base is there, and the safety checker is required but not there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(weights.bases, "WEIGHTS", tmp_path)
    monkeypatch.setenv("FLUX_BASE", "dev")
    monkeypatch.setenv("FLUX_SAFETY", "required")
    linked_base(tmp_path / "dev")
    with without_network() as asked, pytest.raises(ValueError) as error:
        Runner().setup()
    assert_one_sentence(error.value, "the base dev needs a GPU", "set FLUX_GPU=optional")
    assert asked == []


def test_the_setup_without_weights_says_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    """tests/test_server_predict.py shows such a sentence of the setup in the real server."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(weights.bases, "WEIGHTS", tmp_path)
    monkeypatch.setenv("FLUX_BASE", "dev")
    monkeypatch.setenv("FLUX_GPU", "optional")  # else it fails for want of a GPU first
    with pytest.raises(FileNotFoundError) as error:
        Runner().setup()
    assert_one_sentence(error.value, f"no model_index.json in {tmp_path / 'dev'}", "script/download dev")


def test_the_health_check_fails_once_a_base_was_not_restored(lora, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # each predictor creates its own
    runner = Runner()
    runner.setup()
    generated(runner, lora_weights=str(lora))
    assert runner.healthcheck()
    original = next(iter(runner.models.model(TINY_FLUX)._merger._originals.values()))  # no public call changes it
    original.weight[0, 0] += 1
    generated(runner)
    assert not runner.healthcheck()


def test_a_trained_version_with_a_lora_that_is_incompatible_with_the_base_fails_in_its_setup(tmp_path, monkeypatch):
    """D46."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    save_file(random_lora(tiny_transformer()), tmp_path / "lora.safetensors")
    with pytest.raises(ValueError) as error:
        Runner().setup(Path(tmp_path / "lora.safetensors"))
    assert_one_sentence(error.value, "COG_WEIGHTS", "is incompatible with this model")


def test_the_lora_of_a_deployment_is_read_with_the_token_of_that_deployment(tmp_path, monkeypatch):
    """A LoRA that was published from a training is private by default. A request must bring a token of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_own")

    class Asking(Runner):
        def _load_lora(self, requested, _base, tokens):
            raise ValueError(f"{requested.reference} {tokens.hugging_face}")

    with pytest.raises(ValueError, match=r"^hf:me/my-lora hf_own$"):
        Asking().setup("hf:me/my-lora")
