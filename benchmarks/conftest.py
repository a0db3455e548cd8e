"""One benchmark: a contestant checked once, its peak memory taken, then timed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corrmask.bench import machine
from corrmask.bench.timing import Case, Contestant, threads

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # tests/reference.py, the numpy twins

SECONDS, LEAST, MOST = 3.0, 3, 100  # per contestant: about so long, in so many rounds
SLOW = 20.0  # seconds; above them one round is enough
HEAVY = 5e9  # multiplications of a peer for which there is one run in all, timed, measured and checked
THREADS = (1, 2)

_speed: dict[int, dict[str, float]] = {}


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the results stand under: the machine and the versions."""
    machine_info["corrmask"] = machine.describe()


@pytest.fixture
def measure(benchmark: Any) -> Callable[[Case, str, int], None]:
    """Time one contestant of a case, by name, on so many threads."""

    def measure(case: Case, name: str, n_threads: int) -> None:
        one = contestant(case, name)
        with threads(n_threads):
            if n_threads not in _speed:
                _speed[n_threads] = {
                    "copy_bytes_per_second": machine.copy_bandwidth(),
                    "sgemm_flops": machine.sgemm_flops(),
                }
            results: list[Any] = []
            heavy = benchmark.enabled and not one.ours and case.multiply_adds > HEAVY
            run = (lambda: benchmark.pedantic(one.run, rounds=1, iterations=1)) if heavy else one.run
            before = time.perf_counter()
            peak = machine.peak_memory(lambda: results.append(run()))
            seconds = time.perf_counter() - before
            one.check(results.pop())
            if not benchmark.enabled:
                benchmark.pedantic(lambda: None)  # checked, which is all that was asked for
            elif not heavy:
                rounds = 1 if seconds > SLOW else min(MOST, max(LEAST, int(SECONDS / seconds)))
                benchmark.pedantic(one.run, rounds=rounds, iterations=1)
        speed = _speed[n_threads]
        bound, least = case.bound(speed["copy_bytes_per_second"], speed["sgemm_flops"])
        benchmark.group = f"{case.kernel}, {case.size}, {case.dtype}, {n_threads} threads"
        benchmark.extra_info.update(
            kernel=case.kernel,
            size=case.size,
            dtype=case.dtype,
            threads=n_threads,
            cells=case.n_cells,
            name=one.name,
            ours=one.ours,
            restated=one.restated,
            peak_bytes=peak,
            bound=bound,
            bound_seconds=least,
            **speed,
        )

    return measure


def contestant(case: Case, name: str) -> Contestant:
    """A contestant by name ("ours" for ours), or skip where its package is missing."""
    for one in case.contestants:
        if one.name == name or (one.ours and name == "ours"):
            return one
    pytest.skip(f"{name} is not installed")
