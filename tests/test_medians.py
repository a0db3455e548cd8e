"""Medians: exact while they fit, within 1e-3 beyond."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from corrmask.medians import RELATIVE_ERROR, MedianAccumulator


def expected_medians(counts: np.ndarray) -> np.ndarray:
    """numpy's median of count * 10000 / total over the non-zero counts; NaN where there are none."""
    counts = counts.astype(np.float64)
    totals = counts.sum(axis=1)
    medians = np.full(counts.shape[1], np.nan)
    for gene in range(counts.shape[1]):
        cells = counts[:, gene] > 0
        if cells.any():
            medians[gene] = np.median(counts[cells, gene] * 10000 / totals[cells])
    return medians


def accumulate(counts: np.ndarray, memory_bytes: int, chunk: int = 7) -> MedianAccumulator:
    accumulator = MedianAccumulator(counts.shape[1], memory_bytes)
    for first in range(0, len(counts), chunk):
        accumulator.update(sp.csr_array(counts[first : first + chunk]), np.arange(counts.shape[1]))
    return accumulator


def random_counts(seed: int, n_cells: int, n_genes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 4, n_genes), (n_cells, n_genes)).astype(np.float32)
    counts[:, rng.random(n_genes) < 0.1] *= 10_000
    counts[rng.random(n_cells) < 0.1] = 0
    return counts


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 20))
def test_exact_while_they_fit(seed: int, n_cells: int, n_genes: int) -> None:
    counts = random_counts(seed, n_cells, n_genes)
    accumulator = accumulate(counts, 10**9)
    assert accumulator.is_exact
    np.testing.assert_array_equal(accumulator.medians(), expected_medians(counts))
    assert accumulator.origin() == {"kind": "exact", "target_sum": 10000}


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(1, 20), st.sampled_from([0, 200, 4000]))
def test_a_sketch_within_its_bound_says_so(seed: int, n_cells: int, n_genes: int, memory_bytes: int) -> None:
    counts = random_counts(seed, n_cells, n_genes)
    counts[0] = 1
    accumulator = accumulate(counts, memory_bytes)
    if memory_bytes == 0:
        assert not accumulator.is_exact
    medians, expected = accumulator.medians(), expected_medians(counts)
    if accumulator.is_exact:
        np.testing.assert_array_equal(medians, expected)
        return
    assert accumulator.origin() == {"kind": "sketch", "target_sum": 10000, "relative_error": RELATIVE_ERROR}
    assert RELATIVE_ERROR == 1e-3
    np.testing.assert_array_equal(np.isnan(medians), np.isnan(expected))
    # the bound, and the rounding of the logarithm at the edge of a bucket
    assert (np.abs(medians - expected) <= (1e-3 + 1e-12) * expected)[~np.isnan(expected)].all()


def test_the_budget_bounds_what_is_held() -> None:
    counts = np.random.default_rng(0).poisson(3, (2000, 10)).astype(np.float32)
    accumulator = accumulate(counts, 20_000, chunk=100)
    assert not accumulator.is_exact
    assert accumulator._kept == []
    sketch = accumulator._sketch
    assert sketch is not None
    assert sketch.low.sum() + 256 * sketch.carries.sum() == (counts > 0).sum()


def test_columns_that_are_left_out_count_in_the_totals() -> None:
    counts = np.array([[1, 3, 0], [2, 0, 6], [0, 5, 5]], dtype=np.float64)
    accumulator = MedianAccumulator(2)
    accumulator.update(sp.csr_array(counts), np.array([1, -1, 0]))
    np.testing.assert_array_equal(accumulator.medians(), [(7500 + 5000) / 2, (2500 + 2500) / 2])


def test_columns_of_several_files() -> None:
    accumulator = MedianAccumulator(3)
    accumulator.update(sp.csr_array(np.array([[1.0, 1]])), np.array([2, 0]))
    accumulator.update(sp.csr_array(np.array([[1.0, 3]])), np.array([0, 1]))
    np.testing.assert_array_equal(accumulator.medians(), [(5000 + 2500) / 2, 7500, 5000])


def test_totals_that_float32_does_not_hold() -> None:
    counts = np.array([[2**24, 1, 1, 1], [0, 3, 0, 0]], dtype=np.float32)
    medians = accumulate(counts, 10**9).medians()
    np.testing.assert_array_equal(medians, expected_medians(counts))
    assert medians[2] == 10000 / (2**24 + 3)


@pytest.mark.parametrize("memory_bytes", [0, 10**9])
def test_the_same_for_any_chunks_and_threads(memory_bytes: int, set_threads: Callable[[int], None]) -> None:
    counts = random_counts(3, 300, 50)
    set_threads(1)
    one = accumulate(counts, memory_bytes, chunk=300).medians()
    set_threads(3)
    accumulator = accumulate(counts, memory_bytes, chunk=11)
    np.testing.assert_array_equal(accumulator.medians(), one)
    np.testing.assert_array_equal(accumulator.medians(), one)  # asking changes nothing


def test_stored_zeros_are_no_counts() -> None:
    matrix = sp.csr_array((np.array([0.0, 4, 0, 4]), np.array([0, 1, 0, 1]), np.array([0, 2, 4])), shape=(2, 2))
    accumulator = MedianAccumulator(2)
    accumulator.update(matrix, np.arange(2))
    np.testing.assert_array_equal(accumulator.medians(), [np.nan, 10000])


@pytest.mark.parametrize("memory_bytes", [0, 10**9])
def test_nothing_at_all(memory_bytes: int) -> None:
    accumulator = MedianAccumulator(3, memory_bytes)
    assert np.isnan(accumulator.medians()).all()
    accumulator.update(sp.csr_array((4, 3), dtype=np.float32), np.arange(3))
    assert np.isnan(accumulator.medians()).all()
    accumulator.update(sp.csr_array((0, 3), dtype=np.float32), np.arange(3))
    assert np.isnan(accumulator.medians()).all()


def test_values_of_any_size() -> None:
    """Counts as fractions from 1e-300 to 1: the sketch keeps its bound over them all."""
    values = np.logspace(-300, -1, 300)
    counts = np.column_stack([values, np.ones(300)])
    for gene_values in (values[:1], values[:101], values):
        accumulator = MedianAccumulator(2, 0)
        accumulator.update(sp.csr_array(counts[: len(gene_values)]), np.arange(2))
        expected = expected_medians(counts[: len(gene_values)])
        assert (np.abs(accumulator.medians() - expected) <= (1e-3 + 1e-12) * expected).all()
