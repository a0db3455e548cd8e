"""`corrmask evaluate`: files aligned by name, one JSON document, one line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

pytest.importorskip("sklearn")
pytest.importorskip("typer")

import anndata

from corrmask.cli.app import main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, arguments)])
    return caught.value.code


@pytest.fixture
def cells(tmp_path):
    """Two embeddings of the same 90 cells (the second in another order), and their counts among others."""
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(["a", "b", "rare"], [50, 36, 4]))
    rates = {kind: rng.gamma(0.5, 2.0, 60) for kind in sorted(set(kinds))}
    counts = rng.poisson(np.stack([rates[kind] for kind in kinds])).astype(np.float32)
    names = [f"cell{i}" for i in range(90)]
    obs = pd.DataFrame({"kind": pd.Categorical(kinds), "donor": [1488, 1015, 101] * 30}, index=names)
    x = np.stack([np.log1p(rates[kind][:5]) for kind in kinds]) + 0.3 * rng.normal(size=(90, 5))
    genes = pd.DataFrame(index=[f"g{i}" for i in range(60)])
    first = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=genes, obsm={"X_corrmask": x.astype(np.float32)})
    first.write_h5ad(tmp_path / "first.h5ad")
    order = rng.permutation(90)
    anndata.AnnData(obs=obs.iloc[order], obsm={"X_corrmask": x[order].astype(np.float32)}).write_h5ad(
        tmp_path / "second.h5ad"
    )
    extra = np.concatenate([counts[::-1], np.ones((3, 60), np.float32)])
    others = anndata.AnnData(sparse.csr_matrix(extra), obs=pd.DataFrame(index=[*names[::-1], "x", "y", "z"]), var=genes)
    others.write_h5ad(tmp_path / "counts.h5ad")
    return tmp_path


@pytest.fixture
def genes(tmp_path):
    """Gene embeddings of 80 genes in two files of different order, and a table of labels by both kinds of name."""
    rng = np.random.default_rng(0)
    ids = [f"ENSG{i:011d}" for i in range(80)]
    labels = np.repeat(["sensitive", "insensitive"], [25, 55])
    x = rng.normal(size=(80, 6)).astype(np.float32)
    x[:25, 0] += 3
    obs = pd.DataFrame({"mean_expression": rng.random(80), "detection": rng.random(80)}, index=ids)
    anndata.AnnData(x, obs=obs, obsm={"X_static": rng.normal(size=(80, 3))}).write_h5ad(tmp_path / "a.h5ad")
    anndata.AnnData(x[::-1][:70], obs=obs.iloc[::-1][:70]).write_h5ad(tmp_path / "b.h5ad")
    table = pd.DataFrame({"gene_name": [f"S{i}" for i in range(80)], "ensembl_id": ids, "label": labels})
    lost = pd.DataFrame({"gene_name": ["U"], "ensembl_id": ["ENSG9"], "label": ["sensitive"]})
    twice = pd.DataFrame({"gene_name": ["S79"], "ensembl_id": [ids[79]], "label": ["sensitive"]})
    pd.concat([table, lost, twice]).to_csv(tmp_path / "labels.tsv", sep="\t", index=False)
    return tmp_path


def test_annotation_writes_and_prints_one_document(cells, capsys):
    result = cells / "results.json"
    arguments = ["annotation", f"one={cells}/first.h5ad", cells / "second.h5ad", "--label", "kind", "--bootstrap", 50]
    assert run(*arguments, "--json", "-o", result) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(result.read_text())
    assert printed["kind"] == "annotation"
    assert printed["settings"]["embeddings"] == ["one", "second"]
    scores = {(one["representation"], one["classifier"]): one for one in printed["scores"]}
    assert set(scores) == {
        (name, classifier)
        for name in ("one", "second", "PCA of log-counts", "HVG")
        for classifier in ("logistic_regression", "knn")
    } - {("HVG", "knn")}
    for classifier in ("logistic_regression", "knn"):  # the same cells in another order: the same scores
        one, second = ({**scores[name, classifier], "representation": ""} for name in ("one", "second"))
        assert one == second
    (rare,) = [one for one in scores["one", "knn"]["types"] if one["type"] == "rare"]
    assert (rare["n_cells"], rare["n_train"], rare["n_test"], rare["rare"]) == (4, 2, 2, True)
    assert run(*arguments, "-o", result) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_annotation_takes_counts_by_name(cells, capsys):
    arguments = ["--label", "kind", "--json", "--bootstrap", 0]
    assert run("annotation", cells / "first.h5ad", *arguments) == 0
    own = json.loads(capsys.readouterr().out)
    assert run("annotation", cells / "first.h5ad", *arguments, "--counts", cells / "counts.h5ad") == 0
    named = json.loads(capsys.readouterr().out)
    assert own["scores"] == named["scores"]


def test_annotation_prints_tables(cells, capsys):
    options = ["--within", "donor", "--thin", "b=0.1", "--bootstrap", 20]
    assert run("annotation", cells / "first.h5ad", "--label", "kind", *options) == 0
    shown = capsys.readouterr()
    assert "HVG" in shown.out
    assert "rare" in shown.out
    assert "thinned b in 1015: " in shown.err


def test_annotation_holds_out_a_level(cells, capsys):
    assert run("annotation", cells / "first.h5ad", "--label", "kind", "--holdout", "donor=1488", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["holdout"] == {"obs": "donor", "level": "1488"}
    assert result["levels"][0]["n_test"] == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first.h5ad", "--label", "type"], "no column 'type' in obs; there are 'kind', 'donor'"),
        (["first.h5ad", "--label", "kind", "--key", "X_pca"], "no 'X_pca' in obsm; there are 'X_corrmask'"),
        (["second.h5ad", "--label", "kind"], "give them with --counts"),
        (["first.h5ad", "--label", "kind", "--holdout", "donor=7"], "no level '7'; there are '101', '1015', '1488'"),
        (["first.h5ad", "--label", "kind", "--holdout", "donor"], "--holdout takes OBS=LEVEL"),
        (["first.h5ad", "--label", "kind", "--within", "tissue"], "no column 'tissue'"),
        (["first.h5ad", "--label", "kind", "--thin", "x=0.1"], "no cells of type 'x'"),
        (["first.h5ad", "--label", "kind", "--thin", "a=little"], "must be a number"),
        (["first.h5ad", "--label", "kind", "--matrix", "layers/raw"], "no such layer"),
        (["first.h5ad", "--label", "kind", "--unlabelled", "none"], "no cell has the label 'none'"),
        (["first.h5ad", "first.h5ad", "--label", "kind"], "two files are called 'first'"),
        (["first.h5ad", "fewer.h5ad", "--label", "kind"], "30 cells, 90 in"),
        (["first.h5ad", "others.h5ad", "--label", "kind"], "1 of 90 cells of the first file are not in it"),
        (["first.h5ad", "relabelled.h5ad", "--label", "kind"], "differs from that of"),
        (["first.h5ad", "--label", "kind", "--counts", "fewer.h5ad"], "60 of 90 cells of the first file are not in it"),
        (["nothing.h5ad", "--label", "kind"], "no such file"),
        (["broken.h5ad", "--label", "kind"], "cannot be read as .h5ad"),
    ],
)
def test_bad_annotation_input_is_one_line_and_code_2(cells, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(cells)
    first = anndata.read_h5ad("first.h5ad")
    first[::3].write_h5ad("fewer.h5ad")
    renamed = first.copy()
    renamed.obs_names = ["another", *first.obs_names[1:]]
    renamed.write_h5ad("others.h5ad")
    first.obs["kind"] = first.obs["kind"].to_numpy()[::-1]
    first.write_h5ad("relabelled.h5ad")
    (cells / "broken.h5ad").write_bytes((cells / "first.h5ad").read_bytes()[:3000])
    assert run("annotation", *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_genes_prints_one_document(genes, capsys):
    assert run("genes", f"{genes}/a.h5ad", f"b={genes}/b.h5ad", "--labels", genes / "labels.tsv", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["gene_column"] == "ensembl_id"
    assert result["genes"]["found"] == {"insensitive": 54, "sensitive": 15}  # ten are not in b, one has both labels
    assert result["genes"]["ambiguous"] == [f"ENSG{79:011d}"]
    assert len(result["genes"]["missed"]["sensitive"]) == 11
    assert result["genes"]["missed"]["insensitive"] == []
    auroc = {one["representation"]: one["auroc"]["value"] for one in result["scores"]}
    assert list(auroc) == ["a", "a (static)", "b", "expression level"]
    assert auroc["a"] == auroc["b"] > 0.9
    assert len(result["scores"][0]["folds"]) == 5


def test_genes_prints_a_table_and_takes_levels_from_cells(genes, capsys):
    rng = np.random.default_rng(0)
    names = [f"ENSG{i:011d}" for i in range(80)]
    counts = anndata.AnnData(sparse.csr_matrix(rng.poisson(1.0, (40, 80)).astype(np.float32)))
    counts.var_names = names
    counts.write_h5ad(genes / "counts.h5ad")
    arguments = ["--labels", genes / "labels.tsv", "--expression", genes / "counts.h5ad", "--bootstrap", 20]
    assert run("genes", f"{genes}/a.h5ad", *arguments) == 0
    shown = capsys.readouterr()
    assert "expression level" in shown.out
    assert "sensitive: 25 genes found, 1 missed" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bare.h5ad", "--labels", "labels.tsv"], "give expression levels or counts with --expression"),
        (["a.h5ad", "--labels", "nothing.tsv"], "no such file"),
        (["a.h5ad", "--labels", "labels.tsv", "--label-column", "class"], "no column 'class'; there are 'gene_name'"),
        (["a.h5ad", "--labels", "labels.tsv", "--gene-column", "gene_name"], "no gene in common"),
        (["a.h5ad", "--labels", "labels.tsv", "--gene-column", "id"], "has no column 'id'"),
        (["a.h5ad", "--labels", "labels.tsv", "--positive", "yes"], "no gene with the label 'yes'"),
    ],
)
def test_bad_genes_input_is_one_line_and_code_2(genes, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(genes)
    bare = anndata.read_h5ad("a.h5ad")
    del bare.obs["mean_expression"]
    bare.write_h5ad("bare.h5ad")
    assert run("genes", *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_help_shows_an_example_and_loads_nothing_heavy(capsys):
    assert run("annotation", "--help") == 0
    assert "Example: corrmask evaluate annotation" in capsys.readouterr().out
    code = (
        "import sys, corrmask.cli.evaluate; "
        "sys.exit(any(one in sys.modules for one in ('sklearn', 'anndata', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
