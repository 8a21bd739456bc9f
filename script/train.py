"""Train without Cog's server or Docker: the same training, with a flag for each of its inputs. Started by accelerate
or torchrun, it trains in their processes, on one machine or several.

Exit codes: 0 if all steps were done, 75 if the training stopped early and the LoRA so far was written, 130 after
Ctrl-C, 2 for a wrong flag, and 1 for any other error. Each but 0 and 75 leaves the output path as it was.
"""

import argparse
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from lora.training.runs.launched import LaunchError, launched_process
from script.config_flag import parse_with_config
from script.training_flags import ARCHIVE, CAPTIONS, RESUME, add_inputs, archived, is_trained_tar, refuse_output
from script.whole_file import move_whole, refuse_unwritable
from weights.local_files import VARIABLE as FILES_VARIABLE

LATEST = "latest"
TRACKERS = ("tensorboard", "wandb", "trackio")
STOPPED_EARLY = 75  # EX_TEMPFAIL of sysexits.h: trying again may do better
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it
REPORT = "output/flux_train_replicate/report/training.json"
PAGE = "output/flux_train_replicate/report/index.html"
START = 4096  # characters of a file, in which a page of ours has its mark


def main() -> None:
    """Train, as the only process or as the first one of several; the others take part in it."""
    try:
        launched = launched_process(os.environ)
        if launched is None:
            run()
            return
        if launched.local_rank == 0:  # once on each machine
            print(f"waiting for {launched.size} processes at {launched.address}:{launched.port}", flush=True)
        if launched.rank == 0:
            from lora.training.runs.joining import joined, naming_lost_machine  # noqa: PLC0415 - imports torch

            with joined(launched):
                run(naming_lost_machine)
        else:
            from script.launched_training import take_part  # noqa: PLC0415 - takes seconds

            sys.exit(take_part(launched))
    except LaunchError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def run(naming_errors: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """Parse the flags, train, and move the tar to its output path. `naming_errors` replaces errors of the training by
    what they come from."""
    parser = argparse.ArgumentParser(prog="script/train", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("trained_model.tar"), help="where to write the tar")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of this training")
    parser.add_argument("--log", action="append", choices=TRACKERS, default=[], help="record the training with this")
    add_inputs(parser)
    arguments = parse_with_config(parser, names_output=True)
    output: Path = arguments.pop("output")
    if arguments.pop("resume"):
        if arguments[RESUME]:
            sys.exit("error: --resume and --resume-from are both given: expected one of them")
        arguments[RESUME] = LATEST
    _refuse(output)
    _choose_trackers(arguments.pop("log"), output)
    began = time.time()
    try:
        with (
            naming_errors(),
            archived(arguments.pop(ARCHIVE)) as archive,
            archived(arguments.pop(CAPTIONS), named=CAPTIONS) as captions,
        ):
            tar = _train({ARCHIVE: archive, CAPTIONS: captions, **arguments})
    except KeyboardInterrupt:
        print(f"stopped; {_how_to_continue(began) or 'no step was saved'}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        continued, found = _how_to_continue(began), str(error) or type(error).__name__
        sys.exit(f"error: {found}" + (f"; {continued}" if continued else ""))
    code = _finish(tar, output)
    if code:
        sys.exit(code)


def _refuse(output: Path) -> None:
    """Exit with one sentence if the tar could not be written to this path in the end."""
    refuse_output(output, is_ours=is_trained_tar)
    try:
        refuse_unwritable(output)
    except OSError as error:
        sys.exit(f"error: --output is {str(output)!r}: expected a folder that can be written to ({error.strerror})")


def _choose_trackers(names: list[str], output: Path) -> None:
    """Choose trackers as a deployment does, by the environment; TensorBoard's files lie beside the tar."""
    if names:
        os.environ["FLUX_LORA_TRACKERS"] = ",".join(names)
        os.environ.setdefault("FLUX_LORA_TENSORBOARD", str(output.with_name(f"{output.stem}-tensorboard")))


def _train(arguments: dict[str, Any]) -> Path:
    os.environ[FILES_VARIABLE] = "/"  # whoever runs this command owns the machine
    if arguments["hf_repo_id"] and not arguments["hf_token"]:
        arguments["hf_token"] = get_token()  # of HF_TOKEN or `hf auth login`
    from train import train  # noqa: PLC0415 - takes seconds, which --help and a wrong flag should not cost

    return Path(str(train(**arguments).weights))


def _how_to_continue(began: float) -> str:
    """What a new run can continue from, if this one has saved a checkpoint since it began."""
    if "train" not in sys.modules:
        return ""
    from lora.training.checkpoints.earlier_runs import (  # noqa: PLC0415 - imports torch, which train.py has done
        saved_by_this_process,
    )

    saved = saved_by_this_process(began)
    return "" if saved is None else f"step {saved.step} is saved: the same command with --resume continues from there"


def _finish(tar: Path, output: Path) -> int:
    """Move the tar out of the job's folder, delete the folder, and return the exit code.

    If the move fails, the tar stays where it is.
    """
    early, page = _early_end(tar), _file_in(tar, PAGE)
    try:
        move_whole(tar, output)
    except OSError as error:
        sys.exit(f"error: cannot write {output} ({error.strerror}); the trained LoRA is in {tar}")
    except KeyboardInterrupt:
        print(f"stopped; the trained LoRA is in {tar if tar.exists() else output}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    shutil.rmtree(tar.parent, ignore_errors=True)
    with suppress(OSError):  # the terminal may be closed
        print(f"wrote {output}{early}")
        if page:
            print(_keep_page(page, output.with_suffix(".html")))
    return STOPPED_EARLY if early else 0


def _early_end(tar: Path) -> str:
    """How the training ended, as the report in its tar says it; empty if all steps were done."""
    content = _file_in(tar, REPORT)
    report = json.loads(content) if content else {}  # an existing LoRA that is returned has none
    if not report.get("stopped_early"):
        return ""
    done, asked = report["steps_done"], report["steps_asked"]
    return f" after {done} of {asked} steps; the same command with --resume does the rest"


def _file_in(tar: Path, name: str) -> bytes | None:
    with tarfile.open(tar) as opened:
        file = opened.extractfile(name) if name in opened.getnames() else None
        return file.read() if file else None


def _keep_page(page: bytes, path: Path) -> str:
    """Write the report page beside the tar, unless another file is there, and return a line about it."""
    if path.exists() and not _is_page(path):
        return f"the report page is report/index.html in the tar, as {path} is another file"
    try:
        path.write_bytes(page)
    except OSError as error:
        return f"the report page is report/index.html in the tar, as {path} cannot be written ({error.strerror})"
    return f"wrote {path}: open it in a browser"


def _is_page(path: Path) -> bool:
    """Whether a file is a report page, by its beginning."""
    from lora.reporting.page import MARK  # noqa: PLC0415 - train.py has imported it

    if not path.is_file():  # a folder, or a pipe, which nobody may write to
        return False
    with suppress(OSError), path.open("rb") as file:
        return MARK.encode() in file.read(START)
    return False


if __name__ == "__main__":
    main()
