"""The strongest correlated partners of every gene, read off the Gram matrix in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import check_devices, check_integer, check_tensor
from corrmask.ops.covariance_update import panels_size


def topk_edges(
    gram: Tensor,
    ranks: Tensor,
    mean_factors: Tensor,
    inverse_sd: Tensor,
    *,
    top_k: int,
    min_corr: float,
    positive: bool = False,
) -> tuple[Tensor, Tensor]:
    """The `top_k` strongest partners of each gene.

    r_ij = (gram_ij - sum over levels of f_li f_lj) * inverse_sd_i * inverse_sd_j, computed in float64, held to -1 .. 1
    and rounded to float32; thresholds and order are those of the rounded value, so that what is written agrees with
    its own order. Partners stand by descending |r|, then ascending gene.

    Parameters
    ----------
    gram, ranks
        float64 [panels_size(G)] and int32 [G]: the accumulator of `covariance_update`, and each gene's place in it.
    mean_factors
        float64 [n_levels, G]: sqrt(cells of the level) * mean of the gene in the level.
    inverse_sd
        float64 [G]: 1 / sqrt(centred sum of squares); 0 for a gene that gets no edges.
    top_k
        Partners kept for each gene, >= 1.
    min_corr
        Least |r| (r where `positive`) of an edge.
    positive
        Keep positive correlations alone.

    Returns
    -------
    partners : Tensor
        int32 [G, top_k], -1 where there are fewer.
    weights : Tensor
        float32 [G, top_k]: signed r, 0 where there are fewer.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range.
    """
    op = "topk_edges"
    check_tensor(op, "inverse_sd", inverse_sd, (torch.float64,), (None,), "[G]")
    n_genes = inverse_sd.shape[0]
    size = panels_size(n_genes)
    check_tensor(op, "gram", gram, (torch.float64,), (size,), f"[panels_size(G)] = [{size}]")
    check_tensor(op, "ranks", ranks, (torch.int32,), (n_genes,), "[G]")
    check_tensor(op, "mean_factors", mean_factors, (torch.float64,), (None, n_genes), "[n_levels, G]")
    check_integer(op, "top_k", top_k, 1, 2**20)
    if isinstance(min_corr, bool) or not isinstance(min_corr, (int, float)):
        raise TypeError(f"corrmask.{op}: 'min_corr' must be a number in 0 .. 1, got {min_corr!r}")
    if not 0 <= min_corr <= 1:
        raise ValueError(f"corrmask.{op}: 'min_corr' must be in 0 .. 1, got {min_corr}")
    check_devices(op, gram, ranks=ranks, mean_factors=mean_factors, inverse_sd=inverse_sd)
    require_device(op, gram)
    tensors = (tensor.contiguous() for tensor in (gram, ranks, mean_factors, inverse_sd))
    return call(torch.ops.corrmask.topk_edges, *tensors, top_k=top_k, min_corr=float(min_corr), positive=bool(positive))


@torch.library.register_fake("corrmask::topk_edges")
def _(
    gram: Tensor,
    ranks: Tensor,
    mean_factors: Tensor,
    inverse_sd: Tensor,
    *,
    top_k: int,
    min_corr: float,
    positive: bool,
) -> tuple[Tensor, Tensor]:
    shape = (inverse_sd.shape[0], top_k)
    return inverse_sd.new_empty(shape, dtype=torch.int32), inverse_sd.new_empty(shape, dtype=torch.float32)
