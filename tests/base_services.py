"""A small base, and servers on this machine from which it is downloaded: a Hub with its API, and a tar at a URL."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.services import Service, a_network, send, send_head, send_json
from tests.tiny import TINY_FLUX
from weights.base_folder import Destination
from weights.base_kind import FLUX1, INDEX, BaseKind

COMMIT = "c0ffee" * 6 + "beef"
REPOSITORY = "o/small"
LARGE = "transformer/diffusion_pytorch_model.safetensors"
OTHERS = {"README.md": b"about it", "small.safetensors": b"in another layout", "vae/model.onnx": b"of another library"}


# The configurations of FLUX.2 [klein] with the values that are checked, in the files of the published repositories
KLEIN_CONFIGS: dict[str, dict[str, object]] = {
    INDEX: {
        "_class_name": "Flux2KleinPipeline",
        "is_distilled": False,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "Qwen2TokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    },
    "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "text_encoder/config.json": {"model_type": "qwen3", "hidden_size": 2560},
    "tokenizer/tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"},
    "tokenizer/tokenizer.json": {},
    "tokenizer/vocab.json": {},
    "transformer/config.json": {
        "_class_name": "Flux2Transformer2DModel",
        "in_channels": 128,
        "joint_attention_dim": 7680,
        "guidance_embeds": False,
    },
    "vae/config.json": {"_class_name": "AutoencoderKLFlux2"},
}
KLEIN_TEXTS = {"tokenizer/chat_template.jinja": "{{ messages }}", "tokenizer/merges.txt": "#version: 0.2\n"}


def small_base(folder: Path, kind: BaseKind = FLUX1) -> Path:
    """A folder in diffusers layout with small weights, which can be checked only; of FLUX.1 with the configurations of
    tiny-flux."""
    if kind is FLUX1:
        shutil.copytree(TINY_FLUX, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    else:
        texts = {name: json.dumps(config) for name, config in KLEIN_CONFIGS.items()} | KLEIN_TEXTS
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    for index, component in enumerate(each for each in kind.components if each.weights):
        tensor = torch.randn(200, 256, generator=torch.Generator().manual_seed(index))
        save_file({"weight": tensor}, folder / component.name / component.weights)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of each file of a base by its path, without hidden files and the manifest."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith((".", "manifest"))}


def tar_of(files: dict[str, bytes], *, root: str = "small/", kind: str = "w") -> bytes:
    """A tar of files in a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=kind) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{root}{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@dataclass
class Files:
    """Files at paths of a server that can resume; the first response for a path in `cuts` ends after so many bytes."""

    contents: dict[str, bytes]
    cuts: dict[str, int] = field(default_factory=dict)

    def send(self, request, path: str) -> None:
        """Respond with a file or a part of it, like a server of large files."""
        content = self.contents[path]
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        span = request.headers.get("Range", "")
        start = int(span.removeprefix("bytes=").rstrip("-")) if request.headers.get("If-Range") == etag else 0
        last = self.cuts.pop(path, len(content))
        headers = {"ETag": etag, "Content_Length": str(len(content) - start)}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        send_head(request, 206 if start else 200, **headers)
        request.wfile.write(content[start:last])


@dataclass
class Hub:
    """The API and the files of a repository on Hugging Face; with a token, it is gated, but its names are public."""

    files: Files
    repository: str = REPOSITORY
    token: str = ""
    sha256: dict[str, str] = field(default_factory=dict)  # wrong ones, by path

    def __call__(self, request, _) -> None:
        """Respond to a request."""
        resolve = f"/{self.repository}/resolve/{COMMIT}/"
        if request.path.startswith(f"/api/models/{self.repository}/revision/"):
            send_json(request, self.listing())
        elif not request.path.startswith(resolve) or request.path.removeprefix(resolve) not in self.files.contents:
            send(request, status=404)
        elif self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            send(request, status=403 if request.headers.get("Authorization") else 401)
        else:
            self.files.send(request, request.path.removeprefix(resolve))

    def listing(self) -> dict[str, object]:
        """What the API says of the repository."""
        siblings = [self.sibling(path, content) for path, content in self.files.contents.items()]
        card = {"license": "other", "license_name": "small-licence"}
        return {"sha": COMMIT, "gated": "auto" if self.token else False, "cardData": card, "siblings": siblings}

    def sibling(self, path: str, content: bytes) -> dict[str, object]:
        """What the API says of a file."""
        sibling: dict[str, object] = {"rfilename": path, "size": len(content)}
        if path.endswith(".safetensors"):
            sha256 = self.sha256.get(path) or hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return sibling


def destination(server: Service, folder: Path, *, token: str = "", lines: list[str] | None = None) -> Destination:
    """Where a base of a server goes, with short timeouts; lines of the log are collected."""
    return Destination(folder, a_network(server, hugging_face=server.url), token, (lines or []).append)


def downloads(server: Service) -> list[str]:
    """The files that were requested, in order, without the API."""
    return [path.partition(f"{COMMIT}/")[2] for path in server.paths() if not path.startswith("/api/")]


def expected_paths(files: dict[str, bytes]) -> set[str]:
    """The paths of files without those that are no part of a base."""
    assert INDEX in files
    return files.keys() - OTHERS.keys()


def manifest_of(folder: Path) -> dict[str, object]:
    """The manifest beside a base."""
    return json.loads((folder / "manifest.json").read_text())
