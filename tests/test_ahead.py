"""Chunks that are read on threads: their order, their number, what is raised, what is left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from corrmask.errors import InputError
from corrmask.graph import correlation_graph
from corrmask.sources import open_sources
from corrmask.sources.ahead import ahead
from corrmask.sources.hdf5 import read_slice

ad = pytest.importorskip("anndata")


def assert_soon(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("corrmask")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    def job(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))  # the first of three ends last
        return i

    assert list(ahead((partial(job, i) for i in range(30)), workers=workers)) == list(range(30))
    assert list(ahead([], workers=workers)) == []
    assert not ours()


def test_no_more_results_than_asked_for() -> None:
    lock, alive, most = threading.Lock(), 0, 0

    def job() -> int:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return 1

    for result in ahead((job for _ in range(40)), workers=3, depth=4):
        time.sleep(0.001)
        with lock:
            alive -= result
    assert most <= 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["job", "jobs"])
def test_what_a_thread_raises_arrives_at_its_place(workers: int, place: str) -> None:
    def fail() -> int:
        raise InputError("cell 3 is broken")

    def jobs() -> Iterator[Callable[[], int]]:
        for i in range(10):
            if i == 3 and place == "jobs":
                fail()
            yield fail if i == 3 else partial(int, i)

    results = ahead(jobs(), workers=workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="cell 3"):
        next(results)
    assert not ours()


def test_a_reader_that_is_left_ends_its_threads() -> None:
    results = ahead(repeat(partial(int, 1)), workers=2)
    assert next(results) == 1
    assert ours()
    results.close()
    assert_soon(lambda: not ours())


ABANDONED = """
import gc, threading
from itertools import repeat
from corrmask.sources.ahead import ahead

def collect(maintain=threading._maintain_shutdown_locks):
    gc.collect()  # as may happen wherever memory is asked for
    maintain()

gc.disable()
left = ahead(repeat(int), workers=2)
next(left)
loop = [left]
loop.append(loop)  # for the collector alone
del left, loop
threading._maintain_shutdown_locks = collect
thread = threading.Thread(target=int)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not hasattr(threading, "_maintain_shutdown_locks"), reason="this Python begins threads otherwise")
def test_the_garbage_collector_may_end_it_while_a_thread_begins() -> None:
    """That thread holds what others need to end: to wait for them there would be for ever."""
    subprocess.run([sys.executable, "-c", ABANDONED], check=True, timeout=60)


def make_cells(n_cells: int = 300, n_genes: int = 40, seed: int = 0) -> Any:
    counts = np.random.default_rng(seed).poisson(0.7, (n_cells, n_genes)).astype(np.float32)
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame({"donor": [f"d{i % 3}" for i in range(n_cells)]}, index=[f"c{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]),
    )


@pytest.mark.parametrize("turned", [sp.csr_matrix, sp.csc_matrix, lambda counts: counts.toarray()])
@pytest.mark.parametrize("first_cell", [0, 100])
def test_the_same_chunks_with_and_without_threads(tmp_path: Path, turned: Any, first_cell: int) -> None:
    cells = make_cells()
    cells.X = turned(cells.X)
    cells.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    (source,) = open_sources(tmp_path / "cells.h5ad")
    bounds = {"max_nonzeros": 2000, "max_cells": 50}  # 40 genes: blocks of a dense matrix hold 50 cells as well
    alone = list(source.chunks(["donor"], **bounds, workers=0))
    starts = [chunk.start for chunk in alone]
    first_cell = starts[starts.index(first_cell) if first_cell in starts else len(starts) // 2] if first_cell else 0
    together = list(source.chunks(["donor"], **bounds, workers=3, first_cell=first_cell))
    assert len(together) == len(starts) - starts.index(first_cell) > 2
    for chunk, other in zip(alone[starts.index(first_cell) :], together, strict=True):
        assert chunk.start == other.start
        for part in ("data", "indices", "indptr"):
            assert getattr(chunk.counts, part).tobytes() == getattr(other.counts, part).tobytes()
        pd.testing.assert_frame_equal(chunk.obs, other.obs)


def test_a_damaged_chunk_is_reported_by_the_command_that_reads(tmp_path: Path) -> None:
    cells = make_cells()
    cells.X.data[cells.X.indptr[250]] = 0.5
    cells.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    with pytest.raises(InputError, match=r"cells\.h5ad: cell 250"):
        correlation_graph(tmp_path / "cells.h5ad")
    assert not ours()


@pytest.mark.parametrize("dtype", ["<i4", ">i8", "<f4", ">f8", "u1"])
@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {}, {"fletcher32": True}]
)
def test_slices_of_compressed_data(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).integers(0, 200, 1000).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=(96,), **options)
        sparse = file.create_dataset("b", (1000,), dtype, chunks=(96,), fillvalue=7, compression="gzip")
        sparse[300:310] = 1
        for low, high in ((0, 1000), (95, 97), (96, 192), (500, 500), (990, 1000)):
            got = read_slice(file["a"], low, high)
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, values[low:high])
            np.testing.assert_array_equal(read_slice(sparse, low, high), sparse[low:high])
