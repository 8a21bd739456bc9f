"""A worker that generates images: the inputs of predict.py in, data URIs out."""

import base64
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from cog import Path as CogPath

from deploy.runpod.answers import REFRESH, Answer, is_on_gpu_failure, refuse_too_large, writable_folder
from deploy.runpod.files import received
from deploy.runpod.inputs import FILE, Form
from deploy.runpod.jobs import Job
from lora.images.metadata import settings_in
from lora.serving.requested_loras import TRAINED
from lora.workspace import named_file
from predict import Runner

LORA, IMAGES = "LORA", "FLUX_IMAGES"  # settings
STEPS = re.compile(r"\| (?P<done>\d+)/(?P<all>\d+)$")  # the end of a line of progress
MEDIA_TYPES = {".webp": "image/webp", ".jpg": "image/jpeg", ".png": "image/png"}
GPU_ERRORS = (torch.AcceleratorError,)  # after one of these, CUDA answers every call of the process with an error


class FollowedRunner(Runner):
    """The predictor, whose log tells a job its progress; a cancelled job ends after the step that it is in."""

    job: Job | None = None

    def log(self, line: str) -> None:
        """Print a line of the log, and report the progress that it shows, but for the last step: the answer follows."""
        super().log(line)
        if self.job is None:
            return
        self.job.raise_if_cancelled()
        steps = STEPS.search(line)
        if steps and steps["done"] != steps["all"]:
            self.job.report(f"{steps['done']} of {steps['all']} steps")


@dataclass(frozen=True, slots=True)
class GeneratingWorker:
    """Generates images with a loaded model."""

    form: Form
    runner: FollowedRunner
    images: Path | None  # the folder of a volume for images, instead of data URIs

    @classmethod
    def started(cls, form: Form) -> "GeneratingWorker":
        """Load the model, with the LoRA that LORA names: a path, a URL or any reference that lora_weights takes.

        Raises ValueError, OSError or RuntimeError with one sentence if that fails.
        """
        folder = os.environ.get(IMAGES, "").strip()
        images = writable_folder(IMAGES, Path(folder)) if folder else None
        runner, reference = FollowedRunner(), os.environ.get(LORA, "").strip()
        try:
            runner.setup(cast(CogPath, reference) if reference else None)  # as a path, https:// would lose a slash
        except ValueError as error:
            raise ValueError(str(error).replace(TRAINED, LORA, 1)) from error
        return cls(form, runner, images)

    def answer(self, job: Job) -> Answer:
        """Generate the images of a job."""
        inputs = self.form.checked(job.given)
        inputs.update({name: self._files(name, inputs[name]) for name in self.form.named(FILE)})
        self.runner.job = job
        try:
            paths = [Path(path) for path in self.runner.generate(inputs)]
        finally:
            self.runner.job = None
        seeds = [settings_in(path)["seed"] for path in paths]
        images = self._kept(paths, job) if self.images else [_data_uri(path) for path in paths]
        refuse_too_large(images, job.id)
        return {"images": images, "seeds": seeds} | ({REFRESH: True} if self.must_restart(None) else {})

    def must_restart(self, error: BaseException | None) -> bool:
        """Whether the GPU failed, or weights could not be restored when LoRAs were removed."""
        return is_on_gpu_failure(error, GPU_ERRORS) or not self.runner.healthcheck()

    def _files(self, name: str, value: str | list[str] | None) -> CogPath | list[CogPath] | None:
        """The file that a job gives, or all files of a list but the blank ones."""
        if not isinstance(value, list):
            return self._file(name, value)
        files = (self._file(f"{name}[{index}]", item) for index, item in enumerate(value))
        return [file for file in files if file]

    def _file(self, name: str, value: str | None) -> CogPath | None:
        """Put a file of the job where the predictor reads uploads; a path must be one that requests may read."""
        if value is None or not value.strip():
            return None
        uploads = self.runner.files
        path = Path(received(name, value, into=uploads))
        if path.parent != uploads:
            named_file(name, value, self.runner.readable)
            if not _is_file(path):
                expected = "expected an https:// URL, a data URI or a file of the volume"
                raise ValueError(f"{name} is {value!r:.300}, where there is no file: {expected}")
            path = Path(shutil.copy(path, uploads / f"{name}{path.suffix}"))
        return CogPath(path)

    def _kept(self, paths: Sequence[Path], job: Job) -> list[str]:
        folder = writable_folder(IMAGES, self.images / job.folder_name) if self.images else Path()
        return [str(shutil.copy(path, folder / path.name)) for path in paths]


def _is_file(path: Path) -> bool:
    """Whether a file exists. What is no path, such as base64 without `data:` before it, counts as missing."""
    try:
        return path.is_file()
    except OSError:
        return False


def _data_uri(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{MEDIA_TYPES[path.suffix]};base64,{content}"
