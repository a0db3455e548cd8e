"""Cells, batches and groups to time on: drawn, with the skew of genes that real cells have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from corrmask import ops
from corrmask.covariance import log_normalize
from corrmask.groups import NO_GROUP, SPECIAL, GroupTable

SHARE_SIGMA = (
    2.1  # sd of log expected counts: the hottest 1k / 2k / 4k / 8k of 20,000 genes hold 40 to 94 % of nonzeros
)
DEPTH_SIGMA, MODULE_SIGMA, MODULE_SIZE = 0.3, 0.7, 50
SPECIAL_TOKENS = 4
_BLOCK = 1000  # cells drawn at a time


def draw_counts(n_cells: int, n_genes: int, nonzeros: int, *, seed: int = 0) -> sp.csr_matrix:
    """Raw counts with a log-normal skew of genes, unequal depth and correlated modules.

    Parameters
    ----------
    n_cells, n_genes
        Shape.
    nonzeros
        Mean number of genes counted in a cell.
    seed
        The same seed gives the same cells.

    Returns
    -------
    csr_matrix
        float32 [n_cells, n_genes], whole numbers, columns sorted within a cell.
    """
    rng = np.random.default_rng(seed)
    share = np.exp(rng.normal(0.0, SHARE_SIGMA, n_genes)).astype(np.float32)
    module = rng.integers(0, max(1, n_genes // MODULE_SIZE), n_genes)

    def rates(n: int) -> np.ndarray:
        depth = np.exp(rng.normal(0.0, DEPTH_SIGMA, (n, 1))).astype(np.float32)
        activity = np.exp(rng.normal(0.0, MODULE_SIGMA, (n, int(module.max()) + 1))).astype(np.float32)
        return share * depth * activity[:, module]

    low, high, trial = -20.0, 20.0, rates(128)
    for _ in range(40):
        middle = (low + high) / 2
        found = -np.expm1(-trial * np.float32(np.exp(middle))).sum() / len(trial)
        low, high = (middle, high) if found < nonzeros else (low, middle)
    share *= np.float32(np.exp(low))
    blocks = []
    for first in range(0, n_cells, _BLOCK):
        rate = rates(min(_BLOCK, n_cells - first))
        row, column = np.nonzero(rng.random(rate.shape, dtype=np.float32) > np.exp(-rate))
        # Not a negative binomial, but a long tail over many ties, which is what costs time.
        data = 1 + np.floor(rate[row, column] * rng.standard_exponential(len(row), dtype=np.float32))
        blocks.append(sp.csr_matrix((data, (row, column)), shape=rate.shape))
    return sp.csr_matrix(sp.vstack(blocks, format="csr"))


def size_of(counts: sp.csr_matrix | sp.csr_array) -> str:
    """Cells x genes (nonzeros of a cell), as text."""
    n_cells, n_genes = counts.shape
    return f"{n_cells:,} x {n_genes:,} ({counts.nnz // max(1, n_cells):,})"


def normalised(counts: sp.csr_matrix) -> sp.csr_array:
    """log1p of counts scaled to 10,000 a cell: float64 CSR over the same entries."""
    return sp.csr_array((log_normalize(counts, 1e4), counts.indices, counts.indptr), shape=counts.shape)


def typical_counts(counts: sp.csr_matrix) -> np.ndarray:
    """In place of medians the mean of count * 10,000 / total where a gene is counted: float64 [G], 1 where never."""
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scaled = counts.data * 1e4 / np.repeat(np.maximum(totals, 1), np.diff(counts.indptr))
    n_genes = counts.shape[1]
    cells = np.bincount(counts.indices, minlength=n_genes)
    sums = np.bincount(counts.indices, weights=scaled, minlength=n_genes)
    return np.where(cells > 0, sums / np.maximum(cells, 1), 1.0)


@dataclass(frozen=True)
class Batch:
    """A batch of tokens and the groups that it is masked with.

    Attributes
    ----------
    input_ids
        int64 [B, L], genes by rank; 0 behind each length.
    lengths, cell_ids
        int64 [B].
    groups
        Neighbourhoods, equally large.
    """

    input_ids: Tensor
    lengths: Tensor
    cell_ids: Tensor
    groups: GroupTable


def draw_batch(
    n_cells: int = 64, width: int = 2048, mean_length: int = 1480, n_genes: int = 20_000, *, seed: int = 0
) -> Batch:
    """Cells as ranked tokens, and 16 partners for each gene: frequent genes more often, as in real graphs."""
    counts = draw_counts(n_cells, n_genes, mean_length, seed=seed)
    return batch_of(counts, width, random_groups(counts, seed=seed))


def random_groups(counts: sp.csr_matrix, n_partners: int = 16, *, seed: int = 0) -> GroupTable:
    """`n_partners` different partners for each gene, drawn in proportion to the cells that have them."""
    rng = np.random.default_rng(seed + 1)
    n_genes = counts.shape[1]
    n_partners = min(n_partners, n_genes - 1)
    frequency = np.bincount(counts.indices, minlength=n_genes) + 0.1
    edges = np.cumsum(frequency) / frequency.sum()
    drawn = np.searchsorted(edges, rng.random((n_genes, 4 * n_partners))).clip(max=n_genes - 1)
    partners = np.empty((n_genes, n_partners), dtype=np.int64)
    for gene, candidates in enumerate(drawn):
        _, first = np.unique(candidates, return_index=True)
        own = candidates[np.sort(first)]
        own = own[own != gene][:n_partners]
        if len(own) < n_partners:  # few genes: the rest in order
            own = np.append(own, np.setdiff1d(np.arange(n_genes), np.append(own, gene))[: n_partners - len(own)])
        partners[gene] = own
    token_group = np.full(SPECIAL_TOKENS + n_genes, SPECIAL, dtype=np.int32)
    token_group[SPECIAL_TOKENS:] = np.arange(n_genes)
    return GroupTable(
        torch.from_numpy(token_group),
        torch.arange(n_genes + 1, dtype=torch.int64) * n_partners,
        torch.from_numpy((partners + SPECIAL_TOKENS).astype(np.int32).ravel()),
    )


def batch_of(counts: sp.csr_matrix, width: int, groups: GroupTable) -> Batch:
    """Cells [B, G] as a batch: gene g is token g + 4."""
    input_ids, lengths = ops.rank_encode(
        torch.from_numpy(counts.indptr.astype(np.int64)),
        torch.from_numpy(counts.indices.astype(np.int32)),
        torch.from_numpy(counts.data),
        torch.from_numpy(typical_counts(counts)),
        torch.arange(SPECIAL_TOKENS, SPECIAL_TOKENS + counts.shape[1], dtype=torch.int32),
        max_len=width,
    )
    return Batch(input_ids.to(torch.int64), lengths, torch.arange(len(lengths)), groups)


def partners_present(batch: Batch) -> float:
    """Share of the partners of a cell's genes that are in the cell; in real cells 0.26 to 0.59."""
    ids, lengths = batch.input_ids.numpy(), batch.lengths.numpy()
    group = batch.groups.token_group.numpy()
    indptr, members = batch.groups.group_indptr.numpy(), batch.groups.group_tokens.numpy()
    found = listed = 0
    for row, length in zip(ids, lengths, strict=True):
        has = np.zeros(len(group), dtype=bool)
        has[row[:length]] = True
        for g in group[row[:length]]:
            if g > NO_GROUP:
                own = members[indptr[g] : indptr[g + 1]]
                found, listed = found + int(has[own].sum()), listed + len(own)
    return found / max(listed, 1)
