"""Covariance and the strongest partners: the Gram matrix from normalised cells, and the whole graph from raw counts."""

from __future__ import annotations

from collections.abc import Callable

import data
import numpy as np
import pytest
import reference
from conftest import THREADS

from corrmask.bench.covariance import BOUND, MIN_CELLS, MIN_CORR, covariance_case, edges_case, graph_case

Shape = tuple[int, int, int] | None
PEERS = [
    "sparse_dot_mkl dot_product_mkl",
    "sparse_dot_mkl gram_matrix_mkl",
    "scipy X.T @ X",
    "scikit-learn safe_sparse_dot",
    "numpy, dense chunks",
    "scipy ssyrk, dense chunks",
]
ALL = [
    *(pytest.param(shape, id=f"{shape[0]}x{shape[1]}") for shape in data.PRODUCTS),
    pytest.param(None, id="real"),
]


@pytest.mark.parametrize("name", ["ours", *PEERS])
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", ALL)
def test_covariance(measure: Callable[..., None], shape: Shape, n_threads: int, name: str) -> None:
    measure(covariance_case(data.products(shape)), name, n_threads)


@pytest.mark.parametrize("name", ["ours", "torch.topk of |r|"])
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", ALL)
def test_topk_edges(measure: Callable[..., None], shape: Shape, n_threads: int, name: str) -> None:
    measure(edges_case(data.products(shape)), name, n_threads)


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("shape", ALL)
def test_correlation_graph(measure: Callable[..., None], shape: Shape, n_threads: int) -> None:
    measure(graph_case(data.products(shape)), "ours", n_threads)


def test_what_is_timed_is_what_the_reference_gives() -> None:
    products = data.products((1_000, 1_000, 200))
    r = reference.correlation(reference.log_normalize(products.counts.toarray()))
    partners, weights = (part.numpy() for part in products.edges(products.ours()))
    usable = np.bincount(products.y.indices, minlength=len(r)) >= MIN_CELLS
    r[:, ~usable] = r[~usable] = 0
    strongest = -np.sort(-np.abs(r), axis=1)[:, : partners.shape[1]]
    for gene, (own, weight) in enumerate(zip(partners, weights, strict=True)):
        found = own[own >= 0]
        assert np.all(np.abs(weight[: len(found)] - r[gene, found]) <= BOUND)
        assert np.all(np.abs(np.abs(r[gene, found]) - strongest[gene, : len(found)]) <= 2 * BOUND)
        assert len(found) >= (strongest[gene] >= MIN_CORR + BOUND).sum()
