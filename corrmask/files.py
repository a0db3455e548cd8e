"""Outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from corrmask.errors import InputError


class Contents(NamedTuple):
    """What is in a folder of some kind: nothing else is removed with it."""

    markers: tuple[str, ...]  # one of them is in each
    patterns: tuple[str, ...]  # of all names, as a shell's

    def has(self, name: str) -> bool:
        """Whether a name is one of these, or of what a killed process left beside them."""
        return is_leftover(name) or any(fnmatch.fnmatchcase(name, one) for one in self.patterns)


def is_leftover(name: str) -> bool:
    """Whether `replacing` gave this name to what it wrote, or set aside."""
    return re.fullmatch(r"\..+-\d+\.(old|part(\.\w+)?)", name) is not None


CORPUS = Contents(("dataset_info.json",), ("*.arrow", "*.json"))  # folders of `datasets`
_STORE = Contents(("zarr.json", ".zgroup"), ("*",))


def check_output(
    path: str | Path, *, overwrite: bool = False, contents: Contents | None = None, inputs: Iterable[Any] = ()
) -> Path:
    """Check that `path` can be written, before any work is done; what a killed process left beside it is cleared.

    Parameters
    ----------
    path
        File or folder that will be created.
    overwrite
        Whether an existing one may be replaced: a file by a file, a folder by a folder of the same kind.
    contents
        Where a folder is written, what is in those of its kind.
    inputs
        What is read: paths, globs and backed AnnData; all else is passed over.

    Raises
    ------
    InputError
        It exists and `overwrite` is False, it is of another kind or holds something else, it is or holds an input, its
        parent does not exist, or the parent cannot be written.
    """
    path = check_place(path)
    check_apart(path, inputs)
    _check_free(path, overwrite)
    if os.path.lexists(path) and not path.is_symlink():
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        found = ""
        if path.is_dir() != (contents is not None):
            found = "a folder, not a file" if contents is None else "a file, not a folder"
        elif contents is not None and names and not names.intersection(contents.markers):
            found = f"a folder without {' or '.join(contents.markers)}"
        if found:
            raise InputError(f"output {str(path)!r} exists and is {found}; choose another name")
        if contents is not None:
            check_own(path, contents)
    return path


def check_own(folder: Path, contents: Contents) -> None:
    """Raise InputError where a folder that is to be replaced holds what is no part of it."""
    for name in sorted(entry.name for entry in folder.iterdir()):
        if not contents.has(name):
            raise InputError(
                f"output {str(folder)!r}: {name!r} in it would be lost; move it away or choose another name"
            )


def store_contents(path: str | Path) -> Contents | None:
    """For `check_output` where cells or a graph are written: a folder as .zarr, a file as .h5ad."""
    return _STORE if Path(path).suffix == ".zarr" else None


def check_apart(path: Path, inputs: Iterable[Any]) -> None:
    """Raise InputError where an output is one of the inputs (see `check_output`), or a folder that holds one."""
    place = path.parent.resolve() / path.name  # a link is replaced, not what it points to
    for given in inputs:
        named = getattr(given, "filename", None) or given  # of a backed AnnData
        if not isinstance(named, (str, os.PathLike)):
            continue
        pattern = os.path.expanduser(os.fspath(named))
        for one in [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True):
            found, link = Path(one).resolve(), Path(one).parent.resolve() / Path(one).name
            if place in (link, found, *found.parents):
                raise InputError(f"output {str(path)!r} would replace the input {one!r}; choose another name")


def check_place(path: str | Path) -> Path:
    """The path, whose folder exists and can be written; what a killed process left beside it is cleared.

    Raises
    ------
    InputError
        Its parent does not exist or cannot be written.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise InputError(f"output {str(path)!r}: names a folder that cannot be replaced; choose another name")
    parent = path.parent.resolve()  # a link is replaced, not what it points to
    if ".." in path.parts:  # a way that may lead through what is replaced
        path = parent / path.name
    if not parent.is_dir():
        raise InputError(f"output {str(path)!r}: its folder {str(parent)!r} does not exist; create it first")
    try:  # os.access answers "yes" to root and on read-only mounts; only trying tells
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".corrmask-"):
            _clear_leftovers(path)
    except OSError as error:
        raise InputError(explain(error, path)) from error
    return path


