"""Download the wheels that a GPU machine without a network lacks, small enough to travel there with the repository.

That machine has Python 3.12 with torch and its libraries (NAMES are those of ours that it has not, or not surely in the
right version). bitsandbytes is stripped to the library of its CUDA. Needs nothing but pip, whose configuration decides
where wheels come from.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(".gpu/wheels")
NAMES = (
    *("diffusers", "importlib-metadata", "peft", "pi-heif", "prodigyopt", "regex"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("charset-normalizer", "requests", "certifi", "idna", "urllib3", "zipp", "lazy-importer"),
)
STRIPPED = "bitsandbytes"
KEPT_LIBRARIES = ("libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so")  # torch 2.11 there is built for CUDA 13.0
PYTHON = "3.12"
PLATFORMS = (  # pip takes only wheels of exactly these
    *("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64"),
    *("manylinux2014_x86_64", "manylinux1_x86_64"),
)
MOST_BYTES = 64 * 2**20  # of the repository and the wheels together


def main() -> None:
    """Fill a folder, and print the sizes. Exits with one sentence if that is impossible."""
    parser = argparse.ArgumentParser(prog="script/gpu-run pack", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / FOLDER, help=f"default: {FOLDER}")
    folder = parser.parse_args().folder
    try:
        pack(folder)
    except (ValueError, OSError) as error:
        sys.exit(str(error))


def pack(folder: Path) -> None:
    """Replace the wheels in a folder, which has nothing else. Raises ValueError with one sentence if it has, if pip
    fails, or if the wheels are too large."""
    old = wheels_in(folder)
    pins = locked_versions(tomllib.loads((ROOT / "uv.lock").read_text()), [*NAMES, STRIPPED])
    with tempfile.TemporaryDirectory() as downloads:
        download(pins, Path(downloads))
        for wheel in old:
            wheel.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in sorted(Path(downloads).glob("*.whl")):
            if wheel.name.startswith(f"{STRIPPED}-"):
                strip_libraries(wheel, folder / wheel.name, kept=KEPT_LIBRARIES)
            else:
                shutil.copy(wheel, folder)
    wheels = {wheel.name: wheel.stat().st_size for wheel in sorted(folder.iterdir())}
    print("\n".join(f"{size / 2**20:6.2f} MiB  {name}" for name, size in wheels.items()))
    print(size_line(sum(wheels.values()), tracked_bytes(ROOT)))


def wheels_in(folder: Path) -> list[Path]:
    """The wheels in a folder. Raises ValueError if it has other files, since all that it has would travel."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    others = [file.name for file in files if file.suffix != ".whl"]
    if others:
        raise ValueError(f"folder is {folder}, which has {others[0]}: expected a folder with nothing but wheels")
    return files


def locked_versions(lock: dict[str, list[dict[str, str]]], names: Sequence[str]) -> list[str]:
    """`name==version` for each name, from a parsed uv.lock. Raises ValueError if it has none or several of one."""
    found = []
    for name in names:
        versions = [package["version"] for package in lock["package"] if package["name"] == name]
        if len(versions) != 1:
            raise ValueError(f"uv.lock has {len(versions)} versions of {name}: expected one")
        found.append(f"{name}=={versions[0]}")
    return found


def download(pins: Iterable[str], folder: Path) -> None:
    """Download wheels for the GPU machine, without what they require. Raises ValueError with pip's last line."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder), *pins),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"pip could not download the wheels ({reason}): expected a python3 with pip and an index")


def strip_libraries(wheel: Path, target: Path, *, kept: Sequence[str]) -> None:
    """Copy a wheel without its shared libraries, except for those of these names; it stays installable."""
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as part:
        names = {name for name in whole.namelist() if not name.endswith(".so") or Path(name).name in kept}
        missing = [name for name in kept if not any(Path(each).name == name for each in names)]
        if missing:
            raise ValueError(f"{wheel.name} has no {missing[0]}: expected the library of the GPU machine's CUDA")
        for entry in whole.infolist():
            if entry.filename in names:
                content = whole.read(entry)
                if entry.filename.endswith(".dist-info/RECORD"):
                    content = _without_files(content, kept=names)
                part.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)


def _without_files(record: bytes, *, kept: set[str]) -> bytes:
    """A wheel's RECORD, whose lines begin with a file's name, with the files that are kept."""
    lines = record.decode().splitlines(keepends=True)
    return "".join(line for line in lines if line.split(",")[0] in kept).encode()


def tracked_bytes(root: Path) -> int:
    """The bytes of the files that travel with a repository: all that git does not ignore."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    return sum((root / name).stat().st_size for name in names if name and (root / name).is_file())


def size_line(wheels: int, tracked: int) -> str:
    """What travels, in one line. Raises ValueError if it is too much."""
    both = f"{wheels / 2**20:.1f} MiB of wheels and {tracked / 2**20:.1f} MiB of the repository"
    if wheels + tracked > MOST_BYTES:
        raise ValueError(f"{both} are too much to travel: expected at most {MOST_BYTES / 2**20:.0f} MiB together")
    return f"{both}, {(wheels + tracked) / 2**20:.1f} of {MOST_BYTES / 2**20:.0f} MiB"


if __name__ == "__main__":
    main()
