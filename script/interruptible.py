"""Runs a module of this folder so that Ctrl-C ends it at any time, while it imports too, without a traceback.

As in `python -m script.interruptible script.check photos.zip`.
"""

import runpy
import sys

INTERRUPTED = 130  # 128 and the number of SIGINT, as in shells


def main() -> None:
    """Run the module that the first argument names, with the other arguments."""
    module = sys.argv.pop(1)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
