"""The counts of an audit, added up batch by batch."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from corrmask.audit.report import ArmAudit
from corrmask.corpus import Batch
from corrmask.gene_graph import GeneGraph
from corrmask.masking import CorrMasker
from corrmask.vocabulary import Vocabulary


def partner_strength(graph: GeneGraph, vocabulary: Vocabulary) -> sp.csr_array:
    """|r| of partners, an edge in either direction: symmetric CSR float32 [n_genes, n_genes] over the vocabulary."""
    gene = vocabulary.tokens_of(graph.var_names).astype(np.int64) - vocabulary.first_gene_token
    has_token = vocabulary.tokens_of(graph.var_names) >= 0
    of_edge = np.repeat(np.arange(graph.n_genes), np.diff(graph.indptr))
    kept = has_token[of_edge] & has_token[graph.indices]
    ends = gene[of_edge[kept]], gene[graph.indices[kept]]
    directed = sp.csr_array((np.abs(graph.weights[kept]), ends), shape=(vocabulary.n_genes, vocabulary.n_genes))
    return sp.csr_array(directed.maximum(directed.T))


def strongest_shown(partners: sp.csr_array, cell: np.ndarray, gene: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The largest |r| between each gene and those that are shown in its cell.

    Parameters
    ----------
    partners
        As `partner_strength` gives them.
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
    some = n_partners > 0  # reduceat knows no empty segments
    if len(strength):
        result[some] = np.maximum.reduceat(strength, rows.indptr[:-1][some])
    return result


class ArmCounts:
    """Counts of one arm; `add` batches, then `finish`."""

    def __init__(self, arm: str, vocabulary: Vocabulary, partners: sp.csr_array, thresholds: Sequence[float]) -> None:
        self.arm, self.vocabulary, self.partners = arm, vocabulary, partners
        self.n_cells = self.n_off_budget = 0
        self.seconds = 0.0
        self.shown = {"mask_token": 0, "another_gene": 0, "unchanged": 0}
        self.leaking, self.with_partner = (
            {threshold: np.zeros(vocabulary.n_genes, dtype=np.int64) for threshold in thresholds} for _ in range(2)
        )
        self.masked = np.zeros(vocabulary.n_genes, dtype=np.int64)
        self.present = np.zeros(vocabulary.n_genes, dtype=np.int64)
        self.groups_per_cell = np.zeros(2, dtype=np.int64)
        self.group_sizes = np.zeros(2, dtype=np.int64)

    def add(self, masker: CorrMasker, batch: Batch, epoch: int) -> None:
        """Mask a batch and count. Every batch is to be added once for each epoch."""
        started = time.perf_counter()
        corrupted, labels = masker(*batch, epoch=epoch)
        self.seconds += time.perf_counter() - started
        owners = masker.owners(*batch, epoch=epoch).numpy()
        tokens, output = batch.input_ids.numpy(), corrupted.numpy()
        is_masked = labels.numpy() >= 0
        lo, hi = self.vocabulary.gene_token_range
        n_cells, n_genes = len(tokens), hi - lo

        is_gene = (np.arange(tokens.shape[1]) < batch.lengths.numpy()[:, None]) & (tokens >= lo) & (tokens < hi)
        genes_in_cell, masked_in_cell = is_gene.sum(axis=1), is_masked.sum(axis=1)
        rounded = (genes_in_cell * masker.rate_ppm + 500_000) // 10**6
        self.n_cells += n_cells
        self.n_off_budget += int((masked_in_cell != np.minimum(genes_in_cell, np.maximum(1, rounded))).sum())

        at = cell, _ = np.nonzero(is_masked)
        gene, showing = tokens[at] - lo, output[at]
        unchanged, is_mask = showing == tokens[at], showing == self.vocabulary.mask_token_id
        self.shown["mask_token"] += int(is_mask.sum())
        self.shown["unchanged"] += int(unchanged.sum())
        self.shown["another_gene"] += int((~is_mask & ~unchanged).sum())
        self.masked += np.bincount(gene, minlength=n_genes)
        self.present += np.bincount(tokens[is_gene] - lo, minlength=n_genes)

        # What is masked is not visible, whatever it shows.
        for counts, shown in ((self.with_partner, is_gene), (self.leaking, is_gene & ~is_masked)):
            in_cell = np.zeros((n_cells, n_genes), dtype=bool)
            in_cell[np.nonzero(shown)[0], tokens[shown] - lo] = True
            strength = strongest_shown(self.partners, cell, gene, in_cell)
            for threshold in counts:
                counts[threshold] += np.bincount(gene[strength >= np.float32(threshold)], minlength=n_genes)

        groups, sizes = np.unique(cell * n_genes + owners[at] - lo, return_counts=True)
        self.group_sizes = _add(self.group_sizes, np.bincount(sizes))
        self.groups_per_cell = _add(
            self.groups_per_cell, np.bincount(np.bincount(groups // n_genes, minlength=n_cells))
        )

    def finish(self, *, rate: float, epochs: int, min_cells: int) -> ArmAudit:
        """The counts of all batches, each added `epochs` times."""
        return ArmAudit(
            arm=self.arm,
            n_off_budget=self.n_off_budget,
            shown=self.shown,
            leaking=self.leaking,
            with_partner=self.with_partner,
            genes=self.vocabulary.genes,
            cells=self.present // epochs,
            present=self.present,
            masked=self.masked,
            rate=rate,
            min_cells=min_cells,
            groups_per_cell=self.groups_per_cell,
            group_sizes=self.group_sizes,
            cells_per_second=self.n_cells / max(self.seconds, 1e-9),
        )


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of two counts of different length."""
    total = np.zeros(max(len(a), len(b)), dtype=np.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total
