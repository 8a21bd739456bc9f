"""What a job is answered with: errors in one sentence, never a secret, nothing larger than RunPod takes."""

import os
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Answer = dict[str, Any]

ERROR, REFRESH = "error", "refresh_worker"  # keys that RunPod takes out of an answer: the job fails; the worker stops
# https://docs.runpod.io/serverless/endpoints/operation-reference: the largest payload of /runsync and of /run. The ids
# of jobs of /runsync begin with "sync-".
SYNC_BYTES, ASYNC_BYTES, SYNC_PREFIX = 20_000_000, 10_000_000, "sync-"
ENVELOPE_BYTES = 10_000  # of what RunPod sends beside the answer
EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)  # what train.py and predict.py raise with a sentence
SECRET_ENDINGS = ("TOKEN", "API_KEY", "SECRET")  # of environment variables
SHORTEST_SECRET = 4  # characters; a shorter one would also blot out other words


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of a job and of its worker, which are replaced in every text that leaves it."""

    values: tuple[str, ...]

    @classmethod
    def of(cls, inputs: Mapping[str, object], names: Iterable[str]) -> "Secrets":
        """The inputs with these names, and the tokens and keys in the environment."""
        given = (str(inputs.get(name) or "").strip() for name in names)
        own = (value.strip() for name, value in os.environ.items() if name.endswith(SECRET_ENDINGS))
        found = {value for value in (*given, *own) if len(value) >= SHORTEST_SECRET}
        return cls(tuple(sorted(found, key=len, reverse=True)))

    def hidden_in(self, text: str) -> str:
        """The text with stars in place of each secret."""
        for value in self.values:
            text = text.replace(value, "***")
        return text


def failure(error: BaseException, secrets: Secrets) -> Answer:
    """The answer to a job that raised an error: the sentence that the client needs, without a path of the worker.

    What nobody expected is not explained to the client; its traceback must be logged, see `logged`.
    """
    if isinstance(error, EXPECTED):
        return {ERROR: secrets.hidden_in(_sentence(error))}
    found = f"this is a bug or a broken worker ({type(error).__name__}); the log of the worker has the traceback"
    return {ERROR: found, REFRESH: True}


def logged(error: BaseException, secrets: Secrets) -> str:
    """What the worker's own log says about an error: nothing if the sentence says all, else the traceback."""
    if isinstance(error, ValueError | FileNotFoundError):
        return ""
    return secrets.hidden_in("".join(traceback.format_exception(error)))


def _sentence(error: BaseException) -> str:
    """The first line of the error; of one of the operating system its reason, as its text has a path."""
    reason = error.strerror if isinstance(error, OSError) else None
    lines = (reason or str(error)).strip().splitlines()
    return lines[0] if lines else f"the worker failed ({type(error).__name__}): its log has more"


def refuse_too_large(images: Sequence[str], job_id: str) -> None:
    """Raise ValueError with one sentence if RunPod would not take an answer with these images, and so lose it."""
    size = sum(map(len, images)) + ENVELOPE_BYTES
    is_sync = job_id.startswith(SYNC_PREFIX)
    largest = SYNC_BYTES if is_sync else ASYNC_BYTES
    if size > largest:
        found = f"the images take {size / 1e6:.1f} MB, and an answer of RunPod at most {largest / 1e6:.0f} MB"
        other = "" if is_sync else ", /runsync, which takes 20 MB"
        advice = f"expected output_format webp or jpg, fewer num_outputs{other}"
        raise ValueError(f"{found}: {advice}, or a worker with FLUX_IMAGES set to a folder of its volume")


def is_on_gpu_failure(error: BaseException | None, gpu_errors: tuple[type[BaseException], ...]) -> bool:
    """Whether an error, or one that it came from, is of a GPU that this process cannot use any more."""
    while error is not None:
        if isinstance(error, gpu_errors):
            return True
        error = error.__cause__ or error.__context__
    return False


def writable_folder(setting: str, folder: Path) -> Path:
    """Create a folder that a setting names. Raises ValueError with one sentence if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{setting} is {str(folder)!r}: expected a folder of a volume ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{setting} is {str(folder)!r}: expected a folder that can be written to")
    return folder
