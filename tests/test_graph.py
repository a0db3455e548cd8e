"""The dependency graph: correlation against float64, thresholds, levels, several files, what is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import reference
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import corrmask
from corrmask.errors import InputError, InputWarning
from corrmask.gene_graph import GeneGraph
from corrmask.graph import correlation_graph

ad = pytest.importorskip("anndata")

BOUND = 1e-5


def make_counts(seed: int = 0, n_cells: int = 120, n_genes: int = 14) -> np.ndarray:
    """Counts with shared factors; cells 0 and 7 are empty, gene 5 is never counted."""
    rng = np.random.default_rng(seed)
    factors = rng.gamma(1, 1, (n_cells, 3))
    loadings = rng.gamma(0.5, 1, (3, n_genes)) * (rng.random((3, n_genes)) < 0.6)
    counts = rng.poisson(factors @ loadings + 0.1).astype(np.float32)
    counts[[0, 7]] = 0
    counts[:, 5 % n_genes] = 0
    return counts


def make_cells(counts: np.ndarray, **obs: Any) -> Any:
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(len(counts))]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(counts.shape[1])]),
    )


def sparse_csr(counts: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.from_numpy(counts).to_sparse_csr()


def dense(graph: GeneGraph) -> np.ndarray:
    return graph.to_scipy().toarray()


def assert_graph(
    graph: GeneGraph, r64: np.ndarray, *, top_k: int, min_corr: float, usable: np.ndarray, positive: bool = False
) -> None:
    """Each row holds the strongest partners that there are, up to the bound on r."""
    n_genes = len(r64)
    assert graph.indptr.dtype == np.int64
    assert graph.indices.dtype == np.int32
    assert graph.weights.dtype == np.float32
    assert graph.n_genes == n_genes
    for gene in range(n_genes):
        row = slice(graph.indptr[gene], graph.indptr[gene + 1])
        partners, weights = graph.indices[row], graph.weights[row]
        assert len(set(partners.tolist())) == len(partners) <= top_k
        assert gene not in partners
        assert usable[partners].all()
        assert np.abs(weights - r64[gene, partners]).max(initial=0) <= BOUND
        strength = weights if positive else np.abs(weights)
        assert (strength >= np.float32(min_corr)).all()
        assert list(zip(-strength, partners)) == sorted(zip(-strength, partners))
        truth = r64[gene] if positive else np.abs(r64[gene])
        left_out = np.setdiff1d(np.flatnonzero(usable), [*partners, gene])
        if not usable[gene]:
            assert len(partners) == 0
        elif len(partners) == top_k:
            assert (truth[left_out] <= strength.min() + BOUND).all()
        else:
            assert (truth[left_out] < min_corr + BOUND).all()


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 14),
    st.integers(1, 20),
    st.sampled_from([0.05, 0.1, 0.3]),
    st.integers(0, 20),
    st.sampled_from(["absolute", "positive"]),
    st.booleans(),
)
def test_equals_float64(
    seed: int, n_cells: int, n_genes: int, top_k: int, min_corr: float, min_cells: int, sign: Any, within: bool
) -> None:
    counts = make_counts(seed, n_cells + 8, n_genes)
    levels = np.random.default_rng(seed).choice(["a", "b", "c"], len(counts)) if within else None
    graph = correlation_graph(
        sp.csr_matrix(counts), top_k=top_k, min_corr=min_corr, min_cells=min_cells, sign=sign, within=levels
    )
    y = reference.log_normalize(counts)
    r64 = reference.correlation(y, levels)
    usable = ((counts > 0).sum(axis=0) >= min_cells) & (np.abs(r64).max(axis=0) > 0)
    # a gene that varies but correlates with none has no edges either way
    assert_graph(graph, r64, top_k=top_k, min_corr=min_corr, usable=usable, positive=sign == "positive")
    assert graph.provenance["n_cells"] == len(counts)


def test_every_kind_of_input_gives_the_same(tmp_path: Path) -> None:
    counts = make_counts()
    cells = make_cells(counts)
    expected = correlation_graph(cells, min_corr=0)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        cells.write_zarr(tmp_path / "cells.zarr")
    for data in (
        sp.csr_matrix(counts),
        sp.csr_array(counts.astype(np.float64)),
        sp.csc_matrix(counts),
        sparse_csr(counts),
        counts,
        tmp_path / "cells.h5ad",
        str(tmp_path / "cells.zarr"),
    ):
        graph = correlation_graph(data, min_corr=0)
        np.testing.assert_array_equal(graph.indices, expected.indices)
        np.testing.assert_array_equal(graph.weights, expected.weights)
        np.testing.assert_array_equal(graph.indptr, expected.indptr)
    assert expected.var_names.tolist() == [f"G{i}" for i in range(14)]


def test_memory_that_may_not_be_written(recwarn: pytest.WarningsRecorder) -> None:
    matrix = sp.csr_matrix(make_counts())
    expected = correlation_graph(matrix)
    for part in (matrix.data, matrix.indices, matrix.indptr):
        part.flags.writeable = False
    np.testing.assert_array_equal(correlation_graph(matrix).weights, expected.weights)
    assert len(recwarn) == 0


def test_the_user_s_matrix_is_left_alone() -> None:
    matrix = sp.csr_matrix(make_counts()).astype(np.float32)
    before = [part.copy() for part in (matrix.data, matrix.indices, matrix.indptr)]
    correlation_graph(matrix)
    for part, copy in zip((matrix.data, matrix.indices, matrix.indptr), before):
        np.testing.assert_array_equal(part, copy)


def test_the_same_bytes_on_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    matrix = sp.csr_matrix(make_counts(3, 600, 200))
    graphs = []
    for threads in (1, 2, 2):
        set_threads(threads)
        graphs.append(correlation_graph(matrix, min_corr=0.01))
    for other in graphs[1:]:
        for name in ("indptr", "indices", "weights"):
            assert getattr(other, name).tobytes() == getattr(graphs[0], name).tobytes()
        assert other.provenance["input_hash"] == graphs[0].provenance["input_hash"]


def test_files_one_after_another_equal_one_file(tmp_path: Path) -> None:
    counts = make_counts()
    whole = correlation_graph(make_cells(counts), min_corr=0)
    parts = [make_cells(counts[a:b]) for a, b in ((0, 1), (1, 70), (70, 120))]
    graph = correlation_graph(parts, min_corr=0)
    np.testing.assert_array_equal(graph.indices, whole.indices)
    assert np.abs(graph.weights - whole.weights).max() <= BOUND


def files_of_different_genes() -> tuple[list[Any], np.ndarray, np.ndarray, list[str]]:
    """Four files of different genes; y with NaN where a gene was not measured, the donor of each cell, the genes."""
    n_genes = 14
    counts = make_counts(1, 400, n_genes)
    every = np.random.default_rng(1).permutation(n_genes)
    kept = [every[: n_genes - 4], every[2:], every[::-1][: n_genes - 2], every[5 : n_genes - 1]]
    donor = np.array(["x", "y", "z"])[np.arange(400) * 7 % 11 % 3]
    donor[100:200] = "y"  # a level of one file alone, others in several
    files, frames = [], []
    for genes, part in zip(kept, (slice(0, 100), slice(100, 200), slice(200, 290), slice(290, 400)), strict=True):
        cells = make_cells(counts[part], donor=pd.Categorical(donor[part]))[:, genes].copy()
        files.append(cells)
        frames.append(pd.DataFrame(reference.log_normalize(cells.X.toarray()), columns=cells.var_names))
    y = pd.concat(frames)
    return files, y.to_numpy(), donor, list(y.columns)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("min_cells", [1, 25])
def test_pairs_are_of_the_cells_that_measured_both(within: bool, min_cells: int) -> None:
    """Against Pearson's r of the cells left when those with NaN in either gene are dropped."""
    files, y, donor, genes = files_of_different_genes()
    r64 = reference.pairwise_correlation(y, donor if within else None, min_cells=min_cells)
    options: dict[str, Any] = {"min_cells": min_cells, "within": "donor" if within else None}
    graph = correlation_graph(files, top_k=len(genes), min_corr=0, **options)
    assert graph.var_names.tolist() == genes
    assert graph.provenance["n_gene_sets"] == 3
    assert np.isnan(y).any(axis=0).sum() > 5
    got = dense(graph)
    assert graph.n_edges == int((~np.isnan(r64)).sum()) > 60
    assert np.abs(got - np.nan_to_num(r64)).max() <= BOUND
    np.testing.assert_array_equal(got, got.T)
    for options in ({"top_k": 2}, {"top_k": 3, "sign": "positive"}):
        few = correlation_graph(
            files, min_corr=0.05, min_cells=min_cells, within="donor" if within else None, **options
        )
        strength = np.nan_to_num(r64 if "sign" in options else np.abs(r64))
        best = -np.sort(-strength, axis=1)[:, : options["top_k"]]
        for gene in range(len(genes)):
            row = slice(few.indptr[gene], few.indptr[gene + 1])
            assert np.abs(np.abs(few.weights[row]) - best[gene][best[gene] >= 0.05]).max(initial=0) <= BOUND


