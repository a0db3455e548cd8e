"""Masks looked at before they are trained on: their rate, what they show, what they leak, and which genes they hit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from corrmask.arms import ARMS, make_masker
from corrmask.corpus import Batch, Corpus, split_cells
from corrmask.errors import InputError
from corrmask.graph import GeneGraph
from corrmask.groups import GroupTable
from corrmask.masking import CorrMasker
from corrmask.progress import Progress, silent
from corrmask.vocabulary import Vocabulary

RULES = {
    "rate": "masked genes / genes of the cells; of n genes min(n, max(1, round(n * rate))) are to be masked",
    "shown": (
        "what masked positions show: the mask token, another gene, or their own token ('unchanged'); a random gene may "
        "be the token itself and then counts as unchanged"
    ),
    "leakage": (
        "share of masked genes with a visible partner in the same cell; partners share an edge of the graph in either "
        "direction with |r| at or above the threshold; a masked position is not visible, whatever it shows (mask token, "
        "random gene or itself)"
    ),
    "partner_in_cell": "share of masked genes with a partner in the same cell, masked or visible: the most that can leak",
    "mask_frequency": "times masked / times present, of each gene that is in min_cells or more of the cells audited",
    "groups": "a group is what one seed masked in one cell, the seed included; a gene that brought none is a group of one",
    "cells_per_second": "of masking alone (groups and corruption), on the CPU, int64 tokens, one batch after another",
}
QUANTILES = (5, 25, 50, 75, 95)
_BATCH = 64  # cells: few, so that the table of who is visible stays in cache


@dataclass(frozen=True, eq=False)
class ArmAudit:
    """What one arm does to the cells audited, over all epochs.

    Attributes
    ----------
    arm
        Name.
    n_genes, n_masked
        Genes of the cells (positions that can be masked) and masked ones.
    n_off_budget
        Cells whose number of masked genes is not the budget.
    shown
        Masked positions by what they show: ``mask_token``, ``another_gene``, ``unchanged``.
    leaking, with_partner
        By threshold of |r|: masked genes with a visible partner, and with any partner in the cell.
    frequency
        float64 [n_genes of the vocabulary]: masked / present; NaN where present in too few cells.
    present
        int64 [n_genes of the vocabulary]: cells that hold each gene.
    groups_per_cell, group_sizes
        int64: how many cells have so many groups, and how many groups mask so many genes.
    cells_per_second
        Of masking, measured.
    genes
        str [n_genes of the vocabulary].
    """

    arm: str
    n_genes: int
    n_masked: int
    n_off_budget: int
    shown: dict[str, int]
    leaking: dict[float, int]
    with_partner: dict[float, int]
    frequency: np.ndarray
    present: np.ndarray
    groups_per_cell: np.ndarray
    group_sizes: np.ndarray
    cells_per_second: float
    genes: np.ndarray

    def leakage(self, threshold: float) -> float:
        """Share of masked genes with a visible partner of |r| >= `threshold`, one of the thresholds audited."""
        return _share(self.leaking[threshold], self.n_masked)

    def extremes(self, n: int = 10) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The `n` genes that are masked most and least often: name, frequency, cells; ties in token order."""
        counted = np.flatnonzero(~np.isnan(self.frequency))
        rising = counted[np.argsort(self.frequency[counted], kind="stable")]
        falling = counted[np.argsort(-self.frequency[counted], kind="stable")]
        most, least = (
            [
                {"gene": str(self.genes[g]), "frequency": float(self.frequency[g]), "cells": int(self.present[g])}
                for g in order[:n]
            ]
            for order in (falling, rising)
        )
        return most, least

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; quantiles are None where there is nothing to take them of."""
        frequency = self.frequency[~np.isnan(self.frequency)]
        most, least = self.extremes()
        sizes = np.flatnonzero(self.group_sizes)
        return {
            "rate": {
                "realised": _share(self.n_masked, self.n_genes),
                "masked": self.n_masked,
                "genes": self.n_genes,
                "cells_off_budget": self.n_off_budget,
            },
            "shown": {name: {"count": n, "share": _share(n, self.n_masked)} for name, n in self.shown.items()},
            "leakage": [
                {
                    "threshold": threshold,
                    "share": self.leakage(threshold),
                    "masked_leaking": n,
                    "partner_in_cell": _share(self.with_partner[threshold], self.n_masked),
                }
                for threshold, n in self.leaking.items()
            ],
            "mask_frequency": {
                "genes": len(frequency),
                **_summary(frequency),
                "percentiles": np.quantile(frequency, np.linspace(0, 1, 101)).tolist() if len(frequency) else [],
                "most_masked": most,
                "least_masked": least,
            },
            "groups": {
                "per_cell": _summary(np.repeat(np.arange(len(self.groups_per_cell)), self.groups_per_cell)),
                "size": _summary(np.repeat(np.arange(len(self.group_sizes)), self.group_sizes)),
                "groups_by_size": [[int(size), int(self.group_sizes[size])] for size in sizes],
                "masked_alone": _share(int(self.group_sizes[1:2].sum()), self.n_masked),
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
        Size, weakest edge and provenance of the graph.
    cells
        Cells of the corpus, of training, held out, audited, without genes; median genes per cell.
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
        """JSON-safe, without NaN: what ``--json`` and ``audit.json`` give."""
        return {
            "kind": "audit",
            "version": 1,
            "settings": self.settings,
            "graph": self.graph,
            "cells": self.cells,
            "arms": {name: arm.to_dict() for name, arm in self.arms.items()},
            "rules": self.rules,
        }


def audit(
    corpus: Corpus,
    graph: GeneGraph,
    *,
    arms: Sequence[str] = ARMS,
    rate: float = 0.15,
    expand: float = 1.0,
    max_group: int | None = None,
    max_len: int = 2048,
    held_out: float = 0.1,
    cells: int = 2000,
    epochs: int = 4,
    thresholds: Sequence[float] = (0.1, 0.3),
    min_cells: int = 20,
    seed: int = 0,
    progress: Progress = silent,
) -> AuditReport:
    """Mask the same held-out cells with every arm and count what comes out. Exact, but for cells/s.

    Parameters
    ----------
    corpus
        Tokenised cells.
    graph
        The real dependency graph: what leaks is judged by it for every arm.
    arms
        Some of `corrmask.arms.ARMS`.
    rate, expand, max_group
        As `corrmask.arms.make_masker` takes them.
    max_len
        Most genes of a cell.
    held_out
        Share of cells held out, as in pre-training with the same seed (`corrmask.corpus.split_cells`).
    cells
        Most held-out cells looked at.
    epochs
        Masks drawn for each cell.
    thresholds
        |r| from which a partner counts, each above 0.
    min_cells
        Genes in fewer of the cells audited are left out of mask frequencies.
    seed
        Of the split, the choice of cells and the masks.
    progress
        Called as progress("audit NAME", cells masked, cells).

    Raises
    ------
    InputError
        An unknown arm, a value out of range, a graph that does not fit the vocabulary, no held-out cells.
    """
    arms, thresholds = list(dict.fromkeys(arms)), sorted(set(map(float, thresholds)))
    _check(arms, thresholds, held_out, seed, max_len=max_len, cells=cells, epochs=epochs, min_cells=min_cells)
    if max_group is not None and max_group < 0:
        raise InputError(f"audit: 'max_group' must be at least 0, got {max_group}")
    GroupTable.from_graph(graph, corpus.vocabulary)  # refuses a graph that does not fit
    train, held = split_cells(corpus.n_cells, held_out, seed)
    if len(held) == 0:
        raise InputError(
            f"corpus {corpus.name!r}: {held_out:.3g} of {corpus.n_cells:,} cells leaves none to audit; raise 'held_out'"
        )
    rows = held
    if len(held) > cells:
        rows = np.sort(np.random.default_rng([seed, 0xA0D1]).choice(held, cells, replace=False))
    partners = partner_strength(graph, corpus.vocabulary)
    reports = {}
    for name in arms:
        masker = make_masker(
            name,
            graph=graph,
            corpus=corpus,
            rows=train,
            max_len=max_len,
            rate=rate,
            expand=expand,
            max_group=max_group,
            seed=seed,
        )
        count = _Count(name, corpus.vocabulary, partners, thresholds)
        done = 0
        for batch in _batches(corpus, rows, max_len):
            if done == 0:
                masker(*batch)  # the first call warms up; masks are pure, so it changes nothing
            for epoch in range(epochs):
                count.add(masker, batch, epoch)
            done += len(batch.lengths)
            progress(f"audit {name}", done, len(rows))
        reports[name] = count.finish(min_cells)
    lengths = np.minimum(corpus.lengths[rows], max_len)
    return AuditReport(
        settings={
            "corpus": Path(corpus.name).name,
            "corpus_hash": corpus.hash,
            "vocabulary_hash": corpus.vocabulary.hash,
            "arms": arms,
            "rate": rate,
            "expand": expand,
            "max_group": max_group,
            "max_len": max_len,
            "held_out": held_out,
            "cells": cells,
            "epochs": epochs,
            "thresholds": thresholds,
            "min_cells": min_cells,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "batch_cells": _BATCH,
        },
        graph={
            "genes": graph.n_genes,
            "edges": graph.n_edges,
            "weakest_edge": float(np.abs(graph.weights).min()) if graph.n_edges else None,
            "provenance": _plain(graph.provenance),
        },
        cells={
            "corpus": corpus.n_cells,
            "training": len(train),
            "held_out": len(held),
            "audited": len(rows),
            "without_genes": int((lengths == 0).sum()),
            "median_tokens": float(np.median(lengths)),
        },
        arms=reports,
        rules=RULES,
    )


def partner_strength(graph: GeneGraph, vocabulary: Vocabulary) -> sp.csr_array:
    """|r| of partners, in either direction: CSR float32 [n_genes, n_genes] over the vocabulary's genes, symmetric."""
    gene = vocabulary.tokens_of(graph.var_names).astype(np.int64) - vocabulary.first_gene_token
    owner, partner = np.repeat(gene, np.diff(graph.indptr)), gene[graph.indices]
    kept = (owner >= 0) & (partner >= 0)
    shape = (vocabulary.n_genes, vocabulary.n_genes)
    directed = sp.csr_array((np.abs(graph.weights[kept]), (owner[kept], partner[kept])), shape=shape)
    return sp.csr_array(directed.maximum(directed.T))


