"""Run `cog build` or `cog push` with --separate-weights, in a folder with only the files that .dockerignore lets in.

With --separate-weights, each folder of weights is a layer of its own, so that a change of the code does not send all
of them again. But Cog takes every file of 10 MiB or more in its folder for weights, whatever .dockerignore says, and
the build ends with "not found" at the first photos.zip or LoRA. So it gets a folder of hard links, for as long as it
runs.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from script.docker_context import FILE, files_in_context

ROOT = Path(__file__).resolve().parents[1]
STAGED = Path(".cog", "image")  # in the checkout, as links cannot lead to another disk; Cog leaves .cog out of images


def main() -> int:
    """Parse the arguments, run Cog, and return its exit code."""
    parser = argparse.ArgumentParser(prog="script/image", description=__doc__)
    parser.add_argument("command", choices=["build", "push"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to Cog, such as r8.im/you/your-model")
    arguments = parser.parse_args()
    if shutil.which("cog") is None:
        sys.exit("error: found no command cog: install Cog, see https://github.com/replicate/cog#install")
    try:
        with staged(ROOT) as folder:
            print("\n".join(f"{name}: {size / 1e9:.2f} GB" for name, size in bases(folder).items()), flush=True)
            command = ["cog", arguments.command, "--separate-weights", *arguments.arguments]
            return subprocess.run(command, cwd=folder, check=False).returncode
    except OSError as error:
        sys.exit(f"error: the files of the image cannot be put into {ROOT / STAGED}: {error}")
    except KeyboardInterrupt:
        return 130  # as of a program that SIGINT ended; Cog got it, too


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """A folder with what goes into the image, while the context is open.

    It has the name of the root, from which Cog makes the name of the image. It is new each time: in a folder that it
    knows, Cog takes the layers of weights from the image of that name even if there is none yet.
    """
    shutil.rmtree(root / STAGED, ignore_errors=True)
    folder = root / STAGED / root.name
    try:
        for file in sorted({FILE, *files_in_context(root, follow_links=True)}):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            _place((root / file).resolve(), folder / file)
        yield folder
    finally:
        shutil.rmtree(root / STAGED, ignore_errors=True)  # links would keep weights on the disk that a person deletes


def bases(folder: Path) -> dict[str, int]:
    """The folders in weights/ that have more than code in them, and how many bytes."""
    files = [file for file in folder.glob("weights/*/**/*") if file.is_file() and file.suffix != ".py"]
    found: Counter[str] = Counter()
    for file in files:
        found["/".join(file.relative_to(folder).parts[:2])] += file.stat().st_size
    return dict(sorted(found.items()))


def _place(source: Path, target: Path) -> None:
    """Link a file; copy one that is on another disk, or that belongs to somebody else."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    sys.exit(main())