def test_a_pair_that_no_file_measured_together_has_no_edge() -> None:
    counts = make_counts(4, 200, 3)
    counts[:, :] = counts[:, :1] + np.random.default_rng(0).poisson(0.3, (200, 3))
    cells = make_cells(counts)
    graph = correlation_graph([cells[:90, ["G0", "G1"]].copy(), cells[90:, ["G1", "G2"]].copy()], min_corr=0)
    assert (dense(graph) != 0).tolist() == [[False, True, False], [True, False, True], [False, True, False]]


def test_many_panels_of_different_genes(monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]) -> None:
    """More genes than a panel and a tile hold, on any number of threads and in passes: the same bytes."""
    rng = np.random.default_rng(3)
    counts = rng.poisson(np.linspace(2, 0.05, 1300) * rng.gamma(1, 1, (150, 1))).astype(np.float32)
    cells = make_cells(counts)
    files = [cells[:80, :1200].copy(), cells[80:, 300:].copy()]
    set_threads(1)
    whole = correlation_graph(files, min_cells=3)
    y = np.full((150, 1300), np.nan)
    y[:80, :1200], y[80:, 300:] = (reference.log_normalize(file.X.toarray()) for file in files)
    for gene in (0, 250, 700, 1250):
        both = ~np.isnan(y[:, gene])
        some = np.flatnonzero(dense(whole)[gene])
        for partner in some:
            used = both & ~np.isnan(y[:, partner])
            assert abs(dense(whole)[gene, partner] - np.corrcoef(y[used][:, [gene, partner]].T)[0, 1]) <= BOUND
    set_threads(2)
    monkeypatch.setattr("corrmask.graph.CHUNK_BYTES", 0)
    with pytest.warns(InputWarning, match="passes over the cells"):
        passes = correlation_graph(files, min_cells=3, memory="3MB")
    for name in ("indptr", "indices", "weights"):
        assert getattr(passes, name).tobytes() == getattr(whole, name).tobytes()


