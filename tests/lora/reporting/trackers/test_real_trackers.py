"""The real trackers: their own readers read back what was recorded, and servers that refuse end nothing."""

import base64
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lora.reporting.trackers import wandb_run
from lora.reporting.trackers.tensorboard_files import TensorBoardFiles
from lora.reporting.trackers.trackers import Trackers
from lora.reporting.trackers.trackio_run import TrackioRun
from lora.reporting.trackers.wandb_run import WandbRun, WandbTarget

KEY = "s3cret" * 7
SETTINGS = {"steps": 3, "trigger_word": "a|b\nc", "resolutions": (512, 768), "time_limit": None}
LOSSES = [0.5, 0.25, 0.125]


def record(name, tracker, tmp_path):
    """Record a training of three steps with an image, and return what is reported about the tracker."""
    Image.new("RGB", (32, 16), "red").save(tmp_path / "sample.jpg")
    lines, trackers = [], Trackers({name: tracker})
    with trackers.recording(SETTINGS, lines.append):
        for step, loss in enumerate(LOSSES, 1):
            trackers.numbers(step, {"loss": loss, "learning_rate": 4e-4})
        trackers.image(3, "samples/a TOK", tmp_path / "sample.jpg")
    return lines


def test_tensorboard_reads_back_what_was_recorded(tmp_path):
    assert record("tensorboard", TensorBoardFiles(tmp_path / "files"), tmp_path) == []
    events = EventAccumulator(str(tmp_path / "files"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == list(enumerate(LOSSES, 1))
    (image,) = events.Images("samples/a TOK")
    assert (image.step, image.width, image.height) == (3, 32, 16)
    assert image.encoded_image_string == (tmp_path / "sample.jpg").read_bytes()
    (text,) = events.Tensors("settings")
    assert "| trigger_word | a\\|b c |" in text.tensor_proto.string_val[0].decode()


def test_trackio_has_the_numbers_in_its_local_database(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    assert record("trackio", TrackioRun("flux-lora-test", "run"), tmp_path) == []
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select metrics from metrics where run_name = 'run' order by step").fetchall()
    assert [numbers["loss"] for (row,) in rows if "loss" in (numbers := json.loads(row))] == LOSSES


def test_weights_and_biases_records_offline_without_the_key_the_console_or_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    assert record("wandb", WandbRun(WandbTarget(KEY, "project", None, "run")), tmp_path) == []
    (file,) = (tmp_path / "runs").glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"trigger_word" in content
    assert KEY.encode() not in content
    others = b"".join(each.read_bytes() for each in (tmp_path / "runs").rglob("*") if each.is_file())
    assert KEY.encode() not in others
    assert not list((tmp_path / "runs").rglob("requirements.txt"))


def test_a_training_is_a_run_of_its_own_even_if_the_one_before_was_never_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    cancelled = WandbRun(WandbTarget(KEY, "theirs", None, "cancelled"))
    cancelled.start(SETTINGS)
    assert record("wandb", WandbRun(WandbTarget(None, "ours", None, "next")), tmp_path) == []
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 2


def test_a_training_without_a_key_is_not_recorded_with_the_key_of_the_one_before(tmp_path, monkeypatch):
    keys: list[str] = []
    monkeypatch.setattr(wandb_run, "SECONDS_TO_CONNECT", 1.0)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0wn" * 14)
    with a_server_that_answers(401, keys=keys) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        for key in (KEY, None):
            keys.clear()
            record("wandb", WandbRun(WandbTarget(key, "project", None, None)), tmp_path)
            assert set(keys) == {key or "0wn" * 14}


@contextmanager
def a_server_that_answers(status: int, *, keys: list[str] | None = None) -> Iterator[str]:
    """A server on loopback that answers every request with this status, and collects the keys of the requests."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
            if keys is not None and scheme == "Basic":
                keys.append(base64.b64decode(encoded).decode().removeprefix("api:"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"errors": [{"message": "permission denied"}]}')

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@pytest.mark.parametrize("status", [401, None], ids=["refuses the key", "cannot be reached"])
def test_a_server_of_weights_and_biases_that_refuses_costs_one_line(tmp_path, monkeypatch, status):
    monkeypatch.setattr(wandb_run, "SECONDS_TO_CONNECT", 1.0)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with a_server_that_answers(status or 200) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url if status else "http://127.0.0.1:9")
        (line,) = record("wandb", WandbRun(WandbTarget(KEY, "project", None, None)), tmp_path)
    assert line.startswith("wandb: it failed (RuntimeError: ")
    assert KEY not in line
