"""Arguments of public functions held against their annotations, so that another type is refused in one line."""

from __future__ import annotations

import builtins
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np

from corrmask.errors import InputError

_T = TypeVar("_T", bound=Callable[..., Any])


class _Names(dict[str, Any]):
    """Names of a module; one that only type checkers import stands for any class that is called so."""

    def __missing__(self, name: str) -> type:
        if hasattr(builtins, name):
            raise KeyError(name)
        return type(name, (), {})


def checked(function: _T) -> _T:
    """Decorate a function, or a class whose constructor is meant: its arguments are checked before it is called.

    Numbers, strings, literals, mappings, sequences and classes are told apart; members of sequences are looked at in
    lists of numbers alone, and ranges nowhere. A whole number of numpy is an int, any real number a float, and True is
    neither; the function gets Python's own.

    Raises
    ------
    InputError
        By the decorated function: it names the function, the argument, what it must be and what it is.
    """
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    signature = inspect.signature(function)
    owner = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @functools.cache
    def kinds() -> dict[str, Any]:
        names = _Names(vars(sys.modules[function.__module__]))
        found = {name: one.annotation for name, one in signature.parameters.items()}
        return {name: eval(kind, {}, names) for name, kind in found.items() if isinstance(kind, str)}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            bound = None
        if bound is None:
            return function(*args, **kwargs)  # raises it as Python does, with the function's name
        for name, value in bound.arguments.items():
            kind = kinds().get(name, Any)
            if not _fits(value, kind):
                raise InputError(f"{owner}: {name!r} must be {_words(kind)}, got {_shown(value, kind)}")
            if kind is not Any:
                bound.arguments[name] = _plain(value)
        return function(*bound.args, **bound.kwargs)

    return wrapper  # type: ignore[return-value]


def _fits(value: Any, kind: Any) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any or kind is inspect.Parameter.empty:
        return True
    if kind is None or kind is types.NoneType:
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is Literal:
        return isinstance(value, str) and value in inside
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, os.PathLike)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        inside = inside[:1] * len(value) if inside[1:] == (...,) else inside
        return len(value) == len(inside) and all(map(_fits, value, inside))
    name = getattr(origin or kind, "__name__", "")
    if name in ("Mapping", "dict"):
        return isinstance(value, Mapping) and all(_fits(one, inside[1]) for one in value.values() if inside)
    if name in ("Sequence", "ndarray"):  # a list, an array, a column of a table: what has a length and an order
        listed = hasattr(value, "__len__") and hasattr(value, "__getitem__")
        one = getattr(value, "ndim", 1) == 1 if name == "Sequence" else getattr(value, "ndim", 1) > 0
        numbers = isinstance(value, (tuple, list)) and inside in ((int,), (float,))
        fitting = not numbers or all(_fits(member, inside[0]) for member in value)
        return listed and one and fitting and not isinstance(value, _NO_SEQUENCE)
    if name == "Collection":  # or a set, which has no order
        return (isinstance(value, Collection) and not isinstance(value, _NO_SEQUENCE)) or _fits(value, Sequence)
    if name == "Callable" or getattr(kind, "_is_protocol", False):
        return callable(value)
    if isinstance(origin or kind, type) and isinstance(value, origin or kind):
        return True
    return name in (one.__name__ for one in type(value).__mro__)


_NO_SEQUENCE = (str, bytes, Mapping)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "str": "a string",
    "Path": "a path",
    "NoneType": "None",
    "Sequence": "a sequence",
    "Collection": "a collection",
    "ndarray": "an array",
    "Mapping": "a mapping",
    "dict": "a mapping",
    "Callable": "a function",
}


def _words(kind: Any) -> str:
    """What an annotation asks for."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inside))
    if origin is Literal:
        return " or ".join(map(repr, inside))
    if origin is tuple:
        return _plural(inside[0]) if inside[1:] == (...,) else f"{len(inside)} values"
    name = getattr(origin or kind, "__name__", str(kind))
    if name in ("Mapping", "dict") and inside and inside[1] is not Any:
        return f"a mapping to {_plural(inside[1])}"
    if name == "Sequence" and inside in ((int,), (float,)):
        return f"a sequence of {_plural(inside[0])}"
    return _WORDS.get(name, f"{'an' if name[:1] in tuple('AEIOU') else 'a'} {name}")


def _plural(kind: Any) -> str:
    return f"{_words(kind).removeprefix('a ').removeprefix('an ')}s"


def _plain(value: Any) -> Any:
    """Numbers and strings of numpy as Python's, in a tuple or mapping too; operators and JSON take no others."""
    if type(value) is tuple:
        return tuple(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, np.floating):
        return float(value)
    return value.item() if isinstance(value, (np.number, np.bool_, np.character)) else value


def _shown(value: Any, kind: Any) -> str:
    """A value where it is short, what is wrong in a mapping, and otherwise its type."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    inside = next((get_args(one)[1] for one in kinds if get_origin(one) in (Mapping, dict)), Any)
    if isinstance(value, Mapping) and inside is not Any:
        return next(f"{_shown(one, inside)} for {key!r}" for key, one in value.items() if not _fits(one, inside))
    text = repr(value) if isinstance(value, (str, bytes, int, float, complex, type(None), np.generic)) else ""
    shape = list(value.shape) if hasattr(value, "shape") and not text else ""
    return text if text and len(text) <= 60 else f"{type(value).__name__} {shape}".strip()
