"""The folder of a run: who may write it, what it was asked for, and when it is finished."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from corrmask.errors import InputError
from corrmask.files import NO_SPACE, Contents, check_own, check_place, explain, replacing, sync
from corrmask.model import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from corrmask.training.checkpoint import FOLDER as CHECKPOINTS
from corrmask.training.log import FILE as METRICS
from corrmask.training.log import FOLDER as BOARD
from corrmask.training.settings import Settings, difference
from corrmask.vocabulary import FILE_NAME

_CONTENTS = Contents((RECORD_FILE,), (CONFIG_FILE, WEIGHTS_FILE, FILE_NAME, METRICS, BOARD, CHECKPOINTS, RECORD_FILE))


@contextmanager
def opened(path: str | Path, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """The folder to train in, held against a second run in it.

    Raises
    ------
    InputError
        It exists and neither `resume` nor `overwrite` is given, holds something else than a run, or something beside it
        that `overwrite` would remove, cannot be written, or another run is at work in it.
    """
    if resume and overwrite:
        raise InputError("--resume and --overwrite (resume=, overwrite=) exclude each other; give one of them")
    folder = check_place(path)
    if os.path.lexists(folder):
        if not folder.is_dir() or not (is_run(folder) or _is_empty(folder)):
            raise InputError(f"output {str(path)!r} exists and is not a model of corrmask; choose another name")
        if not (resume or overwrite or _is_empty(folder)):
            raise InputError(
                f"output {str(path)!r} exists already; go on with --resume (resume=True), replace it with --overwrite "
                "(overwrite=True) or choose another name"
            )
        if overwrite:
            check_own(folder, _CONTENTS)
            if (folder / CHECKPOINTS).is_dir():
                check_own(folder / CHECKPOINTS, Contents((), ("step-*",)))
    created = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(explain(error, path)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system, however the process ends
        except OSError:
            raise InputError(
                f"output {str(path)!r}: another run is at work in it; wait, or choose another name"
            ) from None
        yield folder
    except InputError as error:
        if NO_SPACE in str(error) and is_run(folder):  # told by this process, or by another of the run
            raise InputError(f"{error}; what was trained is kept: go on with --resume (resume=True)") from error
        raise
    finally:
        if created and not any(folder.iterdir()):  # refused before anything was written
            folder.rmdir()
        os.close(descriptor)


def is_run(folder: Path) -> bool:
    """Whether a run has written here."""
    return (folder / RECORD_FILE).exists()


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing but what a run that was killed at once may have left."""
    return all(path.name.startswith(".training.") for path in folder.iterdir())


def is_finished(folder: Path) -> bool:
    """Whether the run came to its end."""
    return (folder / CONFIG_FILE).exists() and (folder / WEIGHTS_FILE).exists() and read_record(folder)["finished"]


def clear(folder: Path) -> None:
    """Remove an earlier run alone: first what makes it look finished, last what makes it look like a run."""
    first = [CONFIG_FILE, WEIGHTS_FILE]
    rest = {path.name for path in folder.iterdir() if _CONTENTS.has(path.name)} - {*first, RECORD_FILE}
    for name in [*first, *sorted(rest), RECORD_FILE]:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_record(folder: Path) -> dict[str, Any]:
    """What ``training.json`` says.

    Raises
    ------
    InputError
        It is damaged.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_text())
        if not isinstance(record["settings"], dict) or not isinstance(record["inputs"], dict):
            raise TypeError("settings and inputs must be objects")
        return {"finished": False, "sessions": [], **record}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{str(folder / RECORD_FILE)!r} cannot be read ({error}); start anew with --overwrite (overwrite=True)"
        ) from None


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace ``training.json`` in one step."""
    with replacing(folder / RECORD_FILE, overwrite=True) as path:
        path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


def check_same(folder: Path, record: dict[str, Any], settings: Settings, inputs: dict[str, Any]) -> None:
    """Refuse to resume a run with anything that would change its result.

    Raises
    ------
    InputError
        One line that says what differs.
    """
    words = {"corpus": "the corpus is another one", "vocabulary": "the vocabulary is another one"}
    words |= {"graph": "the graph is another one", "labels": "the cells have other labels to balance by"}
    before = record["inputs"]
    other = {
        name: f"{what} (hash {before.get(name)}, now {inputs[name]})"
        for name, what in words.items()
        if before.get(name) != inputs[name]
    }
    labels = other.pop("labels", None)  # they differ where another column is asked for as well
    changed = next(iter(other.values()), None) or difference(record["settings"], settings) or labels
    if changed is not None:
        raise InputError(
            f"output {str(folder)!r} cannot be resumed: {changed}; give what it was started with, or start anew with "
            "--overwrite (overwrite=True)"
        )


def finish(folder: Path, checkpoint: Path, record: dict[str, Any]) -> None:
    """Put the model of the last checkpoint in its place; ``training.json`` says "finished" once all of it is there."""
    for name in (FILE_NAME, WEIGHTS_FILE, CONFIG_FILE):
        with replacing(folder / name, overwrite=True) as path:
            shutil.copyfile(checkpoint / name, path)
    sync(folder)
    write_record(folder, record)


def versions() -> dict[str, str]:
    """Versions of what the result may depend on."""
    return {name: version(name) for name in ("corrmask", "torch", "transformers", "numpy", "safetensors", "datasets")}
