"""Download a base or a captioner into weights/: says size, licence and gate, continues, verifies by sha256."""

import argparse
import sys

from weights import caption_model
from weights.base_fetching import destination_of, fetch_base
from weights.bases import download_folder
from weights.catalogue import PUBLISHED, embedded, published, published_in
from weights.grammar.base_source import HubBase, parse_base_source
from weights.layouts import CAPTIONER

CAPTIONER_NAME = "captioner"
NAMES = ", ".join(base.name for base in PUBLISHED)
TERMS = "\n".join(["bases:", *(f"  {base.name:<16} {base.terms}" for base in PUBLISHED)])


def main() -> None:
    """Parse the name, and download what is missing."""
    parser = argparse.ArgumentParser(
        prog="script/download",
        description=__doc__,
        epilog=TERMS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "base",
        help=f"{NAMES}, or owner/name[@revision] of a base in diffusers layout on Hugging Face; or captioner, which"
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
    known = published_in(source.repository)
    folder = download_folder(known.name if known else source.repository)
    fetch_base(source, destination_of(source, folder, _log))
    return f"use it with FLUX_BASE={known.name if known else folder}"


def _fetch_captioner(*, small: bool) -> str:
    """Download a captioner into an empty folder, or continue. Another captioner there is not mixed with it."""
    repository = caption_model.SMALL_REPOSITORY if small else caption_model.REPOSITORY
    source, folder = _source(repository), caption_model.FOLDER
    caption_model.refuse_another(folder, repository)
    fetch_base(source, destination_of(source, folder, _log, CAPTIONER))
    return "trainings use it: with autocaption, images without a caption are described"


def _source(name: str) -> HubBase:
    if own := embedded(name):
        raise ValueError(f"base is {name}, which comes with this project in weights/{own.folder}: expected {NAMES}")
    known = published(name)
    try:
        source = parse_base_source(name if "://" in name else f"hf://{known.repository if known else name}")
    except ValueError as error:
        raise ValueError(f"base {error}; or {NAMES}, {CAPTIONER_NAME}") from error
    if not isinstance(source, HubBase):
        raise ValueError("base is the URL of a tar: expected a name on Hugging Face; FLUX_BASE_URL takes tars")
    return source


def _log(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
