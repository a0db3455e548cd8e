"""`corrmask.simulation`: cells whose truth is known, checked against that truth."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from corrmask.cli.app import main
from corrmask.errors import InputError
from corrmask.simulation import BLOCK_CELLS, design_tissue, draw_block, simulate
from corrmask.simulation.like import total_dispersion

SMALL = {"n_genes": 300, "n_types": 4, "n_rare": 1, "n_modules": 4, "module_size": 15, "n_markers": 5}


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray().astype(np.float64)


def same_counts(a: sp.csr_matrix, b: sp.csr_matrix) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("indptr", "indices", "data"))


def one_type(**changes: object) -> dict:
    """No modules, no markers, one type, one depth: every cell of a gene has the same mean."""
    plain = {"n_types": 1, "n_rare": 0, "n_modules": 0, "n_markers": 0, "depth_sigma": 0.0}
    return plain | changes


# --- the form of the result --------------------------------------------------------------------------------------


def test_counts_are_sparse_whole_and_canonical() -> None:
    x = simulate(400, **SMALL).X
    assert sp.isspmatrix_csr(x)
    assert x.dtype == np.float32
    assert x.shape == (400, 300)
    assert x.data.min() >= 1
    assert np.array_equal(x.data, np.floor(x.data))
    fresh = sp.csr_matrix((x.data, x.indices, x.indptr), shape=x.shape)  # knows nothing of its order yet: it looks
    assert fresh.has_canonical_format


def test_truth_is_stored_and_survives_the_file(tmp_path: Path) -> None:
    made = simulate(300, **SMALL, rare_genes=3, seed=5)
    made.write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    truth = adata.uns["simulation"]
    assert (
        list(truth["types"]) == ["type_0", "type_1", "type_2", "rare_0"] == list(adata.obs["cell_type"].cat.categories)
    )
    assert list(truth["parents"]) == ["none", "none", "none", "type_0"]
    assert truth["seed"] == 5
    assert truth["parameters"]["n_modules"] == 4
    assert truth["parameters"]["n_cells"] == 300
    assert truth["module_activity"].shape == (4, 4)
    assert adata.obsm["module_activity"].shape == (300, 4)
    assert adata.varm["type_share"].shape == (300, 4)
    module = adata.var["module"].to_numpy()
    assert np.array_equal(np.bincount(module + 1), [240, 15, 15, 15, 15])
    assert adata.var["marker_of"].value_counts().to_dict() == {
        "none": 282, "type_0": 5, "type_1": 5, "type_2": 5, "rare_0": 3,
    }  # fmt: skip
    assert (adata.var["marker_of"][module >= 0] == "none").all()
    loading = adata.var["loading"].to_numpy()
    assert (loading[module < 0] == 0).all()
    assert (np.abs(loading[module >= 0] / 0.8 - 1) <= 0.25).all()
    np.testing.assert_allclose(adata.varm["type_share"] @ truth["proportions"], adata.var["share"], rtol=1e-9)


def test_a_rare_type_differs_from_its_parent_by_its_markers_alone() -> None:
    tissue = design_tissue(**SMALL, rare_genes=3)
    ratio = tissue.type_share[3] / tissue.type_share[0]
    own = tissue.marker_of == 3
    assert own.sum() == 3
    np.testing.assert_allclose(ratio[own], 6.0, rtol=1e-9)
    np.testing.assert_allclose(ratio[~own], 1.0, rtol=1e-9)
    free = design_tissue(**SMALL)
    assert (np.abs(np.log(free.type_share[3] / free.type_share[0])) > 0.01).sum() > 10


# --- repeatable --------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_and_other_seed_other_cells(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate(300, **SMALL, seed=seed).write_h5ad(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c
    x, y = anndata.read_h5ad(tmp_path / "a"), anndata.read_h5ad(tmp_path / "c")
    assert (dense(x) != dense(y)).any(axis=1).mean() > 0.99


@pytest.mark.parametrize("n", [1, BLOCK_CELLS - 1, BLOCK_CELLS, BLOCK_CELLS + 1])
def test_first_cells_do_not_depend_on_how_many_are_asked_for(n: int) -> None:
    few, many = simulate(n, **SMALL), simulate(2 * BLOCK_CELLS + 3, **SMALL)
    assert same_counts(few.X, many.X[:n])
    assert few.obs["cell_type"].tolist() == many.obs["cell_type"][:n].tolist()
    assert np.array_equal(few.obsm["module_activity"], many.obsm["module_activity"][:n])


def test_blocks_are_pure() -> None:
    tissue = design_tissue(**SMALL)
    later = draw_block(tissue, 7)
    draw_block(tissue, 0)
    again = draw_block(tissue, 7)
    assert same_counts(later.counts, again.counts)
    assert not same_counts(later.counts, draw_block(tissue, 8).counts)


# --- the counts follow the stated law ----------------------------------------------------------------------------


def test_each_gene_is_negative_binomial() -> None:
    """Frequencies of 0, 1, 2, ... against the exact law: chi-square over all genes and cells, at p = 1e-4."""
    from scipy.stats import chi2, nbinom

    adata = simulate(20_000, **one_type(n_genes=40, depth=80.0), seed=1)
    counts = dense(adata)
    statistic, freedom = 0.0, 0
    for gene in range(40):
        mean, dispersion = 80.0 * adata.var["share"].iloc[gene], adata.var["dispersion"].iloc[gene]
        size = 1.0 / dispersion
        law = nbinom(size, size / (size + mean))
        top = int(law.ppf(1 - 1e-3)) + 1  # the last class is "this or more"
        expected = np.append(law.pmf(np.arange(top)), law.sf(top - 1)) * len(counts)
        observed = np.bincount(np.minimum(counts[:, gene], top).astype(int), minlength=top + 1)
        kept = expected >= 5
        statistic += (((observed - expected) ** 2) / expected)[kept].sum()
        freedom += int(kept.sum()) - 1
    assert freedom > 100
    assert chi2.ppf(1e-4, freedom) < statistic < chi2.ppf(1 - 1e-4, freedom)


def test_depth_is_log_normal_around_the_median_asked_for() -> None:
    adata = simulate(8000, **one_type(n_genes=200, depth=3000.0, depth_sigma=0.5))
    log_size = np.log(adata.obs["library_size"])
    assert abs(log_size.mean() - np.log(3000)) < 4 * 0.5 / np.sqrt(8000)  # 4 standard errors
    assert abs(log_size.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * 8000) + 0.005  # and the cut at 3.5 sd
    totals = dense(adata).sum(axis=1)
    ratio = totals.sum() / adata.obs["library_size"].sum()
    assert abs(ratio - 1) < 0.01


def test_gene_means_by_type_and_over_all() -> None:
    adata = simulate(12_000, **SMALL, depth=600.0, strength=0.5)
    counts, truth = dense(adata), adata.uns["simulation"]
    size = adata.obs["library_size"].to_numpy()
    for code in range(4):
        cells = adata.obs["cell_type"].cat.codes.to_numpy() == code
        expected = size[cells].sum() * adata.varm["type_share"][:, code]
        observed = counts[cells].sum(axis=0)
        sd = np.sqrt(counts[cells].var(axis=0) * cells.sum())
        score = (observed - expected)[expected > 30] / sd[expected > 30]
        assert len(score) > 50
        assert np.abs(score).max() < 5  # normal scores of at most 300 genes; a fold of 1.2 in one gene breaks it
        assert 0.7 < score.std() < 1.3
    assert truth["proportions"].sum() == pytest.approx(1.0)


def test_type_proportions() -> None:
    adata = simulate(20_000, n_genes=50, n_types=5, n_rare=2, n_modules=0, n_markers=2, depth=20.0)
    part = adata.uns["simulation"]["proportions"]
    np.testing.assert_allclose(part[-2:], [0.02, 0.005])
    assert part[:-2].min() > 0.1
    seen = np.bincount(adata.obs["cell_type"].cat.codes, minlength=5) / 20_000
    assert (np.abs(seen - part) < 4 * np.sqrt(part * (1 - part) / 20_000)).all()
    chosen = design_tissue(n_genes=50, n_types=2, n_rare=1, proportions=[0.9, 0.1], n_modules=0, n_markers=2)
    assert chosen.proportions.tolist() == [0.9, 0.1]


def correlations(adata: AnnData, cell_type: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pearson r of log1p-normalised counts within a type: pairs of one module, of two modules, of genes in none."""
    counts = dense(adata)[adata.obs["cell_type"] == cell_type]
    module = adata.var["module"].to_numpy()
    share = np.sort(adata.var["share"].to_numpy()[module >= 0])
    plain = (module < 0) & (adata.var["share"] > share[0]) & (adata.var["share"] < share[-1])
    r = np.corrcoef(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4), rowvar=False)
    pair = np.triu(np.ones_like(r, dtype=bool), 1)
    inside = np.outer(module >= 0, module >= 0)
    same = inside & (module[:, None] == module[None, :])
    return r[pair & same], r[pair & inside & ~same], r[pair & np.outer(plain, plain)]


