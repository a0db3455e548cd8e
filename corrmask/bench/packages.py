"""Packages that are timed beside ours where they are installed, and why one is not."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from typing import Any


def has(name: str) -> bool:
    """Whether a package is installed."""
    return find_spec(name) is not None


@cache
def _load(name: str) -> tuple[Any, str]:
    """A module, or None and one line that says why it cannot be imported."""
    try:
        return import_module(name), ""
    except Exception as error:  # a package that does not fit this machine may raise anything
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:160]


@cache
def sparse_dot_mkl() -> Any:
    """The package, or None. Its library stands among the files of the package mkl, where the loader does not look."""
    if not has("sparse_dot_mkl"):
        return None
    # Intel's threads spin for 0.2 s after their work: on few cores that slows whoever runs next.
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    try:
        found = [str(path.locate()) for path in files("mkl") or () if path.name.startswith("libmkl_rt.so")]
    except PackageNotFoundError:
        found = []
    if found:
        os.environ.setdefault("MKL_RT", found[0])
    return _load("sparse_dot_mkl")[0]


def collator_class() -> Any:
    """transformers' DataCollatorForLanguageModeling, or None."""
    if not has("transformers"):
        return None
    module = _load("transformers.data.data_collator")[0]
    return None if module is None else module.DataCollatorForLanguageModeling


def scdataset() -> Any:
    """The package scDataset, or None."""
    return _load("scdataset")[0] if has("scdataset") else None


def safe_sparse_dot() -> Any:
    """scikit-learn's product of sparse matrices, or None."""
    if not has("sklearn"):
        return None
    module = _load("sklearn.utils.extmath")[0]
    return None if module is None else module.safe_sparse_dot


def missing() -> dict[str, str]:
    """Peers that are not timed, and why; the extra ``corrmask[bench]`` brings them."""
    reasons = {}
    for name, module, loaded in (
        ("transformers", "transformers.data.data_collator", collator_class()),
        ("scDataset", "scdataset", scdataset()),
        ("sparse_dot_mkl", "sparse_dot_mkl", sparse_dot_mkl()),
        ("scikit-learn", "sklearn.utils.extmath", safe_sparse_dot()),
    ):
        if loaded is None:
            reasons[name] = _load(module)[1] if has(module.split(".")[0]) else "not installed"
    return reasons
