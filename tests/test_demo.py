"""Everything in order on simulated cells: all artefacts, a second run that trains nothing, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("datasets")
pytest.importorskip("transformers")
pytest.importorskip("igraph")
pytest.importorskip("typer")

import anndata

from corrmask import GeneGraph, InputError
from corrmask.cli.app import main
from corrmask.demo import DemoSettings, run_demo
from corrmask.demo.content import command
from corrmask.model import load_model
from corrmask.simulation import simulate

TINY = ["--steps", 4, "--hidden", 8, "--heads", 2, "--layers", 1, "--max-len", 24]
STAGES = ["tokenize", "graph", "audit", "pretrain random", "pretrain corr", "embed", "evaluate"]
pytestmark = pytest.mark.filterwarnings("ignore:.*IProgress:Warning", "ignore:n_jobs value:UserWarning")


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["demo", *map(str, arguments)])
    said = capsys.readouterr()
    return caught.value.code, said.out, said.err


@pytest.fixture(autouse=True)
def principal_components(monkeypatch):
    """UMAP takes half a minute to compile; `project` has tests of its own."""
    monkeypatch.setattr("corrmask.report.projection.MOST_CELLS_OF_UMAP", 0)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """200 cells of two donors, a fifth without a label, and classes of 60 genes."""
    folder = tmp_path_factory.mktemp("cells")
    adata = simulate(200, 150, 3, 1, n_modules=6, module_size=10, n_markers=5, depth=600, seed=1)
    kinds = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    kinds[::5] = "unknown"
    adata.obs["kind"] = pd.Categorical(kinds)
    adata.obs["donor"] = pd.Categorical(["a", "b"] * 100)
    adata.write_h5ad(folder / "cells.h5ad")
    rows = [f"{gene}\t{'sensitive' if i % 2 else 'insensitive'}" for i, gene in enumerate(adata.var_names[:60])]
    (folder / "genes.tsv").write_text("\n".join(["gene\tlabel", *rows]) + "\n")
    return folder


def options(cells: Path) -> list[object]:
    data = ["--data", cells / "cells.h5ad", "--label", "kind", "--unlabelled", "unknown", "--within", "donor"]
    return [*data, "--labels", cells / "genes.tsv", "--arms", "random,corr", "--thin", "type_1=0.1", *TINY]


def full_disk(*arguments, **options):
    raise InputError("no space left on the disk")


def test_leaves_everything_and_resumes(cells, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    threads = torch.get_num_threads()
    code, out, err = run(capsys, *options(cells), "--threads", 1, "-o", output, "--json")
    assert code == 0, err
    assert torch.get_num_threads() == threads
    result = json.loads(out)
    assert result["resumed"] == []
    assert list(result["seconds"]) == [*STAGES, "page"]
    assert set(result["leakage"]) == {"random", "weighted", "corr", "levelled", "module", "rewired"}
    names = {"random", "corr", "untrained", "PCA of log-counts", "HVG"}
    assert {score["representation"] for score in result["scores"]} == names
    for i, stage in enumerate([*STAGES, "page"], start=1):
        assert f"[{i}/{len(STAGES) + 1}] {stage}" in err

    assert GeneGraph.read(output / "graph.h5ad").provenance["parameters"]["within"] == "donor"
    assert json.loads((output / "audit" / "audit.json").read_text())["kind"] == "audit"
    embedded = anndata.read_h5ad(output / "cells.h5ad")
    given = anndata.read_h5ad(cells / "cells.h5ad")
    np.testing.assert_array_equal(embedded.X.toarray(), given.X.toarray())
    assert list(embedded.obs["kind"]) == list(given.obs["kind"])
    for arm in ("random", "corr", "untrained"):
        model, _ = load_model(output / "models" / arm)
        assert model.config.hidden_size == 8
        assert embedded.obsm[f"X_{arm}"].shape == (200, 8)
    assert not np.allclose(embedded.obsm["X_random"], embedded.obsm["X_corr"])
    assert anndata.read_h5ad(output / "genes" / "corr.h5ad").obs["mean_expression"].gt(0).all()
    evaluation = json.loads((output / "evaluation.json").read_text())
    assert evaluation["annotation"]["cells"]["unlabelled"] == 40
    assert evaluation["annotation"]["settings"]["within"] is True
    assert sum(evaluation["genes"]["genes"]["found"].values()) > 30
    page = (output / "index.html").read_text()
    for words in ("cells.h5ad", "type_1", "rare_0", "expression level", "Thinned in a", "--within donor"):
        assert words in page
    assert "unknown (" not in page
    record = json.loads((output / "settings.json").read_text())
    assert record["settings"]["steps"] == 4
    assert sorted(record["stages"]) == sorted(STAGES)

    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    code, out, _ = run(capsys, *options(cells), "--threads", 1, "-o", output, "--json")
    assert code == 0
    again = json.loads(out)
    assert again["resumed"] == STAGES
    assert {name: again[name] for name in ("scores", "findings")} == {
        name: result[name] for name in ("scores", "findings")
    }
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {output / "index.html"}

    (output / "evaluation.json").unlink()  # a stage that was lost is made again, and nothing before it
    code, out, _ = run(capsys, *options(cells), "--threads", 1, "-o", output, "--json")
    assert json.loads(out)["resumed"] == STAGES[:-1]
    assert json.loads((output / "evaluation.json").read_text()) == evaluation

    code, out, err = run(capsys, *options(cells), "--threads", 1, "--seed", 1, "-o", output)
    assert (code, out) == (2, "")
    assert "other settings (seed)" in err
    assert len(err.splitlines()) == 1
    assert {
        path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name == "model.safetensors"
    }.items() <= (before.items())
    monkeypatch.setattr("corrmask.tokenization.tokenize", full_disk)
    code, out, err = run(capsys, *options(cells), "--threads", 1, "--seed", 1, "-o", output, "--overwrite")
    assert (code, out) == (2, "")
    assert err.splitlines()[1:] == ["corrmask: no space left on the disk"]
    assert not output.exists()  # begun anew, and nothing finished


def test_killed_in_training_goes_on(cells, tmp_path):
    """A run that dies in the second arm keeps what was finished, and ends as one never stopped."""
    settings = DemoSettings(
        data=str(cells / "cells.h5ad"),
        label="cell_type",
        arms=("random", "corr"),
        steps=4,
        hidden=8,
        heads=2,
        layers=1,
        max_len=24,
        threads=1,
    )

    def stop(stage, done, total):
        if stage == "pretrain corr" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "stopped", settings, progress=stop)
    assert (tmp_path / "stopped" / "corpus").is_dir()
    assert not (tmp_path / "stopped" / "index.html").exists()
    stages = []
    result = run_demo(tmp_path / "stopped", settings, note=stages.append)
    assert result["resumed"] == STAGES[:4]
    assert stages[0] == "[5/8] pretrain corr"
    whole = run_demo(tmp_path / "whole", settings)
    assert result["scores"] == whole["scores"]
    for arm in ("random", "corr"):
        weights = [tmp_path / run / "models" / arm / "model.safetensors" for run in ("stopped", "whole")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--label", "colour"], "no column 'colour'"),
        (["--within", "batch"], "no column 'batch'"),
        (["--unlabelled", "nobody"], "no cell has the label 'nobody'"),
        (["--thin", "nobody=0.1"], "nobody"),
        (["--thin", "type_1"], "TYPE=FRACTION"),
        (["--arms", "random,weighted"], "'corr' must be among --arms"),
        (["--arms", "random,best"], "'best' is unknown"),
        (["--arms", "random,corr,corr"], "names one twice"),
        (["--steps", 0], "'steps' must be a whole number of at least 1"),
        (["--heads", 3], "'hidden' must be a multiple of 'heads'"),
        (["--rate", 2], "'rate' must be in"),
        (["--top-k", 0], "--top-k must be at least 1"),
        (["--min-corr", 2], "--min-corr in 0 .. 1"),
        (["--normalized"], "log1p"),
        (["--matrix", "layers/none"], "none"),
        (["--labels", "missing.tsv"], "no such file"),
        (["--data", "missing.h5ad"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(cells, tmp_path, capsys, changed, said):
    code, out, err = run(capsys, *options(cells), *changed, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_normalised_values_without_saying_so(cells, tmp_path, capsys):
    adata = anndata.read_h5ad(cells / "cells.h5ad")
    adata.X = adata.X.log1p()
    adata.write_h5ad(tmp_path / "logs.h5ad")
    code, _, err = run(capsys, "--data", tmp_path / "logs.h5ad", "--label", "kind", "-o", tmp_path / "out")
    assert code == 2
    assert "--normalized" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(cells, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = run(capsys, *options(cells), "-o", tmp_path / "mine", "--overwrite")
    assert code == 2
    assert "holds no demo" in err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    code, _, err = run(capsys, *options(cells), "-o", tmp_path / "nowhere" / "out")
    assert code == 2
    assert "does not exist" in err


def test_no_stage_finished_no_folder(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("corrmask.tokenization.tokenize", full_disk)
    with pytest.raises(InputError, match="no space"):
        run_demo(tmp_path / "out", DemoSettings(data=str(cells / "cells.h5ad"), label="kind"))
    assert list(tmp_path.iterdir()) == []


def test_gene_labels_are_part_of_the_input(cells, tmp_path):
    from corrmask.demo.cells import read_cells

    table = tmp_path / "genes.tsv"
    settings = DemoSettings(data=str(cells / "cells.h5ad"), label="kind", gene_labels=str(table)).resolve()
    hashes = set()
    for label in "ab":
        table.write_text(f"gene\tlabel\ng0\t{label}\ng1\tc\n")
        hashes.add(read_cells(settings)[1])
    assert len(hashes) == 2


def test_command_repeats_the_settings(cells, tmp_path, monkeypatch):
    assert command(DemoSettings().resolve(), Path("demo")) == "corrmask demo -o demo"
    settings = DemoSettings(
        data="my cells.h5ad",
        label="kind",
        normalized=True,
        gene_labels="genes.tsv",
        thin={"NK": 0.01, "B": 0.5},
        arms=("random", "corr"),
        steps=5,
        top_k=3,
    ).resolve()
    line = command(settings, Path("out"))
    assert line == (
        "corrmask demo --data 'my cells.h5ad' --label kind --normalized --labels genes.tsv --thin NK=0.01 --thin B=0.5 "
        "--arms random,corr --steps 5 --top-k 3 -o out"
    )
    import shlex

    taken = {}
    monkeypatch.setattr("corrmask.demo.run_demo", lambda output, settings, **_: taken.update(it=settings) or {})
    with pytest.raises((SystemExit, KeyError)):
        main(shlex.split(line)[1:])
    assert taken["it"].resolve() == settings


def test_default_cells():
    """The cells inside the scanpy package, read without importing it."""
    from corrmask.demo.cells import built_in_path, read_cells

    try:
        built_in_path()
    except InputError:
        pytest.skip("scanpy is not installed")
    code = (
        "import sys; from corrmask.demo import DemoSettings; from corrmask.demo.cells import read_cells; "
        "cells, _ = read_cells(DemoSettings().resolve()); print(cells.shape); assert 'scanpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(700, 765)", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cells, fingerprint = read_cells(DemoSettings().resolve())
    assert cells.obs["bulk_labels"].nunique() == 10
    assert len(fingerprint) == 32
