"""Two processes over gloo: sums, what the first one finds, faults that all hear of."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.multiprocessing

from corrmask.distributed import ALONE, is_first, joined
from corrmask.errors import InputError


def refuse():
    raise InputError("the folder is full; empty it")


def one_of_two(rank, folder):
    """What a process sees, written down for the test to look at."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "localhost", "MASTER_PORT": (folder / "port").read_text()}
    with joined(torch.device("cpu")) as ranks:
        seen = {"rank": ranks.rank, "world": ranks.world, "is_first": is_first()}
        seen["sum"] = ranks.sum([1 + rank, 2**53 - 1 - rank * 2**53, 0.1])
        seen["first"] = ranks.first(lambda: f"from {rank}")
        try:
            ranks.first(refuse)
        except InputError as error:
            seen["error"] = str(error)
        ranks.barrier()
    assert not torch.distributed.is_initialized()
    (folder / f"{rank}.json").write_text(json.dumps(seen))


def test_two_processes(tmp_path):
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    (tmp_path / "port").write_text(str(store.port))
    del store  # the port is free again
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "rank": rank,
            "world": 2,
            "is_first": rank == 0,
            "sum": [3.0, 2.0**53 - 2, 0.2],
            "first": "from 0",
            "error": "the folder is full; empty it",
        }


def test_alone_there_is_nobody_to_wait_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks == ALONE
        assert not torch.distributed.is_initialized()
    assert is_first()
    assert ALONE.sum([2, 0.5]) == [2.0, 0.5]
    assert ALONE.first(lambda: 3) == 3
    with pytest.raises(InputError, match="is full"):
        ALONE.first(refuse)
    ALONE.barrier()
