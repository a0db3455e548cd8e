"""Rank-value encoding, beside a tight numpy loop and the procedure that Geneformer publishes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor

from corrmask import ops
from corrmask.bench.cells import SPECIAL_TOKENS, size_of, typical_counts
from corrmask.bench.timing import Case, Contestant

MAX_LEN, CHUNK = 2048, 512


class Encoding:
    """Cells, medians and tokens, and the ways of encoding them.

    Parameters
    ----------
    counts
        float32 CSR [N, G], raw counts, columns sorted within a cell.
    max_len
        Most tokens of a cell.
    """

    def __init__(self, counts: sp.csr_matrix, max_len: int = MAX_LEN) -> None:
        self.counts, self.max_len = counts, max_len
        self.medians = typical_counts(counts)
        self.tokens = np.arange(SPECIAL_TOKENS, SPECIAL_TOKENS + counts.shape[1], dtype=np.int32)
        self._ours = (
            torch.from_numpy(counts.indptr.astype(np.int64)),
            torch.from_numpy(counts.indices.astype(np.int32)),
            torch.from_numpy(counts.data),
            torch.from_numpy(self.medians),
            torch.from_numpy(self.tokens),
        )

    def ours(self) -> tuple[Tensor, Tensor]:
        """`corrmask.ops.rank_encode`."""
        return ops.rank_encode(*self._ours, max_len=self.max_len)

    def stable_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """One stable argsort a cell, medians divided beforehand for all: the same tokens in the same order."""
        counts, max_len = self.counts, self.max_len
        keys = -(counts.data / self.medians[counts.indices])
        tokens = self.tokens[counts.indices]
        ids = np.zeros((counts.shape[0], max_len), dtype=np.int32)
        lengths = np.minimum(np.diff(counts.indptr), max_len).astype(np.int64)
        starts = counts.indptr.tolist()
        for cell, n in enumerate(lengths.tolist()):
            row = slice(starts[cell], starts[cell + 1])
            ids[cell, :n] = tokens[row][np.argsort(keys[row], kind="stable")[:n]]
        return ids, lengths

    @cached_property
    def _adata(self) -> AnnData:
        """The cells as the published tokenizer takes them."""
        totals, names = np.asarray(self.counts.sum(axis=1)).ravel(), np.arange(self.counts.shape[0]).astype(str)
        return AnnData(self.counts, obs=pd.DataFrame({"n_counts": totals}, index=names))

    def geneformer_loop(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The published tokenizer's steps, written anew: 512 cells at a time are taken from AnnData, genes with a token
        picked by column, counts scaled as a sparse matrix, and each cell sorted alone, its row taken out once for the
        values and once for the genes."""
        adata, cells = self._adata, []
        with_token = np.arange(adata.n_vars)
        for first in range(0, adata.n_obs, CHUNK):
            chunk = np.arange(first, min(first + CHUNK, adata.n_obs))
            totals = adata[chunk].obs["n_counts"].to_numpy()[:, None]
            picked = adata[chunk, :].X[:, with_token]
            scaled = sp.csr_matrix(picked / totals * 10_000 / self.medians)
            for cell in range(scaled.shape[0]):
                values, tokens = scaled[cell].data, self.tokens[scaled[cell].indices]
                cells.append(tokens[np.argsort(-values)][: self.max_len])
        return cells, np.array([len(cell) for cell in cells])

    @cached_property
    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [N, max_len] and lengths [N] by another way: one sort over all cells."""
        counts = self.counts
        cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        order = np.lexsort((counts.indices, -(counts.data.astype(np.float64) / self.medians[counts.indices]), cell))
        place = np.arange(counts.nnz) - counts.indptr[cell]
        kept = place < self.max_len
        ids = np.zeros((counts.shape[0], self.max_len), dtype=np.int32)
        ids[cell[kept], place[kept]] = self.tokens[counts.indices[order[kept]]]
        return ids, np.minimum(np.diff(counts.indptr), self.max_len)

    def check_exact(self, result: tuple[Tensor | np.ndarray, Tensor | np.ndarray]) -> None:
        """Check every token."""
        ids, lengths = self.expected
        assert np.array_equal(np.asarray(result[1]), lengths), "lengths differ"
        assert np.array_equal(np.asarray(result[0]), ids), "tokens differ"

    def check_keys(self, result: tuple[list[np.ndarray], np.ndarray]) -> None:
        """Check count / median at every place: equal keys may stand in any order, as an unstable sort leaves them."""
        ids, lengths = self.expected
        assert np.array_equal(result[1], lengths), "lengths differ"
        for cell in range(0, len(lengths), max(1, len(lengths) // 50)):
            key = np.zeros(len(self.medians))
            row = slice(self.counts.indptr[cell], self.counts.indptr[cell + 1])
            genes = self.counts.indices[row]
            key[genes] = self.counts.data[row] / self.medians[genes]
            wanted = key[ids[cell, : lengths[cell]] - SPECIAL_TOKENS]
            assert np.allclose(key[result[0][cell] - SPECIAL_TOKENS], wanted, rtol=1e-6), f"cell {cell} differs"


def encoding_case(counts: sp.csr_matrix, max_len: int = MAX_LEN) -> Case:
    """Counts to ranked tokens (`corrmask.ops.rank_encode`)."""
    encoding = Encoding(counts, max_len)
    run: Callable[[], tuple[Tensor, Tensor]] = encoding.ours
    return Case(
        kernel="rank_encode",
        size=size_of(counts),
        dtype="float32",
        n_cells=counts.shape[0],
        contestants=[
            Contestant("rank_encode", run, encoding.check_exact, ours=True),
            Contestant("numpy, stable argsort", encoding.stable_numpy, encoding.check_exact, restated=True),
            Contestant("Geneformer's loop", encoding.geneformer_loop, encoding.check_keys, restated=True),
        ],
        bytes_moved=counts.nnz * (4 + 4) + counts.shape[0] * (8 + 8 + 4 * max_len),
    )
