"""Threads of torch: how many an operator uses, and pools of threads whose operators use one each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """So many threads for the operators of this thread, afterwards as before; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def lone_threads(n: int, name: str) -> ThreadPoolExecutor:
    """A pool of threads whose operators run on one thread: else each of them would start as many as torch has."""
    ready = threading.Barrier(n + 1)

    def alone() -> None:
        torch.get_num_threads()  # takes over torch's number, which would else happen at the first operator
        torch.set_num_threads(1)
        ready.wait()

    n_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(n, name, alone)
    for _ in range(n):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(n_threads)  # for the threads that others start from now on
    return pool
