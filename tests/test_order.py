"""The order of cells: a permutation, pure, found at any place, and as mixed as a random one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from corrmask.errors import InputError
from corrmask.order import BalancedOrder, ShuffledOrder, _Feistel, batches_per_epoch, shuffled


def batch_entropy(labels: np.ndarray, rows: np.ndarray, batch_size: int) -> float:
    """Mean over whole batches of the entropy of their labels, in bits (the measure of scDataset)."""
    batches = labels[rows[: len(rows) // batch_size * batch_size]].reshape(-1, batch_size)
    share = np.apply_along_axis(np.bincount, 1, batches, minlength=labels.max() + 1) / batch_size
    return float(-(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1).mean())


def test_shuffled_is_a_pure_function_of_seed_and_epoch() -> None:
    rows = np.array([40, 3, 7, 2**40, 12, 9])
    first = shuffled(rows, seed=1, epoch=0)
    assert sorted(first) == sorted(rows)
    np.testing.assert_array_equal(first, shuffled(rows[::-1], seed=1, epoch=0))
    keys = [tuple(reference.draws(1, 0, int(row), np.array([0]), 3)[0, :2]) for row in first]
    assert keys == sorted(keys)
    many = np.arange(1000)
    orders = [shuffled(many, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (2**62, 2**27))]
    for i, one in enumerate(orders):
        assert sorted(one) == list(many)
        assert all((one != other).any() for other in orders[:i])
    # two cells stand in the same order whatever others there are
    some = many[::3]
    np.testing.assert_array_equal(orders[0][np.isin(orders[0], some)], shuffled(some, seed=0, epoch=0))


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**63 - 1), st.integers(0, 2**28 - 1))
def test_each_row_once_and_any_part_at_once(n: int, block: int, buffer: int, seed: int, epoch: int) -> None:
    rows = np.sort(np.random.default_rng(n).choice(5000, n, replace=False))
    order = ShuffledOrder(rows, seed=seed, block_rows=block, buffer_blocks=buffer)
    assert len(order) == n
    whole = order.take(epoch, 0, n)
    assert whole.dtype == np.int64
    np.testing.assert_array_equal(np.sort(whole), rows)
    again = ShuffledOrder(rows, seed=seed, block_rows=block, buffer_blocks=buffer)
    for first in range(n - 1, -1, -max(1, n // 7)):  # backwards, as nothing hangs on what was asked before
        np.testing.assert_array_equal(again.take(epoch, first, first + 13), whole[first : first + 13])
    places = ShuffledOrder(n, seed=seed, block_rows=block, buffer_blocks=buffer).take(epoch, 0, n)
    np.testing.assert_array_equal(np.sort(places), np.arange(n))
    if order._n_buffers == 1:
        np.testing.assert_array_equal(whole, shuffled(rows, seed=seed, epoch=epoch))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 16, 17, 1000, 4095, 4096, 4097, 70_000])
def test_the_network_permutes(n: int) -> None:
    numbers = np.arange(n)
    first, second = (_Feistel(n, seed, 3).permute(numbers) for seed in (0, 2**62))
    np.testing.assert_array_equal(np.sort(first), numbers)
    if n >= 1000:
        assert (first == second).mean() < 0.01
        assert abs(np.corrcoef(numbers, first)[0, 1]) < 6 / n**0.5


def test_where_a_block_goes_is_uniform() -> None:
    n, n_epochs, n_bins = 5000, 2000, 20
    drawn = np.array([_Feistel(n, 0, epoch).permute(np.array([0, 1, n - 1])) for epoch in range(n_epochs)])
    for places in drawn.T:
        found = np.bincount(places * n_bins // n, minlength=n_bins)
        chi2 = ((found - n_epochs / n_bins) ** 2 / (n_epochs / n_bins)).sum()
        assert chi2 < 60, "19 degrees of freedom: 60 has a chance of 4e-6"


def test_batches_per_epoch() -> None:
    assert [batches_per_epoch(n, 16) for n in (1, 15, 16, 31, 32)] == [1, 1, 1, 1, 2]


def test_epochs_and_seeds_differ() -> None:
    taken = [
        ShuffledOrder(300, seed=seed, block_rows=4, buffer_blocks=8).take(epoch, 0, 300)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert all((a != b).mean() > 0.9 for i, a in enumerate(taken) for b in taken[:i])


@pytest.mark.parametrize("n_labels", [3, 14, 380])
@pytest.mark.parametrize("batch_size", [64, 512])
def test_batches_are_as_mixed_as_at_random(n_labels: int, batch_size: int) -> None:
    """Rows sorted by plate, as atlases come: batch entropy within 1 % of a true random order, over buffers too."""
    n = 400_000
    share = np.random.default_rng(0).dirichlet(np.full(n_labels, 5.0))
    labels = np.searchsorted(np.cumsum(share)[:-1], np.arange(n) / n)
    order = ShuffledOrder(n, seed=0)
    assert order._n_buffers == 6
    ours = batch_entropy(labels, order.take(0, 0, n), batch_size)
    random = batch_entropy(labels, np.random.default_rng(1).permutation(n), batch_size)
    assert ours == pytest.approx(random, rel=0.01)
    assert batch_entropy(labels, np.arange(n), batch_size) < 0.5 * random  # what the measure is there to see


def test_a_hundred_million_rows_take_little_memory() -> None:
    n = 10**8
    order = ShuffledOrder(n, seed=7)
    tracemalloc.start()
    first = order.take(3, n - 1000, n + 1000)
    middle = order.take(3, n // 2, n // 2 + 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(first) == 1000
    assert len(np.unique(first)) == 1000
    assert np.ptp(middle) > 0.9 * n
    assert peak < 30e6


def test_every_label_equally_often() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.choice(5, 20_000, p=[0.7, 0.25, 0.045, 0.004, 0.001]))
    labels[::10] = -1  # without a label
    rows = np.sort(rng.choice(10**6, 20_000, replace=False))
    order = BalancedOrder(rows, labels, seed=1)
    n = len(order)
    drawn = order.take(2, 0, n)
    np.testing.assert_array_equal(drawn, np.concatenate([order.take(2, i, i + 1000) for i in range(0, n, 1000)]))
    assert not np.array_equal(drawn, order.take(3, 0, n))
    place = np.searchsorted(rows, drawn)
    np.testing.assert_array_equal(rows[place], drawn)
    found = np.bincount(labels[place], minlength=5)
    assert (np.abs(found - n / 5) < 6 * (n * 0.2 * 0.8) ** 0.5).all()
    rare = drawn[labels[place] == 3]
    assert set(rare) == set(rows[labels == 3]), "all of a rare label's cells"
    with pytest.raises(InputError, match="none of the cells has a label"):
        BalancedOrder(rows, np.full(20_000, -1), seed=1)
