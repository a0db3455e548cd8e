"""Cell types predicted from frozen embeddings, beside baselines that see the same cells in the same splits."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.evaluation import baselines, bootstrap, classifiers
from corrmask.evaluation.annotation_report import KNN, LOGISTIC, AnnotationReport, Level, Score, TypeCount
from corrmask.evaluation.bootstrap import Interval
from corrmask.evaluation.checks import as_strings, check_embeddings, check_options, listed
from corrmask.evaluation.splits import BOOTSTRAP, Split, check_thin, make_splits, thin_types
from corrmask.progress import Progress, silent

RULES = {
    "macro_f1": (
        "mean of F1 over the types that have tested cells, none left out; one that no cell is predicted as has F1 0; "
        "a type without tested cells is listed without F1"
    ),
    "rare_macro_f1": "the same over types whose share of the cells used (of the level's) is below rare_below",
    "single_cells": "a type with a single cell is tested and never trained on, so its F1 is 0",
    "repeats": "predictions of the folds of one repeat are scored together; scores of repeats are averaged",
    "mean": (
        "with --within, the scores of level null are means over the scored levels, weighted by tested cells (F1 of a "
        "type: by its tested cells; rare_macro_f1: over levels that have rare types), and a type is called rare if it "
        "is in any level"
    ),
}
Features = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Draws:
    """Scores of one predictor in one level as draws [1 + n_resamples], the score itself first."""

    accuracy: np.ndarray
    macro_f1: np.ndarray
    rare_macro_f1: np.ndarray | None
    f1: dict[str, np.ndarray]
    fits: int
    not_converged: int


Key = tuple[str, str]  # representation, classifier


@checked
def evaluate_annotation(
    embeddings: Mapping[str, np.ndarray],
    labels: Any,
    *,
    counts: Any = None,
    normalized: bool = False,
    within: Any = None,
    holdout: Any = None,
    holdout_level: str | float | bool | None = None,
    unlabelled: str | float | bool | None = None,
    thin: Mapping[str, float] | None = None,
    test_fraction: float = 0.5,
    folds: int | None = None,
    repeats: int = 1,
    rare_below: float = 0.05,
    seed: int = 0,
    n_resamples: int = 1000,
    c: float = 1.0,
    progress: Progress = silent,
) -> AnnotationReport:
    """Predict cell types from frozen embeddings and score them beside baselines.

    Logistic regression and nearest neighbours are fitted on the training cells of each split, for every embedding and,
    where `counts` are given, for principal components of log-counts and (logistic regression alone) highly variable
    genes; scaling, components and genes come from the training cells alone.

    Parameters
    ----------
    embeddings
        Name -> float [n_cells, d].
    labels
        [n_cells], the type of each cell, by position whatever its index; missing values (None, NaN) are left out.
    counts
        Counts [n_cells, n_genes] (CSR or dense), rows as in `embeddings`; None: no baselines.
    normalized
        `counts` hold log1p-normalised values.
    within
        [n_cells]; splits and scores are made inside each of its levels.
    holdout, holdout_level
        [n_cells] and the level of it that is tested; all others train. Without: drawn splits.
    unlabelled
        A label that is no type: its cells are left out.
    thin
        Type -> the share of the labelled cells (of each level) at which it is kept; see `splits.thin_types`. A type
        that is nowhere more frequent is refused.
    test_fraction, folds, repeats
        See `splits.make_splits`.
    rare_below
        Types whose share of the cells is smaller are scored apart too.
    seed
        Decides on thinning, splits, components and resamples: the same seed, the same report.
    n_resamples
        Resamples of the tested cells for the intervals; 0: none.
    c
        Inverse strength of the penalty of logistic regression. The features are standardised, so that at 1 it shrinks a
        few components, or thousands of genes, more than an embedding: before a model is said to be above a baseline,
        look at 10 and 100 as well.
    progress
        Called with the stage "annotation".

    Raises
    ------
    InputError
        Shapes that differ, NaN in embeddings, unknown values, fewer than two types everywhere.
    """
    names = {name: np.asarray(one) for name, one in embeddings.items()}
    check_options(test_fraction, folds, repeats, rare_below, seed, n_resamples, c, holdout is not None)
    if (holdout is None) != (holdout_level is None):
        raise InputError("--holdout (holdout=, holdout_level=): the values and the level that is tested go together")
    kinds = as_strings(labels, "labels", missing_allowed=True)
    n = len(kinds)
    check_embeddings(names, n)
    use = kinds != ""
    if unlabelled is not None:
        unlabelled = str(unlabelled)
        if unlabelled not in kinds:
            raise InputError(f"--unlabelled: no cell has the label {unlabelled!r}; there are {listed(kinds)}")
        use &= kinds != unlabelled
    types = sorted(set(kinds[use]))
    if len(types) < 2:
        raise InputError(f"labels: two types or more are needed, found {len(types)} ({listed(kinds[use])})")
    groups = np.full(n, "", dtype=object) if within is None else as_strings(within, "within")
    tested = None
    if holdout is not None:
        values = as_strings(holdout, "holdout")
        if str(holdout_level) not in values:
            raise InputError(f"--holdout: no level {str(holdout_level)!r}; there are {listed(values)}")
        tested = values == str(holdout_level)
    if len(groups) != n or (tested is not None and len(tested) != n):
        raise InputError(f"within and holdout must have one value for each of the {n} cells")
    n_labelled = int(use.sum())
    fractions = {str(name): float(share) for name, share in (thin or {}).items()}
    thinned = _thin(kinds, groups, use, types, fractions, seed, by_level=within is not None)

    features: dict[str, Features] = {name: _sliced(one) for name, one in names.items()}
    if counts is not None:
        logs = baselines.log_counts(baselines.check_counts(counts, n, normalized=normalized), normalized=normalized)
        features[baselines.PCA_NAME] = lambda train, test: baselines.pca_features(logs, train, test, seed=seed)
        features[baselines.HVG_NAME] = lambda train, test: baselines.hvg_features(logs, train, test)

    n_repeats = repeats if tested is None else 1
    plan: list[tuple[Level, np.ndarray, np.ndarray, list[Split]]] = []
    for group in sorted(set(groups)):
        cells = np.flatnonzero(use & (groups == group))
        named, codes = np.unique(kinds[cells].astype(str), return_inverse=True)
        splits = make_splits(
            codes,
            seed=seed,
            test_fraction=test_fraction,
            folds=folds,
            repeats=repeats,
            held_out=None if tested is None else tested[cells],
        )
        level = _describe_level(None if within is None else str(group), named, codes, splits, rare_below)
        plan.append((level, cells, codes, splits))
    scored = [one for one in plan if one[0].reason is None]
    if not scored:
        reasons = "; ".join(f"{level.name or 'all cells'}: {level.reason}" for level, *_ in plan)
        raise InputError(f"no cells to score ({reasons}); choose another column or level")

    predictions: dict[Key, np.ndarray] = {}
    draws: list[dict[Key, _Draws]] = []
    total, done = sum(len(splits) for *_, splits in scored) * len(features), 0
    for level, cells, codes, splits in scored:
        predicted: dict[Key, np.ndarray] = {}
        trouble: dict[Key, int] = {}
        for split in splits:
            for name, make in features.items():
                progress("annotation", done, total)
                x_train, x_test = make(cells[split.train], cells[split.test])
                fitted = {LOGISTIC: classifiers.logistic_regression(x_train, codes[split.train], x_test, c=c)}
                if name != baselines.HVG_NAME:
                    fitted[KNN] = classifiers.nearest_neighbours(x_train, codes[split.train], x_test)
                for classifier, fit in fitted.items():
                    key = name, classifier
                    predicted.setdefault(key, np.full((n_repeats, len(cells)), -1))[split.repeat, split.test] = (
                        fit.output
                    )
                    trouble[key] = trouble.get(key, 0) + (not fit.converged)
                done += 1
        draws.append(_score_level(level, codes, predicted, trouble, len(splits), n_resamples, seed))
        named = np.array([one.type for one in level.types] + [""], dtype=object)  # -1 is the last: not tested
        for key, array in predicted.items():
            predictions.setdefault(key, np.full((n_repeats, n), "", dtype=object))[:, cells] = named[array]
    progress("annotation", total, total)

    levels = [level for level, *_ in scored]
    scores = [
        _combine(key, None, levels, [one[key] for one in draws], "embedding" if key[0] in names else "baseline")
        for key in draws[0]
    ]
    if within is not None:
        scores += [
            _combine(key, level.name, [level], [one[key]], "embedding" if key[0] in names else "baseline")
            for level, one in zip(levels, draws)
            for key in one
        ]
    used = int(use.sum())
    return AnnotationReport(
        settings={
            "embeddings": list(names),
            "dimensions": {name: int(one.shape[1]) for name, one in names.items()},
            "test_fraction": test_fraction if tested is None and folds is None else None,
            "folds": folds,
            "repeats": n_repeats,
            "within": within is not None,
            "holdout_level": None if tested is None else str(holdout_level),
            "unlabelled": unlabelled,
            "thin": fractions,
            "rare_below": rare_below,
            "seed": seed,
            "bootstrap": n_resamples,
            "classifiers": classifiers.describe(c),
            "baselines": None if counts is None else baselines.describe(),
            "normalized": normalized if counts is not None else None,
        },
        cells={
            "given": n,
            "unlabelled": n - n_labelled,
            "thinned": n_labelled - used,
            "used": used,
            "not_scored": used - sum(level.n_cells for level in levels),
        },
        thinned=thinned,
        levels=[level for level, *_ in plan],
        scores=scores,
        rules=RULES
        | {"bootstrap": bootstrap.RULE.format(n=n_resamples, members="cells", member="cell", strata="type")},
        predictions=predictions,
    )


def _sliced(embedding: np.ndarray) -> Features:
    return lambda train, test: (embedding[train], embedding[test])


def _thin(
    kinds: np.ndarray,
    groups: np.ndarray,
    use: np.ndarray,
    types: list[str],
    fractions: dict[str, float],
    seed: int,
    *,
    by_level: bool,
) -> list[dict[str, Any]]:
    """Thin inside each level; `use` is changed in place. What was done to each type in each level."""
    if not fractions:
        return []
    check_thin(fractions, types)
    said: list[dict[str, Any]] = []
    for group in sorted(set(groups[use])):
        cells = np.flatnonzero(use & (groups == group))
        keep = thin_types(kinds[cells], fractions, seed=seed)
        use[cells[~keep]] = False
        for name, fraction in fractions.items():
            before, after = int((kinds[cells] == name).sum()), int((kinds[cells[keep]] == name).sum())
            if before:
                said.append(
                    {
                        "level": str(group) if by_level else None,
                        "type": name,
                        "asked": fraction,
                        "before": before,
                        "after": after,
                        "fraction": after / int(keep.sum()),
                    }
                )
    for name, fraction in fractions.items():
        mine = [one for one in said if one["type"] == name]
        if all(one["before"] == one["after"] for one in mine):
            most = max(one["fraction"] for one in mine)
            raise InputError(
                f"--thin: {name!r} is {most:.3g} of the cells at most, {fraction} leaves nothing to thin; choose less"
            )
    return said


def _describe_level(
    name: str | None, types: np.ndarray, codes: np.ndarray, splits: list[Split], rare_below: float
) -> Level:
    reason = None
    if len(types) < 2:
        reason = "fewer than two types" if len(types) else "no labelled cells"
    elif not len(splits[0].test):
        reason = "no cells of the held-out level"
    elif not len(splits[0].train):
        reason = "no cells besides the held-out level"
    test = np.concatenate([split.test for split in splits if split.repeat == 0]) if splits else np.zeros(0, dtype=int)
    n_types, n = len(types), len(codes)
    n_test = np.bincount(codes[test], minlength=n_types)
    in_train = [np.bincount(codes[split.train], minlength=n_types) for split in splits]
    n_train = np.min(in_train, axis=0) if splits else np.zeros(n_types, dtype=int)
    n_cells = np.bincount(codes, minlength=n_types)
    counts = []
    for i, one in enumerate(types):
        share = float(n_cells[i] / n)
        counts.append(TypeCount(str(one), int(n_cells[i]), share, share < rare_below, int(n_train[i]), int(n_test[i])))
    return Level(name, n, min((len(split.train) for split in splits), default=0), len(test), counts, reason)


def _score_level(
    level: Level,
    codes: np.ndarray,
    predicted: Mapping[Key, np.ndarray],
    trouble: Mapping[Key, int],
    fits: int,
    n_resamples: int,
    seed: int,
) -> dict[Key, _Draws]:
    """Score all predictors of a level on the same resamples; other levels draw others."""
    rng = np.random.default_rng([seed, BOOTSTRAP, zlib.crc32((level.name or "").encode())])
    accuracy, f1 = bootstrap.classification_draws(
        codes, np.stack(list(predicted.values())), len(level.types), n_resamples=n_resamples, rng=rng
    )
    tested = [i for i, one in enumerate(level.types) if one.n_test]
    rare = [i for i in tested if level.types[i].rare]
    return {
        key: _Draws(
            accuracy[p],
            f1[p, tested].mean(axis=0),
            f1[p, rare].mean(axis=0) if rare else None,
            {level.types[i].type: f1[p, i] for i in tested},
            fits,
            trouble[key],
        )
        for p, key in enumerate(predicted)
    }


def _weighted(draws: Sequence[np.ndarray], weights: Sequence[int]) -> Interval:
    return Interval.of(np.average(np.stack(draws), axis=0, weights=weights))


def _combine(key: Key, name: str | None, levels: Sequence[Level], draws: Sequence[_Draws], kind: str) -> Score:
    """Mean over levels, weighted by tested cells; of a single level, its own scores."""
    weights = [level.n_test for level in levels]
    total = sum(level.n_cells for level in levels)
    rare = [(one.rare_macro_f1, w) for one, w in zip(draws, weights) if one.rare_macro_f1 is not None]
    types, f1 = [], {}
    for type_name in sorted({one.type for level in levels for one in level.types}):
        parts = [one for level in levels for one in level.types if one.type == type_name]
        n_cells = sum(one.n_cells for one in parts)
        types.append(
            TypeCount(
                type_name,
                n_cells,
                n_cells / total,
                any(one.rare for one in parts),
                sum(one.n_train for one in parts),
                sum(one.n_test for one in parts),
            )
        )
        having = [(one, level) for one, level in zip(draws, levels) if type_name in one.f1]
        n_test = [next(t.n_test for t in level.types if t.type == type_name) for _, level in having]
        f1[type_name] = _weighted([one.f1[type_name] for one, _ in having], n_test) if having else None
    return Score(
        key[0],
        kind,
        key[1],
        name,
        _weighted([one.accuracy for one in draws], weights),
        _weighted([one.macro_f1 for one in draws], weights),
        _weighted([one for one, _ in rare if one is not None], [w for _, w in rare]) if rare else None,
        f1,
        types,
        sum(one.fits for one in draws),
        sum(one.not_converged for one in draws),
    )
