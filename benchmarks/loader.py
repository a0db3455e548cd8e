"""Shuffled cells to batches, from a warm and from a cold page cache, beside peers that do the same work.

    python benchmarks/loader.py --cells 200000 --seconds 4

Each run is a process of its own that reads a corpus of 1,490 tokens a cell, padded, masked or not, for so many seconds.
"Cold": before it starts the corpus is flushed and dropped from the page cache (posix_fadvise DONTNEED; less than 1 %
may stay), so that opening and reading wait for the disk; the disk's own cache is not ours to empty. CPU is of all
processes of the run; "others" says how many cores were busy with anything else meanwhile: near 0 the clock can be
trusted.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BATCH, WIDTH, MEAN = 64, 2048, 1480


def draw() -> Any:
    """Cells that stand in the corpus again and again."""
    from corrmask.bench.cells import draw_batch

    return draw_batch(BATCH, WIDTH, MEAN)


def resident(path: Path) -> int:
    """Bytes of a file in the page cache."""
    return int(subprocess.run(["fincore", "-nbo", "RES", path], check=True, capture_output=True, text=True).stdout)


def drop(path: Path) -> None:
    """Flush a file and let the page cache go of it."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def busy_seconds() -> float:
    """CPU seconds of the whole machine so far."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU seconds of this process and of its workers so far."""
    total = 0.0
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for process in [str(os.getpid()), *children]:
        words = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return total


def batches(folder: Path, name: str, masked: bool, threads: int) -> Iterator[Any]:
    """Endless batches of one contestant."""
    import datasets  # noqa: F401  # loading packages is no part of the work

    from corrmask.bench import loading
    from corrmask.corpus import Corpus
    from corrmask.loader import Loader
    from corrmask.masking import CorrMasker

    groups = draw().groups
    if name.startswith("Loader"):
        masker = CorrMasker(groups, loading.RATE) if masked else None
        packed = name.endswith("packed")
        yield None
        corpus = Corpus.open(folder)
        yield from Loader(corpus, BATCH, WIDTH, masker=masker, packed=packed, threads=threads).batches()
    yield None
    cells: Any = SimpleNamespace(folder=folder.parent, groups=groups)
    for found, source, _ in loading.sources(cells, BATCH, masked, (0, threads)):
        if found == name:
            yield from itertools.chain.from_iterable(source for _ in itertools.count())


def run(folder: Path, name: str, masked: bool, threads: int, seconds: float) -> dict[str, float]:
    """Read for so long, once the first batch is there."""
    import torch

    torch.set_num_threads(threads)
    source = batches(folder, name, masked, threads)
    next(source)  # packages are loaded
    before = time.perf_counter()
    next(source)
    opened = time.perf_counter() - before
    cached = sum(resident(path) for path in folder.glob("*.arrow"))
    n, start, own, busy = 0, time.perf_counter(), own_seconds(), busy_seconds()
    while time.perf_counter() - start < seconds:
        next(source)
        n += BATCH
    wall, own, busy = time.perf_counter() - start, own_seconds() - own, busy_seconds() - busy
    found = {"speed": n / wall, "cpu": 1e6 * own / n, "others": max(0.0, busy - own) / wall}
    return found | {"first": opened, "cached": cached / 1e6}


def main() -> None:
    """Write the corpus, run all in turn, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="contestants whose name begins so")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        folder, name, masked = json.loads(given.run)
        print(json.dumps(run(Path(folder), name, masked, given.threads, given.seconds)))
        return
    from corrmask.bench import loading

    with tempfile.TemporaryDirectory() as temporary:
        cells = loading.Cells(draw(), given.cells, Path(temporary))
        folder = cells.folder / "corpus"
        files = list(folder.glob("*.arrow"))
        size = sum(path.stat().st_size for path in files)
        workers = (0, given.threads)
        peers = {masked: [one[0] for one in loading.sources(cells, BATCH, masked, workers)] for masked in (False, True)}
        del cells.corpus  # the page cache keeps what is mapped
        gc.collect()
        print(f"{given.cells:,} cells, {size / 1e6:,.0f} MB, {given.threads} threads or workers, batches of {BATCH}")
        print(f"{'':50}{'cells/s':>10}{'CPU µs':>8}{'others':>8}{'first batch s':>15}{'cached then MB':>16}")
        for _, masked, cold in itertools.product(range(given.rounds), (False, True), (False, True)):
            names = ["Loader, padded", "Loader, packed", *peers[masked]]
            for name in filter(lambda one: one.startswith(given.only), names):
                for path in files if cold else ():
                    drop(path)
                    assert resident(path) < 0.01 * path.stat().st_size
                what = json.dumps([str(folder), name, masked])
                options = ["--threads", str(given.threads), "--seconds", str(given.seconds), "--run", what]
                command = [sys.executable, "-W", "ignore", __file__, *options]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                label = f"{name}{', masked' if masked else ''}, {'cold' if cold else 'warm'}"
                print(
                    f"{label:50}{row['speed']:>10,.0f}{row['cpu']:>8.1f}{row['others']:>8.1f}{row['first']:>15.2f}"
                    f"{row['cached']:>16,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
