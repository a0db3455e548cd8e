"""What goes wrong while a file is read becomes one line that names the file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from corrmask.errors import InputError

_OF_LIBRARIES: tuple[type[Exception], ...] = (OSError, EOFError, RuntimeError, zlib.error, UnicodeDecodeError)


def damaged(name: str, found: object) -> InputError:
    """The error for a file, or a matrix in memory, that does not hold what it should."""
    return InputError(f"{name}: damaged or incomplete ({' '.join(str(found).split())}); make or download it again")


@contextmanager
def reading(name: str, *also: type[Exception]) -> Iterator[None]:
    """Turn errors of the file system and of the HDF5, zarr and gzip libraries into an InputError.

    Errors of Python code (KeyError, TypeError, ...) pass: they would be faults of this package. `also`: what else a
    library raises for what it reads here, such as the ValueError of zarr for a checksum.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file or folder; check the path") from error
    except PermissionError as error:
        raise InputError(f"{name}: not readable; change its permissions") from error
    except (*_OF_LIBRARIES, *also) as error:
        raise damaged(name, error) from error
