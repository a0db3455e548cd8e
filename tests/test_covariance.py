"""The accumulators of the correlation: the twin, the bound against float64, and that they add up."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corrmask.covariance import Covariance, log_normalize
from corrmask.errors import InputError
from corrmask.moments import Moments
from corrmask.ops import covariance_update
from corrmask.ops.covariance_update import panel_start, panels_size, panels_within

BOUND = 1e-5


def random_y(rng: np.random.Generator, n_cells: int, n_genes: int, density: float = 0.4) -> np.ndarray:
    return rng.random((n_cells, n_genes)) * 5 * (rng.random((n_cells, n_genes)) < density)


def accumulators(n_genes: int, n_levels: int = 1) -> tuple[torch.Tensor, ...]:
    """Gram, sums, squares, expressed, and (not an accumulator) the ranks: genes from the last to the first.

    All but the ranks stand by rank: `[::-1]` of them is by gene.
    """
    return (
        torch.zeros(panels_size(n_genes), dtype=torch.float64),
        torch.zeros(n_levels, n_genes, dtype=torch.float64),
        torch.zeros(n_genes, dtype=torch.float64),
        torch.zeros(n_genes, dtype=torch.int64),
        torch.arange(n_genes - 1, -1, -1, dtype=torch.int32),
    )


def gram_of(accumulated: Sequence[torch.Tensor]) -> np.ndarray:
    return reference.unpack(accumulated[0].numpy(), accumulated[4].numpy())


def assert_gram_close(gram: np.ndarray, expected: np.ndarray) -> None:
    """float32 sums within runs of cells, then over runs: off by less than 2e-6 of the genes' own sums of squares."""
    scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    assert (np.abs(gram - expected) <= 2e-6 * scale).all()


def chunk(y: np.ndarray, levels: np.ndarray, index: type = np.int32) -> list[torch.Tensor]:
    matrix = sp.csr_array(y)
    return [
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(index)),
        torch.from_numpy(matrix.data),
        torch.from_numpy(levels),
    ]


def covariance_of(y: np.ndarray, levels: np.ndarray | None = None, cuts: tuple[int, ...] = ()) -> Covariance:
    covariance = Covariance(y.shape[1], target_sum=None)
    bounds = [0, *cuts, len(y)]
    for a, b in pairwise(bounds):
        covariance.update(sp.csr_array(y[a:b]), None if levels is None else levels[a:b])
    return covariance


def only(covariance: Covariance) -> Moments:
    """The sums where all chunks measured the same genes."""
    (moments,) = covariance.moments.values()
    return moments


