"""Cells that other software keeps or reads: SOMA experiments, sharded zarr, iterables of chunks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from corrmask.corpus import Corpus
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.graph import correlation_graph
from corrmask.sources import from_chunks, open_sources
from corrmask.tokenization import tokenize

ad = pytest.importorskip("anndata")
pytest.importorskip("datasets")

N_CELLS, N_GENES = 90, 12
GENES = [f"G{i}" for i in range(N_GENES)]


def make_cells() -> Any:
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(1, 1, (N_CELLS, 1)) * np.ones(N_GENES)).astype(np.float32)
    counts[[0, 50]] = 0
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame(
            {"donor": pd.Categorical([f"d{i % 3}" for i in range(N_CELLS)]), "age": range(N_CELLS)},
            index=[f"c{i}" for i in range(N_CELLS)],
        ),
        var=pd.DataFrame({"feature_id": [f"E{i}" for i in range(N_GENES)]}, index=GENES),
    )


def assert_same_results(data: Any, tmp_path: Path, **options: Any) -> None:
    """The graph and the corpus are those of the AnnData."""
    cells = make_cells()
    graph = correlation_graph(cells, within="donor", min_corr=0, min_cells=1)
    other = correlation_graph(data, within="donor", min_corr=0, min_cells=1, **options)
    for name in ("indptr", "indices", "weights"):
        assert getattr(graph, name).tobytes() == getattr(other, name).tobytes()
    assert isinstance(other, GeneGraph)
    assert other.provenance["level_cells"] == graph.provenance["level_cells"]
    tokenize(cells, tmp_path / "expected", obs=["donor", "age"])
    tokenize(data, tmp_path / "corpus", obs=["donor", "age"], **options)
    expected, corpus = (Corpus.open(tmp_path / name) for name in ("expected", "corpus"))
    assert corpus.hash == expected.hash
    assert corpus.obs().astype(str).equals(expected.obs().astype(str))


def two_chunks() -> list[tuple[Any, pd.DataFrame]]:
    cells = make_cells()
    return [(cells.X[part], cells.obs.iloc[part]) for part in (slice(0, 37), slice(37, N_CELLS))]


def test_an_iterable_of_chunks(tmp_path: Path) -> None:
    def start() -> Iterator[tuple[Any, pd.DataFrame]]:
        yield from two_chunks()

    assert_same_results(from_chunks([(make_cells().X, make_cells().obs)], GENES), tmp_path)
    whole = np.vstack([chunk.counts.toarray() for chunk in open_sources(make_cells())[0].chunks()])
    as_a_loader_gives_them = [
        {"X": torch.from_numpy(counts.toarray()), "obs": obs, "index": None} for counts, obs in two_chunks()
    ]
    for given in (two_chunks(), start, as_a_loader_gives_them):
        (source,) = open_sources(from_chunks(given, GENES))
        assert (source.n_cells, source.obs_columns, list(source.genes)) == (N_CELLS, ["donor", "age"], GENES)
        for bounds in ({}, {"max_cells": 10}):
            chunks = list(source.chunks(["age"], **bounds))
            np.testing.assert_array_equal(np.vstack([chunk.counts.toarray() for chunk in chunks]), whole)
            assert [age for chunk in chunks for age in chunk.obs["age"]] == list(range(N_CELLS))
        assert source.read_obs(["donor"]).index.tolist() == [f"c{i}" for i in range(N_CELLS)]
    (bare,) = open_sources(from_chunks([(two_chunks()[0][0], None)] * 2, GENES, n_cells=74))
    assert [name for chunk in bare.chunks() for name in chunk.obs.index] == [str(i) for i in range(74)]


@pytest.mark.parametrize(
    ("chunks", "options", "words"),
    [
        (iter(two_chunks()), {}, "gives its chunks once"),
        (None, {}, "from_chunks: 'chunks' must be .*, got None"),
        ([make_cells().X], {}, "a pair"),
        ([(make_cells().X[:, :3], None)], {}, "90 x 3"),
        ([(make_cells().X, make_cells().obs[:5])], {}, "5 cells"),
        (two_chunks(), {"n_cells": 91}, "91 were announced"),
        (two_chunks(), {"n_cells": 37}, "37 were announced"),
    ],
)
def test_chunks_that_cannot_be_read(chunks: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        correlation_graph(from_chunks(chunks, GENES, **options))


def test_chunks_have_no_matrix_to_choose() -> None:
    with pytest.raises(InputError, match="takes no 'matrix'"):
        open_sources(from_chunks(two_chunks(), GENES), matrix="raw")


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_both_versions_in_shards(tmp_path: Path, version: int) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    cells = make_cells()
    group = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=version)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        ad.io.write_elem(group, "/", cells)
        x = group["X"]
        for part in ("data", "indices"):
            values, sharded = x[part][:], {"shards": (80,)} if version == 3 else {}
            del x[part]
            x.create_array(part, data=values, chunks=(20,), **sharded)
    assert_same_results(str(tmp_path / "*.zarr"), tmp_path)


def test_soma(tmp_path: Path) -> None:
    pytest.importorskip("tiledbsoma")
    import tiledbsoma.io

    cells = make_cells()
    uri = str(tmp_path / "experiment")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiledbsoma.io.from_anndata(uri, cells, measurement_name="RNA", X_layer_name="raw")
    assert_same_results(uri, tmp_path)
    (source,) = open_sources(uri, gene_column="feature_id", matrix="layers/raw")
    assert source.genes.tolist() == [f"E{i}" for i in range(N_GENES)]
    assert source.read_obs(["age"]).index.tolist() == [f"c{i}" for i in range(N_CELLS)]
    chunks = list(source.chunks(max_cells=20))
    np.testing.assert_array_equal(np.vstack([chunk.counts.toarray() for chunk in chunks]), cells.X.toarray())
    for options, words in (
        ({"matrix": "layers/none"}, "layers/raw"),
        ({"gene_column": "none"}, "var_id, feature_id"),
    ):
        with pytest.raises(InputError, match=words):
            open_sources(uri, **options)
    with pytest.raises(InputError, match="no SOMA experiment"):
        open_sources("file://" + str(tmp_path / "nothing"))


def test_soma_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tiledbsoma", None)
    with pytest.raises(InputError, match=r"corrmask\[soma\]"):
        open_sources("s3://bucket/census")
