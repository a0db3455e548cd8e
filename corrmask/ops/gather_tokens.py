"""Cells from where they lie into a batch: padded, or one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import check_integer, check_tensor

_OP = "gather_tokens"
_TOKEN_DTYPES = (np.dtype(np.uint16), np.dtype(np.int32), np.dtype(np.int64))
_OFFSET_DTYPES = (np.dtype(np.int32), np.dtype(np.int64))


class TokenChunks:
    """Ragged rows of tokens in pieces, as Arrow keeps them: nothing is copied, so that they may be memory-mapped.

    Row i of a piece holds ``tokens[offsets[i] : offsets[i + 1]]``; rows count on from piece to piece.

    Parameters
    ----------
    tokens
        Of each piece: uint16, int32 or int64 [any], contiguous; one dtype for all.
    offsets
        Of each piece: int32 or int64 [rows of the piece + 1], contiguous; one dtype for all. They are checked as rows
        are read, not here.

    Raises
    ------
    ValueError
        A piece has another dtype or shape.
    """

    def __init__(self, tokens: Sequence[np.ndarray], offsets: Sequence[np.ndarray]) -> None:
        if len(tokens) != len(offsets):
            raise ValueError(f"corrmask.{_OP}: as many 'tokens' as 'offsets', got {len(tokens)} and {len(offsets)}")
        self._tokens, self._offsets = list(tokens), list(offsets)  # kept: the table holds their addresses
        self._there: list[tuple[Tensor, ...]] = []  # likewise, of pieces on a device
        self.token_bits = _bits("tokens", tokens, _TOKEN_DTYPES, least=0)
        self.offset_bits = _bits("offsets", offsets, _OFFSET_DTYPES, least=1)
        table = np.zeros((len(tokens) + 1, 4), dtype=np.int64)
        table[1:, 0] = np.cumsum([len(part) - 1 for part in offsets])
        table[:-1, 1] = [part.ctypes.data for part in offsets]
        table[:-1, 2] = [part.ctypes.data for part in tokens]
        table[:-1, 3] = [len(part) for part in tokens]
        self.table = torch.from_numpy(table)

    def __reduce__(self) -> tuple[Any, ...]:
        # the table holds addresses of this process: a copy makes its own
        return _rebuilt, (self._tokens, self._offsets, self.device)

    def __len__(self) -> int:
        return int(self.table[-1, 0])

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.table.device

    def to(self, device: torch.device | str) -> TokenChunks:
        """The same rows in the memory of a device, copied piece by piece; those of the CPU where they are."""
        if torch.device(device) == self.device:
            return self
        there, table = TokenChunks(self._tokens, self._offsets), self.table.clone()
        parts = zip(self._offsets, self._tokens, strict=True)
        there._there = [tuple(_on_device(part, device) for part in piece) for piece in parts]
        table[:-1, 1:3] = torch.tensor([[part.data_ptr() for part in piece] for piece in there._there]).view(-1, 2)
        there.table = table.to(device)
        return there

    def lengths(self) -> np.ndarray:
        """Tokens of each row: int64 [rows]."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(part).astype(np.int64) for part in self._offsets)])


def _rebuilt(tokens: Sequence[np.ndarray], offsets: Sequence[np.ndarray], device: torch.device) -> TokenChunks:
    return TokenChunks(tokens, offsets).to(device)


def _bits(name: str, parts: Sequence[np.ndarray], dtypes: tuple[np.dtype, ...], least: int) -> int:
    for part in parts:
        if part.dtype not in dtypes or part.dtype != parts[0].dtype:
            wanted = " or ".join(map(str, dtypes))
            raise ValueError(f"corrmask.{_OP}: {name!r} must be {wanted}, one dtype for all, got {part.dtype}")
        if part.ndim != 1 or len(part) < least or not part.flags.c_contiguous:
            raise ValueError(f"corrmask.{_OP}: {name!r} must be contiguous of one dimension, got {list(part.shape)}")
    return 8 * (parts[0].dtype if parts else dtypes[0]).itemsize


