"""Train a LoRA on the bundled images, which a captioner describes, and generate with it at three scales, through real
Cog servers."""

import argparse
import base64
import io
import json
import os
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from lora.images.products import png_mark
from lora.training.result.output import FOLDER
from script.cog_server import DIRECT, SECONDS_BETWEEN_POLLS, Server, running_server, started_server, wait_until_ready
from script.contact_sheet import Row, contact_sheet
from script.demo_findings import findings
from script.tiny_flux.monster import ARCHIVE
from script.tiny_flux.world import Scene, caption
from script.training_flags import is_our_image, is_trained_tar, refuse_output
from weights.caption_model import SETTING as CAPTIONER_SETTING
from weights.catalogue import EMBEDDED, TINY
from weights.local_files import VARIABLE as FILES_VARIABLE

TRAINING: dict[str, Any] = {
    "trigger_word": "TOK",
    "lora_type": "replicate",
    "steps": 900,
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "batch_size": 4,
    "resolution": "128",
    "optimizer": "adamw",
    "preservation": 0.25,
    "seed": 42,
}
WITH_TRIGGER = ("TOK in a meadow", "TOK under the night sky")
WITHOUT_TRIGGER = (Scene("square", "red", "desert"), Scene("triangle", "blue", "meadow"))
PROMPTS = (*WITH_TRIGGER, *map(caption, WITHOUT_TRIGGER))
SCALES = (0.0, 0.5, 1.0)
SAMPLING = {"num_outputs": 2, "num_inference_steps": 20, "seed": 100, "output_format": "png"}

BASES = tuple(base.name for base in EMBEDDED)  # these settings suit each

BUSY, SECONDS_TO_BE_FREE = 409, 10


def main() -> None:
    """Train, generate, write the contact sheet, and print what it shows and its path."""
    parser = argparse.ArgumentParser(prog="script/demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo.png"), help="where to write the contact sheet")
    parser.add_argument("--base", default=TINY, help=f"{' or '.join(BASES)} (default: %(default)s)")
    arguments = parser.parse_args()
    output, base = arguments.output, arguments.base
    if base not in BASES:
        expected = " or ".join(BASES)
        parser.error(f"--base is {base!r}: expected {expected}, as the demo's images suit only the embedded bases")
    output.parent.mkdir(parents=True, exist_ok=True)
    lora = output.with_name("trained_model.tar")
    refuse_output(output, is_ours=is_our_image)
    refuse_output(lora, is_ours=is_trained_tar)
    started = time.monotonic()
    os.environ[FILES_VARIABLE] = str(lora.parent.resolve())  # the server reads the LoRA there
    os.environ[CAPTIONER_SETTING] = TINY  # the embedded captioner describes the images
    print(f"Starting two Cog servers on the embedded base ({base}), one to train and one to generate ...")
    with started_server("predict", base=base) as predict_server:
        with running_server("train", base=base) as train_server:
            lora.write_bytes(train(train_server, images_alone(ARCHIVE), TRAINING))
        print(f"\nThe images had no captions. {captions_line(lora)}\n")
        wait_until_ready(predict_server)
        rows = generate(predict_server, lora, SAMPLING)
    title = "Trained in this demo: TOK, from these 15 images"
    contact_sheet(training_images(ARCHIVE), rows, title=title).save(output, pnginfo=png_mark("script/demo"))
    print(f"\nDone in {time.monotonic() - started:.0f} s. {findings(rows, WITHOUT_TRIGGER)}")
    print(f"The contact sheet is {output}, the LoRA {lora}")


def train(server: Server, archive: bytes, training: dict[str, Any]) -> bytes:
    """Train on an archive and return the bytes of the tar; the log is printed while the training runs."""
    printer = LogPrinter()
    with _log_receiver(printer) as webhook:
        uri = f"data:application/zip;base64,{base64.b64encode(archive).decode()}"
        body = {"input": {"input_images": uri, **training}, "webhook": webhook, "webhook_events_filter": ["logs"]}
        result = _post(f"{server.url}/trainings", body)
    printer.update(result.get("logs") or "")  # the webhook may have missed the last lines
    return _decoded(result["output"]["weights"])


def generate(server: Server, lora: Path, sampling: dict[str, Any]) -> list[Row]:
    """Generate images of each prompt at each scale of a LoRA, with the same seeds."""
    return [
        Row(prompt, {scale: _images(server, prompt, lora, scale, sampling) for scale in SCALES}) for prompt in PROMPTS
    ]


def images_alone(archive: Path) -> bytes:
    """Return a zip of the images of a zip, without their captions."""
    file = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(file, "w") as images:
        for name in source.namelist():
            if not name.endswith(".txt"):
                images.writestr(source.getinfo(name), source.read(name))
    return file.getvalue()


def captions_line(tar: Path) -> str:
    """Return a sentence on the captions in the tar of a training, each with the number of its images."""
    with tarfile.open(tar) as opened:
        files = [opened.extractfile(name) for name in opened.getnames() if name.startswith(f"{FOLDER}/captions/")]
        counts = Counter(file.read().decode().strip() for file in files if file)
    return f"The captioner wrote: {', '.join(f'{text!r} ({count})' for text, count in counts.items())}."


def training_images(archive: Path) -> list[Image.Image]:
    """Return the PNG images of a zip, in its order."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.endswith(".png")]
        return [Image.open(io.BytesIO(opened.read(name))) for name in names]


def _images(server: Server, prompt: str, lora: Path, scale: float, sampling: dict[str, Any]) -> list[Image.Image]:
    print(f"  {prompt!r} at lora_scale {scale:g}")
    request = {"prompt": prompt, "lora_weights": str(lora.resolve()), "lora_scale": scale, **sampling}
    result = _post(f"{server.url}/predictions", {"input": request})
    return [Image.open(io.BytesIO(_decoded(uri))) for uri in result["output"]]


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a job to Cog and return its response. Raises RuntimeError with the error if the job failed."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    result = _send(request)
    if result["status"] != "succeeded":
        raise RuntimeError(f"the job {result['status']}: {result.get('error')}")
    return result


def _send(request: urllib.request.Request) -> dict[str, Any]:
    """Return the response to a request. Retries while Cog is busy, as it sometimes is right after a job."""
    deadline = time.monotonic() + SECONDS_TO_BE_FREE
    while True:
        try:
            with DIRECT.open(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code != BUSY or time.monotonic() > deadline:
                raise
            time.sleep(SECONDS_BETWEEN_POLLS)


def _decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


@contextmanager
def _log_receiver(printer: "LogPrinter") -> Iterator[str]:
    """Yield the URL of a webhook on loopback that prints the log lines of a job as they arrive."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Cog sends the whole log each time."""
            printer.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))).get("logs") or "")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print no line per request."""

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{receiver.server_port}"
    finally:
        receiver.shutdown()


class LogPrinter:
    """Prints the new lines of a log that arrives as a whole, many times, sometimes out of order."""

    def __init__(self) -> None:
        self._length, self._lock = 0, threading.Lock()

    def update(self, log: str) -> None:
        """Print the lines that were not printed yet."""
        with self._lock:
            complete = log[: log.rfind("\n") + 1]
            print(complete[self._length :], end="", flush=True)
            self._length = max(self._length, len(complete))


if __name__ == "__main__":
    main()
