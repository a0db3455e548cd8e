"""Value binning: the twin, scGPT's own procedure, properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corrmask.ops import bin_values

KINDS = ["counts", "few", "continuous", "log"]


def random_cells(rng: np.random.Generator, n_cells: int, n_genes: int, kind: str) -> tuple[np.ndarray, ...]:
    """indptr, indices (in any order), values (some zero), cell ids."""
    sizes = rng.integers(0, n_genes + 1, n_cells)
    n = int(sizes.sum())
    values = {
        "counts": lambda: rng.poisson(rng.choice([0.5, 3, 40], n)).astype(np.float64),
        "few": lambda: rng.choice([0.0, 1.0, 2.0], n),
        "continuous": lambda: rng.random(n) * 9,
        "log": lambda: np.log1p(rng.poisson(2.0, n) * 1e4 / 3333.0),
    }[kind]()
    indices = np.concatenate([*(rng.permutation(n_genes)[:size] for size in sizes), np.zeros(0)]).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return indptr, indices, values, rng.integers(0, 2**62, n_cells)


def run(arrays: tuple[np.ndarray, ...], **options: Any) -> np.ndarray:
    bins = bin_values(*(torch.from_numpy(array) for array in arrays), **options)
    assert bins.dtype == torch.int32
    return bins.numpy()


@settings(max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 5),
    st.integers(1, 300),
    st.sampled_from(KINDS),
    st.sampled_from([2, 3, 7, 51]),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**28 - 1),
)
def test_equals_the_reference(
    case: int, n_cells: int, n_genes: int, kind: str, n_bins: int, seed: int, epoch: int
) -> None:
    indptr, indices, values, cell_ids = random_cells(np.random.default_rng(case), n_cells, n_genes, kind)
    options = {"n_bins": n_bins, "seed": seed, "epoch": epoch}
    for index in (np.int32, np.int64):
        arrays = (indptr, indices.astype(index), values, cell_ids)
        np.testing.assert_array_equal(run(arrays, **options), reference.bin_values(*arrays, **options))
    if kind in ("counts", "few"):
        for dtype in (np.float32, np.int32, np.int64):
            same = run((indptr, indices, values.astype(dtype), cell_ids), **options)
            np.testing.assert_array_equal(same, run((indptr, indices, values, cell_ids), **options))


def scgpt_bins(row: np.ndarray, n_bins: int, rng: np.random.Generator) -> np.ndarray:
    """What scGPT publishes (preprocessing, `binning` and `_digitize` with side "both"), restated."""
    bins = np.quantile(row, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(row, bins), np.digitize(row, bins, right=True)
    return np.ceil(rng.random(len(row)) * (right - left) + left).astype(np.int64)


def test_bins_spread_as_scgpt_spreads_them() -> None:
    """Counts of few values: equal ones go to the same bins with the same chances."""
    rng = np.random.default_rng(0)
    row = rng.poisson(1.5, 400).astype(np.float64)
    row = row[row > 0]
    n, n_draws = len(row), 3000
    theirs = np.array([scgpt_bins(row, 51, rng) for _ in range(n_draws)])
    arrays = (np.array([0, n]), np.arange(n, dtype=np.int32), row, np.array([7]))
    ours = np.array([run(arrays, n_bins=51, seed=3, epoch=epoch) for epoch in range(n_draws)])
    assert ours.min() == 1
    assert ours.max() == 50
    for value in np.unique(row):
        a, b = (np.bincount(drawn[:, row == value].ravel(), minlength=51) for drawn in (ours, theirs))
        assert ((a > 0) == (b > 0)).all(), "the same bins"
        share = (a + b) / 2
        assert (np.abs(a - b) <= 6 * np.sqrt(2 * share) + 1).all(), "with the same chances"


def test_distinct_values_need_no_draws() -> None:
    rng = np.random.default_rng(1)
    row = rng.permutation(np.arange(1.0, 501))
    arrays = (np.array([0, 500]), np.arange(500, dtype=np.int32), row, np.array([0]))
    bins = run(arrays, seed=1)
    np.testing.assert_array_equal(bins, run(arrays, seed=2))
    assert (np.diff(bins[np.argsort(row)]) >= 0).all()
    assert set(np.bincount(bins)[1:].tolist()) <= {1, 10, 11}  # the last bin holds the largest value alone


def test_independent_of_batch_and_threads(set_threads: Callable[[int], None]) -> None:
    indptr, indices, values, cell_ids = random_cells(np.random.default_rng(2), 60, 300, "counts")
    set_threads(1)
    whole = run((indptr, indices, values, cell_ids), seed=5, epoch=9)
    set_threads(3)
    np.testing.assert_array_equal(run((indptr, indices, values, cell_ids), seed=5, epoch=9), whole)
    for i in range(60):
        part = slice(indptr[i], indptr[i + 1])
        one = (np.array([0, part.stop - part.start]), indices[part], values[part], cell_ids[i : i + 1])
        np.testing.assert_array_equal(run(one, seed=torch.tensor(5), epoch=torch.tensor(9)), whole[part])
    assert not np.array_equal(run((indptr, indices, values, cell_ids), seed=5, epoch=10), whole)


def test_opcheck() -> None:
    arrays = random_cells(np.random.default_rng(3), 4, 30, "counts")
    options = {"seed": torch.tensor(1), "epoch": torch.tensor(0), "n_bins": 51}
    torch.library.opcheck(
        torch.ops.corrmask.bin_values.default, tuple(torch.from_numpy(array) for array in arrays), options
    )


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("indptr", torch.tensor([0, 2, 4]), ValueError),
        ("indptr", torch.zeros(0, dtype=torch.int64), ValueError),
        ("indices", torch.zeros(3), ValueError),
        ("values", torch.tensor([1.0, -1.0, 2.0]), ValueError),
        ("values", torch.tensor([1.0, float("nan"), 2.0]), ValueError),
        ("values", torch.tensor([1.0, float("inf"), 2.0]), ValueError),
        ("values", torch.ones(2), ValueError),
        ("values", None, TypeError),
        ("cell_ids", torch.tensor([1]), ValueError),
        ("cell_ids", torch.tensor([1, -1]), ValueError),
        ("n_bins", 1, ValueError),
        ("n_bins", 51.0, TypeError),
        ("seed", -1, ValueError),
        ("epoch", 2**28, ValueError),
        ("epoch", torch.tensor(2**28), ValueError),
        ("seed", torch.tensor(-1), ValueError),
    ],
)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    good: dict[str, Any] = {
        "indptr": torch.tensor([0, 2, 3]),
        "indices": torch.tensor([0, 1, 0], dtype=torch.int32),
        "values": torch.tensor([1.0, 2.0, 3.0]),
        "cell_ids": torch.tensor([0, 1]),
    }
    assert bin_values(**good).shape == (3,)
    with pytest.raises(kind, match=rf"^corrmask\.bin_values: .*'{name}'"):
        bin_values(**{**good, name: value})
