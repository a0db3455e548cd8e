"""Cells that lie on a device: a stand-in for cupy's CSR, whose arrays speak DLPack as cupy's do but lie on the CPU.

cupy itself can make no array without a GPU; tests/test_cuda.py takes its matrices where there is one.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from numpy.testing import assert_array_equal

import corrmask
from corrmask.covariance import Covariance
from corrmask.errors import InputError
from corrmask.sources import open_sources
from corrmask.sources.device import DeviceRows, rows_on


class Csr:
    """What is used of `cupyx.scipy.sparse.csr_matrix`."""

    def __init__(self, matrix: Any) -> None:
        self.indptr, self.indices, self.data, self.shape = matrix.indptr, matrix.indices, matrix.data, matrix.shape


Csr.__module__ = "cupyx.scipy.sparse._csr"


def counts_of(n_cells: int = 300, n_genes: int = 40, dtype: type = np.float32) -> sp.csr_matrix:
    rng = np.random.default_rng(n_cells)
    shared = rng.gamma(1.0, size=(n_cells, 1))
    counts = rng.poisson(shared * np.linspace(0.1, 2, n_genes)).astype(dtype)
    counts[7] = 0
    return sp.csr_matrix(counts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
def test_the_graph_of_cells_on_a_device(dtype: type) -> None:
    counts = counts_of(dtype=dtype)
    expected = corrmask.correlation_graph(counts, min_corr=0.05)
    graph = corrmask.correlation_graph(Csr(counts), min_corr=0.05, device="cpu")
    for name in ("indptr", "indices", "weights"):
        assert_array_equal(getattr(graph, name), getattr(expected, name))
    assert graph.n_edges > 100
    assert graph.provenance["n_empty_cells"] == expected.provenance["n_empty_cells"] > 0
    again = corrmask.correlation_graph(Csr(counts), min_corr=0.05, device="cpu")
    assert graph.provenance["input_hash"] == again.provenance["input_hash"]
    counts.data[3] += 1
    other = corrmask.correlation_graph(Csr(counts), min_corr=0.05, device="cpu")
    assert other.provenance["input_hash"] != again.provenance["input_hash"]


def test_levels_and_names_of_an_anndata() -> None:
    counts = counts_of()
    donors = np.where(np.arange(300) % 3 == 0, "a", "b")
    cells = AnnData(counts, obs={"donor": donors})
    cells.var_names = [f"gene{i}" for i in range(40)]
    expected = corrmask.correlation_graph(cells, within="donor", min_corr=0.05)
    (source,) = open_sources([cells])
    source.reader._matrix = rows_on(Csr(counts), "cpu")  # anndata would not hold the stand-in
    graph = corrmask.correlation_graph(source, within="donor", min_corr=0.05)
    assert_array_equal(graph.weights, expected.weights)
    assert_array_equal(graph.var_names, expected.var_names)


def test_nothing_is_copied() -> None:
    counts = counts_of()
    (source,) = open_sources(Csr(counts), device="cpu")
    chunks = list(source.chunks(max_cells=100))
    assert [chunk.start for chunk in chunks] == [0, 100, 200]
    for chunk in chunks:
        assert isinstance(chunk.counts, DeviceRows)
        low = counts.indptr[chunk.start]
        assert chunk.counts.data.data_ptr() == counts.data[low:].ctypes.data
        assert chunk.counts.indices.data_ptr() == counts.indices[low:].ctypes.data
        assert_array_equal(chunk.counts.indptr, counts.indptr[chunk.start : chunk.start + 101] - low)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_tensor_of_another_device_is_fetched() -> None:
    counts = counts_of()
    tensor = torch.sparse_csr_tensor(
        *map(torch.from_numpy, (counts.indptr, counts.indices, counts.data)), counts.shape, check_invariants=True
    )
    assert rows_on(tensor, "cpu") is None, "scipy shares its memory"
    assert rows_on(Csr(counts), "meta") is None
    assert rows_on(Csr(counts), None) is None


def broken(**parts: Any) -> Csr:
    matrix = Csr(counts_of())
    for name, value in parts.items():
        setattr(matrix, name, value)
    return matrix


@pytest.mark.parametrize(
    ("position", "value", "words"),
    [
        (50, np.nan, "cell 3 holds the value nan; counts must be finite"),
        (50, -1, "cell 3 holds the value -1; a count cannot be negative"),
        (50, 1.5, "cell 3 holds the value 1.5; no whole number"),
    ],
)
def test_values_that_are_no_counts(position: int, value: float, words: str) -> None:
    counts = counts_of()
    cell = int(np.searchsorted(counts.indptr, position, side="right")) - 1
    counts.data[position] = value
    with pytest.raises(InputError, match=words.replace("cell 3", f"cell {cell}")):
        corrmask.correlation_graph(Csr(counts), device="cpu")


def test_rows_that_are_damaged() -> None:
    counts = counts_of()
    indices = counts.indices.copy()
    indices[4] = 40
    with pytest.raises(InputError, match="column 40 in a matrix of 40 genes"):
        corrmask.correlation_graph(broken(indices=indices), device="cpu")
    cell = int(np.argmax(np.diff(counts.indptr) > 3))
    indices = counts.indices.copy()
    indices[counts.indptr[cell] + 2] = indices[counts.indptr[cell]]
    with pytest.raises(InputError, match=f"cell {cell} holds a gene twice; call .sum_duplicates"):
        corrmask.correlation_graph(broken(indices=indices), device="cpu")
    with pytest.raises(InputError, match="'indptr' does not describe"):
        corrmask.correlation_graph(broken(indptr=counts.indptr[::-1].copy()), device="cpu")


def test_columns_in_any_order() -> None:
    counts = counts_of()
    turned = counts[:, ::-1]
    assert not turned.has_sorted_indices
    graph = corrmask.correlation_graph(Csr(turned), min_corr=0.05, device="cpu")
    assert_array_equal(graph.weights, corrmask.correlation_graph(turned, min_corr=0.05).weights)


def test_accumulators_take_the_rows() -> None:
    counts = counts_of()
    one, other = Covariance(40), Covariance(40)
    one.update(counts)
    other.update(rows_on(Csr(counts), "cpu"))
    assert torch.equal(one.gram, other.gram)


def test_a_graph_goes_to_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = corrmask.correlation_graph(counts_of(), min_corr=0.05)
    monkeypatch.setitem(sys.modules, "cupyx", None)
    with pytest.raises(InputError, match="to_cupy: cupy is not installed"):
        graph.to_cupy()
    package, stand_in = ModuleType("cupyx.scipy"), ModuleType("cupyx.scipy.sparse")
    stand_in.csr_matrix = Csr  # type: ignore[attr-defined]
    for module in (ModuleType("cupyx"), package, stand_in):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    there = graph.to_cupy()
    assert_array_equal(there.indptr, graph.indptr)
    assert_array_equal(there.indices, graph.indices)
    assert_array_equal(there.data, graph.weights)
