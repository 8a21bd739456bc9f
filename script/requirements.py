"""Write the requirements.txt of Cog's image and of a Space, from uv.lock. With --check, fail if one is out of date."""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# Cog installs itself; and it picks the torch built for the CUDA of cog.yaml, which brings CUDA packages of its own.
WITH_TORCH = ("cuda-", "nvidia-", "triton")
LEFT_TO_COG = ("cog", "coglet", *WITH_TORCH)
# A Space installs gradio[oauth,mcp] together with its file, and gradio[mcp] 6.31 excludes the newest pydantic.
LEFT_TO_SPACE = ("pydantic", "pydantic-core", *WITH_TORCH)
IMAGE = {  # what the image is, for the markers of the lock: Cog keeps none; a Space is the same
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "os_name": "posix",
    "python_version": "3.12",
    "python_full_version": "3.12.0",
}


@dataclass(frozen=True, slots=True)
class Requirements:
    """A file, the part of the lock that is in it, and what is left out: names, or their beginnings that end in -."""

    path: Path
    selected: tuple[str, ...]  # options of `uv export`
    left_out: tuple[str, ...]


FILES = (
    Requirements(ROOT / "requirements.txt", ("--extra", "wandb"), LEFT_TO_COG),
    Requirements(ROOT / "deploy/space/requirements.txt", ("--group", "space"), LEFT_TO_SPACE),
)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check that the files are up to date")
    check = parser.parse_args().check
    for file in FILES:
        wanted = exported(file)
        if not check:
            file.path.write_text(wanted)
        elif not file.path.is_file() or file.path.read_text() != wanted:
            sys.exit(f"{file.path.relative_to(ROOT)} is out of date: run script/export-requirements")


def exported(file: Requirements) -> str:
    """One `name==version` a line."""
    options = ("--locked", "--quiet", "--no-dev", *file.selected, "--no-hashes", "--no-annotate", "--no-header")
    run = subprocess.run(("uv", "export", *options), cwd=ROOT, check=True, capture_output=True, text=True)
    requirements = [Requirement(line) for line in run.stdout.splitlines() if line.strip()]
    pins = [f"{each.name}{each.specifier}" for each in requirements if _is_kept(each, file.left_out)]
    return "\n".join(["# Exported from uv.lock by script/export-requirements; do not edit.", *sorted(pins), ""])


def _is_kept(requirement: Requirement, left_out: tuple[str, ...]) -> bool:
    is_left_out = any(
        requirement.name.startswith(name) if name.endswith("-") else requirement.name == name for name in left_out
    )
    return not is_left_out and (requirement.marker is None or requirement.marker.evaluate(dict(IMAGE)))


if __name__ == "__main__":
    main()
