"""Cells from where they lie into several batches at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from corrmask._library import call
from corrmask.ops._checks import check_tensor
from corrmask.ops.gather_tokens import TokenChunks, fake_batch, gather_options

_OP = "gather_batches"


def gather_batches(
    chunks: TokenChunks,
    rows: Tensor,
    *,
    vocabulary: int,
    max_len: int,
    pad_id: int = 0,
    packed: bool = False,
    dtype: torch.dtype = torch.int64,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Several batches in one call, as `gather_tokens` gives each: for threads that would else wait for Python's lock.

    On the CPU alone.

    Parameters
    ----------
    chunks
        The rows, on the CPU.
    rows
        int64 [n, B]: those of each batch.
    vocabulary, max_len, pad_id, packed, dtype
        As of `gather_tokens`.

    Returns
    -------
    list
        n times what `gather_tokens` returns.

    Raises
    ------
    TypeError, ValueError
        As `gather_tokens`.
    """
    check_tensor(_OP, "rows", rows, (torch.int64,), (None, None), "[n, B]")
    if not rows.is_cpu:
        raise ValueError(f"corrmask.{_OP}: 'rows' must be on the CPU, got {rows.device}; call gather_tokens there")
    options = gather_options(_OP, chunks, rows, vocabulary, max_len, pad_id, packed, dtype)
    found = call(torch.ops.corrmask.gather_batches, rows.contiguous(), chunks.table, **options)
    return list(zip(found[0::3], found[1::3], found[2::3], strict=True))


@torch.library.register_fake("corrmask::gather_batches")
def _(rows: Tensor, chunks: Tensor, **options: Any) -> list[Tensor]:
    return [part for batch in rows for part in fake_batch(batch, chunks, **options)]
