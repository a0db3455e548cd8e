"""Rank-value encoding: the twin, the known answers, Geneformer's published method."""

from __future__ import annotations

from collections.abc import Callable
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

from corrmask.geneformer import read_dictionary, read_vocabulary
from corrmask.ops import rank_encode
from corrmask.tokenization import encode_chunk


def encode(*arrays: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    input_ids, lengths = rank_encode(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays), **options)
    assert input_ids.dtype == torch.int32
    assert lengths.dtype == torch.int64
    return input_ids.numpy(), lengths.numpy()


def random_rows(
    rng: np.random.Generator, n_cells: int, n_genes: int, *, fractions: bool = False
) -> tuple[np.ndarray, ...]:
    """indptr, indices (each once in a row, in any order), counts (some zero), medians, tokens; ties are common."""
    sizes = rng.integers(0, n_genes + 1, n_cells)
    indices = [rng.permutation(n_genes)[:size] for size in sizes]
    counts = rng.choice([0, 1, 1, 2, 3, 5, 10, 1000], sizes.sum()).astype(np.float64)
    if fractions:
        counts *= rng.random(len(counts))
    tokens = rng.permutation(n_genes).astype(np.int32) + 4  # not in the order of the columns
    tokens[rng.random(n_genes) < 0.2] = -1
    medians = rng.choice([0.5, 1, 1.5, 2, 3, 5], n_genes).astype(np.float64)
    medians[tokens < 0] = rng.choice([np.nan, 0, -1, 1], (tokens < 0).sum())  # never looked at
    return (
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([*indices, np.zeros(0)]).astype(np.int32),
        counts,
        medians,
        tokens,
    )


def test_known_answers(vectors: Callable[[str], Any]) -> None:
    answers = vectors("rank_encode")
    assert len(answers) == 6
    for answer in answers:
        arrays = (
            np.array([0, len(answer["genes"])]),
            np.array(answer["genes"], dtype=np.int64),
            np.array(answer["counts"], dtype=np.int64),
            np.array(answer["medians"], dtype=np.float64),
            np.array(answer["gene_tokens"], dtype=np.int64),
        )
        padded = answer["input_ids"] + [0] * (answer["max_len"] - len(answer["input_ids"]))
        for function in (encode, reference.rank_encode):
            input_ids, lengths = function(*arrays, max_len=answer["max_len"])
            assert input_ids.tolist() == [padded]
            assert lengths.tolist() == [len(answer["input_ids"])]


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(1, 60), st.integers(1, 70), st.booleans(), st.integers()
)
def test_equals_the_reference(
    seed: int, n_cells: int, n_genes: int, max_len: int, fractions: bool, pad_id: int
) -> None:
    arrays = random_rows(np.random.default_rng(seed), n_cells, n_genes, fractions=fractions)
    options = {"max_len": max_len, "pad_id": pad_id % 2**31}
    input_ids, lengths = encode(*arrays, **options)
    with np.errstate(invalid="ignore"):
        expected_ids, expected_lengths = reference.rank_encode(*arrays, **options)
    np.testing.assert_array_equal(input_ids, expected_ids)
    np.testing.assert_array_equal(lengths, expected_lengths)


@pytest.mark.parametrize("kind", ["counts", "alike", "an outlier", "far apart", "reversed", "not finite"])
@pytest.mark.parametrize("n_genes", [127, 128, 129, 3000])
def test_large_cells_equal_the_reference(kind: str, n_genes: int) -> None:
    rng = np.random.default_rng(n_genes)
    near_one = 1 + rng.permutation(n_genes) * np.finfo(np.float64).eps  # distinct, alike in their leading bits
    counts = {
        "counts": rng.geometric(0.4, n_genes).astype(np.float64),
        "alike": near_one,
        "an outlier": np.where(np.arange(n_genes) == 5, 1e300, near_one),
        "far apart": np.exp(rng.uniform(-700, 700, n_genes)),
        "reversed": 1 + np.arange(n_genes) * np.finfo(np.float64).eps,
        "not finite": rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1.0, 2.0], n_genes),
    }[kind]
    medians = rng.choice([0.5, 1.0, 3.0], n_genes) if kind in ("counts", "not finite") else np.ones(n_genes)
    tokens = np.where(rng.random(n_genes) < 0.2, -1, rng.permutation(n_genes))
    indices = rng.permutation(n_genes)
    arrays = (np.array([0, n_genes]), indices, counts, medians, tokens)
    input_ids, lengths = encode(*arrays, max_len=n_genes)
    with np.errstate(invalid="ignore"):
        expected_ids, expected_lengths = reference.rank_encode(*arrays, max_len=n_genes)
    np.testing.assert_array_equal(input_ids, expected_ids)
    np.testing.assert_array_equal(lengths, expected_lengths)


