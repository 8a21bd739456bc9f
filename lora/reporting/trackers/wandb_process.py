"""The process that records one training as a run of Weights & Biases. `WandbRun` starts it.

Each line that it reads is a call in JSON; it answers null or an error. Neither code, console, machine nor packages are
sent. It ends by itself: after the last call, with its parent process, and if a call takes too long.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import wandb

SECONDS_OF_A_CALL = 30.0  # more than the training waits for
OPTIONS: dict[str, Any] = {
    "save_code": False,
    "console": "off",
    "silent": True,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
ERRORS = (wandb.Error, OSError, ValueError, TypeError, RuntimeError)


class Recorder:
    """A run of Weights & Biases."""

    def __init__(self, folder: str) -> None:
        """`folder` is for the files of a run that is sent."""
        self._folder = folder
        self._run: Any = None

    def start(self, target: Mapping[str, str | None], settings: Mapping[str, Any], seconds: float) -> None:
        """Start the run; `seconds` is how long the server may take to answer."""
        options = OPTIONS | {"init_timeout": seconds}
        options |= {"api_key": target["api_key"]} if target["api_key"] else {}
        self._run = wandb.init(
            project=target["project"],
            entity=target["entity"],
            name=target["name"],
            config=dict(settings),
            dir=None if _keeps_files() else self._folder,
            settings=wandb.Settings(**options),
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, path: str) -> None:
        """Log an image."""
        self._run.log({name: wandb.Image(path)}, step=step)

    def end(self, exit_code: int = 0) -> None:
        """Send the rest, end the run, and wait until its files are complete."""
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
            wandb.teardown()


def main() -> None:
    """Answer calls until the last one, or until the parent process has ended or has given up."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the package prints is no answer
    folder, name = tempfile.mkdtemp(prefix="flux-lora-wandb-"), ""
    recorder = Recorder(folder)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        with _limited(folder):
            error = _error_of(recorder, name, arguments)
            answers.write(json.dumps(error) + "\n")
            answers.flush()
    with _limited(folder), suppress(*ERRORS):
        if name != "end":
            recorder.end(exit_code=1)
    _leave(folder)


def _error_of(recorder: Recorder, name: str, arguments: list[Any]) -> str | None:
    try:
        getattr(recorder, name)(*arguments)
    except ERRORS as error:
        secret = arguments[0]["api_key"] if name == "start" else None
        text = str(error) or type(error).__name__
        return text.replace(secret, "**********") if secret else text
    return None


@contextmanager
def _limited(folder: str) -> Iterator[None]:
    """End the process if the context takes too long, as the package may wait for its server without a limit."""
    timer = threading.Timer(SECONDS_OF_A_CALL, _leave, (folder,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _leave(folder: str) -> None:
    """End the process at once, without what the package does at an exit: it would wait for its server."""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _keeps_files() -> bool:
    return os.environ.get("WANDB_MODE") == "offline" or "WANDB_DIR" in os.environ


if __name__ == "__main__":
    main()
