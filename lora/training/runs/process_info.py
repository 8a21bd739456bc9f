"""The processes of a training on several machines: what each has, and whether they can train together."""

import hashlib
import os
import platform
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from lora.base.fingerprint import fingerprint
from lora.dataset.wording import counted
from lora.host_memory import free_host_bytes

PACKAGE = Path(__file__).resolve().parents[2]  # lora/
LIBRARIES = ("accelerate", "bitsandbytes", "diffusers", "peft", "transformers")  # that compute, or make what is sent
USED_OF_BASE = ("scheduler", "transformer")  # what a process needs that encodes nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One process, and what it has. Plain values, so that it can be sent."""

    rank: int
    host: str
    versions: dict[str, str]  # of Python, torch, the other libraries, and this project's code
    gpu: str | None  # its name
    gpu_id: str | None  # different for each GPU
    free_bytes: int  # of its GPU, or of its machine without one
    free_host_bytes: int  # of its machine
    base: str  # the name of its base
    fingerprint: str  # of the weights and the scheduler of its base
    problem: str | None  # why it cannot train, as one sentence; the base is empty then

    @classmethod
    def here(cls, rank: int, *, base: Path | None, name: str = "", problem: str | None = None) -> "ProcessInfo":
        """This process, with its base, or without one and with a problem."""
        has_gpu, host_bytes = torch.cuda.is_available(), free_host_bytes()
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device()) if has_gpu else None
        return cls(
            rank=rank,
            host=socket.gethostname(),
            versions=_versions(),
            gpu=gpu.name if gpu else None,
            gpu_id=str(gpu.uuid) if gpu else None,
            free_bytes=torch.cuda.mem_get_info()[0] if has_gpu else host_bytes,
            free_host_bytes=host_bytes,
            base=name,
            fingerprint=fingerprint(base, USED_OF_BASE) if base else "",
            problem=problem,
        )

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"


@dataclass(frozen=True, slots=True)
class Processes:
    """How many processes a training has, and the memory that each of them can have."""

    count: int
    on_one_machine: int  # the most
    free_bytes: int  # of the GPU that has least, or of the machine without one
    free_host_bytes: int  # of the machine that has least


def processes_of(infos: tuple[ProcessInfo, ...]) -> Processes:
    """The processes for which a training is planned: what fits into the smallest machine fits into all."""
    return Processes(
        count=len(infos),
        on_one_machine=max(_per_host(infos).values()),
        free_bytes=min(each.free_bytes for each in infos),
        free_host_bytes=min(each.free_host_bytes for each in infos),
    )


def described(infos: tuple[ProcessInfo, ...]) -> str:
    """A line for the log."""
    hosts = _per_host(infos)
    each = ", ".join(f"{count} on {host}" for host, count in hosts.items())
    return f"{len(infos)} processes on {counted(len(hosts), 'machine')}: {each}"


def refuse_unequal(infos: tuple[ProcessInfo, ...]) -> None:
    """Raise ValueError with one sentence if some of the processes cannot train, or not with the first one."""
    for problem in _problems(infos):
        raise ValueError(problem)


def _problems(infos: tuple[ProcessInfo, ...]) -> Iterator[str]:
    first = infos[0]
    yield from (f"{each} cannot train: {each.problem}" for each in infos if each.problem)
    for each in infos:
        yield from _differences(first, each)
    users: dict[str, ProcessInfo] = {}
    for each in infos:
        if each.gpu_id and (other := users.setdefault(each.gpu_id, each)) is not each:
            expected = "expected no more processes on a machine than it has GPUs"
            yield f"{other} and {each} have the same GPU, a {each.gpu}: {expected}"


def _differences(first: ProcessInfo, other: ProcessInfo) -> Iterator[str]:
    for name, expected in first.versions.items():
        found = other.versions.get(name)
        if found != expected:
            yield f"{other} has {name} {found}: expected {expected}, as {first} has"
    if bool(first.gpu) != bool(other.gpu):
        found, expected = (f"a GPU, a {each.gpu}" if each.gpu else "no usable GPU" for each in (other, first))
        yield f"{other} has {found}, and {first} has {expected}: expected a GPU for every process, or for none"
    if other.fingerprint != first.fingerprint:
        expected = f"expected the same files of the transformer and the scheduler as {first} has for {first.base}"
        yield f"the base {other.base} of {other} is another one: {expected}"


def _versions() -> dict[str, str]:
    """Torch's own version tells for which CUDA it was built."""
    libraries = {name: version(name) for name in LIBRARIES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "torch": torch.__version__, **libraries, "code": _code()}


def _code() -> str:
    """A short hash of the Python files of this package, which have to be the same on all machines."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}{os.sep}".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _per_host(infos: tuple[ProcessInfo, ...]) -> Counter[str]:
    return Counter(each.host for each in infos)
