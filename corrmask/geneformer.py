"""Geneformer's dictionaries, read through an unpickler that admits dicts, strings and numbers alone.

Theodoris et al. Transfer learning enables predictions in network biology. Nature, 2023. Its token and median
dictionaries are pickles; the medians are NumPy scalars.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.vocabulary import FILE_NAME, Vocabulary


class _Dtype:
    """Stands for numpy.dtype while unpickling: numbers only, and nothing that a pickle says can change it."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in "iufb":
            raise pickle.UnpicklingError(f"dtype {name!r} is not a number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Scalar:
    """Stands for numpy's scalar; no function, since a pickle can set a function's attributes."""

    __slots__ = ()

    def __call__(self, dtype: _Dtype, data: bytes) -> Any:
        return np.frombuffer(data, dtype=dtype.dtype, count=1)[0].item()


class _DictionaryUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return _Scalar()
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")


@checked
def read_dictionary(path: str | Path) -> dict[str, Any]:
    """Read a dictionary of names to numbers from a pickle (``.pkl``) or JSON (``.json``) file.

    Returns
    -------
    dict
        Keys str; values int or float (NumPy scalars become Python numbers).

    Raises
    ------
    InputError
        The file is missing, or holds anything but names and numbers.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            value = json.loads(path.read_text())
        else:
            with path.open("rb") as file:
                value = _DictionaryUnpickler(file).load()
    except FileNotFoundError:
        raise InputError(
            f"dictionary {str(path)!r} does not exist; give a .pkl or .json of names and numbers"
        ) from None
    except IsADirectoryError:
        raise InputError(f"dictionary {str(path)!r} is a folder; give the file inside it") from None
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise InputError(
            f"dictionary {str(path)!r} cannot be read: {' '.join(str(error).split())}; "
            "it must hold names and numbers alone"
        ) from error
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(number, (int, float)) for key, number in value.items()
    ):
        raise InputError(f"dictionary {str(path)!r} must map names to numbers, and nothing else")
    return value


@checked
def read_vocabulary(path: str | Path, medians: str | Path | None = None) -> Vocabulary:
    """A vocabulary of ours (``vocabulary.json`` or a folder that holds it), or one from Geneformer's dictionaries.

    Parameters
    ----------
    path
        ``vocabulary.json``, a corpus or model folder, or a token dictionary such as ``token_dictionary.pkl``.
    medians
        ``gene_median_dictionary.pkl`` or the like; for a token dictionary.

    Raises
    ------
    InputError
        A file is missing or malformed, or the tokens do not form a vocabulary.
    """
    path = Path(path)
    if path.is_dir() or path.name == FILE_NAME:
        return Vocabulary.load(path)
    table = None if medians is None else read_dictionary(medians)
    return Vocabulary.from_dictionary(
        read_dictionary(path), table, origin="" if medians is None else Path(medians).name
    )
