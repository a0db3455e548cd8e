"""The command line itself: usage errors are one line and exit code 2, whatever typer is built on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from corrmask.cli.app import _note, main
from corrmask.corpus import Corpus
from corrmask.errors import InputError, InputWarning
from corrmask.files import write_h5ad
from corrmask.gene_graph import GeneGraph
from corrmask.tokenization import tokenize


@pytest.mark.parametrize(
    ("arguments", "said", "command"),
    [
        (["--nope"], "--nope", "corrmask"),
        (["bogus"], "bogus", "corrmask"),
        (["tokenize"], "files", "corrmask tokenize"),
        (["tokenize", "x.h5ad"], "--output", "corrmask tokenize"),
        (["simulate", "-o", "x.h5ad", "--cells", "abc"], "'abc'", "corrmask simulate"),
        (["simulate", "-o", "x.h5ad", "--cells=abc"], "'abc'", "corrmask simulate"),
        (["simulate", "-o", "x.h5ad", "--cells", "abc"], "--cells", "corrmask simulate"),
        (["simulate", "-o", "x.h5ad", "--cells"], "--cells", "corrmask"),
        (["pretrain", "--corpus", "x", "-o", "y"], "--mask", "corrmask pretrain"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str], said: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("corrmask: ")
    assert said in err.lower(), "older typer names arguments in capitals"
    assert err.endswith(f"; see {command} --help\n")


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "tokenize" in "".join(capsys.readouterr())


def cells(genes: list[str]) -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (20, len(genes))).astype(np.float32)))
    adata.var_names, adata.obs_names = genes, [f"c{i}" for i in range(20)]
    return adata


def test_graph_says_what_a_user_may_not_have_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, genes in (("one", ["A", "B", "C"]), ("two", ["B", "C", "D"])):
        adata = cells(genes)
        adata.X = sp.csr_matrix(adata.X.toarray() * (np.arange(20) >= 3)[:, None])
        adata.obs["donor"] = [f"{name}{i}" for i in range(20)]
        write_h5ad(adata, tmp_path / f"{name}.h5ad")
    files = [str(tmp_path / name) for name in ("one.h5ad", "two.h5ad", "graph.h5ad")]
    with pytest.raises(SystemExit) as stop:
        main(["graph", *files[:2], "-o", files[2], "--within", "donor"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "0 edges among 4 genes" in out
    assert "hubs" not in out
    assert "2 different sets of genes and share 2:" in err
    assert "6 cells have no counts" in err
    assert "no edges" in err
    assert "levels of 'donor'" in err


def test_a_warning_is_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    note = partial(_note, lambda message, category: shown.append(str(message)), set())
    for _ in range(2):
        note(InputWarning("few genes"), InputWarning)
        note(UserWarning("of a library"), UserWarning)
    assert capsys.readouterr().err == "corrmask: few genes\n"
    assert shown == ["of a library"] * 2


def test_graph_and_corpus_agree_on_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A symbol with two ids, of which the token dictionary holds the second."""
    ids = [f"ENSG{i:011d}" for i in range(4)]
    (tmp_path / "genes.tsv").write_text(f"gene_id\tsymbol\n{ids[0]}\tA\n{ids[1]}\tA\n{ids[2]}\tB\n{ids[3]}\tC\n")
    tokens = {"<pad>": 0, "<mask>": 1, ids[1]: 2, ids[2]: 3, ids[3]: 4}
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))
    write_h5ad(cells(["A", "B", "C"]), tmp_path / "cells.h5ad")
    named = [str(tmp_path / "cells.h5ad"), "--gene-map", str(tmp_path / "genes.tsv")]
    for arguments in (
        ["tokenize", *named, "-o", str(tmp_path / "corpus"), "--tokens", str(tmp_path / "tokens.json")],
        ["graph", *named, "-o", str(tmp_path / "graph.h5ad"), "--vocabulary", str(tmp_path / "corpus")],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert "--gene-map: 3 names became ids" in capsys.readouterr().err
    assert list(GeneGraph.read(tmp_path / "graph.h5ad").var_names) == ids[1:]
    assert Corpus.open(tmp_path / "corpus").lengths.sum() == (cells(["A", "B", "C"]).X > 0).sum()


def test_missing_levels_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = cells(["A", "B"])
    adata.obs["donor"] = pd.Categorical(["x", None] * 10)
    write_h5ad(adata, tmp_path / "cells.h5ad")
    with pytest.raises(SystemExit) as stop:
        main(["graph", str(tmp_path / "cells.h5ad"), "-o", str(tmp_path / "graph.h5ad"), "--within", "donor"])
    assert stop.value.code == 2
    assert "obs column 'donor' has no value for 10 of 20 cells; give them one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_a_killed_command_clears_up(tmp_path: Path) -> None:
    """SIGTERM while it writes: the output is not there, and nothing beside it."""
    script = (
        "import sys, time\n"
        "from corrmask.files import replacing\n"
        "import corrmask.cli.app as app\n"
        "def slow(*_, **__):\n"
        "    with replacing(sys.argv[1]) as path:\n"
        "        path.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
        "app.app = slow\n"
        "app.main([])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.terminate()
    process.stdout.close()
    assert process.wait() == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_the_package_is_the_command() -> None:
    run = [sys.executable, "-m", "corrmask"]
    helped = subprocess.run([*run, "graph", "--help"], capture_output=True, text=True, check=True)
    assert "corrmask graph" in helped.stdout
    refused = subprocess.run([*run, "graph", "--top-k", "0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("corrmask: ")
    assert refused.stderr.count("\n") == 1


def test_files_without_a_common_gene_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no gene in common"):
        tokenize([cells(["A", "B"]), cells(["ENSG1", "ENSG2"])], tmp_path / "corpus")
    assert not list(tmp_path.iterdir())


def test_what_goes_through_memory_reads_back(tmp_path: Path) -> None:
    adata = cells(["A", "B", "C"])
    adata.obs["type"] = ["x", "y"] * 10
    write_h5ad(adata, tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (back.X != adata.X).nnz == 0
    assert list(back.obs["type"]) == list(adata.obs["type"])
    assert list(back.var_names) == ["A", "B", "C"]