def _on_device(part: np.ndarray, device: torch.device | str) -> Tensor:
    """A copy of an array, which may be read-only."""
    return torch.from_numpy(part.copy()).to(device)


def gather_tokens(
    chunks: TokenChunks,
    rows: Tensor,
    *,
    vocabulary: int,
    max_len: int,
    pad_id: int = 0,
    packed: bool = False,
    dtype: torch.dtype = torch.int64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read rows into a batch, the first `max_len` tokens of each. Exact.

    On CUDA the rows lie in the device's memory (`TokenChunks.to`), and the batch comes there. Since its size hangs on
    the rows, the host waits for the device once.

    Parameters
    ----------
    chunks
        The rows.
    rows
        int64 [B], in any order, repeated or not; on the device of the chunks.
    vocabulary
        Every token must be in 0 .. vocabulary - 1.
    max_len
        Most tokens kept of a row.
    pad_id
        Fills a padded row behind its length.
    packed
        Rows one behind the other, without padding.
    dtype
        torch.int32 or torch.int64: of the result.

    Returns
    -------
    tokens : Tensor
        [B, L], L the longest row as it was cut; `packed`: [sum of lengths].
    lengths : Tensor
        int64 [B].
    cu_seqlens : Tensor
        int32 [B + 1]: where each row starts in a packed batch, and the end, as attention over ragged rows takes it.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range; a row, named, is not there, reaches beyond its piece or
        holds a token that the vocabulary lacks.
    """
    check_tensor(_OP, "rows", rows, (torch.int64,), (None,), "[B]")
    options = gather_options(_OP, chunks, rows, vocabulary, max_len, pad_id, packed, dtype)
    return call(torch.ops.corrmask.gather_tokens, rows.contiguous(), chunks.table, **options)


def gather_options(
    op: str,
    chunks: TokenChunks,
    rows: Tensor,
    vocabulary: int,
    max_len: int,
    pad_id: int,
    packed: bool,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Arguments, checked, as the operators take them."""
    if not isinstance(chunks, TokenChunks):
        raise TypeError(f"corrmask.{op}: 'chunks' must be a TokenChunks, got {type(chunks).__name__}")
    if rows.device != chunks.device:
        raise ValueError(f"corrmask.{op}: 'rows' must be on {chunks.device}, where the chunks are; got {rows.device}")
    require_device(op, rows)
    if dtype not in (torch.int32, torch.int64):
        raise ValueError(f"corrmask.{op}: 'dtype' must be torch.int32 or torch.int64, got {dtype}")
    vocabulary = check_integer(op, "vocabulary", vocabulary, 1, 2**31 - 1)
    max_len = check_integer(op, "max_len", max_len, 1, 2**31 - 1)
    pad_id = check_integer(op, "pad_id", pad_id, -(2**31), 2**31 - 1)
    return {
        "token_bits": chunks.token_bits,
        "offset_bits": chunks.offset_bits,
        "vocabulary": vocabulary,
        "max_len": max_len,
        "pad_id": pad_id,
        "packed": bool(packed),
        "wide": dtype == torch.int64,
    }


@torch.library.register_fake("corrmask::gather_tokens")
def fake_batch(
    rows: Tensor,
    chunks: Tensor,
    *,
    token_bits: int,
    offset_bits: int,
    vocabulary: int,
    max_len: int,
    pad_id: int,
    packed: bool,
    wide: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n_cells = rows.shape[0]
    size = torch.library.get_ctx().new_dynamic_size()  # the tokens of a packed batch, or the width of a padded one
    tokens = rows.new_empty((size,) if packed else (n_cells, size), dtype=torch.int64 if wide else torch.int32)
    return tokens, rows.new_empty((n_cells,)), rows.new_empty((n_cells + 1,), dtype=torch.int32)
