"""Whether PyTorch can use a GPU on this machine, and if not, why: a full FLUX on a CPU is refused unless it is meant.

torch itself would compute on the CPU without a word. Nothing here needs CUDA to start.
"""

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

SETTING = "FLUX_GPU"
REQUIRED, OPTIONAL = "required", "optional"
# The oldest driver that runs what is built for any version of CUDA 12, or of CUDA 13 (CUDA Toolkit Release Notes, table
# "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility").
OLDEST_DRIVERS = {12: "525", 13: "580"}
DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class CudaFacts:
    """What decides whether PyTorch can use a GPU."""

    is_available: bool  # to PyTorch
    pytorch: str  # version, such as 2.11.0+cu130
    build: str | None  # the version of CUDA that PyTorch is built for, such as 13.0; None without CUDA
    driver: str | None  # the version of the loaded NVIDIA driver, such as 535.129.03; None if unknown
    supported: str | None  # the newest version of CUDA that the driver supports, such as 12.2; None without its library
    visible: str | None  # CUDA_VISIBLE_DEVICES


def check_gpu(base: str, is_published: bool) -> None:
    """Refuse a base that would have to compute on a CPU, unless FLUX_GPU says that it may.

    `required` refuses any base on a machine without a usable GPU, `optional` none; if it is unset, the published bases
    are refused, which are too large for a CPU. Raises ValueError with one sentence, also for another setting.
    """
    setting = os.environ.get(SETTING, "").strip() or (REQUIRED if is_published else OPTIONAL)
    if setting not in (REQUIRED, OPTIONAL):
        raise ValueError(f"{SETTING} is {setting!r}: expected {REQUIRED} or {OPTIONAL}")
    if setting == REQUIRED and (problem := gpu_problem(cuda_facts())):
        wanted = f"the base {base} needs a GPU, and PyTorch cannot use one"
        raise ValueError(f"{wanted}: {problem}, or set {SETTING}={OPTIONAL} to compute on the CPU, which is very slow")


def gpu_problem(facts: CudaFacts) -> str | None:
    """Why PyTorch cannot use a GPU, and what to do; None if it can use one."""
    if facts.is_available:
        return None
    if facts.build is None:
        return f"PyTorch {facts.pytorch} is built without CUDA; install a build of it with CUDA"
    if facts.supported is None:
        return _missing_driver(facts.driver, build=facts.build)
    driver = _driver(facts.driver)
    if _major(facts.supported) < _major(facts.build):
        found = f"{driver} supports CUDA {facts.supported}, and PyTorch {facts.pytorch} needs CUDA {facts.build}"
        return f"{found}; install {_needed_driver(facts.build)}{_other_build(facts.supported)}"
    if facts.visible is not None:
        return f"CUDA_VISIBLE_DEVICES is {facts.visible!r}; unset it, or name a GPU that nvidia-smi lists"
    return f"{driver} shows no usable GPU; expected one that nvidia-smi lists"


def cuda_facts() -> CudaFacts:
    """The facts of this machine and this PyTorch."""
    return CudaFacts(
        is_available=torch.cuda.is_available(),
        pytorch=torch.__version__,
        build=torch.version.cuda,
        driver=driver_version(DRIVER_FILE),
        supported=_supported_cuda(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def driver_version(file: Path) -> str | None:
    """The version of the NVIDIA driver from a file such as /proc/driver/nvidia/version; None if there is none."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", file.read_text(errors="replace"))
    except OSError:
        return None
    return found[0] if found else None


def _supported_cuda() -> str | None:
    """The newest CUDA that the driver supports. Its library answers this even where CUDA cannot start (CUDA Driver API,
    `cuDriverGetVersion`: 12020 is 12.2)."""
    number = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else None


def _missing_driver(driver: str | None, *, build: str) -> str:
    if driver is None:
        return f"no NVIDIA driver was found; use a machine with an NVIDIA GPU and {_needed_driver(build)}"
    return f"{_driver(driver)} is loaded, but its library is missing; start a container with `docker run --gpus all`"


def _driver(version: str | None) -> str:
    return f"the NVIDIA driver {version}" if version else "the NVIDIA driver"


def _needed_driver(build: str) -> str:
    oldest = OLDEST_DRIVERS.get(_major(build))
    return f"a driver for CUDA {build}" if oldest is None else f"a driver of version {oldest} or newer"


def _other_build(supported: str) -> str:
    """The other remedy for an old driver: this PyTorch exists for CUDA 12, too, and Cog puts that into its image."""
    major = _major(supported)
    return f", or a PyTorch built for CUDA {major}, as in Cog's image" if major in OLDEST_DRIVERS else ""


def _major(version: str) -> int:
    return int(version.partition(".")[0])
