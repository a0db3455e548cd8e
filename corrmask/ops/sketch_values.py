"""Counting of each gene's values, by bucket: what medians are read from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from corrmask._library import call
from corrmask.ops._checks import check_csr, check_integer, check_tensor

_BUCKETS = 1 << 20  # of positive float64: 11 bits of the exponent, 9 of the mantissa


def sketch_values(
    low: Tensor,
    carries: Tensor,
    indptr: Tensor,
    indices: Tensor,
    counts: Tensor,
    totals: Tensor,
    genes: Tensor,
    *,
    first_bucket: int,
) -> Tensor:
    """Count the values of cells, by gene and bucket, in place. Exact; on the CPU alone.

    A value is count * 10000 / total in float64, in that order, where that is positive; its bucket its bits >> 43: the
    exponent and the leading 9 bits of the mantissa. Bucket b of gene g has counted 256 * carries[g, b - first_bucket] +
    low[g, b - first_bucket] values. Where not all buckets of the chunk are there, nothing is counted.

    Parameters
    ----------
    low, carries
        uint8 and uint32 [G, n_buckets]: updated.
    indptr
        int64 [N + 1]: where each cell starts (cells x columns in compressed rows).
    indices
        int32 or int64 [nnz]: columns, ascending within a cell, none twice.
    counts
        float32, float64, int32 or int64 [nnz]: raw counts.
    totals
        float64 [N]: of each cell.
    genes
        int32 [n_columns]: the gene of each column, 0 .. G - 1, each once; -1 leaves a column out.
    first_bucket
        The bucket that stands first in `low` and `carries`.

    Returns
    -------
    Tensor
        int64 [2]: the lowest and the highest bucket of the values in any column; the lowest is above the highest where
        there are no values.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape, range or device, or a cell's columns do not ascend.
    """
    op = "sketch_values"
    check_tensor(op, "low", low, (torch.uint8,), (None, None), "[G, n_buckets]")
    check_tensor(op, "carries", carries, (torch.uint32,), tuple(low.shape), "[G, n_buckets], as 'low'")
    check_csr(op, indptr, indices, counts, "counts")
    check_tensor(op, "totals", totals, (torch.float64,), (indptr.shape[0] - 1,), "[N]")
    check_tensor(op, "genes", genes, (torch.int32,), (None,), "[n_columns]")
    first_bucket = check_integer(op, "first_bucket", first_bucket, 0, _BUCKETS)
    updated = {"low": low, "carries": carries}
    for name, tensor in updated.items():
        if not tensor.is_contiguous():
            raise ValueError(f"corrmask.{op}: {name!r} is updated in place and must be contiguous")
    chunk = {"indptr": indptr, "indices": indices, "counts": counts, "totals": totals, "genes": genes}
    for name, tensor in (updated | chunk).items():
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(f"corrmask.{op}: {name!r} is on {tensor.device}; move it with .cpu()")
    return call(
        torch.ops.corrmask.sketch_values,
        low,
        carries,
        *(tensor.contiguous() for tensor in chunk.values()),
        first_bucket=first_bucket,
    )


@torch.library.register_fake("corrmask::sketch_values")
def _(low: Tensor, carries: Tensor, indptr: Tensor, *_: Any, **__: Any) -> Tensor:
    return indptr.new_empty((2,))
