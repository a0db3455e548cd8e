"""The CUDA kernels of rank encoding and binning, thread by thread on a CPU: the same as the operators'."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from emulated import library, pointer
from torch import Tensor

from corrmask.ops import bin_values, rank_encode

WORD = ctypes.c_int64
KINDS = ["counts", "alike", "reversed", "far apart"]


def cells(kind: str, sizes: list[int], n_genes: int) -> tuple[Tensor, Tensor, Tensor]:
    """indptr, indices and values of cells of these sizes, columns in any order, values of one kind."""
    rng = np.random.default_rng(sum(sizes))
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    indices = np.concatenate([np.zeros(0, int), *(rng.permutation(n_genes)[:n] for n in sizes)]).astype(np.int32)
    n = len(indices)
    values = {
        "counts": rng.geometric(0.5, n) - (rng.random(n) < 0.1),
        "alike": 1 + rng.permutation(n) * np.finfo(np.float64).eps,  # distinct behind what an item holds
        "reversed": 1 + np.arange(n) * np.finfo(np.float64).eps,
        "far apart": np.exp(rng.uniform(-600, 600, n)),
    }[kind].astype(np.float64)
    return torch.from_numpy(indptr), torch.from_numpy(indices), torch.from_numpy(values)


def launches(in_global_memory: bool, n_threads: int, schedule: int = 3) -> list[tuple[Any, ...]]:
    """Small cells by one launch, the larger ones by another, as cell_tiers.cuh has it."""
    end = (ctypes.c_int(in_global_memory), ctypes.c_uint(2), ctypes.c_uint(n_threads), ctypes.c_uint64(schedule))
    return [(WORD(-1), WORD(64), ctypes.c_int(0), *end), (WORD(64), WORD(300), ctypes.c_int(1), *end)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("in_global_memory", "n_threads"), [(False, 32), (True, 64), (False, 128)])
def test_ranks_equal_the_operators(kind: str, in_global_memory: bool, n_threads: int) -> None:
    n_genes, max_len = 300, 200
    indptr, indices, counts = cells(kind, [0, 1, 2, 3, 63, 64, 65, 300], n_genes)
    rng = np.random.default_rng(1)
    medians = torch.from_numpy(rng.choice([0.5, 1.0, 3.0], n_genes) if kind == "counts" else np.ones(n_genes))
    tokens = torch.from_numpy(np.where(rng.random(n_genes) < 0.2, -1, rng.permutation(n_genes)).astype(np.int32))
    ids, lengths = torch.full((8, max_len), 77, dtype=torch.int32), torch.full((8,), 77)
    for launch in launches(in_global_memory, n_threads):
        library("ranking").rank_encode(
            *(pointer(tensor) for tensor in (indptr, indices, counts)),
            WORD(8),
            pointer(medians),
            pointer(tokens),
            WORD(n_genes),
            WORD(max_len),
            ctypes.c_int32(9),
            pointer(ids),
            pointer(lengths),
            *launch,
        )
    expected = rank_encode(indptr, indices, counts, medians, tokens, max_len=max_len, pad_id=9)
    assert torch.equal(ids, expected[0])
    assert torch.equal(lengths, expected[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("in_global_memory", "n_threads", "n_bins"), [(False, 32, 51), (True, 64, 51), (False, 64, 2)])
def test_bins_equal_the_operators(kind: str, in_global_memory: bool, n_threads: int, n_bins: int) -> None:
    sizes = [0, 1, 2, 3, 63, 64, 65, 300]
    indptr, indices, values = cells(kind, sizes, 300)
    cell_ids, seed = torch.arange(8) * 2**40, torch.tensor(2**62 + 5)
    bins = torch.full((sum(sizes),), 77, dtype=torch.int32)
    for launch in launches(in_global_memory, n_threads):
        library("ranking").bin_values(
            *(pointer(tensor) for tensor in (indptr, indices, values)),
            WORD(8),
            pointer(cell_ids),
            pointer(seed),
            WORD(3),
            WORD(n_bins),
            pointer(bins),
            *launch,
        )
    assert torch.equal(bins, bin_values(indptr, indices, values, cell_ids, seed=seed, epoch=3, n_bins=n_bins))


def test_what_a_kernel_cannot_raise_for() -> None:
    """Columns out of range, counts that are none, and genes whose median is none are not ranked."""
    indptr, indices = torch.tensor([0, 8]), torch.tensor([0, 1, 2, 3, -1, 9, 4, 5], dtype=torch.int32)
    counts = torch.tensor([1.0, 2.0, float("nan"), -1.0, 5.0, 5.0, 3.0, 0.5], dtype=torch.float64)
    medians = torch.tensor([1.0, float("nan"), 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    tokens = torch.arange(10, 16, dtype=torch.int32)
    ids, lengths = torch.full((1, 4), 77, dtype=torch.int32), torch.full((1,), 77)
    for launch in launches(False, 32):
        library("ranking").rank_encode(
            *(pointer(tensor) for tensor in (indptr, indices, counts)),
            WORD(1),
            pointer(medians),
            pointer(tokens),
            WORD(6),
            WORD(4),
            ctypes.c_int32(0),
            pointer(ids),
            pointer(lengths),
            *launch,
        )
    assert ids.tolist() == [[10, 15, 0, 0]]
    assert lengths.tolist() == [2]