def test_the_rule_is_the_usual_one_where_files_measured_the_same() -> None:
    """Twice the same genes in another order are one set; taken apart as two sets they give the same r."""
    counts = make_counts(5, 200, 20)
    first, second = make_cells(counts[:90]), make_cells(counts[90:])[:, ::-1].copy()
    whole = correlation_graph([first, make_cells(counts[90:])], min_corr=0)
    turned = correlation_graph([first, second], min_corr=0)
    assert turned.provenance["n_gene_sets"] == 1
    np.testing.assert_array_equal(dense(turned), dense(whole))
    lone = sp.hstack([second.X, np.ones((110, 1), dtype=np.float32)])  # a gene more, so that there are two sets
    extra = ad.AnnData(sp.csr_matrix(lone), var=pd.DataFrame(index=[*second.var_names, "lone"]))
    y = np.vstack([reference.log_normalize(counts[:90]), reference.log_normalize(lone.toarray())[:, 19::-1]])
    apart = correlation_graph([first, extra], top_k=20, min_corr=0, min_cells=1)
    assert apart.provenance["n_gene_sets"] == 2
    assert np.abs(dense(apart)[:20, :20] - reference.correlation(y)).max() <= BOUND


def test_levels_by_column_by_array_and_across_files() -> None:
    counts = make_counts(2, 150, 10)
    counts[70:] = np.random.default_rng(0).poisson(counts[70:] * np.linspace(0, 4, 10))
    donor = np.array(["x", "y", "z"])[np.random.default_rng(1).integers(0, 3, 150)]
    cells = make_cells(counts, donor=pd.Categorical(donor))
    r64 = reference.correlation(reference.log_normalize(counts), donor)
    usable = np.abs(r64).max(axis=0) > 0
    for graph in (
        correlation_graph(cells, within="donor", min_corr=0.05, min_cells=1),
        correlation_graph(cells, within=donor, min_corr=0.05, min_cells=1),
        correlation_graph(cells, within=list(donor), min_corr=0.05, min_cells=1),
        correlation_graph([cells[:40].copy(), cells[40:].copy()], within="donor", min_corr=0.05, min_cells=1),
    ):
        assert_graph(graph, r64, top_k=16, min_corr=0.05, usable=usable)
        assert dict(zip(graph.provenance["levels"], graph.provenance["level_cells"])) == {
            level: int((donor == level).sum()) for level in "xyz"
        }
    files = [make_cells(counts[:70], plate=donor[:70] == "x"), make_cells(counts[70:], plate=donor[70:] == "x")]
    for file, kind in zip(files, (int, float), strict=True):
        file.obs["plate"] = file.obs["plate"].astype(kind)
    assert correlation_graph(files, within="plate").provenance["levels"] == ["0", "1"]
    one_level = correlation_graph(cells, within=["all"] * 150, min_corr=0)
    np.testing.assert_array_equal(one_level.weights, correlation_graph(cells, min_corr=0).weights)


