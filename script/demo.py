"""See a LoRA being learned and worn: the real Cog server trains on the bundled zip, then draws at three strengths."""

import argparse
import base64
import io
import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from script.cog_server import DIRECT, SECONDS_BETWEEN_LOOKS, running_server
from script.contact_sheet import Row, contact_sheet
from script.tiny_flux.monster import ARCHIVE

BASE = "tiny"
TRAINING = {
    "trigger_word": "TOK",
    "steps": 360,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "resolution": "128",
    "lora_rank": 16,
    "caption_dropout_rate": 0.05,
    "seed": 42,
}
PROMPTS = ("TOK in a meadow", "TOK under the night sky", "a blue star in the desert")
SCALES = (0.0, 0.5, 1.0)
DRAWING = {"num_outputs": 2, "num_inference_steps": 20, "seed": 100, "output_format": "png"}

BUSY, SECONDS_TO_BE_FREE = 409, 10


def main() -> None:
    """Train, draw, write the contact sheet and say where it is."""
    parser = argparse.ArgumentParser(prog="script/demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo.png"), help="where to write the picture")
    output: Path = parser.parse_args().output
    started = time.monotonic()
    tar = _train(ARCHIVE.read_bytes())
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        lora = Path(folder) / "trained_model.tar"
        lora.write_bytes(tar)
        rows = _draw(lora)
    title = "Taught in this demo: TOK, from these pictures"
    contact_sheet(_training_images(), rows, title=title).save(output)
    print(f"\nDone in {time.monotonic() - started:.0f} s. See {output}")


def _train(archive: bytes) -> bytes:
    """The bytes of the tar that the training server gives for an archive."""
    print(f"Starting the Cog server in train mode on the embedded base ({BASE}) ...")
    with running_server("train", base=BASE) as server, _log_receiver() as webhook:
        uri = f"data:application/zip;base64,{base64.b64encode(archive).decode()}"
        body = {"input": {"input_images": uri, **TRAINING}, "webhook": webhook, "webhook_events_filter": ["logs"]}
        result = _post(f"{server.url}/trainings", body)
    return _decoded(result["output"]["weights"])


def _draw(lora: Path) -> list[Row]:
    """Each prompt at each strength with the same seeds."""
    print("\nStarting the Cog server in predict mode ...")
    with running_server("predict", base=BASE) as server:
        return [
            Row(prompt, {scale: _images(server.url, prompt, lora, scale) for scale in SCALES}) for prompt in PROMPTS
        ]


def _images(url: str, prompt: str, lora: Path, scale: float) -> list[Image.Image]:
    print(f"  {prompt!r} at lora_scale {scale:g}")
    request = {"prompt": prompt, "lora_weights": str(lora), "lora_scale": scale, **DRAWING}
    result = _post(f"{url}/predictions", {"input": request})
    return [Image.open(io.BytesIO(_decoded(uri))) for uri in result["output"]]


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """What Cog answers; raises RuntimeError with its reason if the job failed."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    result = _answer(request)
    if result["status"] != "succeeded":
        raise RuntimeError(f"the job {result['status']}: {result.get('error')}")
    return result


def _answer(request: urllib.request.Request) -> dict[str, Any]:
    """Cog at times still says that it is busy, right after a job has ended."""
    deadline = time.monotonic() + SECONDS_TO_BE_FREE
    while True:
        try:
            with DIRECT.open(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code != BUSY or time.monotonic() > deadline:
                raise
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def _training_images() -> list[Image.Image]:
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        return [Image.open(io.BytesIO(archive.read(name))) for name in names]


@contextmanager
def _log_receiver() -> Iterator[str]:
    """The URL of a webhook on loopback that prints the log lines of a job as they come."""
    shown = ShownLog()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Cog sends the whole log each time."""
            shown.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))).get("logs") or "")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not a word of its own."""

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{receiver.server_port}"
    receiver.shutdown()


class ShownLog:
    """Prints what is new of a log that arrives whole, again and again, at times out of order."""

    def __init__(self) -> None:
        self._length, self._lock = 0, threading.Lock()

    def update(self, log: str) -> None:
        """Print the lines that were not there before."""
        with self._lock:
            complete = log[: log.rfind("\n") + 1]
            print(complete[self._length :], end="", flush=True)
            self._length = max(self._length, len(complete))


if __name__ == "__main__":
    main()