def test_genes_of_a_module_covary_within_a_type_and_others_do_not() -> None:
    settings = {"n_genes": 600, "n_types": 3, "n_rare": 0, "n_modules": 6, "module_size": 15, "depth": 6000.0}
    adata = simulate(3000, **settings, seed=2)
    same, other, plain = correlations(adata, "type_0")
    assert np.median(same) > 0.25
    assert (same > 0.1).mean() > 0.95
    assert abs(np.median(other)) < 0.05
    assert np.quantile(other, 0.95) < np.quantile(same, 0.05)
    assert abs(np.median(plain)) < 0.05
    weak, *_ = correlations(simulate(3000, **settings, strength=0.3, seed=2), "type_0")
    assert 0.02 < np.median(weak) < np.median(same) / 2
    none, *_ = correlations(simulate(3000, **settings, strength=0.0, seed=2), "type_0")
    assert abs(np.median(none)) < 0.02


def test_activity_is_what_moves_the_module() -> None:
    adata = simulate(2000, n_genes=400, n_types=1, n_rare=0, n_modules=2, module_size=20, depth=6000.0)
    counts = dense(adata)
    score = np.log1p(np.stack([counts[:, adata.var["module"] == m].sum(axis=1) for m in (0, 1)], axis=1))
    r = np.corrcoef(np.hstack([score, adata.obsm["module_activity"]]), rowvar=False)[:2, 2:]
    assert r.diagonal().min() > 0.8
    assert np.abs(r[~np.eye(2, dtype=bool)]).max() < 0.2


