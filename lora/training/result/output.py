"""Write the output of a training: the tar that Replicate and its clients expect, with the LoRA as the only safetensors
file, and with captions, settings, reports and samples."""

import io
import json
import math
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor

from lora.base.family import FileIdentity
from lora.dataset.caption_paths import caption_paths
from lora.dataset.reading import Dataset
from lora.dataset.report import Report
from lora.dataset.wording import sized
from lora.formats.kohya import kohya_tensors
from lora.formats.layer_names.record import LayerNames
from lora.training.checkpoints.files import Checkpoint, packed
from lora.training.learning.history import json_lines
from lora.training.learning.summary import TrainingResult, TrainingSummary
from lora.training.result.card import CARD, training_card
from lora.training.result.metadata import lora_metadata
from lora.training.result.notice import notice

FOLDER = "output/flux_train_replicate"  # this path is hard-coded in public clients
LORA_NAME = f"{FOLDER}/lora.safetensors"
RUN = "run.json"  # the only file that differs between two runs of the same training
KOHYA_INSIDE = "lora_kohya.safetensors"
HEADER_ALIGNMENT = 8  # safetensors pads its header with spaces to a multiple of this
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a zip stores times; a fixed time keeps the bytes reproducible
DISK_MARGIN = 1.5

Settings = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingArtifacts:
    """Everything that the tar is made from."""

    result: TrainingResult
    identity: FileIdentity  # of the LoRA files
    layer_names: LayerNames  # in them
    settings: Settings  # all settings that determine the LoRA, by name
    plan: Settings  # the memory plan on this machine, which does not affect the LoRA
    dataset: Dataset
    report: Report
    run: Settings  # seconds, memory and machine, which differ from run to run
    page: str  # HTML
    samples: Path  # a folder of sample images, which may be missing
    layout: str  # of a second LoRA file, or "none"
    checkpoints: Mapping[str, Checkpoint]  # the resume state: the last checkpoint and the best one


def write_tar(artifacts: TrainingArtifacts, *, into: Path) -> Path:
    """Write `trained_model.tar`: the LoRA, its NOTICE, model card and settings, all captions, reports and samples, and
    the resume state if there are checkpoints.

    The captions have the names of their images, so that they can be used for another training. The same training gives
    the same bytes, except for `report/run.json`. Raises OSError if the disk has too little space.
    """
    path = into / "trained_model.tar"
    contents = _contents(artifacts)
    checkpoints = artifacts.checkpoints.items()
    files = [each for folder, checkpoint in checkpoints for each in packed(checkpoint, folder=folder)]
    _refuse_full_disk(into, sum(map(len, contents.values())) + sum(file.stat().st_size for _, file in files))
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            _add(tar, f"{FOLDER}/{name}", io.BytesIO(content), len(content))
        for name, file in files:
            with file.open("rb") as opened:
                _add(tar, f"{FOLDER}/{name}", opened, file.stat().st_size)
    return path


def write_lora_tar(tensors: Mapping[str, Tensor], *, into: Path) -> Path:
    """Write `trained_model.tar` with an existing LoRA and nothing else, as the public trainer does if it skips the
    training, and return its path. Raises OSError if the disk has too little space."""
    path, content = into / "trained_model.tar", safetensors_file(tensors, {"format": "pt"})
    _refuse_full_disk(into, len(content))
    with tarfile.open(path, "w") as tar:
        _add(tar, LORA_NAME, io.BytesIO(content), len(content))
    return path


