"""What the benchmarks run on: sizes from small to large, drawn cells, and real ones where ``CORRMASK_DATA`` is set."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from corrmask import correlation_graph
from corrmask.bench import cells
from corrmask.bench.covariance import Products
from corrmask.bench.loading import Cells
from corrmask.groups import GroupTable
from corrmask.vocabulary import Vocabulary

REAL = "pbmc_corpus_core.h5ad"  # human blood, raw counts

# Cells, tokens and mean length of a batch.
BATCHES = {"16x256": (16, 256, 250), "64x2048": (64, 2048, 1480), "512x2048": (512, 2048, 1480)}
LOADED = {64: 32, 512: 8}  # cells and number of batches
ENCODED = (200, 2_000, 10_000)  # cells of 20,000 genes, 1,500 nonzeros
# Cells, genes and nonzeros of a cell.
PRODUCTS = (
    (1_000, 1_000, 200),
    (2_000, 2_000, 1_500),
    (4_000, 5_000, 1_500),
    (10_000, 10_000, 1_500),
    (20_000, 20_000, 1_500),
)


@lru_cache(maxsize=1)
def real_counts() -> sp.csr_matrix:
    """Raw counts of the real cells, or skip."""
    folder = os.environ.get("CORRMASK_DATA")
    if not folder:
        pytest.skip("CORRMASK_DATA is not set: no real cells")
    import anndata

    counts = sp.csr_matrix(anndata.read_h5ad(Path(folder) / REAL).X, dtype=np.float32)
    counts.sort_indices()
    return counts


@lru_cache(maxsize=1)
def drawn_counts(n_cells: int, n_genes: int, nonzeros: int) -> sp.csr_matrix:
    """As `corrmask.bench.cells.draw_counts`; one is kept."""
    return cells.draw_counts(n_cells, n_genes, nonzeros)


@lru_cache(maxsize=1)
def products(shape: tuple[int, int, int] | None) -> Products:
    """Cells to multiply, None for the real ones; one is kept."""
    return Products(real_counts() if shape is None else drawn_counts(*shape))


@lru_cache(maxsize=4)
def batch(name: str) -> cells.Batch:
    """A batch by its name in `BATCHES`, or "real": 64 real cells with the groups of their own graph."""
    if name != "real":
        n_cells, width, mean_length = BATCHES[name]
        return cells.draw_batch(n_cells, width, mean_length)
    counts = real_counts()
    graph = correlation_graph(counts)
    groups = GroupTable.from_graph(graph, Vocabulary(graph.var_names))
    chosen = np.random.default_rng(0).choice(counts.shape[0], 64, replace=False)
    return cells.batch_of(counts[np.sort(chosen)], 2048, groups)


@lru_cache(maxsize=1)
def corpus() -> Cells:
    """20,000 cells of the batch "64x2048" on disk."""
    return Cells(batch("64x2048"), 20_000)
