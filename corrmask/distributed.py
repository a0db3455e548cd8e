"""Several processes that do one piece of work, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from corrmask.errors import InputError

T = TypeVar("T")
_PIECE = 1 << 24  # values of a tensor that are sent together


def is_first() -> bool:
    """Whether this process is the one that prints and writes: it is alone, or of rank 0."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Ranks:
    """The processes at work: which this one is, and what they tell each other. Alone, all of it is free.

    Attributes
    ----------
    rank, world
        This process among how many.
    device
        Where tensors are that are sent: this process's GPU with NCCL, the CPU with gloo.
    """

    rank: int
    world: int
    device: torch.device

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all ranks, in float64."""
        if self.world == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives on rank 0, on all of them.

        Raises
        ------
        InputError
            `work` raised it on rank 0: then it is raised on all, so that none waits for the others.
        """
        if self.world == 1:
            return work()
        result: list[Any] = [None, None]
        if self.rank == 0:
            try:
                result[0] = work()
            except InputError as error:
                result[1] = error
        told = [result[0], None if result[1] is None else str(result[1])]
        dist.broadcast_object_list(told, src=0, device=self.device)
        if told[1] is not None:
            raise result[1] or InputError(told[1])
        return told[0]

    def gather(self, value: T) -> list[T]:
        """What each rank gives, by rank, on all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives on this rank, once it has ended on all.

        Raises
        ------
        InputError
            `work` raised it on any rank: then the first one is raised on all, so that none waits for the others.
        """
        result: Any = None
        fault = None
        try:
            result = work()
        except InputError as error:
            if self.world == 1:
                raise
            fault = error
        for told in self.gather(None if fault is None else str(fault)):
            if told is not None:
                raise InputError(told) from fault
        return result

    def add_up(self, tensor: torch.Tensor) -> None:
        """Sum a tensor over all ranks, in place and in pieces: a copy of it may not fit beside it."""
        if self.world == 1:
            return
        for piece in tensor.view(-1).split(_PIECE):
            there = piece.to(self.device)
            dist.all_reduce(there)
            piece.copy_(there)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()


ALONE = Ranks(0, 1, torch.device("cpu"))


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, over NCCL for CUDA and gloo for the CPU; without it, be alone.

    A group that the caller has set up is used as it is, and stays.
    """
    if not (dist.is_available() and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1)):
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    created = not dist.is_initialized()
    if created:
        _start("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if created:
            dist.destroy_process_group()


def _start(backend: str) -> None:
    """Set up the group of all processes.

    torchrun keeps its store when it starts processes again (seen in torch 2.13), and one that died may be looked for at
    the address that stands there: so on one machine each life has a part of the store to itself. On several, machines
    count their restarts apart, and the store is taken as it is.
    """
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(world):
        store = dist.PrefixStore(f"life {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
