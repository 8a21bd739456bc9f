"""A worker that generates: the real predictor on the embedded base, in this process."""

import base64
import io
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import weights.bases
from deploy.runpod.generating import GeneratingWorker
from deploy.runpod.inputs import Form
from deploy.runpod.jobs import CancelledError, Job
from lora.images.metadata import settings_in
from script.cog_server import ROOT
from tests.deploy.runpod.worker_process import SMALL
from tests.families import KLEIN
from tests.tiny import assert_one_sentence, encoded, noisy_image, random_lora, tiny_pipeline, tiny_transformer, write


@pytest.fixture(scope="module")
def form():
    return Form.of((ROOT / "predict.py", "Runner.run"), other=(ROOT / "train.py", "train"), advice="it generates")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """The folder of a volume, with a LoRA that changes every image."""
    folder = tmp_path_factory.mktemp("volume")
    save_file(random_lora(tiny_pipeline().transformer, spread=0.1), folder / "lora.safetensors")
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory, volume):
    """The settings of an endpoint whose cold start reads a LoRA from its volume."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
        patch.setenv("FLUX_BASE", "tiny")
        patch.setenv("FLUX_SAFETY", "off")
        patch.setenv("FLUX_LORA_FILES", str(volume))
        patch.setenv("LORA", str(volume / "lora.safetensors"))
        yield patch


@pytest.fixture(scope="module")
def worker(form, settings):  # noqa: ARG001 (the settings must be there first)
    return GeneratingWorker.started(form)


def answer(worker, *, report=lambda _text: None, job_id="job-u1", **inputs):
    return worker.answer(Job(job_id, SMALL | inputs, report))


def pixels(uri):
    header, _, content = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    image.load()
    return header, image


def test_the_answer_has_the_images_as_data_uris_and_their_seeds(worker):
    found = answer(worker, num_outputs=2, output_format="jpg")
    assert found.keys() == {"images", "seeds"}
    assert found["seeds"] == [7, 8]
    for header, image in map(pixels, found["images"]):
        assert (header, image.format, image.size) == ("data:image/jpeg;base64", "JPEG", (64, 64))


def test_the_lora_of_the_cold_start_is_applied_at_the_strength_that_a_job_asks_for(worker, volume):
    with_lora, without = answer(worker)["images"], answer(worker, lora_scale=0)["images"]
    assert with_lora != without
    named = answer(worker, lora_weights=str(volume / "lora.safetensors"), output_format="png")["images"]
    assert pixels(named[0])[1].tobytes() == pixels(answer(worker, output_format="png")["images"][0])[1].tobytes()


def test_a_worker_for_klein_has_its_defaults_and_takes_a_negative_prompt_and_its_own_loras(
    form, settings, volume, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # each predictor creates its own
    transformer = KLEIN.family.components.transformer.from_pretrained(KLEIN.folder / "transformer")
    save_file(random_lora(transformer, spread=0.1), volume / "klein.safetensors")
    with settings.context() as patch:
        patch.setenv("FLUX_BASE", "tiny-flux2")
        patch.setenv("LORA", str(volume / "klein.safetensors"))
        worker = GeneratingWorker.started(form)
    images = {
        name: answer(worker, output_format="png", **inputs)["images"][0]
        for name, inputs in (("lora", {}), ("bare", {"lora_scale": 0}), ("led away", {"negative_prompt": "a heart"}))
    }
    assert len({pixels(uri)[1].tobytes() for uri in images.values()}) == 3
    (uri,) = answer(worker, output_format="png", num_inference_steps=None)["images"]
    made = settings_in(write(tmp_path / "image.png", base64.b64decode(uri.partition(",")[2])))
    assert (made["num_inference_steps"], made["guidance_scale"], made["model"]) == (50, 4, "tiny-flux2")
    with pytest.raises(ValueError) as error:
        answer(worker, lora_weights=str(volume / "lora.safetensors"))
    assert_one_sentence(error.value, "lora_weights", "it was made for FLUX.1")


def test_progress_is_reported_but_for_the_last_step(worker, monkeypatch):
    monkeypatch.setattr("lora.serving.progress.SECONDS_BETWEEN_LINES", 0)
    reports = []
    answer(worker, report=reports.append, num_inference_steps=3)
    assert reports == ["1 of 3 steps", "2 of 3 steps"]


def test_a_cancelled_job_ends_after_the_step_that_it_is_in_and_the_next_one_is_right(worker, monkeypatch):
    monkeypatch.setattr("lora.serving.progress.SECONDS_BETWEEN_LINES", 0)
    expected = answer(worker)["images"]
    reports = []
    job = Job("job-u1", SMALL | {"num_inference_steps": 50}, lambda text: (reports.append(text), job.cancel()))
    with pytest.raises(CancelledError):
        worker.answer(job)
    assert reports == ["1 of 50 steps"]
    assert answer(worker)["images"] == expected


@pytest.mark.parametrize("where", ["uri", "volume"])
def test_an_image_comes_as_a_data_uri_or_lies_on_the_volume(worker, volume, where):
    content = encoded(noisy_image(64, 64, seed=1))
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    path = write(volume / "image.png", content)
    (found,) = answer(worker, image=uri if where == "uri" else str(path), prompt_strength=0, output_format="png")[
        "images"
    ]
    assert pixels(found)[1].tobytes() == Image.open(path).convert("RGB").tobytes()
    assert path.is_file()


def test_reference_images_come_in_a_list_in_either_form(worker, volume, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.bases, "WEIGHTS", tmp_path)
    monkeypatch.setenv("FLUX_GPU", "optional")
    monkeypatch.setattr(worker.runner, "trained_lora", None)  # which is for a FLUX.1
    monkeypatch.setattr(worker.runner, "trained_reference", "")
    KLEIN.linked(tmp_path / "klein-distilled")
    contents = [encoded(noisy_image(64, 80, seed=seed)) for seed in (1, 2)]
    uris = [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in contents]
    paths = [str(write(volume / f"{index}.png", content)) for index, content in enumerate(contents)]
    lists = {"mixed": [uris[0], " ", paths[1]], "uris": uris, "turned": uris[::-1], "none": []}
    settings = {"model": "klein-distilled", "output_format": "png"}
    found = {
        name: pixels(answer(worker, reference_images=given, **settings)["images"][0])[1].tobytes()
        for name, given in lists.items()
    }
    assert found["mixed"] == found["uris"]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("inputs", "fragments"),
    [
        (
            {"reference_images": ["/etc/passwd"]},
            ["reference_images[0] is the path '/etc/passwd', outside of the folders"],
        ),
        ({"reference_images": "/etc/passwd"}, ["reference_images is '/etc/passwd': expected a list"]),
        ({"num_outputs": 9}, ["num_outputs is 9: expected 1 to 4"]),
        ({"image": "/etc/passwd"}, ["image is the path '/etc/passwd', outside of the folders"]),
        ({"lora_weights": "/etc/passwd"}, ["lora_weights '/etc/passwd'"]),
        ({"lora_weights": "/proc/self/environ"}, ["lora_weights '/proc/self/environ'"]),
        ({"prompt": "a\0b"}, ["prompt has a NUL character"]),
        ({"prompt": "a \ud83d"}, ["prompt has half of a character", "at position 2"]),
    ],
)
def test_a_wrong_input_is_refused_in_one_sentence(worker, inputs, fragments):
    with pytest.raises(ValueError) as error:
        answer(worker, **inputs)
    assert_one_sentence(error.value, *fragments, "expected")


def test_a_missing_image_of_the_volume_is_refused(worker, volume):
    with pytest.raises(ValueError) as error:
        answer(worker, image=str(volume / "nothing.png"))
    assert_one_sentence(error.value, "nothing.png'", "there is no file", "expected")


def test_an_image_in_base64_without_the_start_of_a_data_uri_is_refused_with_what_is_expected(worker):
    with pytest.raises(ValueError) as error:
        answer(worker, image=base64.b64encode(encoded(noisy_image(64, 64, seed=1))).decode())
    assert_one_sentence(error.value, "image is 'iVBOR", "expected an https:// URL, a data URI or a file")


def test_images_are_kept_on_the_volume_if_the_endpoint_says_so(form, worker, volume):
    keeping = GeneratingWorker(form, worker.runner, volume / "images")
    (path,) = answer(keeping, job_id="job/../1")["images"]
    assert Path(path).parent == volume / "images/job-1"
    assert Image.open(path).size == (64, 64)


def test_a_lora_of_the_cold_start_that_cannot_be_used_ends_the_start_in_one_sentence(
    form, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # each predictor creates its own
    save_file(random_lora(tiny_transformer()), tmp_path / "other.safetensors")
    with settings.context() as patch:
        patch.setenv("LORA", str(tmp_path / "other.safetensors"))
        with pytest.raises(ValueError) as error:
            GeneratingWorker.started(form)
        assert_one_sentence(error.value, "LORA '", "is incompatible with this model")
        patch.setenv("LORA", str(tmp_path / "nothing.safetensors"))
        with pytest.raises(ValueError) as error:
            GeneratingWorker.started(form)
        assert_one_sentence(error.value, "LORA '", "does not exist")
        patch.setenv("LORA", "https://me:secret@example.invalid/lora.safetensors")
        with pytest.raises(ValueError) as error:
            GeneratingWorker.started(form)
        assert_one_sentence(error.value, "LORA 'https://...@example.invalid/", "pass tokens in HF_TOKEN or")


def test_a_worker_whose_gpu_failed_or_whose_base_was_not_restored_must_restart(worker):
    """The last test, as it damages the base."""
    assert not worker.must_restart(ValueError("steps is 9"))
    assert not worker.must_restart(torch.OutOfMemoryError("too large"))
    assert worker.must_restart(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    answer(worker)
    model = worker.runner.models.model(worker.runner.base.path)
    original = next(iter(model._merger._originals.values()))  # no public call changes it
    original.weight[0, 0] += 1
    found = answer(worker, lora_scale=0)
    assert found["refresh_worker"]
    assert found["images"]