def correlation_of(covariance: Covariance, min_cells: int = 0) -> np.ndarray:
    ranks = covariance.ranks.numpy()
    r = reference.correlation_from_gram(
        reference.unpack(covariance.gram.numpy(), ranks),
        only(covariance).mean_factors().numpy()[:, ranks],
        only(covariance).inverse_sd(min_cells).numpy()[ranks],
    )
    np.fill_diagonal(r, 0)
    return r


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(0, 25), st.integers(1, 4), st.sampled_from([0, 0.3, 1])
)
def test_equals_the_reference(seed: int, n_cells: int, n_genes: int, n_levels: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    y = random_y(rng, n_cells, n_genes, density)
    levels = rng.integers(0, n_levels, n_cells)
    gram, sums, squares, expressed = reference.covariance_update(y, levels, n_levels)
    for index in (np.int32, np.int64):
        got = accumulators(n_genes, n_levels)
        covariance_update(*got, *chunk(y, levels, index))
        assert_gram_close(gram_of(got), gram)
        np.testing.assert_allclose(got[1].numpy()[:, ::-1], sums, rtol=1e-14)
        np.testing.assert_allclose(got[2].numpy()[::-1], squares, rtol=1e-14)
        np.testing.assert_array_equal(got[3].numpy()[::-1], expressed)


def test_it_adds_to_what_is_there() -> None:
    y, levels = random_y(np.random.default_rng(0), 10, 6), np.zeros(10, dtype=np.int64)
    got = [accumulator + 3 for accumulator in accumulators(6)[:4]]
    got.append(accumulators(6)[4])
    once = accumulators(6)
    covariance_update(*once, *chunk(y, levels))
    covariance_update(*got, *chunk(y, levels))
    np.testing.assert_allclose(gram_of(got), gram_of(once) + 3, rtol=1e-14)
    for a, b in zip(got[1:4], once[1:4]):
        np.testing.assert_allclose(a.numpy(), b.numpy() + 3, rtol=1e-14)  # 10 additions of float64


@pytest.mark.parametrize("density", [0.02, 0.4, 0.95])
def test_threads_change_no_byte_and_chunks_stay_within_the_bound(
    set_threads: Callable[[int], None], density: float
) -> None:
    """Several panels, sub-blocks and (with the chunks' cuts) blocks; scattered, dense and shifted genes."""
    rng = np.random.default_rng(1)
    y = random_y(rng, 1200, 900, density) * (rng.random(900) < 0.7)  # genes of all frequencies
    y *= rng.random((1200, 900)) < np.linspace(0, 1, 900)
    levels = rng.integers(0, 3, 1200)
    set_threads(1)
    one = accumulators(900, 3)
    covariance_update(*one, *chunk(y, levels))
    for threads in (2, 3):
        set_threads(threads)
        other = accumulators(900, 3)
        covariance_update(*other, *chunk(y, levels))
        for a, b in zip(one, other):
            assert torch.equal(a, b)
    cut = accumulators(900, 3)
    for a, b in pairwise([0, 1, 2, 700, 1200]):
        covariance_update(*cut, *chunk(y[a:b], levels[a:b]))
    assert_gram_close(gram_of(one), y.T @ y)
    assert_gram_close(gram_of(cut), y.T @ y)
    np.testing.assert_allclose(cut[1].numpy(), one[1].numpy(), rtol=1e-12)
    assert torch.equal(cut[3], one[3])


def test_opcheck() -> None:
    for n_cells in (0, 5):
        y = random_y(np.random.default_rng(2), n_cells, 7)
        arguments = (*accumulators(7, 2), *chunk(y, np.arange(n_cells) % 2))
        options = {"target_sum": 1e4, "first_panel": 0}
        torch.library.opcheck(torch.ops.corrmask.covariance_update.default, arguments, options)


def hard_genes(n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Genes of mean^2 / variance from 1e-2 to 1e4, correlated in pairs, zeros nowhere but in the last."""
    ratio = np.repeat(np.logspace(-2, 4, 20), 2)
    shared = rng.standard_normal((n_cells, 20)).repeat(2, axis=1)
    noise = rng.standard_normal((n_cells, 40))
    y = 5 + (0.7 * shared + 0.7 * noise) * 5 / np.sqrt(ratio)
    y = np.where(ratio < 10, np.maximum(y - 5, 0), np.maximum(y, 0))
    return np.hstack([y, random_y(rng, n_cells, 3, 0.02)])


def test_the_bound_holds_where_float32_misses_it() -> None:
    y = hard_genes(20_000, np.random.default_rng(3))
    ratio = y.mean(axis=0) ** 2 / y.var(axis=0)
    assert 0.9e4 < ratio.max() < 1.1e4
    r64 = reference.correlation(y)
    assert np.abs(r64).max() > 0.4
    assert np.abs(correlation_of(covariance_of(y)) - r64).max() <= BOUND

    y32 = y.astype(np.float32)
    mean = y32.mean(axis=0)
    naive = y32.T @ y32 / np.float32(len(y)) - np.outer(mean, mean)
    scale = np.sqrt(np.maximum(np.diagonal(naive), np.finfo(np.float32).tiny))
    naive = naive / np.outer(scale, scale)
    np.fill_diagonal(naive, 0)
    assert np.abs(naive - r64).max() > 100 * BOUND, "this test would not see a kernel of float32"


@pytest.mark.parametrize(("n_cells", "n_zeros"), [(300, 1), (1500, 2), (8192, 3)])
def test_the_bound_holds_where_cells_are_alike(n_cells: int, n_zeros: int) -> None:
    """Equal products add up: each addition of float32 rounds to the same side (1.5e-5 where 256 follow one another)."""
    alike = np.log1p(5 * np.arange(1, 40)) * np.ones((n_cells, 1))
    alike[:n_zeros] = 0
    half = np.linspace(1, 2, 40) * (np.arange(n_cells) < 0.49 * n_cells)[:, None]  # rarer: not shifted
    rare = random_y(np.random.default_rng(2), n_cells, 600, 0.002)
    for y in (alike, half, np.hstack([alike, half, rare])):
        assert np.abs(correlation_of(covariance_of(y)) - reference.correlation(y)).max() <= BOUND


def test_the_bound_holds_at_ten_million_cells() -> None:
    """The same cells over and over have the r of one round, however long the sums grow."""
    n_cells, n_rounds = 24 * 8192, 51
    y = hard_genes(n_cells, np.random.default_rng(10))[:, [0, 1, 28, 29, 38, 39]]
    assert n_cells * n_rounds > 10_000_000
    r64 = reference.correlation(y)
    covariance, cells = Covariance(y.shape[1], target_sum=None), sp.csr_array(y)
    y32 = y.astype(np.float32)
    naive, sums = np.zeros_like(r64, dtype=np.float32), np.zeros(y.shape[1], dtype=np.float32)
    for _ in range(n_rounds):
        covariance.update(cells)
        naive += y32.T @ y32
        sums += y32.sum(axis=0)
    assert covariance.n_cells == n_cells * n_rounds
    assert np.abs(correlation_of(covariance) - r64).max() <= BOUND

    naive = naive.astype(np.float64) - np.outer(sums, sums.astype(np.float64)) / covariance.n_cells
    scale = np.sqrt(np.maximum(np.diagonal(naive), 1))
    naive = naive / np.outer(scale, scale)
    np.fill_diagonal(naive, 0)
    assert np.abs(naive - r64).max() > 100 * BOUND, "this test would not see sums of float32"


def test_within_levels_equals_centring_each_level() -> None:
    rng = np.random.default_rng(4)
    y = hard_genes(3000, rng)
    levels = np.array(["a", "b", "a rare one", "single"])[rng.choice(3, 3000, p=[0.6, 0.35, 0.05])]
    levels[17] = "single"
    y[levels == "b"] *= 1.7  # a level that differs makes edges unless it is taken out
    expected = reference.correlation(y, levels)
    assert np.abs(expected - reference.correlation(y)).max() > 0.3
    for cuts in ((), (1, 18, 1500)):
        covariance = covariance_of(y, levels, cuts)
        assert np.abs(correlation_of(covariance) - expected).max() <= BOUND
        assert covariance.level_cells == {str(k): int(v) for k, v in zip(*np.unique(levels, return_counts=True))}
        assert covariance.n_cells == 3000


@pytest.mark.parametrize("leveled", [False, True])
def test_adding_equals_one_pass(leveled: bool) -> None:
    rng = np.random.default_rng(5)
    y = random_y(rng, 400, 30)
    levels = rng.choice(["x", "y", "z"], 400) if leveled else None
    if leveled:
        levels[:150] = "y"  # the first part knows one level, and its order of levels differs
        levels[150:160] = ["z", "x"] * 5
    one = covariance_of(y, levels)
    parts = [
        covariance_of(y[a:b], None if levels is None else levels[a:b]) for a, b in ((0, 150), (150, 151), (151, 400))
    ]
    total = Covariance(30, target_sum=None)
    for part in parts:
        total.add(part)
    assert total.n_cells == 400
    assert total.level_cells == one.level_cells or dict(sorted(total.level_cells.items())) == one.level_cells
    there, here = total.ranks.numpy(), one.ranks.numpy()
    np.testing.assert_array_equal(only(total).expressed.numpy()[there], only(one).expressed.numpy()[here])
    np.testing.assert_allclose(only(total).squares.numpy()[there], only(one).squares.numpy()[here], rtol=1e-13)
    assert np.abs(correlation_of(total) - reference.correlation(y, levels)).max() <= BOUND


def test_adding_other_genes_is_refused() -> None:
    covariance = covariance_of(np.ones((3, 4)))
    with pytest.raises(InputError, match="4 and 5 genes"):
        covariance.add(covariance_of(np.ones((3, 5))))
    assert covariance.level_cells == {"all": 3}


def test_constant_genes_have_no_scale() -> None:
    rng = np.random.default_rng(6)
    y = random_y(rng, 1000, 6)
    y[:, 1] = 0
    y[:, 3] = 0.1  # no binary fraction: its sums are rounded
    y[:, 4] = 3.3333
    covariance = covariance_of(y)
    scale = only(covariance).inverse_sd(0).numpy()[covariance.ranks.numpy()]
    assert (scale[[1, 3, 4]] == 0).all()
    assert (scale[[0, 2, 5]] > 0).all()
    levels = np.array(["a", "b"])[np.arange(1000) % 2]
    y[:, 5] = np.where(levels == "a", 0.1, 2.7)  # varies, but not within a level
    covariance = covariance_of(y, levels)
    assert only(covariance).inverse_sd(0)[covariance.ranks[5]] == 0


@pytest.mark.parametrize("value", [0.1, 3.3333, 7.7])
def test_constant_genes_are_known_after_ten_million_cells(value: float) -> None:
    """The sums as the kernel forms them, one addition after another: rounding piles up to 1e-9 of them."""
    n = 10_000_000
    moments = Moments(1)
    moments.level_cells = {"all": n}
    moments.sums = torch.tensor([[np.cumsum(np.full(n, value))[-1]]])
    moments.squares = torch.tensor([np.cumsum(np.full(n, value * value))[-1]])
    moments.expressed = torch.tensor([n])
    assert moments.inverse_sd(10)[0] == 0


def test_min_cells_counts_cells_in_which_a_gene_is_expressed() -> None:
    y = np.zeros((50, 3))
    y[:9, 0], y[:10, 1], y[:11, 2] = 1, 2, 3
    covariance = covariance_of(y)
    assert covariance.ranks.tolist() == [2, 1, 0]
    assert (only(covariance).inverse_sd(10).numpy() > 0).tolist() == [True, True, False]
    assert only(covariance).expressed.tolist() == [11, 10, 9]


def test_stored_zeros_and_unsorted_columns() -> None:
    y = random_y(np.random.default_rng(7), 30, 12)
    expected = covariance_of(y)
    stored = sp.csr_array(y + 1)
    stored.data -= 1
    covariance = Covariance(12, target_sum=None)
    shuffled = sp.csr_array(
        (stored.data.reshape(30, 12)[:, ::-1].ravel(), stored.indices.reshape(30, 12)[:, ::-1].ravel(), stored.indptr),
        shape=(30, 12),
    )
    before = shuffled.indices.copy()
    covariance.update(shuffled)
    np.testing.assert_array_equal(shuffled.indices, before, "the input is left alone")
    assert np.abs(correlation_of(covariance) - correlation_of(expected)).max() <= BOUND
    there, here = covariance.ranks.long(), expected.ranks.long()
    assert torch.equal(only(covariance).expressed[there], only(expected).expressed[here])


def test_log_normalize() -> None:
    counts = np.array([[1, 0, 3], [0, 0, 0], [5, 2, 0]])
    got = sp.csr_array(counts)
    np.testing.assert_allclose(log_normalize(got, 1e4), reference.log_normalize(counts)[counts > 0], rtol=1e-15, atol=0)
    stored_zero = sp.csr_array((np.zeros(1), np.zeros(1, dtype=np.int32), np.array([0, 1])), shape=(1, 3))
    assert log_normalize(stored_zero, 1e4).tolist() == [0]
    # totals in float64, though float32 counts sum to more than 2**24
    big = sp.csr_array(np.array([[2**24] + [1] * 9], dtype=np.float32))
    np.testing.assert_allclose(log_normalize(big, 1e4)[1], np.log1p(1e4 / (2**24 + 9)), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_counts_are_normalised_in_the_kernel(dtype: type) -> None:
    """As `log_normalize` does, cells without counts and stored zeros too; a column left out counts in the total."""
    rng = np.random.default_rng(8)
    counts = (rng.poisson(2.0, (300, 200)) * (rng.random((300, 200)) < np.linspace(0.02, 1, 200))).astype(dtype)
    counts[5] = 0
    matrix = sp.csr_array(counts)
    matrix.data[matrix.indptr[7] : matrix.indptr[8]] = 0
    genes = np.where(np.arange(200) % 3 == 0, -1, np.cumsum(np.arange(200) % 3 != 0) - 1)
    got, expected = Covariance(133), Covariance(133, target_sum=None)
    got.update(matrix, genes=genes)
    y = sp.csr_array((log_normalize(matrix, 1e4), matrix.indices, matrix.indptr), shape=matrix.shape)
    expected.update(y[:, np.flatnonzero(genes >= 0)])
    assert torch.equal(got.ranks, expected.ranks)
    for a, b in (
        (got.gram, expected.gram),
        (only(got).sums, only(expected).sums),
        (only(got).squares, only(expected).squares),
    ):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert torch.equal(only(got).expressed, only(expected).expressed)


@pytest.mark.parametrize("density", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("n_passes", [2, 3, 8])
def test_passes_over_panels_equal_one(density: float, n_passes: int) -> None:
    """Dense, sparse and rare genes: every entry has the same bytes, and what is counted is counted once."""
    rng = np.random.default_rng(9)
    y = sp.csr_array(random_y(rng, 700, 1000, density) * (rng.random((700, 1000)) < np.linspace(1, 0, 1000)))
    levels = np.array(["a", "b"])[rng.integers(0, 2, 700)]
    one = Covariance(1000, target_sum=None)
    one.update(y, levels)
    runs = panels_within(1000, -(-8 * panels_size(1000) // n_passes) + 8 * 128 * 1000)
    assert 1 < len(runs) <= n_passes
    assert [a for a, _ in runs] == [0, *(b for _, b in runs[:-1])]
    passes, grams = Covariance(1000, target_sum=None, panels=runs[0]), []
    for number, run in enumerate(runs):
        if number:
            passes.select(*run)
        for half in (slice(0, 400), slice(400, 700)):
            passes.update(y[half], levels[half])
        grams.append(passes.gram)
    whole = Covariance(1000, target_sum=None)
    for half in (slice(0, 400), slice(400, 700)):
        whole.update(y[half], levels[half])
    place, _ = reference.panel_places(np.arange(1000))
    assert torch.equal(torch.cat(grams)[place], whole.gram[place])
    assert torch.equal(only(passes).sums, only(whole).sums)
    assert passes.level_cells == whole.level_cells == one.level_cells


def repeated(period: np.ndarray, times: int, folder: Path) -> np.ndarray:
    """`period` one after another, in the memory of one: its pages stand in the address space again and again."""
    path, pages = folder / "period", 256  # periods of one mapping: a process may have 65,530 of these
    np.tile(period, pages).tofile(path)
    size, n = pages * period.nbytes, -(-times // pages)
    whole = np.empty(n * size // period.itemsize, dtype=period.dtype)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    shared, fixed = mmap.MAP_SHARED, 0x10
    start = -(-whole.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    with path.open("rb") as file:
        for at in range(n - 1):
            address = libc.mmap(start + at * size, size, mmap.PROT_READ, shared | fixed, file.fileno(), 0)
            assert address == start + at * size
    first = (start - whole.ctypes.data) // period.itemsize
    return whole[first : first + (n - 1) * pages * len(period)]


@pytest.mark.skipif(sys.platform != "linux", reason="maps the same pages many times")
def test_past_two_to_the_31_entries(tmp_path: Path) -> None:
    """Offsets beyond 32 bits: zeros that were never written take no memory, the last cell holds the only counts."""
    width, n_cells = 4096, 2**19 + 1
    n = width * n_cells
    assert n > 2**31
    columns = repeated(np.arange(width, dtype=np.int32), n_cells + 256, tmp_path)[:n]
    assert columns[-width:].tolist() == list(range(width))
    counts = np.zeros(n, dtype=np.float32)
    counts[-3:] = [1, 4, 2]
    ranks = torch.full((width,), -1, dtype=torch.int32)
    ranks[-3:] = torch.tensor([2, 0, 1], dtype=torch.int32)
    got = (*accumulators(3)[:4], ranks)
    indptr = torch.arange(n_cells + 1) * width
    levels = torch.zeros(n_cells, dtype=torch.int64)
    covariance_update(*got, indptr, torch.from_numpy(columns), torch.from_numpy(counts), levels)
    y = np.array([4.0, 2.0, 1.0])
    np.testing.assert_allclose(reference.unpack(got[0].numpy(), np.arange(3)), np.outer(y, y), rtol=1e-5)
    assert got[1][0].tolist() == y.tolist()
    assert got[3].tolist() == [1, 1, 1]


def test_products_that_no_memory_holds_are_refused() -> None:
    with pytest.raises(InputError, match=r"the products need .* GB of memory"):
        Covariance(100_000_000)


def test_panels_are_cut_within_the_budget() -> None:
    assert panels_within(0, 10) == [(0, 0)]
    assert panels_within(1000, 10**9) == [(0, 8)]
    assert panels_within(1000, 1) == [(panel, panel + 1) for panel in range(8)]  # a panel is never cut
    for n_genes in (127, 128, 129, 20_000, 60_000):
        runs = panels_within(n_genes, 10**9)
        sizes = [8 * (panel_start(b, n_genes) - panel_start(a, n_genes)) for a, b in runs]
        assert sum(sizes) == 8 * panels_size(n_genes)
        assert max(sizes) <= 10**9
        assert all(a + b > 10**9 for a, b in pairwise(sizes))


def test_memory_is_told() -> None:
    covariance = covariance_of(np.ones((3, 100)))
    assert covariance.memory_bytes == 8 * (100 * 128 + 3 * 100)


def good() -> dict[str, Any]:
    names = ("gram", "sums", "squares", "expressed", "ranks", "indptr", "indices", "counts", "levels")
    return dict(zip(names, (*accumulators(4, 2), *chunk(np.eye(4)[:3] + np.eye(4)[1:], np.array([0, 1, 1])))))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("gram", torch.zeros(10, dtype=torch.float64), ValueError),
        ("gram", torch.zeros(4 * 128), ValueError),
        ("gram", np.zeros(4 * 128), TypeError),
        ("gram", torch.zeros(8 * 128, dtype=torch.float64)[::2], ValueError),
        ("squares", torch.zeros(5, dtype=torch.float64), ValueError),
        ("ranks", torch.tensor([0, 1, 2, 2], dtype=torch.int32), ValueError),
        ("ranks", torch.tensor([0, 1, 2, 4], dtype=torch.int32), ValueError),
        ("ranks", torch.tensor([0, 1, 2, -2], dtype=torch.int32), ValueError),
        ("sums", torch.zeros(4, dtype=torch.float64), ValueError),
        ("sums", torch.zeros(4, 2, dtype=torch.float64).T, ValueError),
        ("expressed", torch.zeros(4), ValueError),
        ("expressed", torch.zeros(5, dtype=torch.int64), ValueError),
        ("indptr", torch.tensor([0, 2, 4, 5]), ValueError),
        ("indptr", torch.tensor([0, 4, 2, 6]), ValueError),
        ("indptr", torch.tensor([0, 2, 4, 6], dtype=torch.int32), ValueError),
        ("indptr", torch.zeros(0, dtype=torch.int64), ValueError),
        ("indices", torch.tensor([0, 1, 1, 2, 2, 4]), ValueError),
        ("indices", torch.tensor([0, 1, 1, 2, 2, -1]), ValueError),
        ("indices", torch.tensor([0, 0, 1, 2, 2, 3]), ValueError),
        ("indices", torch.zeros(6), ValueError),
        ("counts", torch.ones(6, dtype=torch.float16), ValueError),
        ("counts", torch.ones(5, dtype=torch.float64), ValueError),
        ("target_sum", -1.0, ValueError),
        ("target_sum", float("nan"), ValueError),
        ("first_panel", 2, ValueError),
        ("first_panel", -1, ValueError),
        ("levels", torch.tensor([0, 1, 2]), ValueError),
        ("levels", torch.tensor([0, 1, -1]), ValueError),
        ("levels", torch.tensor([0, 1]), ValueError),
        ("levels", torch.tensor([0, 1, 1], dtype=torch.int32), ValueError),
    ],
)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    arguments = good()
    covariance_update(**arguments)
    arguments = good()
    with pytest.raises(kind, match=rf"^corrmask\.covariance_update: .*'{name}'"):
        covariance_update(**{**arguments, name: value})
    for accumulator in ("gram", "sums", "squares", "expressed"):
        assert not arguments[accumulator].any(), "nothing is added where anything is wrong"