def strongest(partners: sp.csr_array, cell: np.ndarray, gene: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The largest |r| of each gene to those shown in its cell.

    Parameters
    ----------
    partners
        As `partner_strength` gives it.
    cell, gene
        int64 [n]: the pairs asked for.
    shown
        bool [n_cells, n_genes].

    Returns
    -------
    numpy.ndarray
        float32 [n], 0 where no partner is shown.
    """
    rows = partners[gene]
    n_partners = np.diff(rows.indptr)
    strength = np.where(shown[np.repeat(cell, n_partners), rows.indices], rows.data, np.float32(0))
    result = np.zeros(len(gene), dtype=np.float32)
    some = n_partners > 0  # reduceat has no empty segments
    if len(strength):
        result[some] = np.maximum.reduceat(strength, rows.indptr[:-1][some])
    return result


class _Count:
    """Adds up batches of one arm."""

    def __init__(self, arm: str, vocabulary: Vocabulary, partners: sp.csr_array, thresholds: list[float]) -> None:
        self.arm, self.vocabulary, self.partners = arm, vocabulary, partners
        self.n_genes = self.n_off_budget = self.n_cells = 0
        self.seconds = 0.0
        self.shown = {"mask_token": 0, "another_gene": 0, "unchanged": 0}
        self.leaking, self.with_partner = dict.fromkeys(thresholds, 0), dict.fromkeys(thresholds, 0)
        self.masked = np.zeros(vocabulary.n_genes, dtype=np.int64)
        self.present = np.zeros(vocabulary.n_genes, dtype=np.int64)  # of one epoch
        self.groups_per_cell = np.zeros(1, dtype=np.int64)
        self.group_sizes = np.zeros(1, dtype=np.int64)

    def add(self, masker: CorrMasker, batch: Batch, epoch: int) -> None:
        started = time.perf_counter()
        corrupted, labels = masker(*batch, epoch=epoch)
        self.seconds += time.perf_counter() - started
        owners = masker.owners(*batch, epoch=epoch).numpy()
        tokens, output, is_masked = batch.input_ids.numpy(), corrupted.numpy(), labels.numpy() >= 0
        lo, hi = self.vocabulary.gene_token_range
        real = np.arange(tokens.shape[1]) < batch.lengths.numpy()[:, None]
        is_gene = real & (tokens >= lo) & (tokens < hi)

        n, m = is_gene.sum(axis=1), is_masked.sum(axis=1)
        self.n_genes += int(n.sum())
        self.n_cells += len(n)
        self.n_off_budget += int((m != np.minimum(n, np.maximum(1, (n * masker.rate_ppm + 500_000) // 10**6))).sum())

        cell, position = np.nonzero(is_masked)
        gene, showing = tokens[cell, position] - lo, output[cell, position]
        own = showing == gene + lo
        self.shown["unchanged"] += int(own.sum())
        self.shown["mask_token"] += int((showing == self.vocabulary.mask_token_id).sum())
        self.shown["another_gene"] += int((~own & (showing >= lo) & (showing < hi)).sum())

        present = np.zeros((len(n), self.vocabulary.n_genes), dtype=bool)
        of_cell, at = np.nonzero(is_gene)
        present[of_cell, tokens[of_cell, at] - lo] = True
        self.masked += np.bincount(gene, minlength=self.vocabulary.n_genes)
        if epoch == 0:
            self.present += present.sum(axis=0)
        self._add_partners(self.with_partner, cell, gene, present)
        present[cell, gene] = False  # what is masked is not visible, whatever it shows
        self._add_partners(self.leaking, cell, gene, present)

        pairs, sizes = np.unique(cell * (hi + 1) + owners[cell, position], return_counts=True)
        self.group_sizes = _add(self.group_sizes, np.bincount(sizes))
        per_cell = np.bincount(pairs // (hi + 1), minlength=len(n))
        self.groups_per_cell = _add(self.groups_per_cell, np.bincount(per_cell[n > 0]))

    def _add_partners(self, counts: dict[float, int], cell: np.ndarray, gene: np.ndarray, shown: np.ndarray) -> None:
        strength = strongest(self.partners, cell, gene, shown)
        for threshold in counts:
            counts[threshold] += int((strength >= np.float32(threshold)).sum())

    def finish(self, min_cells: int, epochs: int = 1) -> ArmAudit:
        raise NotImplementedError


def _batches(corpus: Corpus, rows: np.ndarray, max_len: int) -> Iterator[Batch]:
    for first in range(0, len(rows), _BATCH):
        yield corpus.batch(rows[first : first + _BATCH], max_len)
