"""The CUDA kernels of covariance_update, thread by thread on a CPU: the operator's sums, and products within the bound.

What this cannot show is what only a GPU has (its scheduler, its memory): that is looked at there.
"""

from __future__ import annotations

import ctypes
from itertools import pairwise

import numpy as np
import pytest
import reference
import scipy.sparse as sp
import torch
from emulated import library, pointer
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_covariance import BOUND, accumulators, assert_gram_close, chunk, gram_of, hard_genes, random_y
from torch import Tensor

from corrmask.covariance import Covariance
from corrmask.moments import Moments
from corrmask.ops import covariance_update
from corrmask.ops.covariance_update import panel_start, panels_within

WORD = ctypes.c_int64
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # a case takes long, thread by thread


def emulated(
    gram: Tensor,
    sums: Tensor,
    squares: Tensor,
    expressed: Tensor,
    ranks: Tensor,
    indptr: Tensor,
    indices: Tensor,
    counts: Tensor,
    levels: Tensor,
    *,
    target_sum: float = 0,
    first_panel: int = 0,
    last_panel: int | None = None,
    most_dense: int = 2,
    schedule: int = 1,
) -> tuple[int, int, int]:
    """Update the accumulators as the kernels do; returns the numbers of runs of cells, of dense and frequent panels."""
    n_genes = sums.shape[1]
    n_panels = -(-n_genes // 128)
    function = getattr(library("covariance"), f"update_{str(indices.dtype)[6:]}_{str(counts.dtype)[6:]}")
    function.restype = None
    chosen = np.zeros(3, dtype=np.int64)
    function(
        *(pointer(tensor) for tensor in (gram, sums, squares, expressed, ranks, indptr, indices, counts, levels)),
        *(WORD(n) for n in (len(indptr) - 1, len(indices), len(ranks), n_genes, len(sums))),
        ctypes.c_double(target_sum),
        WORD(first_panel),
        WORD(n_panels if last_panel is None else last_panel),
        WORD(max(1, min(most_dense, n_panels))),
        ctypes.c_uint64(schedule),
        pointer(chosen),
    )
    return int(chosen[0]), int(chosen[1]), int(chosen[2])


def assert_equals_the_operator(arguments: tuple[Tensor, ...], got: tuple[Tensor, ...], y: np.ndarray) -> None:
    wanted = accumulators(got[1].shape[1], len(got[1]))
    covariance_update(*wanted, *arguments)
    for a, b in zip(got[1:3], wanted[1:3]):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-14)
    assert torch.equal(got[3], wanted[3])
    assert_gram_close(gram_of(got), y.T @ y)


@settings(max_examples=25, phases=NO_SHRINKING)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 24),
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([0, 0.3, 1]),
    st.integers(1, 2**63),
)
def test_equals_the_operator(
    seed: int, n_cells: int, n_genes: int, n_levels: int, density: float, schedule: int
) -> None:
    rng = np.random.default_rng(seed)
    y = random_y(rng, n_cells, n_genes, density)
    arguments = chunk(y, rng.integers(0, n_levels, n_cells))
    got = accumulators(n_genes, n_levels)
    emulated(*got, *arguments, schedule=schedule)
    assert_equals_the_operator(arguments, got, y)


@pytest.mark.parametrize("most_dense", [1, 2, 3])
def test_tiles_strips_and_shifts(most_dense: int) -> None:
    """Several runs, blocks of cells, strips and groups; dense panels, a shifted gene among the rare ones."""
    rng = np.random.default_rng(1)
    y = random_y(rng, 420, 330, 1.0) * (rng.random((420, 330)) < np.linspace(0.3, 0.9, 330) ** 2)
    y[:, 5] = 3 + rng.random(420)
    levels = (rng.random(420) < 0.02).astype(np.int64) * 2
    arguments = chunk(y, levels)
    got = accumulators(330, 3)
    n_runs, n_dense, n_frequent = emulated(*got, *arguments, most_dense=most_dense)
    assert n_runs == 3
    assert n_dense == most_dense
    assert n_frequent == 3
    assert_equals_the_operator(arguments, got, y)
    again = accumulators(330, 3)
    emulated(*again, *arguments, most_dense=most_dense, schedule=987654321)
    for a, b in zip(got, again):
        assert torch.equal(a, b)


