"""A base that would have to compute on a CPU is refused with the reason, unless a setting says that it may."""

from dataclasses import replace

import pytest

from lora.gpu import CudaFacts, check_gpu, cuda_facts, driver_version, gpu_problem
from tests.tiny import assert_one_sentence, without_gpu

WITHOUT_DRIVER = CudaFacts(
    is_available=False, pytorch="2.11.0+cu130", build="13.0", driver=None, supported=None, visible=None
)
OLD_DRIVER = replace(WITHOUT_DRIVER, driver="535.129.03", supported="12.2")
NEW_DRIVER = replace(WITHOUT_DRIVER, driver="580.95.05", supported="13.0")

PROBLEMS = {
    "no driver": (WITHOUT_DRIVER, "no NVIDIA driver was found; use a machine", "a driver of version 580 or newer"),
    "no driver, and CUDA 12": (replace(WITHOUT_DRIVER, build="12.8"), "a driver of version 525 or newer"),
    "no driver, and a CUDA of the future": (replace(WITHOUT_DRIVER, build="14.1"), "a driver for CUDA 14.1"),
    "a build without CUDA": (
        replace(NEW_DRIVER, pytorch="2.11.0+cpu", build=None),
        "PyTorch 2.11.0+cpu is built without CUDA; install a build of it with CUDA",
    ),
    "a driver that is too old": (
        OLD_DRIVER,
        "the NVIDIA driver 535.129.03 supports CUDA 12.2, and PyTorch 2.11.0+cu130 needs CUDA 13.0",
        "; install a driver of version 580 or newer, or a PyTorch built for CUDA 12,",
    ),
    "an old driver of unknown version": (replace(OLD_DRIVER, driver=None), "the NVIDIA driver supports CUDA 12.2"),
    "a container without its GPUs": (
        replace(OLD_DRIVER, supported=None),
        "the NVIDIA driver 535.129.03 is loaded, but its library is missing; start a container with `docker run --gpus",
    ),
    "hidden GPUs": (replace(NEW_DRIVER, visible="-1"), "CUDA_VISIBLE_DEVICES is '-1'; unset it"),
    "no GPU behind the driver": (NEW_DRIVER, "the NVIDIA driver 580.95.05 shows no usable GPU; expected one that"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_the_reason_names_what_was_found_and_what_to_do(case):
    facts, *parts = PROBLEMS[case]
    assert_one_sentence(gpu_problem(facts), *parts)


def test_a_driver_older_than_cuda_12_has_no_other_build_as_a_remedy():
    assert "or a PyTorch" not in str(gpu_problem(replace(OLD_DRIVER, driver="470.82.01", supported="11.4")))


@pytest.mark.parametrize("build", ["12.8", None])
def test_a_gpu_that_pytorch_can_use_is_no_problem(build):
    """None is a build for GPUs of another maker, which PyTorch calls by the same name."""
    assert gpu_problem(replace(OLD_DRIVER, is_available=True, build=build)) is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
            "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n",
            "535.129.03",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124  Release Build  (dvs-builder)\n",
            "570.124",
        ),
        ("no version\n", None),
    ],
)
def test_the_version_of_the_driver_is_read_from_the_file_of_the_kernel(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version


def test_without_a_driver_it_has_no_version(tmp_path):
    assert driver_version(tmp_path / "version") is None


@without_gpu
def test_a_published_base_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.delenv("FLUX_GPU", raising=False)
    with pytest.raises(ValueError) as error:
        check_gpu("dev", True)
    problem = str(gpu_problem(cuda_facts()))
    assert_one_sentence(error.value, "the base dev needs a GPU", problem, "set FLUX_GPU=optional to compute on the CPU")


@pytest.mark.parametrize(("setting", "is_published"), [(None, False), ("optional", True), (" optional ", False)])
def test_another_base_is_accepted_without_a_gpu_and_a_published_one_if_the_gpu_is_optional(
    monkeypatch, setting, is_published
):
    monkeypatch.delenv("FLUX_GPU", raising=False)
    if setting is not None:
        monkeypatch.setenv("FLUX_GPU", setting)
    check_gpu("a base", is_published)


@without_gpu
def test_any_base_is_refused_without_a_gpu_if_the_gpu_is_required(monkeypatch):
    monkeypatch.setenv("FLUX_GPU", "required")
    with pytest.raises(ValueError, match="the base tiny needs a GPU"):
        check_gpu("tiny", False)


def test_another_setting_is_refused_whatever_the_base(monkeypatch):
    monkeypatch.setenv("FLUX_GPU", "no")
    with pytest.raises(ValueError) as error:
        check_gpu("tiny", False)
    assert_one_sentence(error.value, "FLUX_GPU is 'no': expected required or optional")
