"""The log of a run: ``metrics.jsonl``, one line per update and per validation, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

FILE = "metrics.jsonl"
FOLDER = "tensorboard"


class Log:
    """Writes the log, going on after `step`: whatever an earlier run logged beyond it is cut off.

    Parameters
    ----------
    output
        Folder of the run.
    step
        Updates that the run goes on from; None starts a new log.
    """

    def __init__(self, output: Path, step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = output / FILE
        if step is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            truncate(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(output / FOLDER), purge_step=None if step is None else step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line: ``{"kind": kind, "step": step, **values}``."""
        line = json.dumps({"kind": kind, "step": step, **values}, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Bring all lines to the disk, before a checkpoint says that they are there."""
        os.fsync(self._file.fileno())
        self._board.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()


def truncate(path: Path, step: int) -> None:
    """Keep the lines up to `step`; a line cut short by a kill ends the log as well."""
    with path.open("r+b") as file:
        end = 0
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        file.truncate(end)


def share_of_time(lines: Iterable[dict[str, Any]], name: str) -> float | None:
    """A share that is logged with each update, over the time of all that have it; None if none has."""
    updates = [line for line in lines if line["kind"] == "train" and name in line]
    seconds = sum(line["seconds"] for line in updates)
    return sum(line[name] * line["seconds"] for line in updates) / seconds if updates else None


def read_metrics(output: str | Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` of a model folder, in order."""
    return [json.loads(line) for line in (Path(output) / FILE).read_text(encoding="utf-8").splitlines()]