# --- like real cells ---------------------------------------------------------------------------------------------


def test_dispersion_is_recovered_when_depth_varies() -> None:
    adata = simulate(20_000, **one_type(n_genes=100, depth=2000.0, depth_sigma=0.5), seed=3)
    found = total_dispersion(adata.X, adata.obs["library_size"].to_numpy())
    frequent = adata.var["share"].to_numpy() * 2000 > 2
    assert frequent.sum() > 20
    assert (np.abs((1 + found) / (1 + adata.var["dispersion"]) - 1)[frequent] < 0.05).all()


def test_like_takes_names_and_a_subset_of_genes() -> None:
    real = simulate(500, **SMALL)
    real.var_names = [f"ENSG{g:05d}" for g in range(300)]
    adata = simulate(100, n_genes=150, n_types=2, n_rare=0, n_modules=2, module_size=10, like=real)
    assert adata.n_vars == 150
    assert set(adata.var_names) < set(real.var_names)
    again = simulate(300, **SMALL, like=real, seed=1)
    assert again.var_names.tolist() == real.var_names.tolist()
    assert again.uns["simulation"]["like"] == "AnnData"


def test_like_real_blood_cells() -> None:
    if "CORRMASK_DATA" not in os.environ:
        pytest.skip("CORRMASK_DATA is not set")
    path = Path(os.environ["CORRMASK_DATA"])
    path = path / "pbmc_kang_5donors.h5ad" if path.is_dir() else path
    real = anndata.read_h5ad(path)
    made = simulate(real.n_obs, like=path, seed=0)
    assert made.var_names.tolist() == real.var_names.tolist()
    x, y = dense(real), dense(made)
    # Depth: quantiles within 6 %, sd of the logarithm within 0.04 (types and modules add to the drawn depth).
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    depth = np.quantile(y.sum(axis=1), levels) / np.quantile(x.sum(axis=1), levels)
    assert np.abs(depth - 1).max() < 0.06
    assert abs(np.log(y.sum(axis=1)).std() - np.log(x.sum(axis=1)).std()) < 0.04
    # Means of the genes of at least 0.05 counts a cell: 90 % of them within 10 %, and 99 % correlated.
    seen = x.mean(axis=0) >= 0.05
    assert seen.sum() > 1000
    mean = np.log(y.mean(axis=0)[seen] / x.mean(axis=0)[seen])
    assert (np.abs(mean) < 0.10).mean() > 0.9
    assert np.corrcoef(np.log(x.mean(axis=0)[seen]), np.log(y.mean(axis=0)[seen]))[0, 1] > 0.99
    # Dispersion beyond Poisson, depth taken out: the median within 5 %, 80 % of the genes within 20 %.
    ratio = [1 + total_dispersion(a.X, a.X.sum(axis=1).A1.astype(float))[seen] for a in (real, made)]
    assert abs(np.median(ratio[1] / ratio[0]) - 1) < 0.05
    assert (np.abs(np.log(ratio[1] / ratio[0])) < 0.2).mean() > 0.8
    # Sparsity: as many nonzeros within 5 %, detection of a gene off by 0.015 on average.
    assert abs((y > 0).mean() / (x > 0).mean() - 1) < 0.05
    assert np.abs((y > 0).mean(axis=0) - (x > 0).mean(axis=0)).mean() < 0.015
    # And the modules are still there.
    same, other, _ = correlations(made, "type_0")
    assert np.median(same) > 3 * abs(np.median(other)) + 0.02


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_cells": 0}, "n_cells"),
        ({"n_cells": -5}, "n_cells"),
        ({"n_cells": 1.5}, "n_cells"),
        ({"n_genes": 0}, "n_genes"),
        ({"n_types": 0, "n_rare": 0}, "n_types"),
        ({"n_types": 3, "n_rare": 3}, "lower n_rare"),
        ({"n_types": 3, "n_rare": 4}, "lower n_rare"),
        ({"n_types": 99, "n_rare": 90}, "ask for fewer"),
        ({"n_modules": 50, "module_size": 50}, "need 2620 genes"),
        ({"n_modules": -1}, "n_modules"),
        ({"module_size": 0}, "module_size"),
        ({"strength": -0.1}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"marker_fold": 0.5}, "marker_fold"),
        ({"depth": 0.0}, "depth"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"proportions": [0.5, 0.5]}, "proportions"),
        ({"like": "no_such_file.h5ad"}, "no such file"),
    ],
)
def test_bad_parameters_are_named_in_one_line(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        simulate(**({"n_cells": 10} | changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1.0, 0.5], [0.0, 2.0]], "fractional"),
        ([[1.0, -1.0], [0.0, 2.0]], "negative"),
        ([[1.0, np.nan], [0.0, 2.0]], "NaN"),
        ([[1.0, np.inf], [0.0, 2.0]], "NaN or infinite"),
        ([[0.0, 0.0], [0.0, 0.0]], "no counts"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_like_takes_raw_counts_only(values: list, words: str, form: type) -> None:
    with pytest.raises(InputError, match=words) as caught:
        simulate(10, like=AnnData(form(np.array(values, dtype=np.float32))))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")  # when the test makes the file
def test_like_with_a_gene_twice(tmp_path: Path) -> None:
    real = simulate(50, **SMALL)
    real.var_names = ["twice", "twice", *real.var_names[2:]]
    real.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="gene names occur twice"):
        simulate(10, like=tmp_path / "cells.h5ad")


