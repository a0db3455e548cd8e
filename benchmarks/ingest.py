"""From files to corpus and graph: cells per second, peak memory, and where the time goes.

    python benchmarks/ingest.py --cells 50000            # simulates zarr (zstd) of 20,000 genes in a temporary folder
    python benchmarks/ingest.py --file cells.zarr        # or any file that `corrmask tokenize` reads

Each run is a process of its own, so that its peak of memory is its own. CPU seconds are of all threads: on a busy
machine they tell more than the clock. "read" is the files alone into chunks (decompressed, checked), without a kernel.
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


def work(task: str, file: str, folder: Path) -> int:
    """One task; returns the cells."""
    from corrmask.graph import correlation_graph
    from corrmask.sources import open_sources
    from corrmask.tokenization import tokenize
    from corrmask.vocabulary import Vocabulary

    (source,) = open_sources(file)
    if task == "stored bytes":  # from the disk or its cache, compressed as they are
        path = Path(file)
        for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if part.is_file():
                part.read_bytes()
    elif task == "read":
        for _ in source.chunks():
            pass
    elif task == "tokenize, medians given":
        genes = source.genes
        tokenize(file, folder / "given", vocabulary=Vocabulary(genes, medians=np.ones(len(genes))))
    elif task == "tokenize, own medians":
        tokenize(file, folder / "own")
    else:
        correlation_graph(file, checkpoint=folder / "part")
    return source.n_cells


TASKS = ("stored bytes", "read", "tokenize, medians given", "tokenize, own medians", "graph")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--file")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.task:
            import datasets  # noqa: F401  # loading packages is no part of the work
            import torch._dynamo  # noqa: F401

            import corrmask.graph
            import corrmask.tokenization  # noqa: F401

            start, cpu = time.perf_counter(), cpu_seconds()
            n_cells = work(given.task, given.file, Path(name))
            seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
            print(json.dumps({"cells": n_cells, "seconds": seconds, "cpu": cpu, "peak_gb": peak_gb()}))
            return
        file = given.file
        if file is None:
            from corrmask.simulation.writing import write_simulation

            file = str(Path(name) / "cells.zarr")
            start = time.perf_counter()
            write_simulation(file, given.cells, n_genes=given.genes)
            print(f"simulated {given.cells:,} cells in {time.perf_counter() - start:.1f} s")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'task':26}{'cells/s':>10}{'seconds':>10}{'CPU s':>8}{'of it reading':>15}{'peak GB':>9}")
        reading: dict[str, Any] = {}
        for task in TASKS:
            command = [sys.executable, "-W", "ignore", __file__, "--file", file, "--task", task]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if task == "read":
                reading = row
            passes = 2 if task == "tokenize, own medians" else 1
            share = f"{passes * reading['cpu'] / row['cpu']:.0%}" if reading and task != "read" else ""
            speed = row["cells"] / row["seconds"]
            print(f"{task:26}{speed:>10,.0f}{row['seconds']:>10.1f}{row['cpu']:>8.1f}{share:>15}{row['peak_gb']:>9.2f}")


if __name__ == "__main__":
    main()
