"""Two classes of genes told apart by their embeddings, beside what expression level alone tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.evaluation import bootstrap, classifiers
from corrmask.evaluation.bootstrap import Interval
from corrmask.evaluation.checks import as_strings, check_numbers
from corrmask.evaluation.splits import BOOTSTRAP, SPLIT, stratified_folds
from corrmask.progress import Progress, silent

EXPRESSION_NAME = "expression level"


@dataclass(frozen=True)
class GeneScore:
    """AUROC of one representation: mean over all folds, its interval, and how it varies."""

    representation: str
    kind: str  # "embedding" or "baseline"
    n_features: int
    auroc: Interval
    sd_folds: float
    sd_repeats: float | None
    folds: np.ndarray  # float64 [n_repeats, n_folds]
    not_converged: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "representation": self.representation,
            "kind": self.kind,
            "n_features": self.n_features,
            "auroc": self.auroc.to_dict(),
            "sd_folds": self.sd_folds,
            "sd_repeats": self.sd_repeats,
            "folds": self.folds.tolist(),
            "fits": int(self.folds.size),
            "not_converged": self.not_converged,
        }


@dataclass
class GenesReport:
    """All AUROCs of one evaluation, and what they were computed from.

    Attributes
    ----------
    settings
        Everything that a repetition needs.
    genes
        Number of genes of each class found, and the names of those missed or labelled twice.
    scores
        One per representation, embeddings first.
    out_of_fold
        Representation -> float64 [n_repeats, n_genes], decision values from models that did not see the gene. Not part
        of `to_dict`.
    folds
        int [n_repeats, n_genes], the fold in which each gene is tested.
    """

    settings: dict[str, Any]
    genes: dict[str, Any]
    scores: list[GeneScore]
    rules: dict[str, str]
    out_of_fold: dict[str, np.ndarray] = field(repr=False)
    folds: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, without NaN: what ``--json`` and ``-o`` give."""
        return {
            "kind": "genes",
            "version": 1,
            "settings": self.settings,
            "genes": self.genes,
            "scores": [score.to_dict() for score in self.scores],
            "rules": self.rules,
        }

    def get(self, representation: str) -> GeneScore:
        """The score of one representation."""
        for score in self.scores:
            if score.representation == representation:
                return score
        raise KeyError(representation)

    def table(self) -> list[dict[str, Any]]:
        """One row per representation: AUROC (`Interval`), its deviations, number of features."""
        return [
            {
                "representation": score.representation,
                "kind": score.kind,
                "n_features": score.n_features,
                "auroc": score.auroc,
                "sd_folds": score.sd_folds,
                "sd_repeats": score.sd_repeats,
            }
            for score in self.scores
        ]


