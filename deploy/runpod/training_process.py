"""Trains once, in a process of its own: so its end frees all memory, and SIGTERM means what it means for a training.

Reads a JSON object from stdin, with the inputs of train.py and the path for its tar, so that no secret is in a list of
processes. Its last line begins with "error: " if the training failed.
"""

import json
import shutil
import sys
from pathlib import Path

from script.whole_file import move_whole
from train import train


def main() -> None:
    """Train, and move the tar to its path."""
    request = json.load(sys.stdin)
    try:
        tar = Path(str(train(**request["inputs"]).weights))
        move_whole(tar, Path(request["output"]))
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        sys.stdout.flush()
        sys.exit(f"error: {str(error) or type(error).__name__}")
    shutil.rmtree(tar.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