def test_rare_genes_among_themselves() -> None:
    """Panels behind the last frequent one; a gene there that is shifted makes all up to its panel frequent."""
    rng = np.random.default_rng(6)
    y = random_y(rng, 400, 520, 1.0) * (rng.random((400, 520)) < np.where(np.arange(520) < 392, 0.004, 0.3))
    levels = rng.integers(0, 2, 400)
    for gene, density, wanted in ((519, 0.3, 1), (150, 0.9, 3)):
        y[:, gene] = (1 + rng.random(400)) * (rng.random(400) < density)
        arguments = chunk(y, levels)
        got, again = accumulators(520, 2), accumulators(520, 2)
        _, n_dense, n_frequent = emulated(*got, *arguments)
        assert (n_dense, n_frequent) == (1, wanted)
        assert_equals_the_operator(arguments, got, y)
        emulated(*again, *arguments, schedule=31)
        for a, b in zip(got, again):
            assert torch.equal(a, b)


def test_more_cells_than_a_block() -> None:
    """A second block of cells in one level, a block of another: each has shifts of its own."""
    rng = np.random.default_rng(7)
    y = random_y(rng, 8600, 3, 1.0) * (rng.random((8600, 3)) < [0.02, 0.4, 1.0])
    y[8300:, 2] += 3
    levels = (np.arange(8600) >= 8400).astype(np.int64)
    arguments = chunk(y, levels)
    got = accumulators(3, 2)
    n_runs, _, _ = emulated(*got, *arguments)
    assert n_runs == 27 + 1
    assert_equals_the_operator(arguments, got, y)


