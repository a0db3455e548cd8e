"""Intervals: members are drawn again, with replacement, inside each class; the fitted models stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

CHUNK = 128
RULE = (
    "95 % percentile interval over {n} resamples of the tested {members}, drawn with replacement within each {strata}, "
    "so that each keeps its support in every resample and none is dropped; classifiers are not fitted again, and a "
    "{member} alone in its {strata} adds no width"
)


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval; the ends are None where nothing was resampled."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, draws: np.ndarray) -> Interval:
        """From draws [1 + n_resamples], the score itself first."""
        if len(draws) == 1:
            return cls(float(draws[0]), None, None)
        low, high = np.quantile(draws[1:], [0.025, 0.975])
        return cls(float(draws[0]), float(low), float(high))

    def to_dict(self) -> dict[str, float | None]:
        """JSON-safe."""
        return {"value": self.value, "low": self.low, "high": self.high}


def resampled_weights(
    strata: np.ndarray, n_resamples: int, rng: np.random.Generator, *, chunk: int = CHUNK
) -> Iterator[np.ndarray]:
    """How often each member is drawn, float64 [n, b], at most `chunk` resamples at a time.

    The very first column is all ones: the data as they are. Within each stratum as many are drawn as it has.
    """
    n = len(strata)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    yield np.ones((n, 1))
    for start in range(0, n_resamples, chunk):
        b = min(chunk, n_resamples - start)
        weights = np.zeros((n, b))
        for cells in members:
            k = len(cells)
            drawn = rng.integers(k, size=(b, k)) + k * np.arange(b)[:, None]
            weights[cells] = np.bincount(drawn.ravel(), minlength=b * k).reshape(b, k).T
        yield weights


def mean_where_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def classification_draws(
    truth: np.ndarray, predicted: np.ndarray, n_types: int, *, n_resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and F1 per type, for the cells as they are and for each resample.

    Every prediction sees the same resamples. A cell weighs the same in all repeats, which are averaged afterwards; a
    repeat in which a resample left a type without any cell and any prediction has no F1 for it and is left out of that
    average (with one repeat this cannot happen).

    Parameters
    ----------
    truth
        int [n], types of the cells.
    predicted
        int [n_predictors, n_repeats, n]; -1 where a cell is not tested in that repeat.
    n_types
        Number of types.

    Returns
    -------
    accuracy
        float64 [n_predictors, 1 + n_resamples].
    f1
        float64 [n_predictors, n_types, 1 + n_resamples]; NaN for types without tested cells.
    """
    tested = (predicted[0] >= 0).any(axis=0)
    truth, predicted = truth[tested], predicted[:, :, tested]
    n = len(truth)

    def indicator(types: np.ndarray, cells: np.ndarray) -> sparse.csr_matrix:
        cells = np.flatnonzero(cells)
        return sparse.csr_matrix((np.ones(len(cells)), (types[cells], cells)), shape=(n_types, n))

    repeats = range(predicted.shape[1])
    support = [indicator(truth, predicted[0, r] >= 0) for r in repeats]
    right = [[indicator(truth, one[r] == truth) for r in repeats] for one in predicted]
    named = [[indicator(one[r], one[r] >= 0) for r in repeats] for one in predicted]
    accuracy, f1 = [], []
    for weights in resampled_weights(truth, n_resamples, rng):
        cells = [matrix @ weights for matrix in support]
        hits = [[matrix @ weights for matrix in one] for one in right]
        called = [[matrix @ weights for matrix in one] for one in named]
        accuracy.append(
            [mean_where_defined(np.stack([_ratio(h.sum(0), c.sum(0)) for h, c in zip(one, cells)])) for one in hits]
        )
        f1.append(
            [
                mean_where_defined(np.stack([_ratio(2 * h, c + p) for h, c, p in zip(one, cells, names)]))
                for one, names in zip(hits, called)
            ]
        )
    scores = np.concatenate(f1, axis=2)
    scores[:, np.bincount(truth, minlength=n_types) == 0] = np.nan
    return np.concatenate(accuracy, axis=1), scores


def auroc_draws(
    positive: np.ndarray,
    scores: np.ndarray,
    folds: np.ndarray,
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of every fold, and its mean for the genes as they are and for each resample.

    A fold that a resample leaves without one of the classes has no AUROC there and is left out of that mean.

    Parameters
    ----------
    positive
        bool [n].
    scores
        float64 [n_repeats, n], each from the model that did not see the gene.
    folds
        int [n_repeats, n], the fold in which each gene is tested.

    Returns
    -------
    per_fold
        float64 [n_repeats, n_folds]; ties count one half.
    mean
        float64 [1 + n_resamples].
    """
    n_folds = int(folds.max()) + 1
    weights = np.concatenate(list(resampled_weights(positive, n_resamples, rng)), axis=1)
    values = []
    for one, fold in zip(scores, folds):
        for k in range(n_folds):
            yes, no = np.flatnonzero(positive & (fold == k)), np.flatnonzero(~positive & (fold == k))
            above = (one[yes][:, None] > one[no]) + 0.5 * (one[yes][:, None] == one[no])
            won = ((above.T @ weights[yes]) * weights[no]).sum(axis=0)
            values.append(_ratio(won, weights[yes].sum(axis=0) * weights[no].sum(axis=0)))
    return np.stack(values)[:, 0].reshape(len(scores), n_folds), mean_where_defined(np.stack(values))
