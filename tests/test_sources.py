"""Every format gives the same counts; every bad input one line."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from corrmask.errors import InputError
from corrmask.sources import Source, check_counts, checks, open_sources
from corrmask.sources.cutting import cut

ad = pytest.importorskip("anndata")

N_CELLS, N_GENES = 37, 11
ATOMS: dict[str, Any] = {"max_nonzeros": 1, "max_cells": 1}


def make_counts(seed: int = 0, n_cells: int = N_CELLS, n_genes: int = N_GENES) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.7, size=(n_cells, n_genes)).astype(np.float32)
    dense[[0, 5, 6, -1]] = 0  # cells without counts, the first and the last too
    dense[:, 3] = 0  # and a gene
    dense[7] = 3
    return sparse.csr_matrix(dense)


def make_cells() -> Any:
    counts = make_counts()
    n = counts.shape[0]
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(np.array(["B", "T", "NK"])[np.arange(n) % 3], categories=["NK", "T", "B", "unseen"]),
            "donor": [f"donor-{i % 5}" for i in range(n)],
            "age": np.arange(n),
            "dose": np.arange(n) / 7,
            "sick": np.arange(n) % 2 == 0,
            "batch": pd.array([None if i == 4 else i for i in range(n)], dtype="Int64"),
        },
        index=[f"cell-{i}" for i in range(n)],
    )
    var = pd.DataFrame({"id": [f"ENSG{i:011d}" for i in range(N_GENES)]}, index=[f"G{i}" for i in range(N_GENES)])
    cells = ad.AnnData(counts, obs=obs, var=var)
    cells.layers["csc"] = sparse.csc_matrix(counts)
    cells.layers["dense"] = counts.toarray()
    cells.layers["log"] = counts.log1p()
    raw = ad.AnnData(2 * counts[:, :9], obs=obs, var=var.iloc[:9])
    cells.raw = raw
    return cells


def write_zarr(cells: Any, path: Path, version: int | None = None) -> None:
    pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata and zarr about their own formats
        if version is not None:
            ad.settings.zarr_write_format = version
        cells.write_zarr(path)


def write_10x(path: Path, counts: sparse.csr_matrix, version: int = 3, **changes: Any) -> None:
    n_cells, n_genes = counts.shape
    text = {
        "barcodes": [f"cell-{i}" for i in range(n_cells)],
        "id": [f"ENSG{i:011d}" for i in range(n_genes)],
        "name": [f"G{i}" for i in range(n_genes)],
        "feature_type": ["Gene Expression"] * n_genes,
    } | changes
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["data"] = counts.data.astype(np.int32)
        group["indices"] = counts.indices.astype(np.int64)
        group["indptr"] = counts.indptr.astype(np.int64)
        group["shape"] = np.array([n_genes, n_cells], dtype=np.int32)
        group["barcodes"] = np.array(text["barcodes"], dtype="S")
        features = group.create_group("features") if version == 3 else group
        for ours, theirs in {"id": "genes", "name": "gene_names"}.items():
            features[ours if version == 3 else theirs] = np.array(text[ours], dtype="S")
        if version == 3:
            features["feature_type"] = np.array(text["feature_type"], dtype="S")


def write_mtx(
    folder: Path,
    counts: sparse.csr_matrix,
    *,
    order: str = "cell",
    gz: bool = False,
    by_cell: bool = False,
    real: bool = False,
    types: list[str] | None = None,
    names: list[str] | None = None,
) -> None:
    folder.mkdir()
    n_cells, n_genes = counts.shape
    entries = counts.tocoo()
    rank = np.lexsort((entries.col, entries.row) if order == "cell" else (entries.row, entries.col))
    cells, genes, values = entries.row[rank] + 1, entries.col[rank] + 1, entries.data[rank]
    rows, columns = (cells, genes) if by_cell else (genes, cells)
    shape = (n_cells, n_genes) if by_cell else (n_genes, n_cells)
    form = "{}" if real else "{:.0f}"
    lines = [f"{r} {c} {form.format(v)}" for r, c, v in zip(rows, columns, values)]
    head = [f"%%MatrixMarket matrix coordinate {'real' if real else 'integer'} general", '%metadata_json: {"x": 1}']
    head.append(f"{shape[0]} {shape[1]} {len(lines)}")
    names = names or [f"G{i}" for i in range(n_genes)]
    features = ["\t".join([f"ENSG{i:011d}", names[i]] + ([types[i]] if types else [])) for i in range(n_genes)]
    texts = {
        "matrix.mtx": head + lines,
        "features.tsv" if types else "genes.tsv": features,
        "barcodes.tsv": [f"cell-{i}" for i in range(n_cells)],
    }
    for name, text in texts.items():
        data = ("\n".join(text) + "\n").encode()
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(data) if gz else data)


def dense(source: Source, **bounds: Any) -> np.ndarray:
    """All counts of a source, after a check of what every chunk promises."""
    parts, row = [], 0
    for chunk in source.chunks(**bounds):
        n = chunk.counts.shape[0]
        assert chunk.start == row
        assert isinstance(chunk.counts, sparse.csr_array)
        assert chunk.counts.dtype in (np.float32, np.float64)
        assert chunk.counts.shape[1] == len(source.genes)
        assert len(chunk.obs) == n
        assert n <= bounds.get("max_cells", 16_384)
        assert chunk.counts.nnz <= bounds.get("max_nonzeros", 16_000_000) or n == 1
        parts.append(chunk.counts.toarray())
        row += n
    assert row == source.n_cells
    return np.concatenate(parts)


BOUNDS = [{}, ATOMS, {"max_nonzeros": 20}, {"max_cells": 4}, {"max_nonzeros": 13, "max_cells": 5}]
WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {}


def writer(function: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    WRITERS[function.__name__] = function
    return function


@writer
def h5ad(path: Path) -> dict[str, Any]:
    make_cells().write_h5ad(path / "x.h5ad", compression="gzip")
    return {"data": path / "x.h5ad"}


@writer
def h5ad_csc(path: Path) -> dict[str, Any]:
    return h5ad(path) | {"matrix": "layers/csc"}


@writer
def h5ad_dense(path: Path) -> dict[str, Any]:
    return h5ad(path) | {"matrix": "layers/dense"}


@writer
def h5ad_integers(path: Path) -> dict[str, Any]:
    cells = make_cells()
    cells.X = cells.X.astype(np.int64)
    cells.write_h5ad(path / "x.h5ad")
    return {"data": path / "x.h5ad"}


@writer
def zarr_2(path: Path) -> dict[str, Any]:
    write_zarr(make_cells(), path / "x.zarr", 2)
    return {"data": path / "x.zarr"}


@writer
def zarr_3(path: Path) -> dict[str, Any]:
    write_zarr(make_cells(), path / "x.zarr", 3)
    return {"data": str(path / "x.zarr")}


@writer
def zarr_csc(path: Path) -> dict[str, Any]:
    return zarr_2(path) | {"matrix": "layers/csc"}


@writer
def zarr_dense(path: Path) -> dict[str, Any]:
    return zarr_2(path) | {"matrix": "layers/dense"}


@writer
def tenx_3(path: Path) -> dict[str, Any]:
    write_10x(path / "x.h5", make_counts())
    return {"data": path / "x.h5"}


@writer
def tenx_2(path: Path) -> dict[str, Any]:
    write_10x(path / "x.h5", make_counts(), version=2)
    return {"data": path / "x.h5"}


@writer
def mtx_3(path: Path) -> dict[str, Any]:
    write_mtx(path / "x", make_counts(), gz=True, types=["Gene Expression"] * N_GENES)
    return {"data": path / "x"}


@writer
def mtx_2(path: Path) -> dict[str, Any]:
    write_mtx(path / "x", make_counts())
    return {"data": path / "x"}


@writer
def mtx_ordered_by_gene(path: Path) -> dict[str, Any]:
    write_mtx(path / "x", make_counts(), order="gene", real=True)
    return {"data": path / "x"}


@writer
def mtx_cells_by_genes(path: Path) -> dict[str, Any]:
    write_mtx(path / "x", make_counts(), by_cell=True)
    return {"data": path / "x"}


@writer
def memory(path: Path) -> dict[str, Any]:
    return {"data": make_cells()}


@writer
def memory_csc(path: Path) -> dict[str, Any]:
    return {"data": make_cells(), "matrix": "layers/csc"}


@writer
def memory_dense(path: Path) -> dict[str, Any]:
    return {"data": make_cells(), "matrix": "layers/dense"}


@writer
def backed(path: Path) -> dict[str, Any]:
    make_cells().write_h5ad(path / "x.h5ad")
    cells = ad.read_h5ad(path / "x.h5ad", backed="r")
    return {"data": cells}


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = getattr(ad.settings, "zarr_write_format", None)
    yield
    if before is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ad.settings.zarr_write_format = before


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (source,) = open_sources(**WRITERS[name](tmp_path))
    expected = make_counts().toarray()
    monkeypatch.setattr("corrmask.sources.mtx._LINES", 17)  # so that small files are read in stretches too
    monkeypatch.setattr("corrmask.sources.cutting._PASS", 19)
    for bounds in BOUNDS:
        np.testing.assert_array_equal(dense(source, **bounds), expected)
    assert source.n_cells == N_CELLS
    assert source.genes.tolist() == [f"G{i}" for i in range(N_GENES)]
    assert source.read_obs([]).index.tolist() == [f"cell-{i}" for i in range(N_CELLS)]
    rows = [name for chunk in source.chunks(max_cells=5) for name in chunk.obs.index]
    assert rows == [f"cell-{i}" for i in range(N_CELLS)]
    assert not source.normalized


@pytest.mark.parametrize("name", ["h5ad", "zarr_2", "zarr_3", "memory", "backed"])
def test_obs_comes_along(tmp_path: Path, name: str) -> None:
    expected = make_cells().obs
    (source,) = open_sources(**WRITERS[name](tmp_path))
    assert source.obs_columns == expected.columns.tolist()
    columns = ["sick", "type", "donor", "age", "dose", "batch"]
    whole = source.read_obs(columns)
    pd.testing.assert_frame_equal(whole, expected[columns], check_dtype=False, check_categorical=False)
    parts = [chunk.obs for chunk in source.chunks(columns, max_cells=4)]
    pd.testing.assert_frame_equal(pd.concat(parts), whole)
    assert whole["type"].cat.categories.tolist() == ["NK", "T", "B", "unseen"]
    assert parts[1]["type"].cat.categories.tolist() == ["NK", "T", "B", "unseen"]
    assert whole["age"].dtype == np.int64
    assert source.read_obs("age").columns.tolist() == ["age"]
    with pytest.raises(
        InputError, match=r"obs has no column 'cell_type'; available: type, donor, age, dose, sick, batch"
    ):
        source.chunks(["age", "cell_type"])
    with pytest.raises(InputError, match=r"obs has no column 'cell_type'"):
        source.read_obs(["cell_type"])


@pytest.mark.parametrize("name", ["h5ad", "zarr_2", "memory"])
def test_raw_and_layers(tmp_path: Path, name: str) -> None:
    given = WRITERS[name](tmp_path)
    (source,) = open_sources(**given, matrix="raw")
    assert source.genes.tolist() == [f"G{i}" for i in range(9)]
    np.testing.assert_array_equal(dense(source), 2 * make_counts().toarray()[:, :9])
    with pytest.raises(InputError, match=r"no matrix 'layers/none'; choose .* X, raw, layers/csc, layers/dense"):
        open_sources(**given, matrix="layers/none")
    with pytest.raises(InputError, match=r"is 'X', 'raw' or 'layers/NAME', got 'counts'"):
        open_sources(**given, matrix="counts")


@pytest.mark.parametrize("name", ["h5ad", "zarr_2", "memory", "tenx_3", "tenx_2", "mtx_3", "mtx_2"])
def test_a_column_names_the_genes(tmp_path: Path, name: str) -> None:
    given = WRITERS[name](tmp_path)
    (source,) = open_sources(**given, gene_column="id")
    assert source.genes.tolist() == [f"ENSG{i:011d}" for i in range(N_GENES)]
    with pytest.raises(InputError, match=r"no (gene )?column 'symbols'.*; available: id"):
        open_sources(**given, gene_column="symbols")


def test_bare_matrices() -> None:
    counts = make_counts()
    crow, col, data = (torch.from_numpy(part) for part in (counts.indptr, counts.indices, counts.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its CSR a beta
        tensor = torch.sparse_csr_tensor(crow, col, data, size=counts.shape)
    for matrix in (counts, sparse.csc_array(counts), sparse.coo_array(counts), counts.toarray(), tensor):
        (source,) = open_sources(matrix)
        for bounds in BOUNDS:
            np.testing.assert_array_equal(dense(source, **bounds), counts.toarray())
        assert source.genes.tolist() == [str(i) for i in range(N_GENES)]
        assert source.obs_columns == []
        assert [n for chunk in source.chunks(max_cells=9) for n in chunk.obs.index] == [str(i) for i in range(N_CELLS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half = torch.sparse_csr_tensor(crow, col, data.bfloat16(), size=counts.shape)
    np.testing.assert_array_equal(dense(open_sources(half)[0]), half.to_dense().float().numpy())
    with pytest.raises(InputError, match="the path of the cells is empty"):
        open_sources("")
    for place in (-1, N_GENES):
        wrong = counts.copy()
        wrong.indices[3] = place
        with pytest.raises(InputError, match=f"column {place} in a matrix of {N_GENES} genes"):
            dense(open_sources(wrong)[0])
    by_gene, listed = counts.tocsc(), counts.tocoo()
    by_gene.indices[3] = listed.row[3] = N_CELLS
    for wrong in (by_gene, listed):
        with pytest.raises(InputError, match=f"row {N_CELLS} in a matrix of {N_CELLS} cells"):
            open_sources(wrong)
    with pytest.raises(InputError, match="to_sparse_csr"):
        open_sources(torch.from_numpy(counts.toarray()).to_sparse_coo())
    with pytest.raises(InputError, match="cannot read cells from dict; give an AnnData"):
        open_sources({})
    with pytest.raises(InputError, match="must be cells x genes"):
        open_sources(np.ones(3))
    with pytest.raises(InputError, match="a bare matrix takes no 'matrix'; leave it out"):
        open_sources(counts, matrix="raw")
    with pytest.raises(InputError, match="a bare matrix takes no 'gene_column'"):
        open_sources(counts, gene_column="id")


def test_a_matrix_on_a_gpu_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Matrix:  # what cupyx.scipy.sparse.csr_matrix has and we use
        def get(self) -> sparse.csr_matrix:
            return make_counts()

    Matrix.__module__ = "cupyx.scipy.sparse._csr"
    (source,) = open_sources(Matrix())
    np.testing.assert_array_equal(dense(source), make_counts().toarray())


def test_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells()
    for name in ("b", "a"):
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    names = [source.name for source in open_sources(str(tmp_path / "*.h5ad"))]
    assert names == [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
    assert len(open_sources([tmp_path / "b.h5ad", cells, make_counts()])) == 3
    shutil.move(tmp_path / "a.h5ad", tmp_path / "a[1].h5ad")  # a name that looks like a pattern
    assert [source.name for source in open_sources(tmp_path / "a[1].h5ad")] == [str(tmp_path / "a[1].h5ad")]
    with pytest.raises(InputError, match="no file matches this pattern"):
        open_sources(str(tmp_path / "*.zarr"))
    with pytest.raises(InputError, match="no cells given"):
        open_sources([])
    with pytest.raises(InputError, match=r"csr_matrix \(number 2\): a bare matrix takes no 'gene_column'"):
        open_sources([cells, make_counts()], gene_column="id")


def test_a_view_of_a_backed_file(tmp_path: Path) -> None:
    make_cells().write_h5ad(tmp_path / "x.h5ad")
    cells = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(InputError, match=r"a view of a backed AnnData; load it first with \.to_memory\(\)"):
        open_sources(cells[:3])
    cells.file.close()


def test_a_view_in_memory() -> None:
    (source,) = open_sources(make_cells()[3:9, ::2])
    np.testing.assert_array_equal(dense(source), make_counts().toarray()[3:9, ::2])


@pytest.mark.parametrize("kind", ["tenx", "mtx"])
def test_only_genes_are_kept(tmp_path: Path, kind: str) -> None:
    counts = make_counts()

    def write(path: Path, types: list[str]) -> Path:
        if kind == "tenx":
            write_10x(path, counts, feature_type=types)
        else:
            write_mtx(path, counts, types=types)
        return path

    types = ["Gene Expression"] * 8 + ["Antibody Capture"] * 3
    (source,) = open_sources(write(tmp_path / "x.h5", types))
    assert source.genes.tolist() == [f"G{i}" for i in range(8)]
    for bounds in BOUNDS:
        np.testing.assert_array_equal(dense(source, **bounds), counts.toarray()[:, :8])
    with pytest.raises(InputError, match="no feature is of the type 'Gene Expression', found: Peaks"):
        open_sources(write(tmp_path / "y.h5", ["Peaks"] * N_GENES))


@pytest.mark.parametrize("kind", ["tenx", "mtx"])
def test_symbols_that_stand_twice(tmp_path: Path, kind: str) -> None:
    names = ["A", "B", "A", "B", *(f"G{i}" for i in range(N_GENES - 4))]
    path = tmp_path / "x.h5"
    if kind == "tenx":
        write_10x(path, make_counts(), name=names)
    else:
        write_mtx(path, make_counts(), names=names)
    with pytest.raises(InputError, match=r"2 gene names stand more than once \(A, B\); pass --gene-column id"):
        open_sources(path)
    assert len(open_sources(path, gene_column="id")[0].genes) == N_GENES


def test_integers_beyond_float32_are_exact() -> None:
    for value, dtype in ((1 << 24, np.float32), ((1 << 24) + 1, np.float64)):
        (chunk,) = open_sources(sparse.csr_array(np.array([[0, value]])))[0].chunks()
        assert chunk.counts.dtype == dtype
        assert int(chunk.counts[0, 1]) == value
    (chunk,) = open_sources(sparse.csr_array(np.array([[0, 3]], dtype=np.float64)))[0].chunks()
    assert chunk.counts.dtype == np.float64


def test_entries_that_stand_twice_are_summed_and_the_user_keeps_his() -> None:
    data, indices = np.array([1, 2, 4, 0, 8], dtype=np.float32), np.array([2, 0, 2, 1, 0], dtype=np.int32)
    matrix = sparse.csr_matrix((data, indices, np.array([0, 3, 5])), shape=(2, 3))
    before = matrix.data.copy(), matrix.indices.copy()
    (chunk,) = open_sources(matrix)[0].chunks()
    np.testing.assert_array_equal(chunk.counts.toarray(), [[2, 0, 5], [8, 0, 0]])
    assert chunk.counts.nnz == 4  # the stored zero is still there
    np.testing.assert_array_equal(matrix.data, before[0])
    np.testing.assert_array_equal(matrix.indices, before[1])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 30), st.integers(1, 12))
def test_cuts_cover_every_row_once(lengths: list[int], max_nonzeros: int, max_cells: int) -> None:
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    ranges = list(cut(indptr, max_nonzeros, max_cells))
    assert [start for start, _ in ranges] == [0] + [stop for _, stop in ranges[:-1]]
    assert ranges[-1][1] == len(lengths)
    for start, stop in ranges:
        assert 1 <= stop - start <= max_cells
        assert indptr[stop] - indptr[start] <= max_nonzeros or stop - start == 1
        if stop < len(lengths) and stop - start < max_cells:  # a cut is never early
            assert indptr[stop + 1] - indptr[start] > max_nonzeros


def test_bounds_below_one() -> None:
    (source,) = open_sources(make_counts())
    with pytest.raises(InputError, match="must be at least 1, got 0 and 5"):
        source.chunks(max_nonzeros=0, max_cells=5)


def test_a_file_by_gene_is_not_read_for_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = make_counts(1, 400, 20)
    cells = ad.AnnData(sparse.csc_matrix(counts))
    cells.write_h5ad(tmp_path / "x.h5ad")
    reads = []
    getitem = h5py.Dataset.__getitem__

    def counting(dataset: h5py.Dataset, key: Any, *args: Any, **kwargs: Any) -> Any:
        if dataset.name == "/X/data":
            reads.append(key)
        return getitem(dataset, key, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    (source,) = open_sources(tmp_path / "x.h5ad")
    chunks = list(source.chunks(max_nonzeros=counts.nnz // 3, max_cells=4))
    assert len(chunks) == 100
    assert len(reads) == 2  # two bands, each one pass


# ---- bad input


@pytest.mark.parametrize(
    ("value", "normalized", "message"),
    [
        (np.nan, False, r"cells: cell 12 holds the value nan; counts must be finite; remove"),
        (np.inf, False, r"holds the value inf; counts must be finite"),
        (np.nan, True, r"holds the value nan; counts must be finite"),
        (-1.0, False, r"holds the value -1; a count cannot be negative, these look scaled; choose raw counts"),
        (-0.5, True, r"holds the value -0.5; a count cannot be negative, these look scaled"),
        (
            0.5,
            False,
            r"cell 12 holds the value 0.5; no whole number: this matrix looks normalised or scaled; pass --normalized "
            r"\(normalized=True\) if it is log1p-normalised, or --matrix layers/counts",
        ),
        (21.0, True, r"holds the value 21; log1p-normalised values stay below 20, .* leave out --normalized"),
    ],
)
def test_values_that_cannot_be(value: float, normalized: bool, message: str) -> None:
    counts = sparse.csr_array(np.array([[1, 0, 2], [0, 0, 0], [0, value, 1]], dtype=np.float32))
    with pytest.raises(InputError, match=message) as caught:
        check_counts(counts, name="cells", start=10, normalized=normalized)
    assert "\n" not in str(caught.value)


def test_values_that_can_be() -> None:
    zeros = sparse.csr_array((np.zeros(2, np.float32), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
    check_counts(zeros, name="cells")
    check_counts(sparse.csr_array((4, 3), dtype=np.float32), name="cells")
    check_counts(sparse.csr_array(np.array([[0.3, 20.0]])), name="cells", normalized=True)


@pytest.mark.parametrize("name", ["h5ad", "zarr_2", "memory"])
def test_a_normalised_layer(tmp_path: Path, name: str) -> None:
    given = WRITERS[name](tmp_path) | {"matrix": "layers/log"}
    (source,) = open_sources(**given)
    with pytest.raises(InputError, match=r"cell \d+ holds the value 0.693147; no whole number"):
        list(source.chunks(max_cells=3))
    (source,) = open_sources(**given, normalized=True)
    assert source.normalized
    np.testing.assert_array_equal(dense(source), make_counts().log1p().toarray())


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    for name in ("x.h5ad", "x.zarr", "x.h5", "x"):
        with pytest.raises(InputError, match=rf"{name}: no such file or folder; check the path"):
            open_sources(tmp_path / name)
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(InputError, match=r"unknown suffix '.csv'; give an .h5ad, a .zarr, a 10x .h5"):
        open_sources(tmp_path / "x.csv")
    (tmp_path / "matrix.mtx").write_text("")
    with pytest.raises(InputError, match=r"give the folder that holds matrix\.mtx"):
        open_sources(tmp_path / "matrix.mtx")
    (tmp_path / "y").mkdir()
    with pytest.raises(InputError, match=r"y: no matrix.mtx\[.gz\] in this folder"):
        open_sources(tmp_path / "y")
    with pytest.raises(InputError, match="holds one matrix alone, 'raw' is not in it"):
        open_sources(tmp_path / "y", matrix="raw")


@pytest.mark.parametrize("suffix", ["h5ad", "h5"])
def test_files_cut_short_or_of_another_kind(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    (h5ad if suffix == "h5ad" else tenx_3)(tmp_path)
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"damaged or incomplete \(.*\); make or download it again") as caught:
            open_sources(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_text("no HDF5")
    with pytest.raises(InputError, match=r"damaged or incomplete .*file signature not found"):
        open_sources(path)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["y"] = 1
    message = r"no 'obs' in this file \(found: y\)" if suffix == "h5ad" else r"no 10x matrix .* found: y; an AnnData"
    with pytest.raises(InputError, match=message):
        open_sources(path)


def test_a_zarr_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(InputError, match=r"x.zarr: "):
        open_sources(tmp_path / "x.zarr")


def test_a_file_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5ad(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(InputError, match="not readable; change its permissions"):
        open_sources(tmp_path / "x.h5ad")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("X/indices", np.array([99])),
        ("X/indptr", np.arange(N_CELLS)),
        ("X/indptr", np.arange(N_CELLS + 1)),
        ("X/data", np.ones(3, dtype=np.float32)),
        ("layers/csc/indices", np.array([99])),
        ("layers/csc/indptr", np.arange(N_GENES)),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, key: str, value: np.ndarray) -> None:
    h5ad(tmp_path)
    path = tmp_path / "x.h5ad"
    with h5py.File(path, "r+") as file:
        old = file[key][:]
        del file[key]
        file[key] = np.concatenate([value, old[1:]]) if key.endswith("indices") else value
    (source,) = open_sources(path, matrix=key.rpartition("/")[0])
    for bounds in BOUNDS:
        with pytest.raises(InputError, match=r"x.h5ad: damaged or incomplete"):
            list(source.chunks(**bounds))


@pytest.mark.parametrize("key", ["X/indices", "obs/_index", "X/shape"])
def test_parts_that_are_missing(tmp_path: Path, key: str) -> None:
    h5ad(tmp_path)
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        if key == "X/shape":
            del file["X"].attrs["shape"]
        else:
            del file[key]
    with pytest.raises(InputError, match=r"x.h5ad: damaged or incomplete"):
        open_sources(tmp_path / "x.h5ad")


def test_bytes_that_were_damaged_in_place(tmp_path: Path) -> None:
    h5ad(tmp_path)
    path = tmp_path / "x.h5ad"
    with h5py.File(path, "r") as file:
        place = file["X/data"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(b"\xff" * place.size)
    (source,) = open_sources(path)
    with pytest.raises(InputError, match=r"x\.h5ad: damaged or incomplete"):
        list(source.chunks())


def test_a_file_without_a_matrix(tmp_path: Path) -> None:
    cells = make_cells()
    cells.X = None
    cells.raw = None
    cells.write_h5ad(tmp_path / "x.h5ad")
    for data in (cells, tmp_path / "x.h5ad"):
        for matrix in ("X", "raw"):
            with pytest.raises(InputError, match=rf"has no matrix '{matrix}'; choose .*layers/csc, layers/dense"):
                open_sources(data, matrix=matrix)
    with pytest.raises(InputError, match=r"has no matrix 'X', nor any other; give the file with counts"):
        open_sources(ad.AnnData(obs=cells.obs, var=cells.var))


def test_no_cells_or_no_genes(tmp_path: Path) -> None:
    for shape in ((0, 3), (3, 0)):
        matrix = sparse.csr_matrix(shape, dtype=np.float32)
        ad.AnnData(matrix).write_h5ad(tmp_path / "x.h5ad")
        write_10x(tmp_path / "x.h5", matrix)
        write_mtx(tmp_path / f"x{shape[0]}", matrix)
        for data in (ad.AnnData(matrix), matrix, *(tmp_path / name for name in ("x.h5ad", "x.h5", f"x{shape[0]}"))):
            with pytest.raises(InputError, match=r"holds (no cells|3 cells and no genes)"):
                open_sources(data)


def test_duplicate_gene_names(tmp_path: Path) -> None:
    cells = make_cells()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns of what we test
        cells.var_names = ["A", "B", "C", "D", "A", "B", "C", "D", "E", "F", "G"]
        cells.write_h5ad(tmp_path / "x.h5ad")
        message = r"4 gene names stand more than once \(A, B, C, ...\); make them unique \(adata.var_names_make_unique"
        for data in (cells, tmp_path / "x.h5ad"):
            with pytest.raises(InputError, match=message + r"\(\)\) or choose a column of var .*available: id"):
                open_sources(data)
            assert open_sources(data, gene_column="id")[0].genes[0] == "ENSG00000000000"
    cells.var["symbol"] = ["nan"] * cells.n_vars
    with pytest.raises(InputError, match=r"\(nan\); make those of var\['symbol'\] unique, or leave --gene-column"):
        open_sources(cells, gene_column="symbol")


@pytest.mark.parametrize("missing", [None, np.nan, ""])
def test_genes_without_a_name(missing: Any) -> None:
    cells = make_cells()
    cells.var["symbol"] = [f"S{i}" for i in range(N_GENES)]
    cells.var.loc["G3", "symbol"] = missing
    with pytest.raises(InputError, match=rf"1 of {N_GENES} genes have no name \(the first is number 3\); name each"):
        open_sources(cells, gene_column="symbol")


def test_a_file_that_is_given_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cells().write_h5ad(tmp_path / "x.h5ad")
    (tmp_path / "link.h5ad").symlink_to(tmp_path / "x.h5ad")
    monkeypatch.chdir(tmp_path)
    for again in ("./x.h5ad", tmp_path / "x.h5ad", "link.h5ad", "x*.h5ad"):
        with pytest.raises(InputError, match="given twice, so that its cells would count twice; give each file once"):
            open_sources(["x.h5ad", again])


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2].rpartition("\n")[0] + "\n", r"\d+ entries but the header announces \d+"),
        (lambda text: text.replace("%%Matrix", "Matrix"), "the first line is not '%%MatrixMarket"),
        (
            lambda text: text.replace("coordinate", "array"),
            "is 'matrix array integer general'; counts are 'matrix coord",
        ),
        (lambda text: text.replace("integer", "pattern"), "is 'matrix coordinate pattern general'"),
        (lambda text: text.replace("general", "symmetric"), "is 'matrix coordinate integer symmetric'"),
        (lambda text: text.replace("11 37 ", "11 x "), "the line of sizes is '11 x"),
        (lambda text: text.replace("11 37 ", "11 38 "), "the matrix is 38 x 11 but there are 37 cells and 11 genes"),
        (lambda text: text.rpartition(" ")[0] + " x\n", "damaged or incomplete"),
        (lambda text: "\n".join(text.split("\n")[:3]) + "\n", "damaged or incomplete"),
        (lambda text: text.rstrip("\n").rpartition("\n")[0] + "\n12 36 1\n", "an entry lies outside the matrix"),
    ],
)
def test_bad_mtx(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    mtx_2(tmp_path)
    edit(tmp_path / "x" / "matrix.mtx", change)
    with pytest.raises(InputError, match=message) as caught:
        list(open_sources(tmp_path / "x")[0].chunks())
    assert str(tmp_path / "x") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mtx_without_entries(tmp_path: Path) -> None:
    write_mtx(tmp_path / "x", sparse.csr_matrix((5, 3), dtype=np.float32))
    (source,) = open_sources(tmp_path / "x")
    np.testing.assert_array_equal(dense(source, max_cells=2), np.zeros((5, 3)))


def test_a_gzip_cut_short(tmp_path: Path) -> None:
    mtx_3(tmp_path)
    path = tmp_path / "x" / "matrix.mtx.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged or incomplete"):
        list(open_sources(tmp_path / "x")[0].chunks())
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="damaged or incomplete"):
        open_sources(tmp_path / "x")


def test_mtx_that_leaves_the_order_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mtx_2(tmp_path)
    monkeypatch.setattr("corrmask.sources.mtx._LINES", 10)
    edit(tmp_path / "x" / "matrix.mtx", lambda text: text.rstrip("\n").rpartition("\n")[0] + "\n1 1 1\n")
    with pytest.raises(InputError, match="do not stay in it; sort them by cell"):
        list(open_sources(tmp_path / "x")[0].chunks())


def test_several_genomes_and_missing_parts_of_10x(tmp_path: Path) -> None:
    tenx_2(tmp_path)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(InputError, match=r"holds several genomes \(GRCh38, mm10\); write one file for each"):
        open_sources(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["mm10"], file["GRCh38/barcodes"]
    with pytest.raises(InputError, match="'GRCh38' has no barcodes"):
        open_sources(tmp_path / "x.h5")


@pytest.mark.filterwarnings("ignore:Element .* was written without encoding metadata")
def test_old_anndata_files(tmp_path: Path) -> None:
    h5ad(tmp_path)
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        obs = file["obs"]  # as anndata 0.7 wrote a categorical column: codes that point to their categories
        codes, categories = obs["type/codes"][:], obs["type/categories"][:]
        del obs["type"], obs["batch"]
        obs.attrs["encoding-version"] = "0.1.0"
        obs.attrs["column-order"] = [name for name in obs.attrs["column-order"] if name != "batch"]
        obs["type"] = codes
        obs["__categories/type"] = categories
        obs["type"].attrs["categories"] = obs["__categories/type"].ref
        obs["__categories/type"].attrs["ordered"] = False
    (source,) = open_sources(tmp_path / "x.h5ad")
    types = pd.concat([chunk.obs for chunk in source.chunks(["type", "age"], max_cells=10)])
    pd.testing.assert_frame_equal(types, make_cells().obs[["type", "age"]], check_categorical=False)
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        del file["obs"].attrs["_index"]
    with pytest.raises(InputError, match=r"written by anndata before 0\.7; open and save it"):
        open_sources(tmp_path / "x.h5ad")


def test_what_is_imported() -> None:
    code = (
        "import sys, numpy, scipy.sparse; from corrmask.sources import open_sources\n"
        "list(open_sources(scipy.sparse.csr_array(numpy.eye(3)))[0].chunks())\n"
        "assert not {'zarr', 'anndata', 'typer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- real cells


@pytest.mark.skipif("CORRMASK_DATA" not in os.environ, reason="CORRMASK_DATA is not set")
@pytest.mark.parametrize("name", ["pbmc_corpus_core.h5ad", "pbmc_kang_5donors.h5ad"])
def test_real_cells(name: str) -> None:
    path = Path(os.environ["CORRMASK_DATA"]) / name
    cells = ad.read_h5ad(path)
    (source,) = open_sources(path)
    chunks = list(source.chunks(["cell_type"], max_nonzeros=1_000_000, max_cells=1000))
    whole = sparse.vstack([chunk.counts for chunk in chunks]).tocsr()
    assert abs(whole - sparse.csr_array(cells.X)).nnz == 0
    obs = pd.concat([chunk.obs for chunk in chunks])
    assert obs["cell_type"].tolist() == cells.obs["cell_type"].tolist()
    assert obs.index.tolist() == cells.obs_names.tolist()
    assert source.genes.tolist() == cells.var_names.tolist()


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=8), st.integers(1, 40))
def test_columns_that_ascend_are_what_scipy_calls_canonical(rows: list[list[int]], block: int) -> None:
    columns = np.array([column for row in rows for column in row], dtype=np.int32)
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    matrix = sparse.csr_array((np.ones(len(columns)), columns, indptr), shape=(len(rows), 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "_BLOCK", block)
        assert checks.is_ascending(matrix) == matrix.has_canonical_format


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_text_is_read_in_any_slices(tmp_path: Path, suffix: str) -> None:
    """Chunks of text are kept between slices: the same names and columns in whatever order they are asked for."""
    n = 50
    obs = pd.DataFrame({"note": [f"n{i % 7}x{i}" for i in range(n)]}, index=[f"cell {i}" for i in range(n)])
    cells = ad.AnnData(sparse.csr_matrix(np.ones((n, 2), dtype=np.float32)), obs=obs)
    path = tmp_path / f"cells{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces a new default
        if suffix == ".h5ad":
            cells.write_h5ad(path)
            with h5py.File(path, "a") as file:
                ad.io.write_elem(file, "obs", obs, dataset_kwargs={"chunks": (16,)})
        else:
            zarr = pytest.importorskip("zarr")
            group = zarr.open_group(path, mode="w")
            ad.io.write_elem(group, "/", cells)
            ad.io.write_elem(group, "obs", obs, dataset_kwargs={"chunks": (16,)})
    (source,) = open_sources(path)
    for start, stop in ((0, n), (40, 50), (3, 5), (15, 17), (0, 33), (32, 48), (7, 7)):
        read = source.reader.obs(["note"], start, stop)
        assert read.index.tolist() == obs.index[start:stop].tolist()
        assert read["note"].tolist() == obs["note"].iloc[start:stop].tolist()