def _check_free(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise InputError(
            f"output {str(path)!r} exists already; pass --overwrite (overwrite=True) or choose another name"
        )


NO_SPACE = "no space left on the disk"


def explain(error: OSError, path: str | Path) -> str:
    """One line for an error of the operating system: what failed, where, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"output {str(path)!r}: {NO_SPACE}, nothing half-written stays; free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"output {str(path)!r}: the folder is not writable; change its permissions or write elsewhere"
    return f"output {str(path)!r}: {error.strerror or error}"


def _full_disk(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # HDF5 and safetensors raise errors of their own, without errno
    return isinstance(error, Exception) and "No space left on device" in str(error)


def _not_writable(error: OSError, *outputs: Path) -> bool:
    """Whether rights are missing for an output: an input that cannot be read is another matter."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
        return False
    name = error.filename
    return not isinstance(name, (str, bytes)) or os.fsdecode(name).startswith(tuple(map(str, outputs)))


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
    path = check_place(path)
    _check_free(path, overwrite)
    temporary = path.with_name(f".{path.stem}.{_owner()}.part{path.suffix}")
    _remove(temporary)
    with explaining(path, temporary):
        try:
            yield temporary
            _check_free(path, overwrite)  # it may have appeared meanwhile
            finish(temporary, path)
        except BaseException:
            _remove(temporary)
            raise


def finish(temporary: Path, path: Path) -> None:
    """Give what was written beside `path` its final name, once it is on the disk."""
    sync(temporary)
    _rename(temporary, path)


@contextmanager
def explaining(path: Path, *written: Path) -> Iterator[None]:
    """Turn a full disk, or missing rights for `path` or what is written on the way to it, into an InputError."""
    try:
        yield
    except BaseException as error:
        if _full_disk(error):
            raise InputError(explain(OSError(errno.ENOSPC, ""), path)) from error
        if isinstance(error, OSError) and _not_writable(error, path, *written):
            raise InputError(explain(error, path)) from error
        raise


def _owner() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _clear_leftovers(path: Path) -> None:
    """Remove what processes of this machine that live no more left beside `path`; an output set aside comes back."""
    host = re.escape(socket.gethostname())
    names = re.compile(rf"\.{re.escape(path.stem)}\.{host}-(\d+)\.part{re.escape(path.suffix)}")
    aside = re.compile(rf"\.{re.escape(path.name)}\.{host}-(\d+)\.old")
    for entry in path.parent.iterdir():
        found = names.fullmatch(entry.name) or aside.fullmatch(entry.name)
        if found is None or _is_alive(int(found[1])):
            continue
        if entry.name.endswith(".old") and not os.path.lexists(path):
            os.replace(entry, path)
        else:
            _remove(entry)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _rename(temporary: Path, path: Path) -> None:
    """Give the temporary its final name; what stood there before comes back if that fails."""
    folder = path.is_dir() and not path.is_symlink()
    if not folder and not (temporary.is_dir() and os.path.lexists(path)):
        os.replace(temporary, path)
        return
    # a folder cannot be renamed over a full one, nor over a file: two renames
    previous = path.with_name(f".{path.name}.{_owner()}.old")
    _remove(previous)
    os.replace(path, previous)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(previous, path)
        raise
    if previous.is_dir() and not previous.is_symlink():
        shutil.rmtree(previous, ignore_errors=True)  # the output stands: what is left of the old one is no failure
    else:
        previous.unlink()


def write_h5ad(adata: Any, path: Path) -> None:
    """Write an AnnData as .h5ad by way of memory, since HDF5 crashes the process where a disk is full."""
    import h5py
    from anndata.io import write_elem

    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        write_elem(file, "/", adata)
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)
