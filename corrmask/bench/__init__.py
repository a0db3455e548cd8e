"""The short benchmark: our kernels beside the peers that are installed, on this machine, in about the time asked for.

The long one, over more sizes and on real cells, is the folder ``benchmarks`` of the repository.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from corrmask.bench import cells, machine, packages
from corrmask.bench.binning import binning_case
from corrmask.bench.covariance import Products, covariance_case, edges_case, graph_case
from corrmask.bench.encoding import encoding_case
from corrmask.bench.loading import Cells, loading_case
from corrmask.bench.masking import masking_case, sampling_case
from corrmask.bench.timing import Case, Contestant, Times, compare, threads
from corrmask.errors import InputError
from corrmask.progress import Progress, silent

__all__ = ["Case", "Contestant", "Times", "compare", "row", "run", "threads"]

_MOST_THREADS = 1024
_ROUNDS = 3
# Cells, genes and nonzeros of a cell, each at most so many times the work of the one before.
_COVARIANCE = (
    (1_000, 1_000, 200, 1),
    (2_000, 2_000, 1_500, 100),
    (4_000, 5_000, 1_500, 4),
    (10_000, 10_000, 1_500, 6),
    (20_000, 20_000, 1_500, 6),
)
_ENCODING = (200, 2_000, 10_000)
_LOADING = (1, 32)  # batches of 64 cells


@dataclass(frozen=True)
class _Step:
    """A case to be made, by how much its work exceeds that of the step before, and the memory that it takes."""

    make: Callable[[], Case]
    growth: float = 1.0
    memory_bytes: float = 0.0


def run(seconds: float = 60.0, n_threads: int | None = None, *, progress: Progress = silent) -> dict[str, Any]:
    """Time every kernel, larger sizes as the time allows.

    Parameters
    ----------
    seconds
        About how long; the least rounds are run however long they take.
    n_threads
        Threads; None runs on one and on all that torch uses.
    progress
        Called as progress("bench", cases timed, cases).

    Returns
    -------
    dict
        JSON-safe. ``date``, ``seconds`` (taken), ``settings``; ``machine`` (`corrmask.bench.machine.describe`);
        ``speed``: for each number of threads ``copy_bytes_per_second`` and ``sgemm_flops``; ``missing``: peers that are
        not timed, and why; ``rows``: see `row`.

    Raises
    ------
    InputError
        An argument out of range.
    AssertionError
        A contestant gave a wrong result.
    """
    if not 0 < seconds < 1e6:
        raise InputError(f"bench: 'seconds' must be above 0 and below 1,000,000, got {seconds}")
    if n_threads is not None and not 1 <= n_threads <= _MOST_THREADS:
        raise InputError(f"bench: 'threads' must be in 1 .. {_MOST_THREADS}, got {n_threads}")
    missing = packages.missing()  # imports them, before the clock runs
    started = time.perf_counter()
    counts = sorted({1, torch.get_num_threads()}) if n_threads is None else [n_threads]
    probe = min(0.5, seconds / 40)
    speed: dict[int, dict[str, float]] = {}
    for n in counts:
        with threads(n):
            speed[n] = {
                "copy_bytes_per_second": machine.copy_bandwidth(probe),
                "sgemm_flops": machine.sgemm_flops(probe),
            }
    batch = cells.draw_batch()
    plan = [(n, weight, steps) for weight, steps in _plan(batch) for n in counts]
    rows = []
    progress("bench", 0, len(plan))
    for done, (n, weight, steps) in enumerate(plan):
        left = started + seconds - time.perf_counter()
        share = max(0.0, left) * weight / sum(later for _, later, _ in plan[done:])
        with threads(n):
            for case, times, left_out in _ladder(steps, share):
                rows.append(row(case, times, n, speed[n], left_out))
        progress("bench", done + 1, len(plan))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - started,
        "settings": {"seconds": seconds, "threads": counts},
        "machine": machine.describe(),
        "speed": {str(n): values for n, values in speed.items()},
        "missing": missing,
        "rows": rows,
    }


def row(
    case: Case, times: Times, n_threads: int, speed: dict[str, float], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """One case as a row.

    Parameters
    ----------
    case, times
        What was timed.
    n_threads
        On how many threads.
    speed
        The machine's ``copy_bytes_per_second`` and ``sgemm_flops`` with them.
    left_out
        Contestants for which there was no time.

    Returns
    -------
    dict
        ``kernel``, ``size``, ``dtype``, ``threads``, ``cells``, ``rounds``, ``median_seconds``, ``cells_per_second``;
        ``peers``: ``name``, ``median_seconds``, ``ratio`` (its time over ours; below 1 it wins), ``restated``, the
        fastest first; ``best_peer`` and ``ratio`` of the first of them, or None; ``left_out``; ``roofline``: ``bound``
        ("memory" or "arithmetic"), ``seconds`` that the machine needs at least, ``share`` of it in our time (above 1
        where the work stays in the caches, which copy faster than memory).
    """
    ours = next(one.name for one in case.contestants if one.ours)
    seconds = times.median(ours)
    restated = {one.name: one.restated for one in case.contestants}
    peers: list[dict[str, Any]] = [
        {
            "name": name,
            "median_seconds": times.median(name),
            "ratio": times.median(name) / seconds,
            "restated": restated[name],
        }
        for name in times.rounds
        if name != ours
    ]
    peers.sort(key=lambda peer: peer["median_seconds"])
    bound, least = case.bound(speed["copy_bytes_per_second"], speed["sgemm_flops"])
    return {
        "kernel": case.kernel,
        "size": case.size,
        "dtype": case.dtype,
        "threads": n_threads,
        "cells": case.n_cells,
        "rounds": len(times.rounds[ours]),
        "median_seconds": seconds,
        "cells_per_second": case.n_cells / seconds,
        "peers": peers,
        "best_peer": peers[0]["name"] if peers else None,
        "ratio": peers[0]["ratio"] if peers else None,
        "left_out": list(left_out),
        "roofline": {"bound": bound, "seconds": least, "share": least / seconds},
    }


def _plan(batch: cells.Batch) -> Iterator[tuple[float, list[_Step]]]:
    """The steps of each kernel, and its part of the time."""
    for dtype in ("uint16", "int32", "int64"):
        yield 0.03, [_Step(partial(sampling_case, batch, dtype))]
    yield 0.06, [_Step(partial(masking_case, batch))]
    yield 0.04, [_Step(partial(masking_case, batch, expand=0.0))]
    yield 0.04, [_Step(partial(_binning, 500))]
    growths = [1.0, *(after / before for before, after in pairwise(_ENCODING))]
    yield (
        0.06,
        [_Step(partial(_encoding, n_cells), growth) for n_cells, growth in zip(_ENCODING, growths, strict=True)],
    )
    if packages.has("datasets") and packages.has("pyarrow"):
        corpus = Cells(batch, 4000)
        for masked in (False, True):
            steps = [partial(loading_case, corpus, 64, masked=masked, batches=n, workers=(0,)) for n in _LOADING]
            yield 0.05, [_Step(steps[0]), _Step(steps[1], _LOADING[1] / _LOADING[0])]
    for weight, make in ((0.4, covariance_case), (0.06, edges_case), (0.12, graph_case)):
        # Up to three squares of float64, or float32 ones twice as many, and each nonzero in several widths.
        yield (
            weight,
            [
                _Step(
                    partial(_product, make, n_cells, n_genes, nonzeros),
                    growth,
                    24.0 * n_genes**2 + 60.0 * n_cells * nonzeros,
                )
                for n_cells, n_genes, nonzeros, growth in _COVARIANCE
            ],
        )


def _encoding(n_cells: int) -> Case:
    return encoding_case(cells.draw_counts(n_cells, 20_000, 1_500))


def _binning(n_cells: int) -> Case:
    return binning_case(cells.draw_counts(n_cells, 20_000, 1_500))


def _product(make: Callable[[Products], Case], n_cells: int, n_genes: int, nonzeros: int) -> Case:
    return make(Products(cells.draw_counts(n_cells, n_genes, nonzeros)))


def _ladder(steps: Sequence[_Step], seconds: float) -> Iterator[tuple[Case, Times, list[str]]]:
    """Cases from small to large while they fit; where all peers do not, the fastest of the step before are timed."""
    started, preparation = time.perf_counter(), 0.0
    names: list[str] | None = None
    before: Times | None = None
    ours = ""
    for step in steps:
        if step.memory_bytes > 0.7 * machine.memory_bytes():
            return
        left = seconds - (time.perf_counter() - started)
        if before is not None:
            # One run is checked, then the rounds; a round of ours and of the fastest peer at least.
            cost = {name: before.median(name) * step.growth * (_ROUNDS + 1) for name in before.rounds}
            order = sorted(cost, key=lambda name: (name != ours, cost[name]))
            needed, names = preparation * step.growth, []
            for name in order:
                needed += cost[name]
                if len(names) < 2 or needed <= left:
                    names.append(name)
                if len(names) == min(2, len(order)) and needed > left:
                    return
        begun = time.perf_counter()
        case = step.make()
        preparation = time.perf_counter() - begun
        ours = next(one.name for one in case.contestants if one.ours)
        final = step is steps[-1]
        times = compare(case, left if final else min(left, seconds / 8), least_rounds=_ROUNDS, names=names)
        yield case, times, [one.name for one in case.contestants if one.name not in times.rounds]
        before = times
