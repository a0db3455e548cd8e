"""Outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrmask.errors import InputError


def check_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """Check that `path` can be written, before any work is done.

    Parameters
    ----------
    path
        File or folder that will be created.
    overwrite
        Whether an existing one may be replaced.

    Raises
    ------
    InputError
        It exists and `overwrite` is False, its parent does not exist, or the parent cannot be written.
    """
    path = Path(path)
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise InputError(f"output {str(path)!r} exists already; pass --overwrite (overwrite=True) or choose another name")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise InputError(f"output {str(path)!r}: its folder {str(parent)!r} does not exist; create it first")
    try:  # os.access answers "yes" to root and on read-only mounts; only trying tells
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".corrmask-"):
            pass
    except OSError as error:
        raise InputError(explain(error, path)) from error
    return path


def explain(error: OSError, path: str | Path) -> str:
    """One line for an error of the operating system: what failed, where, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"output {str(path)!r}: no space left on the disk; free some or write elsewhere (nothing was left behind)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"output {str(path)!r}: the folder is not writable; change its permissions or write elsewhere"
    return f"output {str(path)!r}: {error.strerror or error}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or every file under a folder and the folders themselves, to the disk."""
    targets = [path]
    if path.is_dir():
        targets += sorted(path.rglob("*"))
    for target in targets:
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def replacing(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the final name in one rename.

    The body writes a file or makes a folder at the path that it is given. If the body raises, the temporary is removed
    and whatever stood under the final name stays as it was. A full disk becomes an InputError.

    Yields
    ------
    Path
        A name that does not exist yet, in the same folder, with the suffix of `path`.
    """
    path = check_output(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        sync(temporary)
        if temporary.is_dir() and path.exists():  # a folder cannot be renamed over a full one: two renames
            previous = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, previous)
            os.replace(temporary, path)
            _remove(previous)
        else:
            if path.is_dir() and not path.is_symlink():
                _remove(path)
            os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(explain(error, path)) from error
        raise
    except BaseException:
        _remove(temporary)
        raise
