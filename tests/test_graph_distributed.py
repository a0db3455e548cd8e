"""The graph by two processes over gloo: that of one, each chunk read by one of them, and faults that both hear of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import torch.multiprocessing

from corrmask import graph as graphs
from corrmask.accumulation import Done
from corrmask.distributed import Ranks, joined
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.graph import correlation_graph
from corrmask.sources import Chunk, Source

ad = pytest.importorskip("anndata")
pytest.importorskip("zarr")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device of Linux")

CHUNK_CELLS = 40
BOUND = 1e-5  # of r, by the specification
SETS = (range(300), range(20, 310), range(300))  # genes of each file
CASES: dict[str, dict[str, Any]] = {
    "within": {"within": "donor", "top_k": 400, "min_corr": 0.0, "min_cells": 3},
    "passes": {"memory": "500kB", "top_k": 400, "min_corr": 0.0, "min_cells": 3},
    "files": {"top_k": 5, "mutual": True, "sign": "positive"},  # of one chunk each: a process lacks a set of genes
}


def write_files(folder: Path) -> list[str]:
    """Three files, of other genes and donors: .h5ad by cell and by gene, and zarr."""
    paths = [str(folder / name) for name in ("a.h5ad", "b.h5ad", "c.zarr")]
    for number, (path, genes) in enumerate(zip(paths, SETS, strict=True)):
        rng = np.random.default_rng(number)
        level = rng.gamma(2, 0.5, (130, 1)) * rng.gamma(1, 1, len(genes))
        counts = rng.poisson(level * np.exp(rng.normal(0, 0.7, (130, 6)) @ rng.normal(0, 1, (6, len(genes)))))
        counts[7] = 0
        adata = ad.AnnData(
            (sp.csc_matrix if number == 1 else sp.csr_matrix)(counts.astype(np.float32)),
            obs=pd.DataFrame({"donor": [f"d{(i // 50 + number) % 4}" for i in range(130)]}, index=map(str, range(130))),
            var=pd.DataFrame(index=[f"G{gene}" for gene in genes]),
        )
        if path.endswith(".zarr"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # anndata announces a new default
                adata.write_zarr(path)
        else:
            adata.write_h5ad(path)
    return paths


def build(files: list[str], **options: Any) -> GeneGraph:
    """The graph from small chunks, in passes where a budget is given."""
    with pytest.MonkeyPatch.context() as patch:
        if "min_cells" in options:
            patch.setattr(Source, "chunks", partialmethod(Source.chunks, max_cells=CHUNK_CELLS))
        if "memory" in options:
            patch.setattr(graphs, "CHUNK_BYTES", 0)
        return correlation_graph(files, **options)


def one_of_two(rank: int, folder: Path, files: list[str]) -> None:
    """What a process gets, written down for the test to look at."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "localhost", "MASTER_PORT": (folder / "port").read_text()}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    read, seen = [], {"faults": []}
    add = Done.add

    def noted(self: Done, source: int, chunk: Chunk) -> None:
        read.append([source, chunk.start])
        add(self, source, chunk)

    Done.add = noted  # type: ignore[method-assign]
    with joined(torch.device("cpu")) as ranks:
        for name, options in CASES.items():
            build(files, **options, ranks=ranks).write(folder / f"{name}-{rank}.h5ad")
            seen[name] = list(read)
            read.clear()
        cut = [*files, str(folder / f"d{rank}.h5ad")]  # the second process alone finds a fault
        for wrong in ({"data": cut}, {"data": files, "checkpoint": folder / "part"}):
            try:
                correlation_graph(**wrong, ranks=ranks)
            except InputError as error:
                seen["faults"].append(str(error))
    (folder / f"{rank}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of what two processes left, and the files that they read."""
    folder = tmp_path_factory.mktemp("run")
    files = write_files(folder)
    content = Path(files[0]).read_bytes()
    for rank, length in enumerate((len(content), len(content) // 2)):
        (folder / f"d{rank}.h5ad").write_bytes(content[:length])
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    (folder / "port").write_text(str(store.port))
    del store  # the port is free again
    torch.multiprocessing.spawn(one_of_two, (folder, files), nprocs=2)
    return folder, files


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:the products of:corrmask.errors.InputWarning")
def test_two_processes_give_the_graph_of_one(run: tuple[Path, list[str]], case: str) -> None:
    folder, files = run
    one, two = build(files, **CASES[case]), GeneGraph.read(folder / f"{case}-0.h5ad")
    assert (folder / f"{case}-0.h5ad").read_bytes() == (folder / f"{case}-1.h5ad").read_bytes()
    np.testing.assert_array_equal(one.var_names, two.var_names)
    np.testing.assert_allclose(two.to_scipy().toarray(), one.to_scipy().toarray(), rtol=0, atol=BOUND)
    if case == "files":
        np.testing.assert_array_equal(two.indices, one.indices)
    for name in ("n_cells", "n_empty_cells", "n_genes_in_all_files", "n_gene_sets", "input_hash", "passes"):
        assert two.provenance[name] == one.provenance[name], name
    assert (two.provenance["passes"] > 1) == (case == "passes")
    assert [one.provenance["processes"], two.provenance["processes"]] == [1, 2]
    levels = [dict(zip(graph.provenance["levels"], graph.provenance["level_cells"])) for graph in (one, two)]
    assert levels[0] == levels[1]


def test_every_chunk_is_read_by_one_process(run: tuple[Path, list[str]]) -> None:
    seen = [json.loads((run[0] / f"{rank}.json").read_text()) for rank in range(2)]
    for case in CASES:
        for rank in range(2):
            n_chunks = 1 if case == "files" else 4
            starts = [[s, i * CHUNK_CELLS] for s in range(3) for i in range(n_chunks) if (s + i) % 2 == rank]
            assert seen[rank][case] == starts


def test_both_hear_of_a_fault(run: tuple[Path, list[str]]) -> None:
    for rank in range(2):
        faults = json.loads((run[0] / f"{rank}.json").read_text())["faults"]
        assert len(faults) == 2
        assert "d1.h5ad: damaged or incomplete" in faults[0]
        assert "2 processes keep no 'checkpoint'" in faults[1]
    assert not (run[0] / "part").exists()


# One of the first two processes is killed at its first chunk.
KILLED = """
import os
import signal

from corrmask.accumulation import Done
from corrmask.cli import main

if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
    Done.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def torchrun(folder: Path, script: str, *arguments: str, restarts: int = 0) -> dict[str, Any]:
    """What the command line prints of two processes."""
    pytest.importorskip("typer")
    path = folder / "script.py"
    path.write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--monitor-interval=0.1"]
    launcher += [f"--max-restarts={restarts}", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*launcher, "graph", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_writes_and_prints_once(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    script = "from corrmask.cli import main\n\nmain()\n"
    report = torchrun(run[0], script, *run[1], "-o", str(tmp_path / "graph.h5ad"))
    assert (report["n_cells"], report["n_edges"]) == (390, GeneGraph.read(tmp_path / "graph.h5ad").n_edges)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.h5ad"]


def test_a_killed_process_is_started_again(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    """kill -9 of one of two: torchrun starts both anew, and the graph is that of a run that was left alone."""
    report = torchrun(run[0], KILLED, *run[1], "-o", str(tmp_path / "graph.h5ad"), restarts=1)
    assert report["n_cells"] == 390
    one, two = correlation_graph(run[1]), GeneGraph.read(tmp_path / "graph.h5ad")
    np.testing.assert_array_equal(two.indices, one.indices)
    np.testing.assert_allclose(two.weights, one.weights, rtol=0, atol=BOUND)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.h5ad"]


def test_several_processes_do_not_resume(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typer")
    from corrmask.cli.app import main

    monkeypatch.setattr("corrmask.distributed.joined", lambda _: nullcontext(Told(0, 2, torch.device("cpu"))))
    with pytest.raises(SystemExit) as stop:
        main(["graph", *run[1], "-o", str(tmp_path / "graph.h5ad"), "--resume"])
    assert stop.value.code == 2
    line = "corrmask: --resume: 2 processes keep nothing to go on from; leave it out, or use one\n"
    assert capsys.readouterr().err == line
    assert not list(tmp_path.iterdir())


class Told(Ranks):
    """One of two that tells the other nothing."""

    def first(self, work: Callable[[], Any]) -> Any:
        return work()
