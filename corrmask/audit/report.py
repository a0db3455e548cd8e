"""What an audit reports: the counts of each arm, and their JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from corrmask.errors import InputError

QUANTILES = (5, 25, 50, 75, 95)
NEAR = 0.25  # how far from the rate a gene's mask frequency may be, as a share of it, to count as level
RULES = {
    "rate": "masked genes / genes of the cells; of n genes min(n, max(1, round(n * rate))) are to be masked",
    "shown": (
        "what masked positions show: the mask token, another gene, or their own token ('unchanged'); a random gene may "
        "be the token itself and then counts as unchanged"
    ),
    "leakage": (
        "share of masked genes with a visible partner in the same cell; partners share an edge of the graph, in either "
        "direction, with |r| at or above the threshold; a masked position is not visible, whatever it shows (mask "
        "token, random gene or itself)"
    ),
    "partner_in_cell": "share of masked genes with a partner in the same cell, visible or masked: all that could leak",
    "of_partnered": "leaking / those with a partner in the same cell",
    "standardised": (
        "leakage with each gene counted as often as the cells hold it, in place of as often as it is masked: arms that "
        "mask different genes compare by this; genes that are never masked are left out"
    ),
    "mask_frequency": "times masked / times present, of each gene that is in min_cells or more of the cells audited",
    "near_rate": (
        f"share of these genes whose mask frequency is within {NEAR:.0%} of the rate; of few masks some miss it by "
        "chance, so that level masks come nearer to 1 with more cells and epochs"
    ),
    "groups": "what one seed masked in one cell, itself included; a seed that brought none is a group of one",
    "cells_per_second": "of masking alone (choice of genes and what they show), on the CPU, int64 tokens, by batches",
}


@dataclass(frozen=True, eq=False)
class ArmAudit:
    """What one arm does to the cells audited, over all epochs.

    Attributes
    ----------
    arm
        Name.
    n_off_budget
        Cells, once per epoch, whose number of masked genes is not the budget.
    shown
        Masked positions by what they show: ``mask_token``, ``another_gene``, ``unchanged``.
    leaking, with_partner
        By threshold of |r|, int64 [n_genes of the vocabulary]: how often each gene is masked with a visible partner,
        and with any partner in the cell.
    genes
        str [n_genes of the vocabulary].
    cells, present, masked
        int64 [n_genes of the vocabulary]: cells that hold each gene; how often it is there, and
        how often masked, over all epochs.
    rate
        That was asked for.
    min_cells
        Genes in fewer cells have no mask frequency.
    groups_per_cell, group_sizes
        int64: how many cells have 0, 1, 2 .. groups, and how many groups mask 0, 1, 2 .. genes.
    cells_per_second
        Of masking, measured.
    """

    arm: str
    n_off_budget: int
    shown: dict[str, int]
    leaking: dict[float, np.ndarray]
    with_partner: dict[float, np.ndarray]
    genes: np.ndarray
    cells: np.ndarray
    present: np.ndarray
    masked: np.ndarray
    rate: float
    min_cells: int
    groups_per_cell: np.ndarray
    group_sizes: np.ndarray
    cells_per_second: float

    @property
    def n_genes(self) -> int:
        """Genes of the cells (positions that can be masked)."""
        return int(self.present.sum())

    @property
    def n_masked(self) -> int:
        """Masked ones."""
        return int(self.masked.sum())

    @property
    def frequency(self) -> np.ndarray:
        """Masked / present: float64 [n_genes of the vocabulary], NaN where a gene is in too few cells."""
        counted = self.cells >= max(self.min_cells, 1)
        return np.divide(self.masked, self.present, out=np.full(len(counted), np.nan), where=counted)

    def leakage(self, threshold: float) -> dict[str, Any]:
        """What leaks at a threshold that was audited; see `RULES` for each figure."""
        if threshold not in self.leaking:
            raise InputError(
                f"leakage: 'threshold' must be one that was audited, {sorted(self.leaking)}; got {threshold}"
            )
        leaking, with_partner = self.leaking[threshold], int(self.with_partner[threshold].sum())
        hit = self.masked > 0
        weight = self.present[hit] / self.present[hit].sum()
        return {
            "threshold": threshold,
            "share": int(leaking.sum()) / self.n_masked,
            "leaking": int(leaking.sum()),
            "partner_in_cell": with_partner / self.n_masked,
            "of_partnered": int(leaking.sum()) / with_partner if with_partner else 0.0,
            "standardised": float((weight * leaking[hit] / self.masked[hit]).sum()),
        }

    def extremes(self, n: int = 10) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The `n` genes masked most often, and least: ``gene``, ``frequency``, ``cells``; ties in token order."""
        frequency = self.frequency
        counted = np.flatnonzero(~np.isnan(frequency))
        orders = (np.argsort(sign * frequency[counted], kind="stable")[:n] for sign in (-1, 1))
        most, least = (
            [
                {"gene": str(self.genes[g]), "frequency": float(frequency[g]), "cells": int(self.cells[g])}
                for g in counted[order]
            ]
            for order in orders
        )
        return most, least

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; figures of mask frequencies are None where every gene is in too few cells."""
        frequency = self.frequency
        frequency = frequency[~np.isnan(frequency)]
        most, least = self.extremes()
        return {
            "rate": {
                "realised": self.n_masked / self.n_genes,
                "masked": self.n_masked,
                "genes": self.n_genes,
                "cells_off_budget": self.n_off_budget,
            },
            "shown": {name: {"share": n / self.n_masked, "count": n} for name, n in self.shown.items()},
            "leakage": [self.leakage(threshold) for threshold in self.leaking],
            "mask_frequency": {
                "genes": len(frequency),
                **summary(frequency),
                "near_rate": float((abs(frequency / self.rate - 1) <= NEAR).mean()) if len(frequency) else None,
                "percentiles": np.quantile(frequency, np.linspace(0, 1, 101)).tolist() if len(frequency) else [],
                "most_masked": most,
                "least_masked": least,
            },
            "groups": {
                "per_cell": summary(_spread(self.groups_per_cell)),
                "size": summary(_spread(self.group_sizes)),
                "by_size": [[int(size), int(self.group_sizes[size])] for size in np.flatnonzero(self.group_sizes)],
                "masked_alone": int(self.group_sizes[1]) / self.n_masked,
            },
            "cells_per_second": self.cells_per_second,
        }


@dataclass(frozen=True, eq=False)
class AuditReport:
    """All arms on the same cells, and what they were computed from.

    Attributes
    ----------
    settings
        Everything that a repetition needs.
    graph
        Genes, edges, weakest edge and provenance of the graph by which leakage is judged.
    cells
        Cells of the corpus, for training, held out, audited, and of these without genes; their median of tokens.
    arms
        By name, in the order asked for.
    rules
        How each figure is counted.
    """

    settings: dict[str, Any]
    graph: dict[str, Any]
    cells: dict[str, Any]
    arms: dict[str, ArmAudit]
    rules: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, without NaN: what ``--json`` prints and ``audit.json`` holds."""
        return {
            "kind": "audit",
            "version": 1,
            "settings": self.settings,
            "graph": self.graph,
            "cells": self.cells,
            "arms": {name: arm.to_dict() for name, arm in self.arms.items()},
            "rules": self.rules,
        }


def summary(values: np.ndarray) -> dict[str, float | None]:
    """Mean, quantiles (``q5`` .. ``q95``) and maximum; None where there are no values."""
    names = ["mean", *(f"q{q}" for q in QUANTILES), "max"]
    if len(values) == 0:
        return dict.fromkeys(names)
    figures = [values.mean(), *np.quantile(values, np.array(QUANTILES) / 100), values.max()]
    return dict(zip(names, map(float, figures), strict=True))


def _spread(counts: np.ndarray) -> np.ndarray:
    """The values 0, 1, 2 .. each as often as `counts` says."""
    return np.repeat(np.arange(len(counts)), counts)
