"""The LoRA leaves the house: one safetensors file in the tar that Replicate and its clients expect."""

import io
import itertools
import json
import struct
import tarfile
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from diffusers import FluxTransformer2DModel
from safetensors.torch import load, save
from torch import Tensor

from lora.dataset.names import inside
from lora.dataset.reading import Dataset
from lora.dataset.report import Report
from lora.training.adapter import lora_tensors
from lora.training.config import TrainConfig

FOLDER = "output/flux_train_replicate"  # public clients have this path in their code
LORA_NAME = f"{FOLDER}/lora.safetensors"
HEADER_ALIGNMENT = 8  # safetensors pads its header with spaces to this


def write_tar(
    transformer: FluxTransformer2DModel,
    dataset: Dataset,
    report: Report,
    config: TrainConfig,
    *,
    base: str,
    into: Path,
) -> Path:
    """Write `trained_model.tar`: the LoRA, the settings, all captions, and the report on the data set.

    The captions go by the names of their images, so that they can be given to another training. The same training
    gives the same bytes.
    """
    settings = asdict(config) | {"base_model": base, "images": len(dataset.images)}
    path = into / "trained_model.tar"
    with tarfile.open(path, "w") as tar:
        _add(tar, LORA_NAME, lora_file(transformer, settings))
        _add(tar, f"{FOLDER}/config.yaml", yaml.safe_dump(_plain(settings), sort_keys=False).encode())
        for name, prompt in _caption_files(dataset).items():
            _add(tar, f"{FOLDER}/captions/{name}.txt", prompt.encode())
        _add(tar, f"{FOLDER}/report/dataset.json", json.dumps(report.as_json(), indent=1).encode())
    return path


def lora_file(transformer: FluxTransformer2DModel, settings: dict[str, object]) -> bytes:
    """The bytes of a safetensors file with the LoRA and metadata that other programs read."""
    return _with_sorted_header(save(lora_tensors(transformer), metadata=_metadata(settings)))


def _caption_files(dataset: Dataset) -> dict[str, str]:
    """Prompts by the names of their images without suffix; with suffix, or a number, where that is taken."""
    files: dict[str, str] = {}
    for image in dataset.images:
        path = inside(image.name)
        numbered = (f"{path}-{number}" for number in itertools.count(2))
        names = itertools.chain([str(path.with_suffix("")), str(path)], numbered)
        files[next(name for name in names if name not in files)] = image.prompt
    return files


def check_tar(path: Path, transformer: FluxTransformer2DModel) -> None:
    """Read back what was written; raises RuntimeError unless every tensor is there, finite and not all zero."""
    with tarfile.open(path) as tar:
        names = [name for name in tar.getnames() if name.endswith(".safetensors")]
        file = tar.extractfile(LORA_NAME) if names == [LORA_NAME] else None
        if file is None:
            raise RuntimeError(f"trained_model.tar holds {names}: expected {LORA_NAME} alone")
        written = load(file.read())
    expected = lora_tensors(transformer)
    if written.keys() != expected.keys():
        raise RuntimeError("trained_model.tar does not hold the tensors of the LoRA: expected one for each layer")
    for name, tensor in written.items():
        _refuse_useless(name, tensor)


def _refuse_useless(name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise RuntimeError(f"the training diverged: {name} is not finite; use a lower learning_rate")
    if not tensor.any():
        raise RuntimeError(f"the training changed nothing: {name} is all zero; use more steps or learning_rate")


def _metadata(settings: dict[str, object]) -> dict[str, str]:
    """Names of kohya's trainer (ss_) and of modelspec 1.0.1, which ComfyUI and LoRA managers show. No times: the same
    training gives the same bytes."""
    rank, resolutions = str(settings["lora_rank"]), settings["resolutions"]
    side = max(resolutions) if isinstance(resolutions, tuple) else ""
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": f"{settings['trigger_word']} LoRA",
        "modelspec.trigger_phrase": str(settings["trigger_word"]),
        "modelspec.resolution": f"{side}x{side}",
        "ss_base_model_version": "flux1",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_learning_rate": str(settings["learning_rate"]),
        "ss_max_train_steps": str(settings["steps"]),
        "ss_num_train_images": str(settings["images"]),
        "ss_caption_dropout_rate": str(settings["caption_dropout_rate"]),
        "ss_seed": str(settings["seed"]),
        "ss_resolution": json.dumps(resolutions),
        "trainer_config": json.dumps(settings),
    }


def _with_sorted_header(content: bytes) -> bytes:
    """safetensors writes metadata in a random order; sorted, equal LoRAs are equal files."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _plain(settings: dict[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
