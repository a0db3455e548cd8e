"""Long work that was interrupted, kept in a hidden folder until it is taken up again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corrmask.errors import InputError
from corrmask.files import explain

_STATE, _LOCK = "state.json", "corrmask.lock"


def part_folder(output: str | Path) -> Path:
    """Where the parts of an output stand until it is whole: beside it."""
    output = Path(output)
    return output.with_name(f".{output.name}.part")


class Part:
    """A folder of parts, and how far they go.

    Attributes
    ----------
    folder
        Where the parts are written.
    state
        What `save` was given last, by this process or an interrupted one; None at the beginning.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], state: dict[str, Any] | None) -> None:
        self.folder = folder
        self.state = state
        self._identity = identity

    def save(self, state: dict[str, Any]) -> None:
        """Record how far the parts go, in one rename: JSON-safe values. What they name must have been written."""
        self.state = state
        temporary = self.folder / f"{_STATE}.new"
        temporary.write_text(json.dumps({"identity": self._identity, "state": state}))
        os.replace(temporary, self.folder / _STATE)


@contextmanager
def kept_part(folder: Path, identity: dict[str, Any], *, resume: bool, resumable: bool) -> Iterator[Part]:
    """Give a folder of parts, which outlives the process that is killed or interrupted, and no other end.

    Parameters
    ----------
    folder
        From `part_folder`, or any new, empty or earlier one: what stands in another is not ours to remove.
    identity
        Inputs and parameters, JSON-safe: parts are taken up where all of it is the same alone.
    resume
        Take up what is there; otherwise, and where there is nothing, begin anew.
    resumable
        Whether the inputs can be told by a later process; if not, nothing outlives an interruption.

    Raises
    ------
    InputError
        It cannot be made or holds something else, another process is at work here, or what is there came from other
        inputs or parameters.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(explain(error, folder)) from error
    names = sorted(entry.name for entry in folder.iterdir())
    if names and _LOCK not in names:
        raise InputError(f"{folder}: holds {names[0]!r}, so it is kept as it is; choose a new or empty folder")
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another process is writing this output; wait for it or end it") from error
        state = None
        if resume:
            state = _read_state(folder, identity)
        if state is None:
            for entry in folder.iterdir():
                if entry.name != _LOCK:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield Part(folder, identity, state)
        except BaseException as error:
            if isinstance(error, Exception) or not resumable:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)


def _read_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    try:
        document = json.loads((folder / _STATE).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{folder}: damaged; begin anew without --resume (resume=False)") from error
    before, now = document["identity"], json.loads(json.dumps(identity))
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            raise InputError(
                f"{folder}: what was interrupted had another {key!r} ({_short(before.get(key))}, now "
                f"{_short(now.get(key))}); begin anew without --resume (resume=False)"
            )
    return document["state"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
