"""Value binning, beside the procedure that scGPT publishes."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from corrmask import ops
from corrmask.bench.cells import size_of
from corrmask.bench.timing import Case, Contestant

N_BINS = 51


def scgpt_binning(counts: sp.csr_matrix, rng: np.random.Generator) -> np.ndarray:
    """scGPT's binning, written anew: quantiles of each cell's nonzero values, ties spread at random. int64 [nnz]."""
    bins = np.empty(counts.nnz, dtype=np.int64)
    for first, last in itertools.pairwise(counts.indptr):
        if first == last:
            continue
        row = counts.data[first:last]
        edges = np.quantile(row, np.linspace(0, 1, N_BINS - 1))
        left, right = np.digitize(row, edges), np.digitize(row, edges, right=True)
        bins[first:last] = np.ceil(rng.random(len(row)) * (right - left) + left)
    return bins


def binning_case(counts: sp.csr_matrix) -> Case:
    """Counts to 51 bins (`corrmask.ops.bin_values`)."""
    arrays = (
        torch.from_numpy(counts.indptr.astype(np.int64)),
        torch.from_numpy(counts.indices.astype(np.int32)),
        torch.from_numpy(counts.data),
        torch.arange(counts.shape[0]),
    )
    epochs, rng = itertools.count(), np.random.default_rng(0)

    def ours() -> Tensor:
        return ops.bin_values(*arrays, n_bins=N_BINS, epoch=next(epochs))

    def in_their_range(result: Tensor | np.ndarray) -> None:
        """Check that each value is where scGPT may put it, and that ties lean to neither side."""
        bins = np.asarray(result)
        for cell in range(0, counts.shape[0], max(1, counts.shape[0] // 50)):
            part = slice(counts.indptr[cell], counts.indptr[cell + 1])
            row = counts.data[part].astype(np.float64)
            edges = np.quantile(row, np.linspace(0, 1, N_BINS - 1))
            low, high = np.digitize(row, edges, right=True), np.digitize(row, edges)
            least = np.minimum(low + 1, high)
            assert np.all((bins[part] >= least) & (bins[part] <= high)), f"cell {cell}: a bin is out of range"
            spread = np.sqrt((((high - least + 1) ** 2 - 1) / 12).sum())
            assert abs(bins[part].sum() - ((least + high) / 2).sum()) <= 8 * spread + 1, f"cell {cell}: ties lean"

    return Case(
        kernel="bin_values",
        size=size_of(counts),
        dtype="float32",
        n_cells=counts.shape[0],
        contestants=[
            Contestant("bin_values", ours, in_their_range, ours=True),
            Contestant("scGPT's binning", lambda: scgpt_binning(counts, rng), in_their_range, restated=True),
        ],
        bytes_moved=counts.nnz * 12.0,
    )