def test_pieces_add_up_to_the_value() -> None:
    """Two of float16 hold 22 bits of a value, or all that matters beside the largest of its gene."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(20_000) * np.exp(rng.uniform(-20, 0, 20_000))).astype(np.float32)
    values[:5] = [0, 1, 1 + 2**-23, 2 - 2**-23, -7.9]
    function = library("covariance").pieces
    function.restype = None
    for factor in np.float32([1, 1e-30, 1e30]):
        scaled, largest = values * factor, np.float32(8) * factor
        sums, second = np.zeros(20_000), np.zeros(20_000)
        function(pointer(scaled), WORD(len(scaled)), ctypes.c_float(largest), pointer(sums), pointer(second))
        assert (np.abs(sums - scaled) <= 2.0**-22 * np.abs(scaled) + 2.0**-39 * largest).all()
        assert (np.abs(second) <= 2.0**-11 * np.abs(scaled) + 2.0**-39 * largest).all(), "rounded, not cut"
        assert (second != 0).any()


def test_the_bound_holds_where_float32_misses_it() -> None:
    y = hard_genes(1000, np.random.default_rng(3))[:, 2:40]
    y = y[:, ::4]  # 10 genes: two panels of some of them and of rare ones are not dense
    y = np.hstack([y, random_y(np.random.default_rng(4), 1000, 123, 0.01)])
    for most_frequent_first in (True, False):  # tiles; strips alone, since the first panel is of rare genes
        order = np.arange(y.shape[1])[:: 1 if most_frequent_first else -1]
        covariance = Covariance(y.shape[1], target_sum=None)
        covariance.ranks = torch.from_numpy(order.astype(np.int32).copy())
        moments = Moments(y.shape[1])
        moments.rows_of_levels(["all"])
        moments.level_cells["all"] = 1000
        _, n_dense, _ = emulated(
            covariance.gram,
            moments.sums,
            moments.squares,
            moments.expressed,
            covariance.ranks,
            *chunk(y, np.zeros(1000, dtype=np.int64)),
        )
        assert n_dense == (1 if most_frequent_first else 0)
        ranks = covariance.ranks.numpy()
        r = reference.correlation_from_gram(
            reference.unpack(covariance.gram.numpy(), ranks),
            moments.mean_factors().numpy()[:, ranks],
            moments.inverse_sd(0).numpy()[ranks],
        )
        np.fill_diagonal(r, 0)
        assert np.abs(r - reference.correlation(y)).max() <= BOUND


def test_passes_over_panels_equal_one() -> None:
    rng = np.random.default_rng(9)
    y = random_y(rng, 60, 300) * (rng.random((60, 300)) < np.linspace(0, 1, 300))
    arguments = chunk(y, rng.integers(0, 2, 60))
    whole = accumulators(300, 2)
    emulated(*whole, *arguments)
    runs, grams = panels_within(300, 8 * 128 * 300), []
    assert len(runs) > 1
    counted = accumulators(300, 2)
    for first, last in runs:
        gram = torch.zeros(panel_start(last, 300) - panel_start(first, 300), dtype=torch.float64)
        emulated(gram, *counted[1:], *arguments, first_panel=first, last_panel=last)
        grams.append(gram)
    place, _ = reference.panel_places(np.arange(300))
    assert torch.equal(torch.cat(grams)[place], whole[0][place])
    assert torch.equal(counted[1], whole[1])
    assert torch.equal(counted[3], whole[3])


@pytest.mark.parametrize(("index", "dtype"), [(np.int64, np.float32), (np.int32, np.int32), (np.int64, np.int64)])
def test_counts_are_normalised_in_the_kernel(index: type, dtype: type) -> None:
    """Cells without counts and stored zeros too; a column left out counts in the total."""
    rng = np.random.default_rng(8)
    counts = (rng.poisson(2.0, (40, 70)) * (rng.random((40, 70)) < np.linspace(0.02, 1, 70))).astype(dtype)
    counts[5] = 0
    matrix = sp.csr_array(counts)
    matrix.data[matrix.indptr[7] : matrix.indptr[8]] = 0
    arguments = (
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(index)),
        torch.from_numpy(matrix.data),
        torch.zeros(40, dtype=torch.int64),
    )
    places = np.where(np.arange(70) % 3 == 0, -1, np.cumsum(np.arange(70) % 3 != 0) - 1).astype(np.int32)
    n_genes = places.max() + 1
    got, wanted = (
        (*accumulators(n_genes)[:4], torch.from_numpy(places)),
        (*accumulators(n_genes)[:4], torch.from_numpy(places)),
    )
    emulated(*got, *arguments, target_sum=1e4)
    covariance_update(*wanted, *arguments, target_sum=1e4)
    grams = [reference.unpack(one[0].numpy(), np.arange(n_genes)) for one in (got, wanted)]
    assert_gram_close(*grams)
    for a, b in zip(got[1:3], wanted[1:3]):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert torch.equal(got[3], wanted[3])


def test_chunks_add_up() -> None:
    rng = np.random.default_rng(2)
    y, levels = random_y(rng, 50, 140), rng.integers(0, 2, 50)
    got = accumulators(140, 2)
    for a, b in pairwise([0, 1, 20, 50]):
        emulated(*got, *chunk(y[a:b], levels[a:b]))
    assert_gram_close(gram_of(got), y.T @ y)
    np.testing.assert_allclose(got[2].numpy()[::-1], (y**2).sum(axis=0), rtol=1e-14)


def test_what_a_kernel_cannot_raise_for() -> None:
    """Cells, columns and ranks out of range are left out, rows are cut; the sanitizer watches what is touched."""
    rng = np.random.default_rng(0)
    y, levels = random_y(rng, 30, 20, 0.6), rng.integers(0, 2, 30)
    gram, sums, squares, expressed, ranks = accumulators(20, 2)
    indptr, indices, counts, _ = chunk(y, levels)
    column = indices.clone()
    column[indices == 3] = 99
    column[indices == 4] = -7
    levels[4], levels[9] = 5, -1
    ranks[6], ranks[7] = 20, -3
    kept, used = np.delete(np.arange(20), [3, 4, 6, 7]), np.delete(np.arange(30), [4, 9])
    emulated(gram, sums, squares, expressed, ranks, indptr, column, counts, torch.from_numpy(levels))
    expected = np.zeros(20)
    expected[19 - kept] = (y[used] ** 2).sum(axis=0)[kept]
    np.testing.assert_allclose(squares.numpy(), expected, rtol=1e-14)

    indptr[3], indptr[8] = 10**12, -5  # and entries that stand twice
    indices[:] = 2
    emulated(*accumulators(20, 2), indptr, indices, counts, torch.from_numpy(levels))