def test_like_with_too_few_genes_or_a_cut_file(tmp_path: Path) -> None:
    real = simulate(50, **SMALL)
    with pytest.raises(InputError, match="has 300 genes"):
        simulate(10, n_genes=301, like=real)
    path = tmp_path / "cells.h5ad"
    real.write_h5ad(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        simulate(10, like=path)


# --- the command -------------------------------------------------------------------------------------------------

ARGUMENTS = ["--cells", "300", "--genes", "200", "--types", "3", "--rare", "1", "--modules", "3", "--module-size", "10"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["simulate", *arguments])
    return int(caught.value.code or 0)


def test_command_writes_and_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cells.h5ad"
    assert run("-o", str(path), *ARGUMENTS, "--json") == 0
    summary = json.loads(capfd.readouterr().out)
    adata = anndata.read_h5ad(path)
    assert (summary["cells"], summary["genes"]) == adata.shape == (300, 200)
    assert summary["nonzeros"] == adata.X.nnz
    assert summary["types"] == adata.obs["cell_type"].value_counts().to_dict()
    assert summary["cells_per_second"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]


def test_command_likes_a_file_and_prints_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    assert run("-o", str(first), *ARGUMENTS) == 0
    few = ["--cells", "40", "--types", "2", "--rare", "0", "--modules", "2", "--markers", "3"]
    assert run("-o", str(second), "--like", str(first), *few) == 0
    assert "40 cells x 200 genes" in capfd.readouterr().out
    assert anndata.read_h5ad(second).uns["simulation"]["like"] == "a.h5ad"


def test_command_keeps_an_output_unless_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cells.h5ad"
    path.write_text("mine")
    assert run("-o", str(path), *ARGUMENTS) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert path.read_text() == "mine"
    assert run("-o", str(path), *ARGUMENTS, "--overwrite") == 0
    assert anndata.read_h5ad(path).n_obs == 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cells", "0"], "n_cells"),
        (["--rare", "9"], "n_rare"),
        (["--modules", "200"], "need"),
        (["--like", "absent.h5ad"], "no such file"),
        (["-o", "absent/cells.h5ad"], "does not exist"),
        (["-o", "cells.csv"], "must end in .h5ad"),
    ],
)
def test_command_bad_input_is_one_line_and_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("-o", "cells.h5ad", *arguments) == 2
    message = capfd.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "corrmask simulate -o cells.h5ad" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize("shard", [None, 512])
