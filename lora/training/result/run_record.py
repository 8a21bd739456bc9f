"""The record of one run of a training: seconds, memory, machine and versions.

Everything else in the tar is the same for the same training, byte for byte; this is not.
"""

import os
import platform
import resource
from importlib.metadata import version

import psutil
import torch

from lora.training.learning.summary import Usage
from lora.training.memory.configurations import Plan

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "cog")
BYTES_OF_MAXRSS = 1024  # Linux counts ru_maxrss in KiB (getrusage(2))


def run_record(plan: Plan, usage: Usage, *, processes: int, seconds: float) -> dict[str, object]:
    """The record as JSON. `seconds` is how long the job has taken so far, from reading its images on."""
    steps = usage.steps
    return {
        "seconds": {
            "job": round(seconds, 1),
            "steps": round(usage.seconds, 1),
            "validation_samples_and_page": round(usage.seconds_between, 1),
            "per_step": round(usage.seconds / steps, 4) if steps else None,
        },
        "steps_taken": steps,
        "memory": {
            "device_predicted_bytes": round(plan.peak_bytes),
            "device_measured_bytes": usage.peak_device_bytes,
            "host_predicted_bytes": round(plan.host.peak) or None,
            "host_measured_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_OF_MAXRSS,
        },
        "machine": {
            "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
            "processes": processes,
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