@given(st.integers(0, 2**32 - 1))
def test_types_of_counts_and_indices_agree(seed: int) -> None:
    indptr, indices, counts, medians, tokens = random_rows(np.random.default_rng(seed), 4, 30)
    expected = encode(indptr, indices, counts, medians, tokens, max_len=20)
    for dtype in (np.float32, np.float64, np.int32, np.int64):
        for index in (np.int32, np.int64):
            got = encode(indptr, indices.astype(index), counts.astype(dtype), medians, tokens.astype(index), max_len=20)
            for a, b in zip(got, expected):
                np.testing.assert_array_equal(a, b)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_order_of_columns_does_not_matter_and_cuts_are_prefixes(seed: int, max_len: int) -> None:
    rng = np.random.default_rng(seed)
    indptr, indices, counts, medians, tokens = random_rows(rng, 3, 40)
    whole, lengths = encode(indptr, indices, counts, medians, tokens, max_len=40)
    cut, cut_lengths = encode(indptr, indices, counts, medians, tokens, max_len=max_len)
    np.testing.assert_array_equal(cut, whole[:, :max_len])
    np.testing.assert_array_equal(cut_lengths, np.minimum(lengths, max_len))
    for a, b in pairwise(indptr):
        order = rng.permutation(b - a)
        indices[a:b], counts[a:b] = indices[a:b][order], counts[a:b][order]
    np.testing.assert_array_equal(encode(indptr, indices, counts, medians, tokens, max_len=40)[0], whole)


def test_ties_stand_by_ascending_column_not_by_token() -> None:
    input_ids, _ = encode(
        np.array([0, 4]),
        np.array([3, 0, 2, 1]),
        np.array([2.0, 4, 1, 2]),
        np.array([2.0, 1, 1, 2]),
        np.array([9, 8, 7, 6]),
        max_len=5,
        pad_id=77,
    )
    # columns 0..3 have keys 2, 2, 1, 1
    assert input_ids.tolist() == [[9, 8, 7, 6, 77]]


def test_one_division_in_float64() -> None:
    """Keys that float32 cannot tell apart."""
    medians = np.array([1.0, 1.0 + 2**-40, 1.0 - 2**-40])
    args = (np.array([0, 3]), np.array([0, 1, 2]), np.ones(3, np.float32), medians, np.array([4, 5, 6]))
    assert encode(*args, max_len=3)[0].tolist() == [[6, 4, 5]]


def test_counts_of_extreme_size() -> None:
    counts = np.array([2**62, 2**31, 1, 5], dtype=np.int64)
    medians = np.array([1e300, 1e-300, 1, 1e308])
    args = (np.array([0, 4]), np.arange(4), counts, medians, np.arange(4) + 4)
    assert encode(*args, max_len=4)[0].tolist() == [[5, 6, 4, 7]]
    tiny = (np.array([0, 2]), np.arange(2), np.array([5e-324, np.inf]), np.ones(2), np.array([4, 5]))
    assert encode(*tiny, max_len=4)[0].tolist() == [[5, 4, 0, 0]]


def test_counts_that_are_none_are_left_out() -> None:
    counts = np.array([np.nan, -1, 0, -0.0, 2])
    args = (np.array([0, 5]), np.arange(5), counts, np.ones(5), np.arange(5) + 4)
    assert [a.tolist() for a in encode(*args, max_len=2)] == [[[8, 0]], [1]]


def test_threads_change_nothing(set_threads: Callable[[int], None]) -> None:
    arrays = random_rows(np.random.default_rng(0), 500, 300)
    set_threads(1)
    one = encode(*arrays, max_len=128)
    set_threads(2)
    for _ in range(2):
        for a, b in zip(encode(*arrays, max_len=128), one):
            np.testing.assert_array_equal(a, b)


def test_opcheck() -> None:
    for n_cells in (0, 3):
        arrays = random_rows(np.random.default_rng(1), n_cells, 12)
        torch.library.opcheck(
            torch.ops.corrmask.rank_encode.default, tuple(map(torch.from_numpy, arrays)), {"max_len": 8, "pad_id": 0}
        )


def test_no_cells_and_no_genes() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    input_ids, lengths = encode(np.zeros(1, dtype=np.int64), nothing, nothing, np.ones(3), np.arange(3), max_len=4)
    assert input_ids.shape == (0, 4)
    assert lengths.shape == (0,)
    input_ids, lengths = encode(np.zeros(3, dtype=np.int64), nothing, nothing, np.ones(0), nothing, max_len=4, pad_id=9)
    assert input_ids.tolist() == [[9] * 4] * 2
    assert lengths.tolist() == [0, 0]


