"""Work done ahead of its use: chunks are read and decompressed on threads while the kernels compute."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import TypeVar

from corrmask.threads import lone_threads

Result = TypeVar("Result")

READERS = min(4, os.cpu_count() or 1)  # beyond that the disk or the kernels are what one waits for


def ahead(
    jobs: Iterable[Callable[[], Result]], *, workers: int = READERS, depth: int | None = None
) -> Generator[Result, None, None]:
    """Run jobs on threads and yield their results in the order of the jobs.

    Parameters
    ----------
    jobs
        Taken one by one on a thread of their own, so that what they need in common may be read there.
    workers
        Threads that run jobs, torch's operators on one each; 0 runs jobs in the caller's, when their turn comes.
    depth
        Most results there are at a time, in the making, waiting or in use; by default two more than `workers`.

    Raises
    ------
    Exception
        What a job, or `jobs` itself, raises, at its place in the order. No thread is left behind then, nor at the end.
        Where the iterator is left or closed before, they end with the jobs that they are at.
    """
    if workers == 0:
        for job in jobs:
            yield job()
        return
    waiting: queue.SimpleQueue[Future[Result | None] | None] = queue.SimpleQueue()
    room: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike a semaphore's, its calls never wait for one another
    for _ in range(depth or workers + 2):
        room.put(None)
    stopped = False

    def run(job: Callable[[], Result]) -> Result | None:
        return None if stopped else job()

    def feed() -> None:
        with pool:
            try:
                taken = iter(jobs)
                while True:
                    room.get()  # before the job is taken: it may hold memory
                    if stopped:
                        break
                    try:
                        job = next(taken)
                    except StopIteration:
                        break
                    waiting.put(pool.submit(run, job))
            except BaseException as error:
                failed: Future[Result | None] = Future()
                failed.set_exception(error)
                waiting.put(failed)
            finally:
                waiting.put(None)

    pool = lone_threads(workers, "corrmask-read")
    feeder = threading.Thread(target=feed, name="corrmask-feed", daemon=True)
    feeder.start()
    waits = True
    try:
        while (future := waiting.get()) is not None:
            result = future.result()
            del future
            yield result  # type: ignore[misc]  # None comes of jobs alone that nobody waits for
            del result  # the caller has asked for the next one
            room.put(None)
    except GeneratorExit:  # perhaps from the garbage collector, in any thread, whatever that holds: do not wait
        waits = False
        raise
    finally:
        stopped = True
        room.put(None)
        if waits:
            feeder.join()
