"""Interrupted runs of tokenize and graph: the same bytes once they are taken up, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp

from corrmask.corpus import Corpus
from corrmask.corpus_writer import CorpusWriter
from corrmask.covariance import Covariance
from corrmask.errors import InputError
from corrmask.graph import correlation_graph
from corrmask.parts import kept_part, part_folder
from corrmask.sources import from_chunks
from corrmask.tokenization import tokenize
from corrmask.vocabulary import Vocabulary

ad = pytest.importorskip("anndata")
pytest.importorskip("datasets")


def write_cells(path: Path, n_cells: int = 110, seed: int = 0, genes: range = range(25)) -> Path:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1, 1, (n_cells, 1)) * np.ones(len(genes))).astype(np.float32)
    ad.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame({"donor": [f"d{i % 3}" for i in range(n_cells)]}, index=[f"c{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"G{i}" for i in genes]),
    ).write_h5ad(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "in").mkdir()
    sets = (range(25), range(3, 28), range(25))
    return [write_cells(tmp_path / "in" / f"{i}.h5ad", seed=i, genes=genes) for i, genes in enumerate(sets)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["tokenize", "-o", "OUTPUT", "--obs", "donor"],
        ["graph", "-o", "OUTPUT.h5ad", "--within", "donor", "--min-corr", "0", "--checkpoint-seconds", "0"],
    ],
    ids=["tokenize", "graph"],
)
def test_killed_at_random_moments(tmp_path: Path, files: list[Path], arguments: list[str]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(work), "3", *arguments]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    undisturbed, *taken_up = json.loads(done.stdout)
    assert sum(kills for kills, _, _ in taken_up) >= 4
    for _, content, names in taken_up:
        assert content == undisturbed[1]
        assert names == undisturbed[2] == [arguments[2].replace("OUTPUT", "output")]


def stop_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, call: int, error: BaseException
) -> Callable[[], int]:
    """The method raises at one of its calls, once; returns how often it was called."""
    original, calls = getattr(owner, method), 0

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(owner, method, stopping)
    return lambda: calls


def test_tokenize_keeps_what_was_written(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenize(files, tmp_path / "whole")
    monkeypatch.setattr("corrmask.corpus_writer.SHARD_CELLS", 100)
    output = tmp_path / "corpus"
    calls = stop_at(monkeypatch, CorpusWriter, "append_ragged", 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        tokenize(files, output)
    stages = []
    report = tokenize(files, output, resume=True, progress=lambda *step: stages.append(step))
    assert stages == [("tokenize", 330, 330)], "medians are kept, and two files of three"
    assert calls() == 4
    whole, corpus = Corpus.open(tmp_path / "whole"), Corpus.open(output)
    assert corpus.hash == whole.hash
    assert report.n_cells == corpus.n_cells == 330
    assert report.n_tokens == whole.lengths.sum()
    assert sorted(path.name for path in output.glob("*.arrow")) == [f"data-{i:05d}.arrow" for i in range(3)]
    assert not part_folder(output).exists()


def test_nothing_is_kept_that_cannot_be_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells in memory cannot be told from others by a later process."""
    write_cells(tmp_path / "cells.h5ad")
    stop_at(monkeypatch, CorpusWriter, "append_ragged", 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        tokenize(ad.read_h5ad(tmp_path / "cells.h5ad"), tmp_path / "corpus")
    assert [one.name for one in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.filterwarnings("ignore:the products of:corrmask.errors.InputWarning")
def test_graph_keeps_what_was_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: bool) -> None:
    files = [write_cells(tmp_path / f"{i}.h5ad", seed=i, genes=range(i, 300 + i)) for i in range(3)]
    options: dict[str, Any] = {
        "checkpoint": tmp_path / "part",
        "checkpoint_seconds": 0,
        "within": ["a"] * 165 + ["b"] * 165,
    }
    if passes:
        monkeypatch.setattr("corrmask.graph.CHUNK_BYTES", 0)
        options["memory"] = "400kB"
    whole = correlation_graph(files, **options)
    for stopped in (2, 5) if passes else (2,):
        with monkeypatch.context() as patch:
            stop_at(patch, Covariance, "update", stopped, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                correlation_graph(files, **options)
            calls = stop_at(patch, Covariance, "update", 10**6, KeyboardInterrupt())
            graph = correlation_graph(files, **options, resume=True)
        assert calls() == 3 * whole.provenance["passes"] - stopped + 1
        assert graph.provenance == whole.provenance
        for name in ("indptr", "indices", "weights"):
            assert getattr(graph, name).tobytes() == getattr(whole, name).tobytes()
        assert not (tmp_path / "part").exists()


@pytest.fixture
def interrupted(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a run that was interrupted in its third file."""
    with monkeypatch.context() as patch:
        stop_at(patch, CorpusWriter, "append_ragged", 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            tokenize(files, tmp_path / "corpus")
    return tmp_path / "corpus"


def test_other_inputs_are_refused(interrupted: Path, files: list[Path]) -> None:
    for options, words in (({"max_len": 9}, "'max_len' .2048, now 9."), ({"obs": ["donor"]}, "another 'obs'")):
        with pytest.raises(InputError, match=words):
            tokenize(files, interrupted, resume=True, **options)
    stat = files[1].stat()
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(files[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # neither size nor time tell that it is another
    with pytest.raises(InputError, match=r"another 'sources'.*--resume") as caught:
        tokenize(files, interrupted, resume=True)
    assert "\n" not in str(caught.value)
    assert part_folder(interrupted).exists(), "a refusal leaves the parts alone"
    files[1].write_bytes(content)
    tokenize(files[:1], interrupted)  # without --resume all is done anew
    assert Corpus.open(interrupted).n_cells == 110


@pytest.mark.parametrize("damage", ["byte", "cut", "lost"])
def test_damaged_parts_are_refused(interrupted: Path, files: list[Path], damage: str) -> None:
    (shard,) = (part_folder(interrupted) / "corpus").glob("*.arrow")
    content = bytearray(shard.read_bytes())
    if damage == "lost":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(content[:-8])
    else:
        tokens = next(pa.ipc.open_stream(content)).column("input_ids").flatten().to_numpy().tobytes()
        content[content.index(tokens) + 3] ^= 1
        shard.write_bytes(content)
    with pytest.raises(InputError, match="parts that were kept are damaged"):
        tokenize(files, interrupted, resume=True)


def test_what_is_in_memory_cannot_be_taken_up(tmp_path: Path) -> None:
    vocabulary = Vocabulary(np.array(["0"]), medians=np.ones(1))
    with pytest.raises(InputError, match="in memory"):
        tokenize(sp.csr_matrix(np.eye(3)), tmp_path / "corpus", vocabulary=vocabulary, resume=True)
    with pytest.raises(InputError, match="'checkpoint'"):
        correlation_graph(sp.csr_matrix(np.eye(3)), resume=True)


def test_a_name_that_is_a_file_s_makes_no_file_of_what_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chunks").write_text("")
    with pytest.raises(InputError, match="chunks is in memory and cannot be told from other cells"):
        correlation_graph(from_chunks([(sp.csr_matrix(np.eye(3)), None)], list("ABC")), checkpoint="part", resume=True)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = (kept_part(tmp_path / "part", {}, resume=resume, resumable=True) for resume in (False, True))
    with first, pytest.raises(InputError, match="another process"):
        second.__enter__()
    assert not (tmp_path / "part").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    counts = sp.csr_matrix(np.eye(3))
    folder = tmp_path / "results"
    (folder / "figures").mkdir(parents=True)
    (folder / "notes.txt").write_text("not ours")
    for resume in (False, True):
        with (
            pytest.raises(InputError, match="holds 'figures', so it is kept"),
            kept_part(folder, {}, resume=resume, resumable=True),
        ):
            pass
    with pytest.raises(InputError, match="choose a new or empty folder"):
        correlation_graph(counts, checkpoint=folder)
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "notes.txt"]
    for path in (folder / "notes.txt", tmp_path / "nowhere" / "part"):
        with pytest.raises(InputError, match=path.name):
            correlation_graph(counts, checkpoint=path)
    assert (folder / "notes.txt").read_text() == "not ours"
