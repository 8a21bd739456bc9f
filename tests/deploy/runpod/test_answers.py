"""An answer has no secret, no traceback and no path of the worker, and is no larger than RunPod takes."""

import pytest

from deploy.runpod.answers import Secrets, failure, is_on_gpu_failure, logged, refuse_too_large, writable_folder
from tests.tiny import assert_one_sentence

SECRETS = Secrets(("hf_secret", "key123"))


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ValueError("steps is 9: expected 10"), {"error": "steps is 9: expected 10"}),
        (ValueError("hf_secret and key123 are wrong"), {"error": "*** and *** are wrong"}),
        (FileNotFoundError(2, "No such file or directory", "/src/x"), {"error": "No such file or directory"}),
        (
            FileNotFoundError("model is krea: weights/krea is not installed"),
            {"error": "model is krea: weights/krea is not installed"},
        ),
        (RuntimeError("CUDA error: x\nCompile with TORCH_USE_CUDA_DSA\n  at /src/a.cu"), {"error": "CUDA error: x"}),
        (MemoryError(), {"error": "the worker failed (MemoryError): its log has more"}),
    ],
)
def test_an_error_is_answered_with_its_sentence(error, answer):
    assert failure(error, SECRETS) == answer


def test_an_error_that_nobody_expected_is_logged_and_stops_the_worker():
    try:
        {}["/src/hf_secret"]
    except KeyError as error:
        answer, log = failure(error, SECRETS), logged(error, SECRETS)
    assert answer["refresh_worker"]
    assert_one_sentence(answer["error"], "KeyError", "the log of the worker has the traceback")
    assert "/src" not in answer["error"]
    assert "Traceback" in log
    assert "hf_secret" not in log


def test_a_wrong_input_is_nothing_for_the_log():
    assert logged(ValueError("steps is 9"), SECRETS) == ""


def test_the_secrets_of_the_inputs_and_of_the_environment_are_hidden(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_own")
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_key_longer_than_rpa_key")
    secrets = Secrets.of(
        {"hf_token": "hf_given", "wandb_api_key": None, "civitai": "c"}, ["hf_token", "wandb_api_key", "civitai"]
    )
    text = "c hf_own, hf_given, rpa_key_longer_than_rpa_key."
    assert secrets.hidden_in(text) == "c ***, ***, ***."


@pytest.mark.parametrize(
    ("job", "size", "fits"), [("a-u1", 9, True), ("a-u1", 11, False), ("sync-a", 19, True), ("sync-a", 21, False)]
)
def test_images_that_runpod_would_not_take_are_refused_with_what_to_do(job, size, fits):
    images = ["x" * 1_000_000] * size
    if fits:
        refuse_too_large(images, job)
        return
    with pytest.raises(ValueError) as error:
        refuse_too_large(images, job)
    assert_one_sentence(
        error.value, f"the images take {size}.0 MB", "output_format webp or jpg, fewer num_outputs", "FLUX_IMAGES"
    )
    assert ("/runsync" in str(error.value)) == (job == "a-u1")


def test_a_gpu_failure_is_seen_behind_the_errors_that_it_caused():
    error = RuntimeError("the image could not be made")
    error.__cause__ = ZeroDivisionError()
    assert is_on_gpu_failure(error, (ZeroDivisionError,))
    assert not is_on_gpu_failure(error, (KeyError,))
    assert not is_on_gpu_failure(None, (KeyError,))


def test_a_folder_that_cannot_be_made_is_refused_with_its_setting(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError) as error:
        writable_folder("FLUX_IMAGES", tmp_path / "file" / "images")
    assert_one_sentence(error.value, "FLUX_IMAGES is ", "expected a folder of a volume (Not a directory)")
