"""Say how an image was drawn: what the predictor wrote into it, as JSON."""

import argparse
import json
import sys
from pathlib import Path

from lora.serving.outputs import settings_in


def main() -> None:
    """Print the settings in each file, or the reason why there are none."""
    parser = argparse.ArgumentParser(prog="script/metadata", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, help="files that the predictor made")
    failed = False
    for path in parser.parse_args().images:
        try:
            print(json.dumps(settings_in(path), indent=1, ensure_ascii=False))
        except (OSError, ValueError) as error:
            failed = True
            print(f"{error}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
