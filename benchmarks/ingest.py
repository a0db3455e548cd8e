"""From files to corpus and graph: cells per second, peak memory, and where the time goes.

    python benchmarks/ingest.py --cells 50000            # simulates zarr (zstd) of 20,000 genes in a temporary folder
    python benchmarks/ingest.py --file cells.zarr        # or any file that `corrmask tokenize` reads
    python benchmarks/ingest.py --file cells.zarr --tasks graph

Each run is a process of its own, so that its peak of memory is its own. CPU seconds are of all threads: on a busy
machine they tell more than the clock. Of them come, by the runs that do no more than that: reading the stored bytes,
decompressing them into chunks, checking these; the rest is computing and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def work(task: str, file: str, folder: Path, n_cells: int, n_genes: int) -> int:
    """One task; returns the cells."""
    from corrmask.graph import correlation_graph
    from corrmask.sources import open_sources
    from corrmask.sources.ahead import ahead
    from corrmask.tokenization import CHUNK_NONZEROS, tokenize
    from corrmask.vocabulary import Vocabulary

    if task == "simulate":
        from corrmask.simulation.writing import write_simulation

        return write_simulation(file, n_cells, n_genes=n_genes)[0].n_obs
    (source,) = open_sources(file)
    if task == "stored bytes":  # from the disk or its cache, compressed as they are
        path = Path(file)
        for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if part.is_file():
                part.read_bytes()
    elif task == "decompress":
        jobs = (load for _, load in source.reader.blocks(CHUNK_NONZEROS, 16_384, 0))
        for _ in ahead(jobs):
            pass
    elif task == "read":
        for _ in source.chunks(max_nonzeros=CHUNK_NONZEROS):
            pass
    elif task == "tokenize, medians given":
        genes = source.genes
        tokenize(file, folder / "given", vocabulary=Vocabulary(genes, medians=np.ones(len(genes))))
    elif task == "tokenize, own medians":
        tokenize(file, folder / "own")
    else:
        correlation_graph(file, checkpoint=folder / "part")
    return source.n_cells


READING = ("stored bytes", "decompress", "read")  # each does what the one before does, and more
TASKS = (*READING, "tokenize, medians given", "tokenize, own medians", "graph")
SHARES = ("reading", "decompressing", "checking", "computing")


def shares(task: str, cpu: dict[str, float]) -> str:
    """What part of a task's CPU seconds each kind of work takes."""
    if task in READING or not all(name in cpu for name in READING):
        return ""
    passes = 2 if task == "tokenize, own medians" else 1
    until = [passes * cpu[name] for name in READING] + [cpu[task]]
    return "".join(f"{part / cpu[task]:>15.0%}" for part in np.diff([0.0, *until]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--file", help="cells to read, instead of simulated ones")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.task:
            import datasets  # noqa: F401  # loading packages is no part of the work
            import torch._dynamo  # noqa: F401

            import corrmask.graph
            import corrmask.tokenization  # noqa: F401

            start, cpu = time.perf_counter(), cpu_seconds()
            n_cells = work(given.task, given.file, Path(name), given.cells, given.genes)
            seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
            print(json.dumps({"cells": n_cells, "seconds": seconds, "cpu": cpu, "peak_gb": peak_gb()}))
            return
        file = given.file or str(Path(name) / "cells.zarr")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; shares are of the CPU seconds")
        print(f"{'task':26}{'cells/s':>10}{'seconds':>10}{'CPU s':>8}{'peak GB':>9}", end="")
        print("".join(f"{share:>15}" for share in SHARES))
        cpu_of: dict[str, float] = {}
        for task in [*([] if given.file else ["simulate"]), *given.tasks]:
            command = [sys.executable, "-W", "ignore", __file__, "--file", file, "--task", task]
            command += ["--cells", str(given.cells), "--genes", str(given.genes)]
            row: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            cpu_of[task] = row["cpu"]
            speed = row["cells"] / row["seconds"]
            print(f"{task:26}{speed:>10,.0f}{row['seconds']:>10.1f}{row['cpu']:>8.1f}{row['peak_gb']:>9.2f}", end="")
            print(shares(task, cpu_of), flush=True)


if __name__ == "__main__":
    main()
