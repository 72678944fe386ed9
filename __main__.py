"""The door of `hvlite`, which imports nothing heavy: Ctrl-C ends the program in one line, also while the rest loads."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("stopped before the work began\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
