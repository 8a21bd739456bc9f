"""Records a training as a run of Weights & Biases, in a process of its own.

The package keeps one session for a whole process: a later `init` returns a run that has not ended, keys and settings of
the environment stay, and the process waits for the server at its end. In the process of a server, the next training
would be recorded in the account of the one before.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lora.reporting.trackers.tracker import Settings

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = "lora.reporting.trackers.wandb_process"
SECONDS_TO_CONNECT = 15.0  # less than the training waits for


@dataclass(frozen=True, slots=True)
class WandbTarget:
    """Where a run goes. The key is a secret, and never in a message."""

    api_key: str | None = field(repr=False)  # None leaves it to WANDB_API_KEY, or to `wandb login`
    project: str
    entity: str | None
    name: str | None


class WandbRun:
    """A run of Weights & Biases. WANDB_MODE, WANDB_BASE_URL and WANDB_DIR have their usual meaning; files of a run that
    is sent are deleted at the end, and those of an offline run stay for `wandb sync`."""

    def __init__(self, target: WandbTarget) -> None:
        self._target = target

    def start(self, settings: Settings) -> None:
        """Start the process and the run. Raises RuntimeError if the key is refused or the server does not answer."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what fails is in the answers
            text=True,
            start_new_session=True,  # Ctrl-C is for the training, after which the run still has to end
        )
        # the key comes by the pipe, as others could read it in arguments
        self._call("start", asdict(self._target), dict(settings), SECONDS_TO_CONNECT)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers."""
        self._call("numbers", step, dict(values))

    def image(self, step: int, name: str, path: Path) -> None:
        """Log an image."""
        self._call("image", step, name, str(path.absolute()))

    def end(self) -> None:
        """Send the rest, and end the run."""
        self._call("end")

    def _call(self, name: str, *arguments: object) -> None:
        calls, answers = self._process.stdin, self._process.stdout
        assert calls is not None
        assert answers is not None
        try:
            calls.write(json.dumps([name, *arguments], default=str) + "\n")
            calls.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        error = json.loads(answer) if answer else "its process has ended"
        if error is not None:
            raise RuntimeError(error)
