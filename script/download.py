"""Download a base into weights/: says its size, licence and gate, continues, and verifies what is there by sha256."""

import argparse
import sys

from weights.base_fetching import destination_of, fetch_base
from weights.bases import REPOSITORIES, download_folder
from weights.grammar.base_source import HubBase, parse_base_source


def main() -> None:
    """Parse the name, and download what is missing."""
    parser = argparse.ArgumentParser(prog="script/download", description=__doc__)
    names = ", ".join(REPOSITORIES)
    parser.add_argument("base", help=f"{names}, or owner/name[@revision] of a base in diffusers layout on Hugging Face")
    name: str = parser.parse_args().base
    try:
        source = _source(name)
        base = _known_name(source) or source.repository
        folder = download_folder(base)
        fetch_base(source, destination_of(source, folder, _log))
    except KeyboardInterrupt:
        print(f"stopped; `script/download {name}` continues", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"use it with FLUX_BASE={base if base in REPOSITORIES else folder}")


def _source(name: str) -> HubBase:
    try:
        source = parse_base_source(name if "://" in name else f"hf://{REPOSITORIES.get(name, name)}")
    except ValueError as error:
        raise ValueError(f"base {error}; or {', '.join(REPOSITORIES)}") from error
    if not isinstance(source, HubBase):
        raise ValueError("base is the URL of a tar: expected a name on Hugging Face; FLUX_BASE_URL takes tars")
    return source


def _known_name(source: HubBase) -> str | None:
    return next((name for name, repository in REPOSITORIES.items() if repository == source.repository), None)


def _log(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
