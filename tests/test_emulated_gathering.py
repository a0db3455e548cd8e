"""The CUDA kernels of gather_tokens, thread by thread on a CPU: the operator's batches, and what it raises for."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from emulated import library, pointer
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_gather_tokens import V, n_rows, random_pieces
from torch import Tensor

from corrmask.ops import TokenChunks, gather_tokens

WORD = ctypes.c_int64
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # a case takes long, thread by thread


def emulated(
    chunks: TokenChunks,
    rows: Tensor,
    *,
    vocabulary: int,
    max_len: int,
    pad_id: int = 0,
    packed: bool = False,
    dtype: torch.dtype = torch.int64,
    schedule: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `gather_tokens`, and raising as csrc/cuda/gather_tokens.cu does."""
    n = len(rows)
    source, lengths = torch.full((n,), 7), torch.full((n,), 7)
    bounds, report = torch.full((n + 1,), 7, dtype=torch.int32), torch.full((7,), -9)
    find = getattr(library("gathering"), f"find_{chunks.token_bits}_{chunks.offset_bits}")
    copy = getattr(library("gathering"), f"copy_{chunks.token_bits}_{str(dtype)[6:]}")
    find.restype = copy.restype = None
    find(
        *(pointer(tensor) for tensor in (rows, chunks.table)),
        *(WORD(number) for number in (n, len(chunks.table) - 1, max_len, vocabulary)),
        *(pointer(tensor) for tensor in (source, lengths, bounds, report)),
        ctypes.c_uint64(schedule),
    )
    width, total, faulty, fault, first, last, size = report.tolist()
    if faulty < n:
        row = int(rows[faulty])
        raise ValueError(
            {
                1: f"'rows' must be in 0 .. {len(chunks) - 1}, got {row}",
                2: f"row {row} is damaged: its tokens are said to stand at {first} .. {last} of {size}",
                3: f"row {row} holds token {first}, the vocabulary has {vocabulary}",
            }[fault]
        )
    tokens = torch.full((total,) if packed else (n, width), 7, dtype=dtype)
    copy(
        *(pointer(tensor) for tensor in (source, lengths, bounds)),
        *(WORD(number) for number in (n, 0 if packed else width, pad_id)),
        pointer(tokens),
    )
    return tokens, lengths, bounds


@settings(max_examples=60, phases=NO_SHRINKING)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.sampled_from([np.uint16, np.int32, np.int64]),
    st.sampled_from([np.int32, np.int64]),
    st.sampled_from([torch.int32, torch.int64]),
    st.sampled_from([1, 3, 17, 10**9]),
    st.booleans(),
    st.integers(1, 2**63),
)
def test_equals_the_operator(
    case: int,
    n_pieces: int,
    kind: Any,
    offset: Any,
    dtype: torch.dtype,
    max_len: int,
    packed: bool,
    schedule: int,
) -> None:
    rng = np.random.default_rng(case)
    pieces = random_pieces(rng, n_pieces, kind, offset)
    chunks = TokenChunks(*pieces)
    rows = torch.from_numpy(rng.integers(0, max(1, n_rows(pieces)), rng.integers(0, 80) * (n_rows(pieces) > 0)))
    options: dict[str, Any] = {"vocabulary": V, "max_len": max_len, "pad_id": -3, "packed": packed, "dtype": dtype}
    expected = gather_tokens(chunks, rows, **options)
    for a, b in zip(emulated(chunks, rows, **options, schedule=schedule), expected, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize("offset", [np.int32, np.int64])
def test_what_is_wrong_is_said_as_on_the_cpu(offset: Any) -> None:
    tokens = np.arange(5, dtype=np.int64)
    tokens[4] = -(2**40)
    whole = np.array([0, 1, 2, 5], dtype=offset)
    chunks = TokenChunks([tokens, tokens, tokens[:0]], [whole, np.array([0, 2, 1, 6], offset), np.array([0], offset)])
    for rows in ([0, 6], [1, -1], [0, 4], [5, 0], [0, 1, 2, 2], [0, 3, 2]):
        where = torch.tensor(rows)
        with pytest.raises(ValueError, match="corrmask") as expected:
            gather_tokens(chunks, where, vocabulary=5, max_len=9)
        with pytest.raises(ValueError, match="row") as found:
            emulated(chunks, where, vocabulary=5, max_len=9)
        assert str(expected.value) == f"corrmask.gather_tokens: {found.value}"
    assert emulated(chunks, torch.tensor([2, 0]), vocabulary=5, max_len=2)[1].tolist() == [2, 1], "cut off before it"
