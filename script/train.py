"""Train without Cog's server or Docker: the same training, with a flag for each of its inputs."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from script.training_flags import ARCHIVE, RESUME, add_inputs, archived, is_trained_tar, refuse_output

LATEST = "latest"


def main() -> None:
    """Parse the flags, train, and move the tar to its output path."""
    parser = argparse.ArgumentParser(prog="script/train", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("trained_model.tar"), help="where to write the tar")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of this training")
    add_inputs(parser)
    arguments = vars(parser.parse_args())
    output: Path = arguments.pop("output")
    if arguments.pop("resume"):
        arguments[RESUME] = LATEST
    refuse_output(output, is_ours=is_trained_tar)
    try:
        with archived(arguments.pop(ARCHIVE)) as archive:
            tar = _train({ARCHIVE: archive, **arguments})
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command with --resume to continue from the last checkpoint")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    _move_tar(tar, output)


def _train(arguments: dict[str, Any]) -> Path:
    from train import train  # noqa: PLC0415 - takes seconds, which --help and a wrong flag should not cost

    return Path(str(train(**arguments).weights))


def _move_tar(tar: Path, output: Path) -> None:
    """Move the tar out of the job's folder and delete the folder; if the move fails, the tar stays where it is."""
    try:
        shutil.move(tar, output)
    except OSError as error:
        sys.exit(f"error: cannot write {output} ({error.strerror}); the trained LoRA is in {tar}")
    shutil.rmtree(tar.parent, ignore_errors=True)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