def check_tar(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read the tar back. Raises RuntimeError unless it holds every tensor, and each is finite and not all zero."""
    with tarfile.open(path) as tar:
        names = [name for name in tar.getnames() if name.endswith(".safetensors")]
        file = tar.extractfile(LORA_NAME) if names == [LORA_NAME] else None
        if file is None:
            raise RuntimeError(f"trained_model.tar has the LoRA files {names}: expected only {LORA_NAME}")
        written = load(file.read())
    if written.keys() != tensors.keys():
        raise RuntimeError("trained_model.tar does not have the tensors of the LoRA: expected those of all layers")
    for name, tensor in written.items():
        _refuse_useless(name, tensor)


def _contents(artifacts: TrainingArtifacts) -> dict[str, bytes]:
    """The contents of all small files by their names in the tar's folder."""
    result, settings, identity = artifacts.result, artifacts.settings, artifacts.identity
    captions = tuple(prompt for image in artifacts.dataset.images for prompt in image.prompts)
    metadata = lora_metadata(settings, identity, tensors=result.tensors, captions=captions, layout="diffusers")
    contents = {
        "lora.safetensors": safetensors_file(result.tensors, metadata),
        "config.yaml": yaml.safe_dump(_as_lists({**settings, "plan": artifacts.plan}), sort_keys=False).encode(),
        "NOTICE": notice(str(settings["base_model"])).encode(),
        CARD: training_card(
            settings, _training_report(result.summary), artifacts.samples, captions=captions, repository=None
        ).encode(),
    }
    if artifacts.layout == "kohya":
        contents["lora_kohya.zip"] = _kohya_zip(artifacts, captions)
    for name, captioned in caption_paths(artifacts.dataset.images).items():
        contents[f"captions/{name}"] = "\n".join(captioned.prompts).encode()
    contents["report/dataset.json"] = _json(artifacts.report.as_json())
    contents["report/losses.jsonl"] = "".join(json_lines(result.summary.steps)).encode()
    contents["report/training.json"] = _json(_training_report(result.summary))
    contents["report/index.html"] = artifacts.page.encode()
    contents[f"report/{RUN}"] = _json(artifacts.run)
    for image in sorted(artifacts.samples.glob("*.jpg")):
        contents[f"samples/{image.name}"] = image.read_bytes()
    return contents


def _kohya_zip(artifacts: TrainingArtifacts, captions: tuple[str, ...]) -> bytes:
    """The second LoRA file inside a zip, as clients take any .safetensors in the tar for the LoRA."""
    tensors = kohya_tensors(artifacts.result.tensors, artifacts.layer_names)
    metadata = lora_metadata(artifacts.settings, artifacts.identity, tensors=tensors, captions=captions, layout="kohya")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(KOHYA_INSIDE, ZIP_DATE), safetensors_file(tensors, metadata))
    return file.getvalue()


def safetensors_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file. The library writes metadata in random order; it is sorted here, so that equal
    LoRAs give equal files."""
    content = save(dict(tensors), metadata=dict(metadata))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _training_report(summary: TrainingSummary) -> dict[str, object]:
    """How the training went, without times or machine, as the same training gives the same bytes."""
    finite = [each for each in summary.validation_results if math.isfinite(each.mean)]
    losses = [{"step": each.step, "loss": round(each.mean, 6)} for each in finite]
    return {
        "exported_step": summary.exported_step,
        "exported_why": summary.exported_why,
        "steps_done": summary.steps_done,
        "steps_asked": summary.steps_asked,
        "steps_skipped": summary.steps_skipped,
        "steps_preserving": summary.steps_preserving,
        "stopped_early": summary.stopped_early,
        "held_out_loss": losses,
    }


def _refuse_useless(name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise RuntimeError(f"the training diverged: {name} is not finite; use a lower learning_rate")
    if not tensor.any():
        raise RuntimeError(f"the training changed nothing: {name} is all zero; increase steps or learning_rate")


def _refuse_full_disk(folder: Path, size: int) -> None:
    """Raise OSError before anything is written, as a truncated tar would be returned as if it were complete."""
    free = shutil.disk_usage(folder).free
    needed = int(DISK_MARGIN * size)
    if free < needed:
        raise OSError(f"trained_model.tar does not fit on the disk: {sized(free)} are free, expected {sized(needed)}")


def _as_lists(value: object) -> object:
    """The value with lists in place of tuples, for YAML."""
    if isinstance(value, Mapping):
        return {name: _as_lists(inner) for name, inner in value.items()}
    return [_as_lists(inner) for inner in value] if isinstance(value, tuple | list) else value


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def _add(tar: tarfile.TarFile, name: str, content: io.BufferedIOBase, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    tar.addfile(info, content)
