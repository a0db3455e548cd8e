"""The two classifiers that read frozen features: fitted on training cells alone, the same settings for everything."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_ITER = 5000
NEIGHBOURS = 15


@dataclass(frozen=True)
class Fitted:
    """What one fit gave.

    Attributes
    ----------
    output
        Predicted codes int64 [n_test], or the decision values float64 [n_test].
    converged
        False where the optimiser stopped before its tolerance.
    """

    output: np.ndarray
    converged: bool = True


def describe(c: float) -> dict[str, dict[str, Any]]:
    """Say what the classifiers are, for the report."""
    return {
        "logistic_regression": {
            "features": "standardised by the mean and deviation of the training cells",
            "penalty": "l2",
            "C": c,
            "solver": "lbfgs",
            "max_iter": MAX_ITER,
            "class_weight": None,
        },
        "knn": {
            "features": "centred on the mean of the training cells",
            "k": NEIGHBOURS,
            "metric": "cosine",
            "weights": "uniform",
        },
    }


def _logistic(train: np.ndarray, codes: np.ndarray, c: float) -> tuple[Any, bool]:
    """Fit the scaler and the regression; convergence is reported, never printed."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=MAX_ITER))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train.astype(np.float64), codes)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return model, len(others) == len(caught)


def logistic_regression(train: np.ndarray, codes: np.ndarray, test: np.ndarray, *, c: float) -> Fitted:
    """Predict the types of `test` by multinomial logistic regression.

    Parameters
    ----------
    train, test
        float [n, d], features.
    codes
        int [n_train]. With a single type it is predicted everywhere.
    c
        Inverse strength of the l2 penalty.
    """
    if len(np.unique(codes)) == 1:
        return Fitted(np.full(len(test), codes[0], dtype=np.int64))
    model, converged = _logistic(train, codes, c)
    return Fitted(model.predict(test.astype(np.float64)).astype(np.int64), converged)


def logistic_scores(train: np.ndarray, positive: np.ndarray, test: np.ndarray, *, c: float) -> Fitted:
    """Decision values of a two-class logistic regression: the higher, the more likely positive."""
    model, converged = _logistic(train, positive, c)
    return Fitted(model.decision_function(test.astype(np.float64)), converged)


def nearest_neighbours(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> Fitted:
    """Predict by vote of the 15 nearest training cells (all of them where there are fewer), by cosine distance."""
    from sklearn.neighbors import KNeighborsClassifier

    centre = train.mean(axis=0, dtype=np.float64)
    model = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine", algorithm="brute", n_jobs=1)
    model.fit(train - centre, codes)
    return Fitted(model.predict(test - centre).astype(np.int64))
