"""What is refused before any work is done, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corrmask.errors import InputError
from corrmask.evaluation import baselines


def as_strings(values: Any, name: str, *, missing_allowed: bool = False, of: str = "cell") -> np.ndarray:
    """Values as an object array of str, "" where missing (None, NaN); `of` is what each stands for, for messages."""
    array = np.asarray(values, dtype=object)
    if array.ndim != 1:
        raise InputError(f"{name}: one value per {of} is needed, got shape {list(array.shape)}")
    # a NaN, pandas' NA included, is what does not equal itself
    missing = np.array([one is None or type(one).__name__ == "NAType" or one != one for one in array], dtype=bool)
    if missing.any() and not missing_allowed:
        raise InputError(f"{name}: {int(missing.sum())} {of}s have no value; fill them in, or leave these {of}s out")
    return np.array(["" if lost else str(one) for one, lost in zip(array, missing)], dtype=object)


def listed(values: Sequence[str] | np.ndarray, most: int = 12) -> str:
    """Distinct values for a message."""
    distinct = sorted({one for one in values if one != ""})
    more = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return ", ".join(map(repr, distinct[:most])) + more or "none"


def check_options(
    test_fraction: float,
    folds: int | None,
    repeats: int,
    rare_below: float,
    seed: int,
    n_resamples: int,
    c: float,
    held_out: bool,
) -> None:
    if not 0.0 < test_fraction < 1.0:
        raise InputError(f"--test-fraction (test_fraction=) must lie between 0 and 1, got {test_fraction}")
    if folds is not None and folds < 2:
        raise InputError(f"--folds (folds=) must be 2 or more, got {folds}")
    if repeats < 1:
        raise InputError(f"--repeats (repeats=) must be 1 or more, got {repeats}")
    if held_out and (folds is not None or repeats != 1):
        raise InputError("--holdout is one split that nothing is drawn for; leave out --folds and --repeats")
    if not 0.0 <= rare_below <= 1.0:
        raise InputError(f"--rare-below (rare_below=) must lie between 0 and 1, got {rare_below}")
    check_numbers(seed, n_resamples, c)


def check_numbers(seed: int, n_resamples: int, c: float) -> None:
    if seed < 0:
        raise InputError(f"--seed (seed=) must be 0 or more, got {seed}")
    if n_resamples < 0:
        raise InputError(f"--bootstrap (n_resamples=) must be 0 or more, got {n_resamples}")
    if not 0 < c < float("inf"):
        raise InputError(f"--penalty-c (c=) must be above 0 and finite, got {c}")


def check_embeddings(embeddings: Mapping[str, np.ndarray], n: int) -> None:
    if not embeddings:
        raise InputError("no embeddings were given")
    for name, one in embeddings.items():
        if name in (baselines.PCA_NAME, baselines.HVG_NAME):
            raise InputError(f"embedding {name!r}: the name of a baseline; choose another (NAME=FILE)")
        if one.ndim != 2 or one.shape[0] != n or one.shape[1] == 0:
            raise InputError(f"embedding {name!r}: must have shape [{n}, d] for {n} labels, got {list(one.shape)}")
        if one.dtype.kind not in "fiu":
            raise InputError(f"embedding {name!r}: must hold numbers, got {one.dtype}")
        bad = int((~np.isfinite(one)).any(axis=1).sum())
        if bad:
            raise InputError(
                f"embedding {name!r}: NaN or infinite values in {bad} of {n} cells; embed these cells again"
            )
