"""Write the LoRA that `cog train -o out.json` or a training server returned: the tar, and its .safetensors file."""

# Imports the standard library only, and has no syntax newer than Python 3.8: it runs where nothing of this project is
# installed.

from __future__ import annotations

import argparse
import base64
import binascii
import io
import json
import sys
import tarfile
from pathlib import Path, PurePosixPath

TAR, LORA = ".tar", ".safetensors"
DATA_URI, BASE64 = "data:", ";base64"
SHOWN = 80  # characters of something unexpected in an error


def main() -> None:
    """Parse the arguments, write both files and print their paths."""
    parser = argparse.ArgumentParser(prog="script/untar", description=__doc__)
    parser.add_argument("file", metavar="out.json", type=Path, help="the JSON that cog train or a server returned")
    parser.add_argument("--output", type=Path, default=Path("trained_model.tar"), help="default: trained_model.tar")
    arguments = parser.parse_args()
    output: Path = arguments.output
    if output.suffix != TAR:
        sys.exit(
            f"error: --output is {str(output)!r}: expected a name that ends in {TAR}; the LoRA is written beside it"
        )
    try:
        tar = decoded(weights_in(json_in(arguments.file)))
        lora = lora_in(tar)
    except ValueError as error:
        sys.exit(f"error: {arguments.file} {error}")
    _write({output: tar, output.with_suffix(LORA): lora})


def json_in(file: Path) -> object:
    """Read a JSON file. Raises ValueError, whose message completes a sentence that starts with the path of the file."""
    expected = "expected the file that `cog train ... -o out.json` wrote"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}): {expected}") from error
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON, but {len(content):,} bytes of something else: {expected}") from error


def weights_in(response: object) -> str:
    """Return the data URI in Cog's output, which the response of a server wraps together with a status and an error.

    Raises ValueError like `json_in`, for a training that did not succeed with its error.
    """
    if isinstance(response, dict) and "status" in response:
        if response["status"] != "succeeded":
            error = f" ({_shown(response['error'])})" if response.get("error") else ""
            raise ValueError(f"has the status {_shown(response['status'])}{error}: expected a training that succeeded")
        response = response.get("output")
    weights = response.get("weights") if isinstance(response, dict) else None
    if not weights:
        raise ValueError("has no output: expected the weights of a training, as a data URI")
    if not isinstance(weights, str) or not weights.startswith(DATA_URI):
        found = _shown(weights)[:SHOWN]
        raise ValueError(
            f"has {found} as weights: expected a data URI; if this is an address, download the tar from it"
        )
    return weights


def decoded(uri: str) -> bytes:
    """Return the content of a data URI. Raises ValueError like `json_in`."""
    header, comma, content = uri.partition(",")
    if not comma or not header.endswith(BASE64):
        raise ValueError(f"has weights that start with {_shown(header)[:SHOWN]}: expected a data URI in base64")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(
            f"has damaged weights ({error}): expected base64; train again, or copy the file again"
        ) from error


def lora_in(content: bytes) -> bytes:
    """Return the only .safetensors file in a tar. Raises ValueError like `json_in`.

    Names in the tar never become paths here, but a tar whose names lead out of a folder is refused, as other programs
    may unpack it by them.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            members = tar.getmembers()
            _refuse_traversal([member.name for member in members])
            loras = [member for member in members if member.isfile() and member.name.endswith(LORA)]
            files = [tar.extractfile(member) for member in loras]
            contents = [file.read() for file in files if file]
    except tarfile.TarError as error:
        raise ValueError(f"has weights that are no tar ({error}): expected the tar of a training") from error
    if len(contents) != 1:
        raise ValueError(f"has a tar with {len(contents)} {LORA} files: expected exactly one")
    return contents[0]


def _refuse_traversal(names: list[str]) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            found = repr(name[:SHOWN])
            raise ValueError(f"has a tar with the file {found}: expected names inside of one folder; do not unpack it")


def _shown(found: object) -> str:
    """Something from the file on one line, without control characters."""
    text = " ".join(str(found).split())
    return "".join(character for character in text if character.isprintable())


def _write(contents: dict[Path, bytes]) -> None:
    for path, content in contents.items():
        try:
            path.write_bytes(content)
        except OSError as error:
            sys.exit(f"error: cannot write {path} ({error.strerror}): expected a file in an existing folder")
    print(f"wrote {' and '.join(map(str, contents))}")


if __name__ == "__main__":
    main()
