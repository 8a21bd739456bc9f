"""Download a base or a captioner into weights/: says size, licence and gate, continues, verifies by sha256."""

import argparse
import sys

from weights import caption_model
from weights.base_fetching import destination_of, fetch_base
from weights.bases import REPOSITORIES, download_folder
from weights.grammar.base_source import HubBase, parse_base_source
from weights.layouts import CAPTIONER

CAPTIONER_NAME = "captioner"


def main() -> None:
    """Parse the name, and download what is missing."""
    parser = argparse.ArgumentParser(prog="script/download", description=__doc__)
    names = ", ".join(REPOSITORIES)
    parser.add_argument(
        "base",
        help=f"{names}, or owner/name[@revision] of a base in diffusers layout on Hugging Face; or captioner, which"
        f" describes images without a caption: {caption_model.REPOSITORY}",
    )
    small = f"the captioner for small GPUs: {caption_model.SMALL_REPOSITORY}"
    parser.add_argument("--florence", action="store_true", help=small)
    arguments = parser.parse_args()
    name: str = arguments.base
    if arguments.florence and name != CAPTIONER_NAME:
        parser.error("--florence chooses a captioner: expected `script/download captioner --florence`")
    again = f"script/download {name}{' --florence' if arguments.florence else ''}"
    try:
        use = _fetch_captioner(small=arguments.florence) if name == CAPTIONER_NAME else _fetch_base(name)
    except KeyboardInterrupt:
        print(f"stopped; `{again}` continues", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(use)


def _fetch_base(name: str) -> str:
    source = _source(name)
    base = _known_name(source) or source.repository
    folder = download_folder(base)
    fetch_base(source, destination_of(source, folder, _log))
    return f"use it with FLUX_BASE={base if base in REPOSITORIES else folder}"


def _fetch_captioner(*, small: bool) -> str:
    """Download a captioner into an empty folder, or continue. Another captioner there is not mixed with it."""
    repository = caption_model.SMALL_REPOSITORY if small else caption_model.REPOSITORY
    source, folder = _source(repository), caption_model.FOLDER
    caption_model.refuse_another(folder, repository)
    fetch_base(source, destination_of(source, folder, _log, CAPTIONER))
    return "trainings use it: with autocaption, images without a caption are described"


def _source(name: str) -> HubBase:
    try:
        source = parse_base_source(name if "://" in name else f"hf://{REPOSITORIES.get(name, name)}")
    except ValueError as error:
        raise ValueError(f"base {error}; or {', '.join(REPOSITORIES)}, {CAPTIONER_NAME}") from error
    if not isinstance(source, HubBase):
        raise ValueError("base is the URL of a tar: expected a name on Hugging Face; FLUX_BASE_URL takes tars")
    return source


def _known_name(source: HubBase) -> str | None:
    return next((name for name, repository in REPOSITORIES.items() if repository == source.repository), None)


def _log(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
