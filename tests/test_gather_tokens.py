"""Ragged rows into a batch: the twin, Arrow's buffers, damaged rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corrmask.ops import TokenChunks, gather_tokens

V = 60_000
Pieces = tuple[list[np.ndarray], list[np.ndarray]]

BAD_ARGUMENTS: list[tuple[str, Any, type[Exception]]] = [
    ("chunks", torch.zeros(1, 4, dtype=torch.int64), TypeError),
    ("rows", [0], TypeError),
    ("rows", torch.tensor([0], dtype=torch.int32), ValueError),
    ("rows", torch.tensor([3]), ValueError),
    ("rows", torch.tensor([-1]), ValueError),
    ("vocabulary", 0, ValueError),
    ("max_len", 0, ValueError),
    ("max_len", 2.0, TypeError),
    ("pad_id", 2**31, ValueError),
    ("dtype", torch.float32, ValueError),
]


def random_pieces(rng: np.random.Generator, n_pieces: int, kind: Any, offset: Any, longest: int = 40) -> Pieces:
    """Pieces of 0 to 6 rows; the first row of one need not start at 0, nor the last end with the tokens."""
    tokens, offsets = [], []
    for _ in range(n_pieces):
        sizes = rng.integers(0, longest + 1, rng.integers(0, 7)) * (rng.random() < 0.9)
        before, behind = rng.integers(0, 5, 2)
        tokens.append(rng.integers(0, V, before + sizes.sum() + behind).astype(kind))
        offsets.append((before + np.append(0, np.cumsum(sizes))).astype(offset))
    return tokens, offsets


def n_rows(pieces: Pieces) -> int:
    return sum(len(part) - 1 for part in pieces[1])


def same(result: tuple[torch.Tensor, ...], expected: tuple[np.ndarray, ...], dtype: torch.dtype) -> None:
    assert [part.dtype for part in result] == [dtype, torch.int64, torch.int32]
    for part, other in zip(result, expected, strict=True):
        np.testing.assert_array_equal(part.numpy(), other)
        assert part.shape == other.shape


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.sampled_from([np.uint16, np.int32, np.int64]),
    st.sampled_from([np.int32, np.int64]),
    st.sampled_from([torch.int32, torch.int64]),
    st.sampled_from([1, 3, 17, 10**9]),
    st.booleans(),
    st.sampled_from([0, -100, 7]),
)
def test_equals_the_reference(
    case: int, n_pieces: int, kind: Any, offset: Any, dtype: torch.dtype, max_len: int, packed: bool, pad_id: int
) -> None:
    rng = np.random.default_rng(case)
    pieces = random_pieces(rng, n_pieces, kind, offset)
    chunks = TokenChunks(*pieces)
    assert len(chunks) == n_rows(pieces)
    assert chunks.lengths().tolist() == [size for part in pieces[1] for size in np.diff(part)]
    rows = rng.integers(0, max(1, n_rows(pieces)), rng.integers(0, 9) * (n_rows(pieces) > 0))
    options: dict[str, Any] = {"max_len": max_len, "pad_id": pad_id, "packed": packed}
    result = gather_tokens(chunks, torch.from_numpy(rows), vocabulary=V, dtype=dtype, **options)
    same(result, reference.gather_tokens(*pieces, rows, **options), dtype)


def test_buffers_of_arrow_are_read_where_they_lie() -> None:
    pa = pytest.importorskip("pyarrow")
    cells = [[4, 5, 6], [], [7], [8, 9], [10]]
    for kind in (pa.list_(pa.uint16()), pa.list_(pa.int64()), pa.large_list(pa.int32())):
        column = pa.chunked_array([pa.array(cells, kind).slice(1), pa.array(cells, kind)[:2]])
        parts = [chunk.values.to_numpy(zero_copy_only=True) for chunk in column.chunks]
        chunks = TokenChunks(parts, [chunk.offsets.to_numpy(zero_copy_only=True) for chunk in column.chunks])
        assert chunks.table[:-1, 2].tolist() == [chunk.values.buffers()[1].address for chunk in column.chunks]
        tokens, lengths, bounds = gather_tokens(chunks, torch.arange(6), vocabulary=11, max_len=9, packed=True)
        assert tokens.tolist() == [7, 8, 9, 10, 4, 5, 6]
        assert lengths.tolist() == [0, 1, 2, 1, 3, 0]
        assert bounds.tolist() == [0, 0, 1, 3, 4, 7, 7]


def test_independent_of_threads(set_threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(1)
    pieces = random_pieces(rng, 400, np.uint16, np.int32, longest=2048)
    chunks, rows = TokenChunks(*pieces), rng.permutation(n_rows(pieces))
    for packed in (False, True):
        options: dict[str, Any] = {"max_len": 1500, "packed": packed}
        expected = reference.gather_tokens(*pieces, rows, **options)
        for n in (1, 3):
            set_threads(n)
            result = gather_tokens(chunks, torch.from_numpy(rows), vocabulary=V, **options)
            same(result, expected, torch.int64)


def test_offsets_beyond_31_bits() -> None:
    """Rows that stand behind 2**31 tokens (pages that are never touched take no memory)."""
    tokens = np.zeros(2**31 + 10, dtype=np.uint16)
    tokens[-3:] = [7, 8, 9]
    chunks = TokenChunks([tokens], [np.array([2**31 + 5, 2**31 + 7, 2**31 + 10])])
    batch, lengths, _ = gather_tokens(chunks, torch.tensor([1, 0]), vocabulary=10, max_len=5)
    assert batch.tolist() == [[7, 8, 9], [0, 0, 0]]
    assert lengths.tolist() == [3, 2]


@pytest.mark.parametrize("offset", [np.int32, np.int64])
@pytest.mark.parametrize("bounds", [[0, 3, 9], [0, -1, 5], [3, 2, 5], [0, 2**31 - 1, 5], [-4, 1, 2]])
def test_a_damaged_row_is_named(bounds: list[int], offset: Any) -> None:
    tokens = np.arange(5, dtype=np.uint16)
    whole = np.array([0, 1, 2, 3], dtype=offset)
    chunks = TokenChunks([tokens, tokens], [whole, np.array(bounds, dtype=offset)])
    broken = [i for i in range(2) if not 0 <= bounds[i] <= bounds[i + 1] <= 5]
    for i in broken:
        with pytest.raises(ValueError, match=rf"^corrmask\.gather_tokens: row {3 + i} is damaged"):
            gather_tokens(chunks, torch.tensor([0, 3 + i]), vocabulary=5, max_len=2)
    sound = [row for row in range(5) if row - 3 not in broken]
    gather_tokens(chunks, torch.tensor(sound), vocabulary=5, max_len=2)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_a_token_that_the_vocabulary_lacks_is_named(kind: Any) -> None:
    wrong = [50, 2**16 - 1] if kind is np.uint16 else [50, -1, -(2**31), 2**31 - 1]
    if kind is np.int64:
        wrong += [2**32, 2**32 + 3, 2**63 - 1, -(2**63)]
    for token in wrong:
        chunks = TokenChunks([np.array([1] * 40 + [token], dtype=kind)], [np.array([0, 20, 41])])
        for dtype in (torch.int32, torch.int64):
            with pytest.raises(ValueError, match=f"row 1 holds token {token}, the vocabulary has 50$"):
                gather_tokens(chunks, torch.tensor([0, 1]), vocabulary=50, max_len=50, dtype=dtype)
        gather_tokens(chunks, torch.tensor([0, 1]), vocabulary=50, max_len=20)  # cut off before it


def test_opcheck() -> None:
    chunks = TokenChunks(*random_pieces(np.random.default_rng(3), 6, np.uint16, np.int32))
    for packed in (False, True):
        options = {"token_bits": 16, "offset_bits": 32, "vocabulary": V, "max_len": 9, "pad_id": 0}
        torch.library.opcheck(
            torch.ops.corrmask.gather_tokens.default,
            (torch.tensor([2, 0, 2]), chunks.table),
            {**options, "packed": packed, "wide": not packed},
        )


@pytest.mark.parametrize(("name", "value", "kind"), BAD_ARGUMENTS)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    good: dict[str, Any] = {
        "chunks": TokenChunks([np.zeros(3, np.uint16)], [np.arange(4)]),
        "rows": torch.tensor([2, 0]),
        "vocabulary": 1,
        "max_len": 4,
    }
    assert gather_tokens(**good)[0].shape == (2, 1)
    with pytest.raises(kind, match=rf"^corrmask\.gather_tokens: .*'{name}'"):
        gather_tokens(**{**good, name: value})


@pytest.mark.parametrize(
    ("tokens", "offsets", "words"),
    [
        ([np.zeros(2, np.int8)], [np.arange(3)], "'tokens' must be uint16"),
        ([np.zeros(2, np.uint16), np.zeros(2, np.int32)], [np.arange(3)] * 2, "one dtype"),
        ([np.zeros(2, np.uint16)], [np.arange(3, dtype=np.uint32)], "'offsets' must be int32"),
        ([np.zeros(2, np.uint16)], [np.zeros(0, np.int32)], "'offsets' must be contiguous"),
        ([np.zeros(4, np.uint16)[::2]], [np.arange(3)], "'tokens' must be contiguous"),
        ([np.zeros(2, np.uint16)], [], "as many"),
    ],
)
def test_pieces_that_do_not_fit(tokens: list[np.ndarray], offsets: list[np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TokenChunks(tokens, offsets)


def test_rows_are_copied_to_a_device() -> None:
    """Here to the memory of the CPU once more, by a name under which it passes for another device."""
    pieces = random_pieces(np.random.default_rng(5), 5, np.uint16, np.int32)
    for part in pieces[0]:
        part.flags.writeable = False
    chunks = TokenChunks(*pieces)
    assert chunks.to("cpu") is chunks
    there = chunks.to("cpu:0")
    assert not np.isin(there.table[:-1, 1:3], chunks.table[:-1, 1:3]).any()
    assert torch.equal(there.table[:, [0, 3]], chunks.table[:, [0, 3]])
    assert there.lengths().tolist() == chunks.lengths().tolist()
    rows = torch.arange(len(chunks))
    expected = gather_tokens(chunks, rows, vocabulary=V, max_len=30)
    for part in pieces[0]:
        part.flags.writeable = True
        part[:] = 0
    for a, b in zip(gather_tokens(there, rows, vocabulary=V, max_len=30), expected, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="'rows' must be on meta, where the chunks are; got cpu"):
        gather_tokens(chunks.to("meta"), rows, vocabulary=V, max_len=30)
