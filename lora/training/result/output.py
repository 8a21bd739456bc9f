"""The LoRA leaves the house: one safetensors file in the tar that Replicate and its clients expect, and what explains
it."""

import io
import itertools
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

from lora.dataset.names import inside
from lora.dataset.reading import Dataset
from lora.dataset.report import Report
from lora.formats.kohya import kohya_tensors
from lora.training.checkpoints.files import Checkpoint, packed
from lora.training.learning.trainer import Outcome, TrainingSummary
from lora.training.result.metadata import lora_metadata
from lora.training.result.notice import notice

FOLDER = "output/flux_train_replicate"  # public clients have this path in their code
LORA_NAME = f"{FOLDER}/lora.safetensors"
KOHYA_INSIDE = "lora_kohya.safetensors"
HEADER_ALIGNMENT = 8  # safetensors pads its header with spaces to this
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a zip stores times; a fixed one keeps its bytes the same
DISK_MARGIN = 1.5

Settings = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a training has to show."""

    result: Outcome
    settings: Settings  # all that decided what the LoRA became, by name
    plan: Settings  # how it was done on this machine, which changes nothing of it
    dataset: Dataset
    report: Report
    samples: Path  # a folder of pictures, which need not be there
    layout: str  # of a second LoRA file, or "none"
    checkpoints: Mapping[str, Checkpoint]  # to go on from: the last, and the best beside it


def write_tar(product: Product, *, into: Path) -> Path:
    """Write `trained_model.tar`: the LoRA, its NOTICE and settings, all captions, reports, samples, and what is needed
    to go on if there is a checkpoint.

    The captions go by the names of their images, so that they can be given to another training. The same training
    gives the same bytes. Raises OSError if the disk has no room for it.
    """
    path = into / "trained_model.tar"
    contents = _contents(product)
    kept = product.checkpoints.items()
    files = [each for folder, checkpoint in kept for each in packed(checkpoint, folder=folder)]
    _refuse_full_disk(into, sum(map(len, contents.values())) + sum(file.stat().st_size for _, file in files))
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            _add(tar, f"{FOLDER}/{name}", io.BytesIO(content), len(content))
        for name, file in files:
            with file.open("rb") as opened:
                _add(tar, f"{FOLDER}/{name}", opened, file.stat().st_size)
    return path


def check_tar(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read back what was written; raises RuntimeError unless every tensor is there, finite and not all zero."""
    with tarfile.open(path) as tar:
        names = [name for name in tar.getnames() if name.endswith(".safetensors")]
        file = tar.extractfile(LORA_NAME) if names == [LORA_NAME] else None
        if file is None:
            raise RuntimeError(f"trained_model.tar holds {names}: expected {LORA_NAME} alone")
        written = load(file.read())
    if written.keys() != tensors.keys():
        raise RuntimeError("trained_model.tar does not hold the tensors of the LoRA: expected one for each layer")
    for name, tensor in written.items():
        _refuse_useless(name, tensor)


def _contents(product: Product) -> dict[str, bytes]:
    """All small files by their names in the tar's folder."""
    result, settings = product.result, product.settings
    captions = tuple(image.prompt for image in product.dataset.images)
    metadata = lora_metadata(settings, tensors=result.tensors, captions=captions, layout="diffusers")
    contents = {
        "lora.safetensors": safetensors_file(result.tensors, metadata),
        "config.yaml": yaml.safe_dump(_plain({**settings, "plan": product.plan}), sort_keys=False).encode(),
        "NOTICE": notice(str(settings["base_model"])).encode(),
    }
    if product.layout == "kohya":
        contents["lora_kohya.zip"] = _kohya_zip(product, captions)
    for name, prompt in _caption_files(product.dataset).items():
        contents[f"captions/{name}.txt"] = prompt.encode()
    contents["report/dataset.json"] = _json(product.report.as_json())
    contents["report/training.json"] = _json(_told(result.account))
    for picture in sorted(product.samples.glob("*.jpg")):
        contents[f"samples/{picture.name}"] = picture.read_bytes()
    return contents


def _kohya_zip(product: Product, captions: tuple[str, ...]) -> bytes:
    """The second file in a zip of its own, as readers of the tar take any .safetensors for the LoRA."""
    tensors = kohya_tensors(product.result.tensors)
    metadata = lora_metadata(product.settings, tensors=tensors, captions=captions, layout="kohya")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(KOHYA_INSIDE, ZIP_DATE), safetensors_file(tensors, metadata))
    return file.getvalue()


def safetensors_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file. Its library writes metadata in a random order; sorted, equal LoRAs are equal
    files."""
    content = save(dict(tensors), metadata=dict(metadata))
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _told(account: TrainingSummary) -> dict[str, object]:
    """How the training went; no times and no machine, as the same training gives the same bytes."""
    finite = [each for each in account.judgements if math.isfinite(each.mean)]
    judgements = [{"step": each.step, "loss": round(each.mean, 6)} for each in finite]
    return {
        "exported_step": account.step,
        "exported_why": account.why,
        "steps_done": account.done,
        "steps_skipped": account.skipped,
        "steps_preserving": account.preserved,
        "stopped_early": account.stopped,
        "held_out_loss": judgements,
    }


def _caption_files(dataset: Dataset) -> dict[str, str]:
    """Prompts by the names of their images without suffix; with suffix, or a number, where that is taken."""
    files: dict[str, str] = {}
    for image in dataset.images:
        path = inside(image.name)
        numbered = (f"{path}-{number}" for number in itertools.count(2))
        names = itertools.chain([str(path.with_suffix("")), str(path)], numbered)
        files[next(name for name in names if name not in files)] = image.prompt
    return files


def _refuse_useless(name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise RuntimeError(f"the training diverged: {name} is not finite; use a lower learning_rate")
    if not tensor.any():
        raise RuntimeError(f"the training changed nothing: {name} is all zero; use more steps or learning_rate")


def _refuse_full_disk(folder: Path, size: int) -> None:
    """Before anything is written: a tar that is cut off would be returned as if it were whole."""
    free = shutil.disk_usage(folder).free
    if free < DISK_MARGIN * size:
        raise OSError(f"no room for the tar of the LoRA: it needs {size:,} bytes, {free:,} are free")


def _plain(value: object) -> object:
    """With lists for tuples, as YAML knows them."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def _add(tar: tarfile.TarFile, name: str, content: io.BufferedIOBase, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    tar.addfile(info, content)