def test_genes_without_variance_have_no_edges() -> None:
    """A constant that is not zero too: values are taken as they stand with `normalized`."""
    rng = np.random.default_rng(4)
    y = rng.random((60, 6)) * 3
    y[:, 1] = 0
    y[:, 2] = 1.1
    y[:, 4] = 0.1
    graph = correlation_graph(sp.csr_matrix(y), normalized=True, min_corr=0, min_cells=0)
    r64 = reference.correlation(y)
    usable = np.isin(np.arange(6), [0, 3, 5])
    assert (np.abs(r64).max(axis=0) > 0).tolist() == usable.tolist()
    assert_graph(graph, r64, top_k=16, min_corr=0, usable=usable)
    assert graph.n_edges == 6


def test_min_cells_is_met_by_what_equals_it() -> None:
    counts = np.random.default_rng(5).poisson(2, (40, 4)).astype(np.float32)
    counts[9:, 1] = 0
    counts[:9, 1] = 5
    counts[10:, 2] = 0
    counts[:10, 2] = 7
    matrix = dense(correlation_graph(sp.csr_matrix(counts), min_corr=0, min_cells=10))
    assert not matrix[1].any()
    assert not matrix[:, 1].any()
    assert matrix[2].any()


def test_ties_stand_by_ascending_gene() -> None:
    counts = make_counts(6, 100, 8)
    counts[:, [6, 2, 4]] = counts[:, [1]]
    graph = correlation_graph(sp.csr_matrix(counts), top_k=2, min_corr=0.5)
    for gene, partners in ((1, [2, 4]), (2, [1, 4]), (4, [1, 2]), (6, [1, 2])):
        assert graph.indices[graph.indptr[gene] : graph.indptr[gene + 1]].tolist() == partners


def test_positive_and_mutual() -> None:
    counts = make_counts(7, 300, 30)
    everything = correlation_graph(sp.csr_matrix(counts), top_k=3, min_corr=0)
    assert (everything.weights < 0).any()
    positive = correlation_graph(sp.csr_matrix(counts), top_k=3, min_corr=0, sign="positive")
    assert (positive.weights >= 0).all()
    mutual = correlation_graph(sp.csr_matrix(counts), top_k=3, min_corr=0, mutual=True)
    listed = {
        (g, int(u)) for g in range(30) for u in everything.indices[everything.indptr[g] : everything.indptr[g + 1]]
    }
    kept = {(g, int(u)) for g in range(30) for u in mutual.indices[mutual.indptr[g] : mutual.indptr[g + 1]]}
    assert kept == {(g, u) for g, u in listed if (u, g) in listed}
    assert 0 < len(kept) < len(listed)
    np.testing.assert_array_equal(dense(mutual), dense(mutual).T)