GOOD: dict[str, Any] = {
    "indptr": torch.tensor([0, 2]),
    "indices": torch.tensor([0, 2]),
    "counts": torch.tensor([1.0, 2.0]),
    "medians": torch.ones(3, dtype=torch.float64),
    "gene_tokens": torch.tensor([4, 5, 6]),
    "max_len": 4,
}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("indptr", [0, 2], TypeError),
        ("indptr", torch.tensor([0, 2], dtype=torch.int32), ValueError),
        ("indptr", torch.tensor([0, 1]), ValueError),
        ("indptr", torch.tensor([1, 2]), ValueError),
        ("indptr", torch.tensor([0, 2, 1, 2]), ValueError),
        ("indptr", torch.zeros(0, dtype=torch.int64), ValueError),
        ("indices", torch.tensor([0, 3]), ValueError),
        ("indices", torch.tensor([-1, 2]), ValueError),
        ("indices", torch.tensor([0.0, 2.0]), ValueError),
        ("indices", torch.tensor([[0, 2]]), ValueError),
        ("counts", torch.tensor([1.0]), ValueError),
        ("counts", torch.tensor([1, 2], dtype=torch.int16), ValueError),
        ("counts", torch.tensor([1, 2], dtype=torch.bfloat16), ValueError),
        ("medians", torch.ones(3), ValueError),
        ("medians", torch.tensor([1, 1, 0.0], dtype=torch.float64), ValueError),
        ("medians", torch.tensor([1, -1, 1.0], dtype=torch.float64), ValueError),
        ("medians", torch.tensor([np.nan, 1, 1], dtype=torch.float64), ValueError),
        ("gene_tokens", torch.tensor([4, 5]), ValueError),
        ("gene_tokens", torch.tensor([4, 5, 6.0]), ValueError),
        ("gene_tokens", torch.tensor([4, 5, 2**32 + 6]), ValueError),
        ("gene_tokens", torch.tensor([4, 5, -(2**40)]), ValueError),
        ("medians", torch.tensor([1, np.inf, 1], dtype=torch.float64), ValueError),
        ("gene_tokens", None, TypeError),
        ("max_len", 0, ValueError),
        ("max_len", 2.0, TypeError),
        ("pad_id", 2**31, ValueError),
        ("pad_id", None, TypeError),
    ],
)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    rank_encode(**GOOD)
    with pytest.raises(kind, match=rf"^corrmask\.rank_encode: .*'{name}'"):
        rank_encode(**{**GOOD, name: value})


def test_a_missing_median_is_refused_even_where_no_cell_has_the_gene() -> None:
    arguments = {**GOOD, "medians": torch.tensor([1, np.nan, 1], dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"'medians' must be positive .* gene 1"):
        rank_encode(**arguments)


def test_geneformers_published_method_on_real_cells(data_dir: Path) -> None:
    """counts / total * 10,000 / median, argsort of the negated: the same tokens, save among keys within 1e-12."""
    anndata = pytest.importorskip("anndata")
    cells = anndata.read_h5ad(data_dir / "pbmc_kang_5donors.h5ad")
    tokens = read_dictionary(data_dir / "geneformer" / "token_dictionary.pkl")
    medians = read_dictionary(data_dir / "geneformer" / "gene_median_dictionary.pkl")
    vocabulary = read_vocabulary(
        data_dir / "geneformer" / "token_dictionary.pkl", data_dir / "geneformer" / "gene_median_dictionary.pkl"
    )
    max_len = 512  # 1,500 cells have more
    ours, lengths = encode_chunk(sp.csr_array(cells.X), cells.var_names, vocabulary, max_len=max_len)

    known = np.array([gene in medians and gene in tokens for gene in cells.var_names])
    norm = np.array([medians[gene] for gene in cells.var_names[known]])
    token_of = np.array([tokens[gene] for gene in cells.var_names[known]])
    totals = np.asarray(cells.X.sum(axis=1, dtype=np.float64)).ravel()
    matrix = sp.csr_array(cells.X)[:, np.flatnonzero(known)].astype(np.float64)
    gene_of_token = np.full(vocabulary.size, -1)
    gene_of_token[token_of] = np.arange(len(token_of))
    n_exact = n_cut = 0
    for i in range(cells.n_obs):
        row = slice(matrix.indptr[i], matrix.indptr[i + 1])
        genes = matrix.indices[row]
        value = matrix.data[row] / totals[i] * 10_000 / norm[genes]
        order = np.argsort(-value)[:max_len]
        theirs = token_of[genes[order]]
        assert lengths[i] == len(theirs)
        n_cut += len(genes) > max_len
        mine = ours[i, : len(theirs)].numpy()
        if np.array_equal(mine, theirs):
            n_exact += 1
            continue
        key = np.zeros(len(token_of))
        key[genes] = value
        a, b = key[gene_of_token[mine]], key[gene_of_token[theirs]]
        assert (np.abs(a - b) <= 1e-12 * b).all()
        assert len(np.unique(mine)) == len(mine)
    assert n_cut > 1000
    assert n_exact > cells.n_obs // 10, "so the comparison is not of ties alone"


def test_past_two_to_the_31_entries() -> None:
    """Offsets beyond 32 bits: zeros that were never written take no memory, the last cell holds the only counts."""
    width, n_cells = 2**16, 2**15
    n = width * n_cells + 3
    columns, counts = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.int32)
    columns[-3:], counts[-3:] = [0, 1, 2], [1, 4, 2]
    indptr = np.append(np.arange(n_cells + 1) * width, n)
    arrays = (indptr, columns, counts, np.ones(3), np.array([7, 8, 9], dtype=np.int32))
    input_ids, lengths = encode(*arrays, max_len=3)
    assert lengths.tolist() == [0] * n_cells + [3]
    assert input_ids[-1].tolist() == [8, 9, 7]
