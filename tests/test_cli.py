"""The command line itself: usage errors are one line and exit code 2, whatever typer is built on."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from corrmask.cli.app import main
from corrmask.errors import InputError
from corrmask.files import write_h5ad
from corrmask.tokenization import tokenize


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nope"], "--nope"),
        (["bogus"], "bogus"),
        (["tokenize"], "files"),
        (["tokenize", "x.h5ad"], "--output"),
        (["simulate", "-o", "x.h5ad", "--cells", "abc"], "--cells"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("corrmask: ")
    assert said in err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "tokenize" in "".join(capsys.readouterr())


def cells(genes: list[str]) -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (20, len(genes))).astype(np.float32)))
    adata.var_names, adata.obs_names = genes, [f"c{i}" for i in range(20)]
    return adata


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
