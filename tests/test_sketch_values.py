"""Counting by gene and bucket: the twin, carries, reach, threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corrmask.ops import sketch_values

FIRST, N_BUCKETS = 1010 * 512, 30 * 512  # from 2**-13 on


def tables(n_genes: int, n_buckets: int = N_BUCKETS) -> tuple[Tensor, Tensor]:
    shape = (n_genes, n_buckets)
    return torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint32)


def counted(low: Tensor, carries: Tensor) -> np.ndarray:
    return low.numpy() + 256 * carries.numpy().astype(np.int64)


def random_chunk(rng: np.random.Generator, n_cells: int, n_columns: int, n_genes: int) -> tuple[np.ndarray, ...]:
    """indptr, indices, counts (some zero), totals, genes of the columns (some -1)."""
    sizes = rng.integers(0, n_columns + 1, n_cells)
    indices = [np.sort(rng.permutation(n_columns)[:size]) for size in sizes]
    genes = np.full(n_columns, -1, dtype=np.int32)
    n_used = min(n_columns, n_genes)
    genes[rng.permutation(n_columns)[:n_used]] = rng.permutation(n_genes)[:n_used]
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    counts = rng.poisson(rng.choice([0.5, 3, 400], indptr[-1])).astype(np.float64)
    totals = np.array([counts[a:b].sum() for a, b in itertools.pairwise(indptr)])
    return indptr, np.concatenate([*indices, np.zeros(0)]).astype(np.int32), counts, totals, genes


def tensors(arrays: tuple[np.ndarray, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(1, 300), st.integers(1, 40))
def test_equals_the_reference(case: int, n_cells: int, n_columns: int, n_genes: int) -> None:
    rng = np.random.default_rng(case)
    low, carries = tables(n_genes)
    expected = np.zeros((n_genes, N_BUCKETS), dtype=np.int64)
    kinds = [(np.int32, np.float32), (np.int64, np.float64), (np.int32, np.int32), (np.int64, np.int64)]
    for index, dtype in kinds:
        indptr, indices, counts, totals, genes = random_chunk(rng, n_cells, n_columns, n_genes)
        chunk = (indptr, indices.astype(index), counts.astype(dtype), totals, genes)
        reach = sketch_values(low, carries, *tensors(chunk), first_bucket=FIRST).tolist()
        wanted = reference.sketch_values(expected, *chunk, first_bucket=FIRST)
        assert tuple(reach) == wanted or (reach[0] > reach[1] and wanted[0] > wanted[1])
    np.testing.assert_array_equal(counted(low, carries), expected)


def test_a_bucket_counts_beyond_a_byte() -> None:
    low, carries = tables(2)
    chunk = (torch.arange(701), torch.zeros(700, dtype=torch.int32), torch.ones(700), torch.full((700,), 5e3).double())
    for _ in range(3):
        sketch_values(low, carries, *chunk, torch.tensor([1], dtype=torch.int32), first_bucket=FIRST)
    bucket = int(np.float64(2).view(np.int64)) >> 43
    assert counted(low, carries)[1, bucket - FIRST] == 2100
    assert counted(low, carries).sum() == 2100
    assert int(low[1, bucket - FIRST]) == 2100 % 256


@pytest.mark.parametrize(("first", "n_buckets"), [(FIRST, 0), (1023 * 512, 4000), (FIRST, 14 * 512), (0, 1)])
def test_nothing_is_counted_out_of_reach(first: int, n_buckets: int) -> None:
    chunk = random_chunk(np.random.default_rng(0), 50, 30, 30)
    low, carries = tables(30, n_buckets)
    reach = sketch_values(low, carries, *tensors(chunk), first_bucket=first).tolist()
    assert reach[0] < first or reach[1] >= first + n_buckets
    assert not low.any()
    low, carries = tables(30, reach[1] - reach[0] + 1)
    assert sketch_values(low, carries, *tensors(chunk), first_bucket=reach[0]).tolist() == reach
    assert counted(low, carries).sum() == (chunk[2] > 0).sum()


def test_what_is_no_value() -> None:
    """Zeros, NaN, negative counts, and cells whose total is zero, infinite or NaN."""
    counts = torch.tensor([0.0, float("nan"), -3, 2, 0, 2, 2], dtype=torch.float64)
    totals = torch.tensor([4, 0, float("inf"), float("nan")], dtype=torch.float64)
    indices = torch.tensor([0, 1, 2, 3, 0, 0, 0])
    low, carries = tables(4)
    chunk = (torch.tensor([0, 4, 5, 6, 7]), indices, counts, totals, torch.arange(4, dtype=torch.int32))
    reach = sketch_values(low, carries, *chunk, first_bucket=FIRST).tolist()
    assert reach == [int(np.float64(5000).view(np.int64)) >> 43] * 2
    assert counted(low, carries).sum() == counted(low, carries)[3].sum() == 1


def test_the_same_for_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    chunk = tensors(random_chunk(np.random.default_rng(1), 400, 700, 900))
    results = []
    for n_threads in (1, 2, 3, 7):
        set_threads(n_threads)
        low, carries = tables(900)
        reach = sketch_values(low, carries, *chunk, first_bucket=FIRST)
        results.append((low, carries, reach))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


def test_opcheck() -> None:
    chunk = tensors(random_chunk(np.random.default_rng(2), 5, 20, 9))
    torch.library.opcheck(torch.ops.corrmask.sketch_values.default, (*tables(9), *chunk), {"first_bucket": FIRST})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("low", torch.zeros(3, 8), ValueError),
        ("low", torch.zeros(8, 3, dtype=torch.uint8).T, ValueError),
        ("low", None, TypeError),
        ("carries", torch.zeros(3, 7, dtype=torch.uint32), ValueError),
        ("carries", torch.zeros(3, 8, dtype=torch.int32), ValueError),
        ("indptr", torch.tensor([0, 2, 4]), ValueError),
        ("indptr", torch.tensor([0, 4, 3]), ValueError),
        ("indices", torch.tensor([0, 3, 0]), ValueError),
        ("indices", torch.tensor([-1, 1, 0]), ValueError),
        ("indices", torch.tensor([1, 0, 0]), ValueError),
        ("indices", torch.tensor([1, 1, 0]), ValueError),
        ("indices", torch.zeros(3), ValueError),
        ("counts", torch.ones(2), ValueError),
        ("counts", None, TypeError),
        ("totals", torch.ones(2), ValueError),
        ("totals", torch.ones(3, dtype=torch.float64), ValueError),
        ("genes", torch.tensor([0, 1, 1], dtype=torch.int32), ValueError),
        ("genes", torch.tensor([0, 1, 3], dtype=torch.int32), ValueError),
        ("genes", torch.tensor([0, 1, -2], dtype=torch.int32), ValueError),
        ("genes", torch.tensor([0, 1, 2]), ValueError),
        ("first_bucket", -1, ValueError),
        ("first_bucket", 1.0, TypeError),
    ],
)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    low, carries = tables(3, 8)
    good: dict[str, Any] = {
        "low": low,
        "carries": carries,
        "indptr": torch.tensor([0, 2, 3]),
        "indices": torch.tensor([0, 1, 0], dtype=torch.int32),
        "counts": torch.tensor([1.0, 2.0, 3.0]),
        "totals": torch.tensor([3.0, 3.0], dtype=torch.float64),
        "genes": torch.tensor([0, 1, 2], dtype=torch.int32),
        "first_bucket": 0,
    }
    sketch_values(**good)
    with pytest.raises(kind, match=rf"^corrmask\.sketch_values: .*'{name}'"):
        sketch_values(**{**good, name: value})
