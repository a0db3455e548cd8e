"""What an evaluation of annotation reports: counts of each level, scores, and their JSON form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corrmask.evaluation.bootstrap import Interval

LOGISTIC, KNN = "logistic_regression", "knn"


@dataclass(frozen=True)
class TypeCount:
    """How many cells a type has in a level: used at all, in training (the fewest over splits), in the test."""

    type: str
    n_cells: int
    fraction: float
    rare: bool
    n_train: int
    n_test: int


@dataclass(frozen=True)
class Level:
    """One level of the `within` column, or all cells (`name` None)."""

    name: str | None
    n_cells: int
    n_train: int
    n_test: int
    types: list[TypeCount]
    reason: str | None = None  # why it has no score

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "level": self.name,
            "scored": self.reason is None,
            "reason": self.reason,
            "n_cells": self.n_cells,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "types": [vars(one) for one in self.types],
        }


@dataclass(frozen=True)
class Score:
    """What one classifier reaches on one representation in one level (None: all cells, or the mean over levels)."""

    representation: str
    kind: str  # "embedding" or "baseline"
    classifier: str
    level: str | None
    accuracy: Interval
    macro_f1: Interval
    rare_macro_f1: Interval | None
    f1: dict[str, Interval | None]
    types: list[TypeCount]
    fits: int
    not_converged: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "representation": self.representation,
            "kind": self.kind,
            "classifier": self.classifier,
            "level": self.level,
            "accuracy": self.accuracy.to_dict(),
            "macro_f1": self.macro_f1.to_dict(),
            "rare_macro_f1": self.rare_macro_f1.to_dict() if self.rare_macro_f1 else None,
            "types": [
                {**vars(one), "f1": interval.to_dict() if (interval := self.f1[one.type]) else None}
                for one in self.types
            ],
            "fits": self.fits,
            "not_converged": self.not_converged,
        }


@dataclass
class AnnotationReport:
    """All scores of one evaluation, and what they were computed from.

    Attributes
    ----------
    settings
        Everything that a repetition needs.
    cells
        Number of cells given, left out (without label, by thinning), used, and of these in levels without a score.
    thinned
        What `thin` did in each level.
    levels, scores
        See `Level` and `Score`. Scores of level None come first: the whole, or the mean over levels.
    predictions
        (representation, classifier) -> str object array [n_repeats, n_cells] over the cells given, "" where a cell was
        not tested. Not part of `to_dict`.
    """

    settings: dict[str, Any]
    cells: dict[str, int]
    thinned: list[dict[str, Any]]
    levels: list[Level]
    scores: list[Score]
    rules: dict[str, str]
    predictions: dict[tuple[str, str], np.ndarray] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, without NaN: what ``--json`` and ``-o`` give."""
        return {
            "kind": "annotation",
            "version": 1,
            "settings": self.settings,
            "cells": self.cells,
            "thinned": self.thinned,
            "levels": [level.to_dict() for level in self.levels],
            "scores": [score.to_dict() for score in self.scores],
            "rules": self.rules,
        }

    def get(self, representation: str, classifier: str = LOGISTIC, level: str | None = None) -> Score:
        """The score of one representation."""
        for score in self.scores:
            if (score.representation, score.classifier, score.level) == (representation, classifier, level):
                return score
        raise KeyError((representation, classifier, level))

    def table(self) -> list[dict[str, Any]]:
        """One row per level, representation and classifier: accuracy, macro-F1, rare macro-F1 (`Interval` or None)."""
        return [
            {
                "level": score.level,
                "representation": score.representation,
                "kind": score.kind,
                "classifier": score.classifier,
                "accuracy": score.accuracy,
                "macro_f1": score.macro_f1,
                "rare_macro_f1": score.rare_macro_f1,
            }
            for score in self.scores
        ]

    def type_table(self, classifier: str = LOGISTIC, level: str | None = None) -> list[dict[str, Any]]:
        """One row per type, the rarest first: its counts, and its F1 by representation under ``f1``."""
        scores = [score for score in self.scores if (score.classifier, score.level) == (classifier, level)]
        types = sorted(scores[0].types, key=lambda one: (one.n_cells, one.type))
        return [{**vars(one), "f1": {score.representation: score.f1[one.type] for score in scores}} for one in types]
