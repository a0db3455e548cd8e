"""What goes wrong between the files and the corpus or graph: one line that names it, and nothing half-written."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from corrmask.cli.app import main
from corrmask.corpus import Corpus
from corrmask.errors import InputError, InputWarning
from corrmask.graph import correlation_graph
from corrmask.sources import open_sources
from corrmask.sources.store import StoreReader
from corrmask.tokenization import tokenize

ad = pytest.importorskip("anndata")
pytest.importorskip("datasets")


def make_cells(n_cells: int = 200) -> Any:
    counts = np.random.default_rng(0).poisson(1.0, (n_cells, 30)).astype(np.float32)
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(30)]),
    )


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    zarr = pytest.importorskip("zarr", minversion="3")
    path = tmp_path / "in" / "cells.zarr"
    path.parent.mkdir()
    group = zarr.open_group(path, mode="w", zarr_format=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        ad.io.write_elem(group, "/", make_cells())
        for part in ("data", "indices"):
            values = group["X"][part][:]
            del group["X"][part]
            group["X"].create_array(part, data=values, chunks=(100,), shards=(800,))
    return path


@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize("left", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_shard(
    tmp_path: Path, sharded: Path, part: str, left: float, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = sharded / "X" / part / "c" / "1"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * left)])
    for command in (["tokenize", "-o", str(tmp_path / "out")], ["graph", "-o", str(tmp_path / "out.h5ad")]):
        line = fails([*command, str(sharded)], capsys)
        assert line.startswith(f"corrmask: {sharded}")
        assert "damaged or incomplete" in line
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("left", [0.2, 0.5, 0.95])
def test_a_truncated_file_among_others(tmp_path: Path, left: float, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    files = [tmp_path / "in" / f"{name}.h5ad" for name in "ab"]
    for file in files:
        make_cells().write_h5ad(file, compression="gzip")
    files[1].write_bytes(files[1].read_bytes()[: int(files[1].stat().st_size * left)])
    for command in (["tokenize", "-o", str(tmp_path / "out")], ["graph", "-o", str(tmp_path / "out.h5ad")]):
        line = fails([*command, *map(str, files)], capsys)
        assert str(files[1]) in line
        assert "damaged or incomplete" in line
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_files_without_cells_are_left_out(tmp_path: Path) -> None:
    make_cells().write_h5ad(tmp_path / "full.h5ad")
    make_cells()[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    with pytest.warns(InputWarning, match=r"left out, holding no cells: .*empty\.h5ad"):
        graph = correlation_graph([tmp_path / "empty.h5ad", tmp_path / "full.h5ad"])
    assert graph.provenance["n_cells"] == 200
    with pytest.warns(InputWarning, match="no cells"):
        tokenize(str(tmp_path / "*.h5ad"), tmp_path / "corpus")
    assert Corpus.open(tmp_path / "corpus").n_cells == 200
    with pytest.raises(InputError, match=r"empty\.h5ad: holds no cells"):
        open_sources(tmp_path / "empty.h5ad")


def test_a_corpus_of_one_cell(tmp_path: Path) -> None:
    cells = make_cells(1)
    report = tokenize(cells, tmp_path / "corpus")
    assert (report.n_cells, report.n_tokens) == (1, int((cells.X > 0).sum()))
    batch = Corpus.open(tmp_path / "corpus").batch(np.array([0]), 2048)
    assert batch.input_ids.shape == (1, report.n_tokens)
    assert correlation_graph(cells, min_cells=0, min_corr=0).n_edges == 0


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full answers as a full disk does; np.savez is told of one."""
    (tmp_path / "in").mkdir()
    make_cells().write_h5ad(tmp_path / "in" / "cells.h5ad")
    original = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".arrow":
            return open("/dev/full", mode, *arguments, **options)
        return original(path, mode, *arguments, **options)

    def no_space(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(np, "savez", no_space)
    for command in (["tokenize"], ["graph", "--checkpoint-seconds", "0"]):
        output = tmp_path / "out.h5ad"
        line = fails([*command, "-o", str(output), str(tmp_path / "in" / "cells.h5ad")], capsys)
        assert f"output {str(output)!r}: no space left on the disk" in line
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("error", [ValueError("of ours"), MemoryError()])
def test_what_a_reader_s_thread_raises_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    make_cells().write_h5ad(tmp_path / "cells.h5ad")

    def broken(self: StoreReader, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        raise error

    monkeypatch.setattr(StoreReader, "obs", broken)
    for run in (correlation_graph, lambda data: tokenize(data, tmp_path / "corpus")):
        with pytest.raises(type(error)):
            run(tmp_path / "cells.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]
