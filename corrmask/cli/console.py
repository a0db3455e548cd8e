"""What every command prints with: progress bars and notes on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from corrmask.distributed import is_first
from corrmask.progress import Progress

# Of the processes that torchrun started, one prints.
out = Console(highlight=False, emoji=False, soft_wrap=True, quiet=not is_first())
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True, quiet=not is_first())


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on stderr, one per stage, where stderr is a terminal; nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=err, transient=True, disable=err.quiet or not err.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON document on stdout: what ``--json`` gives."""
    out.print(json.dumps(value, indent=2, allow_nan=False), markup=False)


def note(message: str) -> None:
    """Print a note for the reader on stderr."""
    err.print(message, markup=False)


def note_normalized() -> None:
    """Say what ``--normalized`` assumes."""
    note(
        "--normalized: values are taken as natural log1p of counts scaled to the same total in every cell; "
        "counts scaled otherwise are not noticed"
    )