def test_top_k_larger_than_genes() -> None:
    matrix = sp.csr_matrix(make_counts())
    a, b = (correlation_graph(matrix, top_k=k, min_corr=0) for k in (13, 10**6))
    np.testing.assert_array_equal(a.indices, b.indices)
    assert a.provenance["parameters"]["top_k"] == 13


def test_normalized_values_are_taken_as_they_stand() -> None:
    counts = make_counts(8)
    y = reference.log_normalize(counts)
    a = correlation_graph(sp.csr_matrix(counts), min_corr=0)
    b = correlation_graph(sp.csr_matrix(y), min_corr=0, normalized=True)
    np.testing.assert_array_equal(a.indices, b.indices)
    assert np.abs(a.weights - b.weights).max() <= BOUND


def test_target_sum() -> None:
    counts = make_counts(9)
    graph = correlation_graph(sp.csr_matrix(counts), min_corr=0, min_cells=1, target_sum=50)
    r64 = reference.correlation(reference.log_normalize(counts, 50))
    assert_graph(graph, r64, top_k=16, min_corr=0, usable=np.abs(r64).max(axis=0) > 0)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("min_corr", [0.1, 0.999, 0])
def test_written_and_read(tmp_path: Path, suffix: str, min_corr: float) -> None:
    graph = correlation_graph(make_cells(make_counts()), min_corr=min_corr)
    path = tmp_path / f"graph{suffix}"
    graph.write(path)
    read = GeneGraph.read(path)
    for name in ("indptr", "indices", "weights", "var_names"):
        np.testing.assert_array_equal(getattr(read, name), getattr(graph, name))
    assert read.provenance["parameters"]["min_corr"] == min_corr
    assert read.provenance["n_cells"] == 120
    assert read.provenance["input_hash"] == graph.provenance["input_hash"]
    with pytest.raises(InputError, match="exists already"):
        graph.write(path)
    graph.write(path, overwrite=True)
    adata = ad.read_h5ad(path) if suffix == ".h5ad" else ad.read_zarr(path)
    assert sp.issparse(adata.varp["correlation"])
    np.testing.assert_array_equal(adata.varp["correlation"].toarray(), dense(graph))
    assert set(graph.provenance["versions"]) >= {"corrmask", "torch"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_graph_without_edges(tmp_path: Path) -> None:
    graph = correlation_graph(np.eye(12, dtype=np.float32), min_cells=10)
    assert graph.n_edges == 0
    assert graph.hubs(2) == [("0", 0), ("1", 0)]
    graph.write(tmp_path / "graph.h5ad")
    assert GeneGraph.read(tmp_path / "graph.h5ad").n_edges == 0


def test_passes_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Genes that do not fit are done in passes, with the same bytes; stages and provenance say so."""
    rng = np.random.default_rng(11)
    adata = make_cells(rng.poisson(np.linspace(3, 0.01, 900), (300, 900)).astype(np.float32))
    whole = correlation_graph(adata, mutual=True)
    monkeypatch.setattr("corrmask.graph.CHUNK_BYTES", 0)
    stages = []
    with pytest.warns(InputWarning, match=r"the products of 900 genes take 0.0 GB: .* in 4 passes over the cells"):
        passes = correlation_graph(
            adata, mutual=True, memory="1.2MB", progress=lambda stage, done, total: stages.append(stage)
        )
    assert stages == [f"correlate, pass {number} of 4" for number in (1, 2, 3, 4)]
    for name in ("indptr", "indices", "weights"):
        assert np.array_equal(getattr(passes, name), getattr(whole, name))
    assert passes.provenance["passes"] == 4
    same = ("n_cells", "n_empty_cells", "input_hash", "level_cells")
    assert [passes.provenance[name] for name in same] == [whole.provenance[name] for name in same]


def test_hubs() -> None:
    graph = GeneGraph(
        np.array([0, 1, 2, 4]),
        np.array([2, 2, 0, 1], dtype=np.int32),
        np.ones(4, np.float32),
        np.array(["a", "b", "c"]),
    )
    assert graph.in_degree().tolist() == [1, 1, 2]
    assert graph.hubs(2) == [("c", 2), ("a", 1)]
    assert graph.n_edges == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sign": "negative"}, "'sign'.*'negative'"),
        ({"top_k": 0}, "'top_k'.*0"),
        ({"top_k": 2.5}, "'top_k'.*2.5"),
        ({"min_corr": -0.1}, "'min_corr'"),
        ({"min_corr": float("nan")}, "'min_corr'"),
        ({"min_corr": 2}, "'min_corr'"),
        ({"target_sum": 0}, "'target_sum'"),
        ({"min_cells": -1}, "'min_cells'"),
        ({"memory": "1GB"}, "'memory' must be more than 1GB"),
        ({"memory": "some"}, "correlation_graph: 'memory' must be an amount .*, got 'some'"),
        ({"checkpoint_seconds": -1}, "'checkpoint_seconds' must be 0 or more, got -1"),
        ({"target_sum": float("nan")}, "'target_sum'"),
        ({"target_sum": float("inf")}, "'target_sum'"),
        ({"target_sum": 1e-100}, "'target_sum' must be from 1e-6 to 1e12.*1e-100"),
        ({"target_sum": 1e13}, "'target_sum' must be from 1e-6 to 1e12"),
        ({"device": "meta"}, "'meta'"),
        ({"within": "donor"}, "donor"),
        ({"within": ["a", "b"]}, "'within'.*120"),
        ({"within": [None, np.nan, *["a"] * 118]}, "'within' has no value for 2 of 120 cells"),
        ({"within": [np.nan, *["a"] * 119]}, "'within' has no value for 1 of 120 cells"),
        ({"within": np.r_[np.nan, np.zeros(119)]}, "'within' has no value for 1 of 120 cells"),
        ({"matrix": "layers/none"}, "none"),
    ],
)
def test_bad_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        correlation_graph(make_cells(make_counts()), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "words"), [(0.5, "normalised"), (-1, "negative"), (np.nan, "finite")])
def test_bad_counts(value: float, words: str) -> None:
    counts = make_counts()
    counts[3, 4] = value
    with pytest.raises(InputError, match=words):
        correlation_graph(sp.csr_matrix(counts))


@pytest.mark.parametrize("made", [sp.csr_matrix, sp.csc_matrix, make_cells], ids=["csr", "csc", "anndata"])
@pytest.mark.parametrize(("at", "value"), [(5, 10**6), (5, 0), (0, 2), (-1, 10**6)])
def test_a_matrix_in_memory_with_a_bad_indptr(made: Callable[[Any], Any], at: int, value: int) -> None:
    cells = made(make_counts())
    (cells.X if hasattr(cells, "X") else cells).indptr[at] = value
    with pytest.raises(InputError, match="'indptr'") as caught:
        correlation_graph(cells)
    assert "\n" not in str(caught.value)


def test_room_behind_the_values_is_no_fault() -> None:
    cells = sp.csr_matrix(make_counts())
    roomy = cells.copy()
    roomy.data, roomy.indices = (np.concatenate([part, part[:7]]) for part in (cells.data, cells.indices))
    np.testing.assert_array_equal(correlation_graph(roomy).weights, correlation_graph(cells).weights)


def test_values_that_float32_cannot_multiply() -> None:
    """Their genes have no edges; those of genes that it can are right."""
    counts = np.random.default_rng(0).poisson(1.0, (5000, 60))
    options: dict[str, Any] = {"normalized": True, "min_corr": 0, "min_cells": 0}
    for size in (1e-50, 1e-30, 1e-20):
        assert correlation_graph(sp.csr_matrix(counts * size), **options).n_edges == 0
    expected = np.corrcoef(counts.T)
    for sizes in (1e-17, np.r_[np.full(30, 1e-17), np.ones(30)]):
        graph = correlation_graph(sp.csr_matrix(counts * sizes), **options)
        rows = np.repeat(np.arange(60), np.diff(graph.indptr))
        assert graph.n_edges == 60 * 16
        np.testing.assert_allclose(graph.weights, expected[rows, graph.indices], atol=1e-5)
    both = correlation_graph(sp.csr_matrix(counts * np.r_[np.full(30, 1e-40), np.ones(30)]), **options)
    assert both.indptr[30] == 0
    assert both.n_edges == 30 * 16


def test_no_gene_in_common() -> None:
    other = make_cells(make_counts())
    other.var_names = [f"H{i}" for i in range(14)]
    with pytest.raises(InputError, match="no gene in common"):
        correlation_graph([make_cells(make_counts()), other])


def test_bad_graphs(tmp_path: Path) -> None:
    cells = make_cells(make_counts())
    with pytest.raises(InputError, match="varp has no 'correlation'"):
        GeneGraph.from_anndata(cells)
    for entry, words in (((0, 0, 0.5), "empty diagonal"), ((0, 1, 1.5), "-1 .. 1"), ((0, 1, np.nan), "-1 .. 1")):
        row, col, value = ([one] for one in entry)
        cells.varp["correlation"] = sp.csr_matrix((value, (row, col)), shape=(14, 14))
        with pytest.raises(InputError, match=words):
            GeneGraph.from_anndata(cells)
    with pytest.raises(InputError, match="does not exist"):
        GeneGraph.read(tmp_path / "none.h5ad")
    graph = correlation_graph(make_cells(make_counts()))
    with pytest.raises(InputError, match=r"\.h5ad or \.zarr"):
        graph.write(tmp_path / "graph.csv")
    path = tmp_path / "graph.h5ad"
    graph.write(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read"):
        GeneGraph.read(path)
    with pytest.raises(InputError, match="is a folder; give the"):
        GeneGraph.read(tmp_path)


def test_another_tool_s_graph_is_put_in_order() -> None:
    cells = make_cells(make_counts())
    cells.varp["correlation"] = sp.csr_matrix(
        (np.array([0.2, -0.9, 0.2, 0.9]), np.array([1, 4, 3, 2]), np.array([0, 4] + [4] * 13)), shape=(14, 14)
    )
    graph = GeneGraph.from_anndata(cells)
    assert graph.indices.tolist() == [2, 4, 1, 3]
    np.testing.assert_allclose(graph.weights, np.array([0.9, -0.9, 0.2, 0.2], dtype=np.float32))


def test_stored_zeros_are_no_edges_and_what_stands_twice_is_summed() -> None:
    """As scipy reads a matrix; pruning by ``matrix.data[...] = 0`` leaves zeros behind."""
    cells = make_cells(make_counts())
    values, columns = np.array([0.0, 0.25, 0.25, 0.75, 0.0], dtype=np.float32), np.array([0, 3, 3, 2, 5])
    cells.varp["correlation"] = given = sp.csr_matrix((values, columns, np.array([0, 5] + [5] * 13)), shape=(14, 14))
    graph = GeneGraph.from_anndata(cells)
    assert (graph.indices.tolist(), graph.weights.tolist()) == ([2, 3], [0.75, 0.5])
    assert given.nnz == 5, "the user's matrix is left alone"


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_genes_of_a_graph_are_named_once() -> None:
    cells = correlation_graph(make_cells(make_counts())).to_anndata()
    cells.var_names = ["A", "A", *cells.var_names[2:]]
    with pytest.raises(InputError, match="graph: gene 'A' is listed twice"):
        GeneGraph.from_anndata(cells)


@pytest.mark.parametrize("within", [None, "dataset"])
def test_real_cells_within_the_bound(data_dir: Path, within: str | None) -> None:
    """Every r of 2,000 cells x 1,500 genes of blood, the most frequent genes and rare ones, against float64."""
    cells = ad.read_h5ad(data_dir / "pbmc_corpus_core.h5ad")
    rng = np.random.default_rng(0)
    frequency = np.asarray((cells.X > 0).sum(axis=0)).ravel()
    by_frequency = np.argsort(-frequency)
    genes = np.sort(np.concatenate([by_frequency[:500], rng.choice(by_frequency[500:], 1000, replace=False)]))
    cells = cells[np.sort(rng.choice(cells.n_obs, 2000, replace=False)), genes].copy()
    graph = corrmask.correlation_graph(cells, top_k=1499, min_corr=0, min_cells=1, within=within)
    y = reference.log_normalize(cells.X.toarray())
    r64 = reference.correlation(y, None if within is None else cells.obs[within].astype(str).to_numpy())
    assert np.abs(dense(graph) - r64).max() <= BOUND
    varying = int((np.abs(r64).max(axis=0) > 0).sum())
    assert graph.n_edges == varying * (varying - 1)
    assert_graph(
        correlation_graph(cells, within=within),
        r64,
        top_k=16,
        min_corr=0.1,
        usable=(np.asarray((cells.X > 0).sum(axis=0)).ravel() >= 10),
    )


def test_what_is_made_from_a_graph_leaves_it_alone() -> None:
    pytest.importorskip("igraph")
    from corrmask.modules import find_modules
    from corrmask.rewiring import rewire

    counts = np.random.default_rng(11).poisson(1.0, (200, 30))
    counts[:, 15:] += counts[:, :15]
    graph = correlation_graph(sp.csr_array(counts.astype(np.float32)), min_corr=0)
    before = [graph.indptr.copy(), graph.indices.copy(), graph.weights.copy()]
    find_modules(graph)
    rewire(graph)
    graph.to_scipy().sum_duplicates()
    for array, copy in zip((graph.indptr, graph.indices, graph.weights), before):
        np.testing.assert_array_equal(array, copy)


def test_into_cells_that_are_there_and_back() -> None:
    """By name: other order, genes that only one side has."""
    indptr, indices = np.array([0, 2, 3, 4, 4]), np.array([2, 1, 0, 3], dtype=np.int32)
    weights = np.array([0.75, -0.5, -0.5, 0.25], dtype=np.float32)
    graph = GeneGraph(indptr, indices, weights, np.array(["a", "b", "c", "d"], dtype=object), {"parameters": {"k": 2}})
    adata = anndata.AnnData(np.ones((3, 4)), var=pd.DataFrame(index=["new", "c", "b", "a"]))
    assert graph.to_anndata(adata, key="partners") is adata
    back = GeneGraph.from_anndata(adata, key="partners")
    edges = {
        (str(back.var_names[gene]), str(back.var_names[back.indices[at]])): float(back.weights[at])
        for gene in range(4)
        for at in range(back.indptr[gene], back.indptr[gene + 1])
    }
    assert edges == {("a", "c"): 0.75, ("a", "b"): -0.5, ("b", "a"): -0.5}
    assert back.provenance == graph.provenance
    assert adata.uns["corrmask"] is not graph.provenance
    alone = graph.to_anndata(key="partners")
    assert list(alone.varp) == ["partners"]
    np.testing.assert_array_equal(GeneGraph.from_anndata(alone, key="partners").indices, graph.indices)
    assert adata.n_obs == 3
    with pytest.raises(InputError, match="none of the graph's 4 genes"):
        graph.to_anndata(anndata.AnnData(np.ones((1, 2))))
    with pytest.raises(InputError, match="'a' is listed twice"), pytest.warns(UserWarning, match="not unique"):
        graph.to_anndata(anndata.AnnData(np.ones((1, 2)), var=pd.DataFrame(index=["a", "a"])))


def test_levels_that_name_the_cells_in_another_order() -> None:
    cells = anndata.AnnData(sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (60, 8)).astype(np.float32)))
    cells.obs["donor"] = np.arange(60) % 3
    donors = cells.obs["donor"]
    expected = correlation_graph(cells, within="donor", min_corr=0.0)
    aligned = donors.sample(frac=1, random_state=0).loc[cells.obs_names]
    for levels in (donors, donors.to_numpy(), donors.reset_index(drop=True), aligned):
        graph = correlation_graph(cells, within=levels, min_corr=0.0)
        np.testing.assert_array_equal(graph.indices, expected.indices)
        np.testing.assert_array_equal(graph.weights, expected.weights)
    with pytest.raises(InputError, match="'within' names the cells in another order"):
        correlation_graph(cells, within=donors[::-1], min_corr=0.0)


def test_too_little_free_memory_is_not_blamed_on_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corrmask.memory._available", lambda: 10**9)
    with pytest.raises(InputError, match=r"0\.8 GB of memory can be used here, the cells take 1 GB; free some"):
        correlation_graph(sp.csr_matrix(np.eye(3)))