@checked
def evaluate_genes(
    embeddings: Mapping[str, np.ndarray],
    labels: Any,
    *,
    expression: np.ndarray | None = None,
    expression_features: Sequence[str] = ("mean_expression", "detection"),
    positive: str | float | bool | None = "sensitive",
    missed: Mapping[str, Collection[str]] | None = None,
    ambiguous: Collection[str] = (),
    folds: int = 5,
    repeats: int = 5,
    seed: int = 0,
    n_resamples: int = 1000,
    c: float = 0.1,
    progress: Progress = silent,
) -> GenesReport:
    """AUROC over genes of a logistic regression on gene embeddings, in repeated stratified folds.

    Scaling and regression are fitted on the genes of the other folds; all representations share the folds.

    Parameters
    ----------
    embeddings
        Name -> float [n_genes, d].
    labels
        [n_genes], two classes, by position; none is missing.
    expression
        float [n_genes, k], the baseline: expression level alone; None: no baseline.
    expression_features
        Names of its columns, for the report.
    positive
        The class that high scores should mean; None: the rarer one.
    missed, ambiguous
        Labelled genes without an embedding, by class, and genes with both labels: for the report.
    folds, repeats
        5 x 5 by default.
    seed
        Decides on folds and resamples.
    n_resamples
        Resamples of the genes for the interval; 0: none.
    c
        Inverse strength of the l2 penalty. Stronger than for cells: genes with labels are few, dimensions many.
    progress
        Called with the stage "genes".

    Raises
    ------
    InputError
        Not two classes, fewer genes of one than folds, shapes that differ, NaN.
    """
    kinds = as_strings(labels, "labels", of="gene").astype(str)
    if (kinds == "").any():
        raise InputError(f"labels: {int((kinds == '').sum())} genes have no value; leave these genes out")
    features = {name: np.asarray(one) for name, one in embeddings.items()}
    if not features:
        raise InputError("no gene embeddings were given")
    if EXPRESSION_NAME in features:
        raise InputError(f"embedding {EXPRESSION_NAME!r}: the name of the baseline; choose another (NAME=FILE)")
    if expression is not None:
        features[EXPRESSION_NAME] = np.asarray(expression)
    for name, one in features.items():
        if one.ndim != 2 or len(one) != len(kinds) or one.shape[1] == 0:
            raise InputError(f"{name!r}: must have shape [{len(kinds)}, d] for as many labels, got {list(one.shape)}")
        if one.dtype.kind not in "fiu":
            raise InputError(f"{name!r}: must hold numbers, got {one.dtype}")
        bad = int((~np.isfinite(one)).any(axis=1).sum())
        if bad:
            raise InputError(f"{name!r}: NaN or infinite values in {bad} of {len(kinds)} genes; leave these genes out")
    if folds < 2 or repeats < 1:
        raise InputError(f"'folds' must be at least 2 and 'repeats' at least 1, got {folds} and {repeats}")
    check_numbers(seed, n_resamples, c)
    if expression is not None and len(expression_features) != features[EXPRESSION_NAME].shape[1]:
        raise InputError(
            f"evaluate_genes: 'expression' has {features[EXPRESSION_NAME].shape[1]} columns and 'expression_features' "
            f"{len(expression_features)} names; give a name for each"
        )
    classes, numbers = np.unique(kinds, return_counts=True)
    found = dict(zip(classes.tolist(), numbers.tolist()))
    said = ", ".join(f"{name!r} ({number})" for name, number in found.items()) or "none"
    if len(found) != 2:
        raise InputError(f"labels: two classes are needed among the genes found, got {said}")
    if positive is None:
        positive = min(found, key=lambda name: (found[name], name))
    positive = str(positive)
    if positive not in found:
        raise InputError(f"--positive: no gene with the label {positive!r}; there are {said}")
    if min(found.values()) < folds:
        raise InputError(f"labels: {folds} folds need as many genes of each class, found {said}")
    negative = next(name for name in found if name != positive)

    is_positive = kinds == positive
    dealt = np.stack(
        [
            stratified_folds(is_positive, folds=folds, rng=np.random.default_rng([seed, SPLIT, repeat]))
            for repeat in range(repeats)
        ]
    )
    total, done = len(features) * repeats * folds, 0
    scores, out_of_fold = [], {}
    for name, one in features.items():
        values, trouble = np.empty(dealt.shape), 0
        for repeat in range(repeats):
            for k in range(folds):
                progress("genes", done, total)
                test = dealt[repeat] == k
                fit = classifiers.logistic_scores(one[~test], is_positive[~test], one[test], c=c)
                values[repeat, test] = fit.output
                trouble += not fit.converged
                done += 1
        per_fold, draws = bootstrap.auroc_draws(  # the same generator for each: paired resamples
            is_positive, values, dealt, n_resamples=n_resamples, rng=np.random.default_rng([seed, BOOTSTRAP])
        )
        scores.append(
            GeneScore(
                name,
                "embedding" if name in embeddings else "baseline",
                int(one.shape[1]),
                Interval.of(draws),
                float(per_fold.std(ddof=1)),
                float(per_fold.mean(axis=1).std(ddof=1)) if repeats > 1 else None,
                per_fold,
                trouble,
            )
        )
        out_of_fold[name] = values
    progress("genes", total, total)
    lost = {name: sorted(map(str, genes)) for name, genes in (missed or {}).items()}
    return GenesReport(
        settings={
            "embeddings": list(embeddings),
            "folds": folds,
            "repeats": repeats,
            "seed": seed,
            "bootstrap": n_resamples,
            "classifier": classifiers.describe(c)["logistic_regression"],
            "baseline": None if expression is None else list(expression_features),
        },
        genes={
            "positive": positive,
            "negative": negative,
            "found": found,
            "missed": {name: lost.get(name, []) for name in sorted({*found, *lost})},
            "ambiguous": sorted(map(str, ambiguous)),
        },
        scores=scores,
        rules={
            "auroc": "mean over all folds of all repeats; ties count one half",
            "sd": "sd_folds: over all folds; sd_repeats: over the means of the repeats (n - 1 in both)",
            "bootstrap": bootstrap.RULE.format(n=n_resamples, members="genes", member="gene", strata="class"),
        },
        out_of_fold=out_of_fold,
        folds=dealt,
    )
