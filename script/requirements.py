"""Write the requirements.txt that Cog reads, from uv.lock. With --check, fail if the existing file is out of date."""

import argparse
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# Cog installs itself; and it picks the torch built for the CUDA of cog.yaml, which brings CUDA packages of its own.
LEFT_TO_COG = ("cog", "coglet", "cuda-", "nvidia-", "triton")
IMAGE = {  # what the image is, for the markers of the lock: Cog keeps none
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "os_name": "posix",
    "python_version": "3.12",
    "python_full_version": "3.12.0",
}


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check that requirements.txt is up to date")
    check = parser.parse_args().check
    path, wanted = ROOT / "requirements.txt", exported()
    if not check:
        path.write_text(wanted)
    elif not path.is_file() or path.read_text() != wanted:
        sys.exit("requirements.txt is out of date: run script/export-requirements")


def exported() -> str:
    """One `name==version` a line, as the image needs them."""
    export = [
        "uv",
        "export",
        "--locked",
        "--quiet",
        "--no-dev",
        "--extra",
        "wandb",
        "--no-hashes",
        "--no-annotate",
        "--no-header",
    ]
    lines = subprocess.run(export, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    requirements = [Requirement(line) for line in lines if line.strip()]
    pins = [f"{each.name}{each.specifier}" for each in requirements if _is_for_image(each)]
    return "\n".join(["# Exported from uv.lock by script/export-requirements; do not edit.", *sorted(pins), ""])


def _is_for_image(requirement: Requirement) -> bool:
    left_to_cog = any(
        requirement.name.startswith(name) if name.endswith("-") else requirement.name == name for name in LEFT_TO_COG
    )
    return not left_to_cog and (requirement.marker is None or requirement.marker.evaluate(dict(IMAGE)))


if __name__ == "__main__":
    main()
