"""A worker that trains needs a volume, and says why a training failed. test_handler.py trains with one."""

import tarfile

import pytest

from deploy.runpod.inputs import Form
from deploy.runpod.jobs import CancelledError, Job
from deploy.runpod.training import TrainingWorker, throttled
from script.cog_server import ROOT
from tests.tiny import assert_one_sentence, write

FORM = Form.of((ROOT / "train.py", "train"), other=(ROOT / "predict.py", "Runner.run"), advice="it trains")


def test_without_a_volume_a_worker_does_not_start(monkeypatch, tmp_path):
    monkeypatch.delenv("FLUX_VOLUME", raising=False)
    with pytest.raises(ValueError) as error:
        TrainingWorker.started(FORM)
    assert_one_sentence(error.value, "no network volume is mounted at /runpod-volume", "expected one", "FLUX_VOLUME")
    monkeypatch.setenv("FLUX_VOLUME", str(write(tmp_path / "file", b"")))
    with pytest.raises(ValueError) as error:
        TrainingWorker.started(FORM)
    assert_one_sentence(error.value, "FLUX_VOLUME is ", "expected a folder of a volume (File exists)")
    monkeypatch.setenv("FLUX_VOLUME", str(tmp_path))
    assert TrainingWorker.started(FORM).volume == tmp_path


@pytest.mark.parametrize(
    ("inputs", "fragment"),
    [
        ({"steps": 6001}, "steps is 6001: expected 0 to 6000"),
        ({"input_images": "data:application/zip;base64,%"}, "input_images is a damaged data URI"),
        ({"input_images": "http://example.com/photos.zip"}, "input_images leads to http://example.com: expected https"),
    ],
)
def test_a_wrong_input_is_refused_before_a_process_is_started(tmp_path, inputs, fragment):
    with pytest.raises(ValueError) as error:
        TrainingWorker(FORM, tmp_path).answer(Job("a", inputs, print))
    assert_one_sentence(error.value, fragment, "expected")


def test_a_job_that_was_cancelled_before_its_training_starts_is_not_trained(tmp_path):
    job = Job("a", {}, print)
    job.cancel()
    with pytest.raises(CancelledError):
        TrainingWorker(FORM, tmp_path).answer(job)


def test_the_log_says_that_a_job_is_answered_with_what_it_trained_before(tmp_path, capsys):
    """RunPod's test mode gives all its jobs one id."""
    tar = tmp_path / "loras/local_test/trained_model.tar"
    tar.parent.mkdir(parents=True)
    tarfile.open(tar, "w").close()
    assert TrainingWorker(FORM, tmp_path).answer(Job("local_test", {}, print)) == {"weights": str(tar)}
    assert capsys.readouterr().out == (
        f"the job local_test was trained before: {tar} is returned, and nothing is trained\n"
    )


@pytest.mark.parametrize(
    ("program", "fragment"),
    [
        (
            "import sys; print('step 1/9  loss 1'); sys.exit('error: steps is 9: expected 10 for hf_secret')",
            "steps is 9: expected 10 for ***",
        ),
        ("import os; os.kill(os.getpid(), 15)", "the training was stopped before its first step had ended: the same"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "the training was killed, as when the system runs out of memory: the same",
        ),
        ("1/0", "the training ended with exit code 1, and the log of the worker says why: the same inputs"),
    ],
)
def test_a_failed_training_says_why(tmp_path, monkeypatch, program, fragment):
    """With a program in place of the process that trains."""
    (tmp_path / "deploy/runpod").mkdir(parents=True)
    write(tmp_path / "deploy/runpod/training_process.py", program.encode())
    monkeypatch.setattr("deploy.runpod.training.ROOT", tmp_path)
    reports = []
    with pytest.raises(RuntimeError) as error:
        TrainingWorker(FORM, tmp_path / "volume").answer(Job("a", {"hf_token": "hf_secret"}, reports.append))
    assert_one_sentence(error.value, fragment)
    assert reports == (["step 1/9  loss 1"] if "steps" in fragment else [])


def test_of_many_reports_one_in_a_while_is_sent():
    sent = []
    report = throttled(sent.append, seconds=3600)
    for number in range(3):
        report(f"step {number}")
    assert sent == ["step 0"]
