"""Contestants side by side: what is timed, and how."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from corrmask.bench import packages
from corrmask.threads import torch_threads

MOST_ROUNDS = 200


@dataclass(frozen=True)
class Contestant:
    """One way of doing the work of a case.

    Attributes
    ----------
    name
        Of ours the operator's, else the package and its function.
    run
        Does the work once.
    check
        Raises AssertionError where what `run` gave is wrong.
    ours
        Whether it is corrmask.
    restated
        Whether it is written here after a published procedure, not the package itself.
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], None]
    ours: bool = False
    restated: bool = False


@dataclass(frozen=True)
class Case:
    """One kernel on one input.

    Attributes
    ----------
    kernel, size, dtype
        What is printed of it.
    n_cells
        Cells of the input.
    contestants
        Ours first.
    bytes_moved
        What must be read and written at least: inputs once, results once.
    multiply_adds
        What must be multiplied at least; 0 where the work is not arithmetic.
    """

    kernel: str
    size: str
    dtype: str
    n_cells: int
    contestants: Sequence[Contestant]
    bytes_moved: float
    multiply_adds: float = 0.0

    def bound(self, bytes_per_second: float, flops: float) -> tuple[str, float]:
        """Which limit of the machine is the nearer one ("memory" or "arithmetic"), and its seconds."""
        memory, arithmetic = self.bytes_moved / bytes_per_second, 2 * self.multiply_adds / flops
        return ("arithmetic", arithmetic) if arithmetic > memory else ("memory", memory)


@dataclass
class Times:
    """Seconds of each contestant by name, and of the first run, which was checked and is not counted."""

    first: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Median seconds."""
        return statistics.median(self.rounds[name])


@contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads for torch, for the BLAS under numpy and scipy and for MKL; afterwards as before."""
    with ExitStack() as stack:
        stack.enter_context(torch_threads(n))
        if packages.has("threadpoolctl"):
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(n, user_api="blas"))
        if (mkl := packages.sparse_dot_mkl()) is not None:
            stack.callback(mkl.mkl_set_num_threads, mkl.mkl_get_max_threads())
            mkl.mkl_set_num_threads(n)
        yield


def compare(case: Case, seconds: float, *, least_rounds: int = 3, names: Sequence[str] | None = None) -> Times:
    """Time the contestants of a case in turns, so that a change of the machine's pace meets all of them.

    Parameters
    ----------
    case
        What to time.
    seconds
        About how long.
    least_rounds
        Rounds that are run however long they take.
    names
        The contestants to time; None times all.

    Raises
    ------
    AssertionError
        A contestant's first result is wrong.
    """
    started = time.perf_counter()
    chosen = [one for one in case.contestants if names is None or one.name in names]
    times = Times()
    for one in chosen:
        before = time.perf_counter()
        result = one.run()
        times.first[one.name] = time.perf_counter() - before
        one.check(result)
        del result
    round_seconds = sum(times.first.values())
    times.rounds = {one.name: [] for one in chosen}
    for done in range(MOST_ROUNDS):
        if done >= least_rounds and time.perf_counter() - started + round_seconds > seconds:
            break
        # Who follows whom changes with each round: what one leaves in the caches is not always the same one's gain.
        turn = done % len(chosen)
        for one in [*chosen[turn:], *chosen[:turn]]:
            before = time.perf_counter()
            result = one.run()
            times.rounds[one.name].append(time.perf_counter() - before)
            del result
    return times