def test_written_as_drawn_equals_what_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shard: int | None
) -> None:
    """Whatever the size of shards; the summary is that of the .h5ad."""
    pytest.importorskip("zarr", minversion="3")
    if shard is not None:
        monkeypatch.setattr("corrmask.simulation.writing.CHUNK_VALUES", shard // 4)
        monkeypatch.setattr("corrmask.simulation.writing.SHARD_VALUES", shard)
    summaries = []
    for name in ("cells.zarr", "cells.h5ad"):
        with pytest.raises(SystemExit) as stop:
            main(
                ["simulate", "-o", str(tmp_path / name), "--cells", "300", "--genes", "400", "--modules", "3", "--json"]
            )
        assert stop.value.code == 0
        summaries.append(json.loads(capsys.readouterr().out))
    timed = ("output", "seconds", "cells_per_second")
    one, other = ({key: value for key, value in summary.items() if key not in timed} for summary in summaries)
    assert one == other
    streamed, whole = anndata.read_zarr(tmp_path / "cells.zarr"), anndata.read_h5ad(tmp_path / "cells.h5ad")
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(streamed.X, part), getattr(whole.X, part))
    assert streamed.X.dtype == np.float32
    pd.testing.assert_frame_equal(streamed.obs, whole.obs, check_index_type=False)
    pd.testing.assert_frame_equal(streamed.var, whole.var, check_index_type=False)
    np.testing.assert_array_equal(streamed.obsm["module_activity"], whole.obsm["module_activity"])
    np.testing.assert_array_equal(streamed.varm["type_share"], whole.varm["type_share"])
    here, there = (adata.uns["simulation"] for adata in (streamed, whole))
    assert here.keys() == there.keys()
    for key in here.keys() - {"parameters"}:
        assert str(np.asarray(here[key]).tolist()) == str(np.asarray(there[key]).tolist())
    assert {key: float(value) for key, value in here["parameters"].items()} == there["parameters"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "cells.zarr"]
