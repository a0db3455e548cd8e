"""The Gram matrix of genes, the strongest partners in it and the whole graph, beside other sparse products."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from corrmask.bench import packages
from corrmask.bench.cells import normalised, size_of
from corrmask.bench.timing import Case, Contestant
from corrmask.covariance import Covariance, no_edges
from corrmask.gene_graph import GeneGraph
from corrmask.graph import correlation_graph

TOP_K, MIN_CORR, MIN_CELLS = 16, 0.1, 10
BOUND = 1e-5  # of a correlation, against float64
_SAMPLED = 24  # genes whose row of the matrix is checked
_DENSE_CHUNK = 2048  # cells made dense at a time


class Products:
    """Normalised cells in memory, and the ways of multiplying X' X.

    Parameters
    ----------
    counts
        float32 CSR [N, G], raw counts.
    """

    def __init__(self, counts: sp.csr_matrix) -> None:
        self.counts = counts
        self.y = normalised(counts)
        # What peers get: the sparse class and the width that they are fastest with.
        self.single = sp.csr_matrix((self.y.data.astype(np.float32), self.y.indices, self.y.indptr), shape=self.y.shape)

    def ours(self) -> Covariance:
        """`Covariance.update`: the accumulators made and filled, genes ranked."""
        accumulated = Covariance(self.y.shape[1], target_sum=None)
        accumulated.update(self.y)
        return accumulated

    def edges(self, accumulated: Covariance) -> tuple[torch.Tensor, torch.Tensor]:
        """`corrmask.ops.topk_edges` of the accumulators."""
        edges = no_edges(self.y.shape[1], TOP_K)
        accumulated.update_edges(*edges, min_cells=MIN_CELLS, min_corr=MIN_CORR)
        return edges

    def dense_numpy(self) -> np.ndarray:
        """Chunks of cells made dense, multiplied by numpy's BLAS and added."""
        x = self.single
        gram = np.zeros((x.shape[1], x.shape[1]), dtype=np.float32)
        for first in range(0, x.shape[0], _DENSE_CHUNK):
            chunk = x[first : first + _DENSE_CHUNK].toarray()
            gram += chunk.T @ chunk
        return gram

    def dense_ssyrk(self) -> np.ndarray:
        """The same by scipy's ssyrk: one triangle alone."""
        from scipy.linalg.blas import ssyrk

        x = self.single
        gram = np.zeros((x.shape[1], x.shape[1]), dtype=np.float32, order="F")
        for first in range(0, x.shape[0], _DENSE_CHUNK):
            gram = ssyrk(1.0, x[first : first + _DENSE_CHUNK].toarray().T, beta=1.0, c=gram, overwrite_c=True)
        return gram

    @cached_property
    def sample(self) -> np.ndarray:
        """Genes that are checked, from the most frequent to the rarest."""
        frequency = np.bincount(self.y.indices, minlength=self.y.shape[1])
        order = np.argsort(-frequency, kind="stable")[: int((frequency > 0).sum())]
        return order[np.linspace(0, len(order) - 1, min(_SAMPLED, len(order))).astype(int)]

    @cached_property
    def expected_gram(self) -> np.ndarray:
        """Rows of the Gram matrix of the sampled genes: float64."""
        y = sp.csr_array(self.y)
        return (y[:, self.sample].T @ y).toarray()

    @cached_property
    def expected_r(self) -> np.ndarray:
        """Rows of the correlations of the sampled genes, in two passes: float64; 0 for a gene that gets no edges."""
        n, y = self.y.shape[0], sp.csr_array(self.y)
        means = np.asarray(y.sum(axis=0)).ravel() / n
        # sum (y - m)^2 entry by entry, the zeros after them: nothing large is subtracted from something large.
        cells = np.bincount(y.indices, minlength=y.shape[1])
        spread = np.bincount(y.indices, weights=(y.data - means[y.indices]) ** 2, minlength=y.shape[1])
        spread += (n - cells) * means**2
        centred = y[:, self.sample].toarray() - means[self.sample]
        products = np.asarray((y.T @ centred).T)  # the columns' means drop out: the rows sum to 0
        usable = (cells >= MIN_CELLS) & (spread > 0)
        scale = np.where(usable, 1 / np.sqrt(np.where(spread > 0, spread, 1)), 0)
        r = products * scale[self.sample][:, None] * scale
        r[np.arange(len(self.sample)), self.sample] = 0
        return r

    def check_gram(self, gram: Any) -> None:
        """Check a peer's float32 matrix, of which the upper triangle is enough."""
        rows = gram[self.sample]
        rows = rows.toarray() if sp.issparse(rows) else np.asarray(rows)
        upper = np.arange(rows.shape[1]) >= self.sample[:, None]
        scale = np.abs(self.expected_gram).max()
        assert np.allclose(rows[upper], self.expected_gram[upper], rtol=1e-3, atol=1e-6 * scale), "products differ"

    def check_covariance(self, accumulated: Covariance) -> None:
        """Check the correlations that follow from the accumulators."""
        self.check_edges(self.edges(accumulated))

    def check_edges(self, edges: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Check the partners of the sampled genes within the bound of r."""
        partners, weights = (part.numpy()[self.sample] for part in edges)
        for r, own, weight in zip(self.expected_r, partners, weights, strict=True):
            found, strongest = own[own >= 0], np.sort(np.abs(r))[::-1]
            assert np.all(np.abs(weight[own >= 0] - r[found]) <= BOUND), "a correlation is off"
            enough = int((strongest[: len(own)] >= MIN_CORR + BOUND).sum())
            assert enough <= len(found) <= int((strongest[: len(own)] >= MIN_CORR - BOUND).sum()), "edges are missing"
            assert np.all(np.abs(np.abs(r[found]) - strongest[: len(found)]) <= 2 * BOUND), "not the strongest partners"

    def check_graph(self, graph: GeneGraph) -> None:
        """Check a graph as `check_edges` does."""
        partners = np.full((graph.n_genes, TOP_K), -1)
        weights = np.zeros((graph.n_genes, TOP_K), dtype=np.float32)
        place = np.arange(graph.n_edges) - np.repeat(graph.indptr[:-1], np.diff(graph.indptr))
        gene = np.repeat(np.arange(graph.n_genes), np.diff(graph.indptr))
        partners[gene, place], weights[gene, place] = graph.indices, graph.weights
        self.check_edges((torch.from_numpy(partners), torch.from_numpy(weights)))

    def peers(self) -> list[Contestant]:
        """Other ways to X' X; what is not installed is left out."""
        x = self.single
        runs: list[tuple[str, Callable[[], Any], bool]] = []
        if (mkl := packages.sparse_dot_mkl()) is not None:
            runs.append(("sparse_dot_mkl dot_product_mkl", lambda: mkl.dot_product_mkl(x.T, x, dense=True), False))
            runs.append(("sparse_dot_mkl gram_matrix_mkl", lambda: mkl.gram_matrix_mkl(x, dense=True), False))
        runs.append(("scipy X.T @ X", lambda: x.T @ x, False))
        if (dot := packages.safe_sparse_dot()) is not None:
            runs.append(("scikit-learn safe_sparse_dot", lambda: dot(x.T, x, dense_output=True), False))
        runs.append(("numpy, dense chunks", self.dense_numpy, True))
        runs.append(("scipy ssyrk, dense chunks", self.dense_ssyrk, True))
        return [Contestant(name, run, self.check_gram, restated=restated) for name, run, restated in runs]

    @property
    def size(self) -> str:
        """Cells x genes (nonzeros of a cell), as text."""
        return size_of(self.y)

    @property
    def multiply_adds(self) -> float:
        """Products of the triangle that are not zero: sum over cells of k (k + 1) / 2."""
        per_cell = np.diff(self.y.indptr).astype(np.float64)
        return float((per_cell * (per_cell + 1)).sum() / 2)

    @property
    def triangle_bytes(self) -> float:
        """The triangle in float64."""
        n_genes = self.y.shape[1]
        return 8.0 * n_genes * (n_genes + 1) / 2


def covariance_case(products: Products) -> Case:
    """The Gram matrix alone, normalised cells in memory: ours float64 in and out, peers float32."""
    return Case(
        kernel="covariance_update",
        size=products.size,
        dtype="float32",
        n_cells=products.y.shape[0],
        contestants=[
            Contestant("Covariance.update", products.ours, products.check_covariance, ours=True),
            *products.peers(),
        ],
        bytes_moved=12.0 * products.y.nnz + products.triangle_bytes,
        multiply_adds=products.multiply_adds,
    )


def edges_case(products: Products) -> Case:
    """The strongest partners of each gene out of the finished matrix, beside `torch.topk` of a float32 square."""
    accumulated = products.ours()
    n_genes = products.y.shape[1]

    def by_torch() -> tuple[torch.Tensor, torch.Tensor]:
        # A square of any numbers takes as long; correlations of this one are not asked for, so only ours is checked.
        return torch.topk(square.abs(), min(TOP_K, n_genes - 1), dim=1)

    def in_order(result: tuple[torch.Tensor, torch.Tensor]) -> None:
        assert bool((result[0].diff(dim=1) <= 0).all())

    square = torch.rand((n_genes, n_genes), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    return Case(
        kernel="topk_edges",
        size=f"{n_genes:,} genes",
        dtype="float64",
        n_cells=products.y.shape[0],
        contestants=[
            Contestant("topk_edges", lambda: products.edges(accumulated), products.check_edges, ours=True),
            Contestant("torch.topk of |r|", by_torch, in_order),
        ],
        bytes_moved=products.triangle_bytes,
    )


def graph_case(products: Products) -> Case:
    """From raw counts to the graph (`corrmask.correlation_graph`): normalised, multiplied, partners found."""

    def ours() -> GeneGraph:
        return correlation_graph(products.counts, top_k=TOP_K, min_corr=MIN_CORR, min_cells=MIN_CELLS)

    return Case(
        kernel="correlation_graph",
        size=products.size,
        dtype="float32",
        n_cells=products.y.shape[0],
        contestants=[Contestant("correlation_graph", ours, products.check_graph, ours=True)],
        bytes_moved=8.0 * products.y.nnz + 2 * products.triangle_bytes,
        multiply_adds=products.multiply_adds,
    )
