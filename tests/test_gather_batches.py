"""Several batches in one call: the twin batch by batch, what is wrong with an argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gather_tokens import BAD_ARGUMENTS, V, n_rows, random_pieces, same

from corrmask.ops import TokenChunks, gather_batches


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 4),
    st.integers(0, 5),
    st.sampled_from([np.uint16, np.int32, np.int64]),
    st.sampled_from([torch.int32, torch.int64]),
    st.booleans(),
)
def test_each_batch_equals_the_reference(
    case: int, n: int, size: int, kind: Any, dtype: torch.dtype, packed: bool
) -> None:
    rng = np.random.default_rng(case)
    pieces = random_pieces(rng, 4, kind, np.int32)
    rows = rng.integers(0, max(1, n_rows(pieces)), (n, size if n_rows(pieces) else 0))
    options: dict[str, Any] = {"max_len": 30, "pad_id": 3, "packed": packed}
    batches = gather_batches(TokenChunks(*pieces), torch.from_numpy(rows), vocabulary=V, dtype=dtype, **options)
    assert len(batches) == n
    for batch, one in zip(batches, rows, strict=True):
        same(batch, reference.gather_tokens(*pieces, one, **options), dtype)


def test_opcheck() -> None:
    chunks = TokenChunks(*random_pieces(np.random.default_rng(3), 6, np.uint16, np.int32))
    options = {"token_bits": 16, "offset_bits": 32, "vocabulary": V, "max_len": 9, "pad_id": 0}
    for packed in (False, True):
        torch.library.opcheck(
            torch.ops.corrmask.gather_batches.default,
            (torch.tensor([[2, 0, 2], [1, 1, 0]]), chunks.table),
            {**options, "packed": packed, "wide": not packed},
        )


@pytest.mark.parametrize(("name", "value", "kind"), BAD_ARGUMENTS)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    good: dict[str, Any] = {
        "chunks": TokenChunks([np.zeros(3, np.uint16)], [np.arange(4)]),
        "rows": torch.tensor([[2, 0]]),
        "vocabulary": 1,
        "max_len": 4,
    }
    assert gather_batches(**good)[0][0].shape == (2, 1)
    several = value[None] if name == "rows" and isinstance(value, torch.Tensor) else value
    with pytest.raises(kind, match=rf"^corrmask\.gather_batches: .*'{name}'"):
        gather_batches(**{**good, name: several})


def test_rows_on_a_device_are_refused() -> None:
    chunks = TokenChunks([np.zeros(3, np.uint16)], [np.arange(4)]).to("meta")
    rows = torch.zeros(1, 2, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match=r"^corrmask\.gather_batches: 'rows' must be on the CPU, got meta"):
        gather_batches(chunks, rows, vocabulary=1, max_len=4)
