"""`python -m cronium.supervisor`, and what the console script runs: the command line.

A supervisor must run as a module: forked workers would otherwise load the console script's file again, and with it all of the
command line (multiprocessing, `_fixup_main_from_path`).
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The console script: the same as the module."""
    os.execv(sys.executable, [sys.executable, "-m", "cronium.supervisor", *sys.argv[1:]])  # noqa: S606 - ourselves


if __name__ == "__main__":
    from cronium.supervisor.cli.app import run

    run()
