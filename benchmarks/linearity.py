"""Whether the graph's time grows in a line with the cells that stream from disk, and its memory not at all.

    python benchmarks/linearity.py    # simulates 100,000 cells of 20,000 genes (zarr, zstd)
    python benchmarks/linearity.py --file cells.zarr --cells 10000 100000 --rounds 3

Each run is a process of its own. Where there are more cells to read than the file has, it is read again, each chunk's
cells in another order: 1,000,000 cells are ten rounds over 100,000. CPU seconds are of all threads, peak memory is the
process's. The line is the one from which the medians lie least far, in shares of its own value.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ingest import cpu_seconds, peak_gb
from scipy.optimize import linprog

SIZES = (10_000, 100_000, 1_000_000)


def stream(source: Any, n_cells: int) -> Iterator[tuple[Any, None]]:
    """The first `n_cells` cells of the source, which is read again as often as it takes."""
    rng, left, again = np.random.default_rng(0), n_cells, False
    while left:
        for chunk in source.chunks():
            counts = chunk.counts[rng.permutation(chunk.counts.shape[0])] if again else chunk.counts
            yield counts[:left], None
            left -= min(left, counts.shape[0])
            if not left:
                break
        again = True


def run(file: str, n_cells: int) -> dict[str, float]:
    """One graph: CPU seconds, seconds and peak memory in GB."""
    from corrmask.graph import correlation_graph
    from corrmask.sources import from_chunks, open_sources

    (source,) = open_sources(file)
    start, cpu = time.perf_counter(), cpu_seconds()
    graph = correlation_graph(from_chunks(lambda: stream(source, n_cells), source.genes, n_cells=n_cells))
    assert graph.provenance["n_cells"] == n_cells
    return {"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - cpu, "peak_gb": peak_gb()}


def nearest_line(cells: np.ndarray, cpu: np.ndarray) -> tuple[float, float]:
    """Seconds of no cells and of each cell, so that max |line / cpu - 1| is as small as can be."""
    rows = np.stack([1 / cpu, cells / cpu], axis=1)
    limits = np.vstack([np.hstack([rows, -np.ones((len(cpu), 1))]), np.hstack([-rows, -np.ones((len(cpu), 1))])])
    found = linprog([0, 0, 1], limits, np.concatenate([np.ones(len(cpu)), -np.ones(len(cpu))]), bounds=(0, None))
    return float(found.x[0]), float(found.x[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--file")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(given.file, given.one)))
        return
    with tempfile.TemporaryDirectory() as name:
        file = given.file
        if file is None:
            from corrmask.simulation.writing import write_simulation

            file = str(Path(name) / "cells.zarr")
            write_simulation(file, min(100_000, max(given.cells)), n_genes=given.genes)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        runs: dict[int, list[dict[str, float]]] = {n: [] for n in given.cells}
        for _ in range(given.rounds):
            for n in given.cells:
                command = [sys.executable, "-W", "ignore", __file__, "--file", file, "--one", str(n)]
                runs[n].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    medians = {n: {key: statistics.median(one[key] for one in of) for key in of[0]} for n, of in runs.items()}
    cells, cpu = np.array(list(medians), dtype=np.float64), np.array([one["cpu"] for one in medians.values()])
    constant, each = nearest_line(cells, cpu)
    print("\n| cells | CPU s | off the line | cells per CPU second | seconds | peak GB |\n|---|---|---|---|---|---|")
    for n, one in medians.items():
        off = one["cpu"] / (constant + each * n) - 1
        print(f"| {n:,} | {one['cpu']:.1f} | {off:+.1%} | {n / one['cpu']:,.0f} ", end="")
        print(f"| {one['seconds']:.1f} | {one['peak_gb']:.2f} |")
    print(f"\nthe line: {constant:.2f} s and {each * 1e6:.0f} microseconds for each cell; medians of {given.rounds}")


if __name__ == "__main__":
    main()
