"""Which cells train and which test: stratified by type, repeatable by seed, no type left out for being small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from corrmask.errors import InputError

# one stream of random numbers per purpose, so that a change in one draw leaves the others as they were
THIN, SPLIT, BOOTSTRAP = 1, 2, 3


@dataclass(frozen=True)
class Split:
    """One division of cells: the classifiers are fitted on `train` and predict `test`.

    Attributes
    ----------
    repeat
        Splits of one repeat have disjoint tests; their predictions are scored together.
    train, test
        int64, positions of cells, ascending.
    """

    repeat: int
    train: np.ndarray
    test: np.ndarray


def stratified_halves(codes: np.ndarray, *, test_fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the test cells of every type in proportion.

    A type of n >= 2 cells gives round(n * test_fraction) of them to the test, at least one, and keeps at least one for
    training. A type with a single cell is tested: nothing can be learnt of it, and its F1 of 0 says so.

    Parameters
    ----------
    codes
        int [n], the type of each cell.

    Returns
    -------
    np.ndarray
        bool [n], True where the cell is tested.
    """
    test = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        n_test = 1 if len(cells) == 1 else int(np.clip(round(len(cells) * test_fraction), 1, len(cells) - 1))
        test[rng.permutation(cells)[:n_test]] = True
    return test


def stratified_folds(codes: np.ndarray, *, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the members of each type over the folds in turn; the next type goes on where the last one stopped.

    Returns
    -------
    np.ndarray
        int64 [n], the fold in which each member is tested. Each fold holds floor or ceil(n_type / folds) of every type.
    """
    fold = np.empty(len(codes), dtype=np.int64)
    start = 0
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        fold[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    return fold


def make_splits(
    codes: np.ndarray,
    *,
    seed: int,
    test_fraction: float = 0.5,
    folds: int | None = None,
    repeats: int = 1,
    held_out: np.ndarray | None = None,
) -> list[Split]:
    """Make the splits that every representation shares.

    Parameters
    ----------
    codes
        int [n], the type of each cell.
    seed
        Repeat r draws from (seed, r).
    test_fraction
        Share of each type that is tested; not used with `folds` or `held_out`.
    folds
        Number of folds in place of a single split; each cell is then tested once in every repeat.
    repeats
        How often the division is drawn.
    held_out
        bool [n]; True is tested, False trains, and nothing is drawn.
    """
    if held_out is not None:
        return [Split(0, np.flatnonzero(~held_out), np.flatnonzero(held_out))]
    splits = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, SPLIT, repeat])
        if folds is None:
            tests = [stratified_halves(codes, test_fraction=test_fraction, rng=rng)]
        else:
            fold = stratified_folds(codes, folds=folds, rng=rng)
            tests = [fold == k for k in range(folds)]
        splits += [Split(repeat, np.flatnonzero(~test), np.flatnonzero(test)) for test in tests if test.any()]
    return splits


def thin_types(labels: np.ndarray, fractions: Mapping[str, float], *, seed: int) -> np.ndarray:
    """Make types rare: keep each TYPE at its FRACTION of all the cells that remain.

    With N the cells of the other types, and f the sum of the fractions, TYPE keeps round(fraction * N / (1 - f)) of its
    cells, at least one, drawn by `seed`. A type that is at its fraction or below already keeps all its cells and counts
    among the others.

    Parameters
    ----------
    labels
        str [n], labelled cells alone.
    fractions
        Type -> its share of the remaining cells, above 0; together below 1.

    Returns
    -------
    np.ndarray
        bool [n], True where the cell is kept.
    """
    counts = {name: int((labels == name).sum()) for name in fractions}
    thinned = {name: fraction for name, fraction in sorted(fractions.items()) if counts[name]}
    while True:
        others = len(labels) - sum(counts[name] for name in thinned)
        scale = others / (1.0 - sum(thinned.values()))
        kept = {name: max(1, round(fraction * scale)) for name, fraction in thinned.items()}
        rare_already = [name for name in thinned if kept[name] >= counts[name]]
        if not rare_already:
            break
        thinned = {name: fraction for name, fraction in thinned.items() if name not in rare_already}
    keep = np.ones(len(labels), dtype=bool)
    if others == 0:
        return keep  # no other type to be rare among
    rng = np.random.default_rng([seed, THIN])
    for name in thinned:
        cells = rng.permutation(np.flatnonzero(labels == name))
        keep[cells[kept[name] :]] = False
    return keep


def check_thin(fractions: Mapping[str, float], types: list[str]) -> None:
    """Refuse unknown types and shares that leave no room."""
    for name, fraction in fractions.items():
        if name not in types:
            raise InputError(f"--thin: no cells of type {name!r}; the types are {', '.join(map(repr, types))}")
        if not 0.0 < fraction < 1.0:
            raise InputError(f"--thin: the fraction of {name!r} must lie between 0 and 1, got {fraction}")
    if sum(fractions.values()) >= 1.0:
        raise InputError(f"--thin: the fractions must add up to less than 1, got {sum(fractions.values()):g}")
