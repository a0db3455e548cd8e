"""Runs of the command line that are killed at random moments and taken up: a process of its own, for it forks.

Arguments: a folder to work in, how many runs are killed (twice each), then those of corrmask; OUTPUT among them is the
output. Prints what every run in turn left, as JSON: [kills, hash of the output, names in the folder].
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

import anndata  # noqa: F401  # loaded once, before the forks
import datasets  # noqa: F401
import rich.progress  # noqa: F401

import corrmask.graph
import corrmask.tokenization  # noqa: F401
from corrmask.cli.app import main
from corrmask.sources import Source

CHUNK_CELLS = 40  # so that there are many chunks


def content(path: Path) -> str:
    digest = hashlib.blake2b()
    for file in sorted([path] if path.is_file() else path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path)} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


def run(arguments: list[str], *, die_at: int | None, report: Path | None = None) -> int:
    """Run the command in a child; with `die_at` it is killed at that call of a Python function. Returns the status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"
        if calls == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    Source.chunks = partialmethod(Source.chunks, max_cells=CHUNK_CELLS)  # type: ignore[method-assign,assignment]
    if die_at is not None or report is not None:
        sys.setprofile(count)
    try:
        main(arguments)
    except SystemExit as stop:
        sys.setprofile(None)
        if report is not None:
            report.write_text(str(calls))
        os._exit(int(stop.code or 0))
    os._exit(1)


if __name__ == "__main__":
    folder, n_kills, *given = sys.argv[1:]
    work = Path(folder)
    output = work / next(word for word in given if word.startswith("OUTPUT")).replace("OUTPUT", "output")
    arguments = [str(output) if word.startswith("OUTPUT") else word for word in given]
    calls = work.parent / f"{work.name}.calls"
    assert run(arguments, die_at=None, report=calls) == 0
    n_calls = int(calls.read_text())
    results = [(0, content(output), sorted(os.listdir(work)))]
    rng = random.Random(0)
    for moment in range(int(n_kills)):
        os.rename(output, work.parent / f"{output.name}.{moment}")
        kills = 0
        # the first kill in turn early, in the middle and late; those of the runs that take it up anywhere
        first = int((moment + rng.random()) / int(n_kills) * n_calls)
        for die_at in (first, rng.randrange(n_calls // 2)):
            kills += run([*arguments, "--resume"], die_at=die_at) == signal.SIGKILL
        if run([*arguments, "--resume"], die_at=None) != 0 and not output.exists():
            raise SystemExit("the last run failed")
        results.append((kills, content(output), sorted(os.listdir(work))))
    sys.stdout.write(json.dumps(results))
