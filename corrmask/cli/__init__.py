"""The command line: parses, calls, prints. Needs the extra ``corrmask[cli]``."""

from __future__ import annotations

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
    run()
