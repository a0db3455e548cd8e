"""The command line: parses, calls, prints. Needs the extra ``corrmask[cli]``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """`corrmask` on the command line, or a line that says what to install for it."""
    try:
        from corrmask.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "click", "rich"):
            raise
        sys.stderr.write(f"corrmask: the command line needs {error.name}: pip install 'corrmask[cli]'\n")
        raise SystemExit(2) from None
    try:
        run()
    except SystemExit as stop:
        if stop.code != 2:
            raise
        # HDF5 may crash as Python closes what a full disk left open; all has been said and removed by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
