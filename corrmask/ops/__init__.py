"""The native operators as typed functions; `torch.ops.corrmask` holds the same without checks."""

from __future__ import annotations

from corrmask.ops.bin_values import bin_values
from corrmask.ops.covariance_update import covariance_update
from corrmask.ops.gather_batches import gather_batches
from corrmask.ops.gather_tokens import TokenChunks, gather_tokens
from corrmask.ops.mask_tokens import mask_tokens
from corrmask.ops.philox4x32 import philox4x32
from corrmask.ops.rank_encode import rank_encode
from corrmask.ops.sample_groups import sample_groups
from corrmask.ops.sketch_values import sketch_values
from corrmask.ops.topk_edges import topk_edges

__all__ = [
    "TokenChunks",
    "bin_values",
    "covariance_update",
    "gather_batches",
    "gather_tokens",
    "mask_tokens",
    "philox4x32",
    "rank_encode",
    "sample_groups",
    "sketch_values",
    "topk_edges",
]
