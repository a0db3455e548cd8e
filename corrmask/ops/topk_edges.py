"""The strongest correlated partners of every gene, read off the Gram matrix in one pass."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import check_devices, check_tensor
from corrmask.ops.covariance_update import check_gram


def topk_edges(
    partners: Tensor,
    weights: Tensor,
    gram: Tensor,
    ranks: Tensor,
    mean_factors: Tensor,
    inverse_sd: Tensor,
    *,
    min_corr: float,
    positive: bool = False,
    first_panel: int = 0,
) -> None:
    """Update, in place, the strongest partners of each gene by the correlations in some panels of the Gram matrix.

    r_ij = (gram_ij - sum over levels of f_li f_lj) * inverse_sd_i * inverse_sd_j, computed in float64, held to -1 .. 1
    and rounded to float32; thresholds and order are those of the rounded value, so that what is written agrees with
    its own order. Partners stand by descending |r|, then ascending gene, whatever the order of the panels.

    Parameters
    ----------
    partners
        int32 [G, top_k]: by gene; -1 where there are fewer, and everywhere before the first panels.
    weights
        float32 [G, top_k]: signed r, 0 where there are fewer.
    gram, ranks
        float64 [panels] and int32 [G]: the accumulator of `covariance_update`, and each gene's place in it.
    mean_factors
        float64 [n_levels, G], by rank: sqrt(cells of the level) * mean of the gene in the level.
    inverse_sd
        float64 [G], by rank: 1 / sqrt(centred sum of squares); 0 for a gene that gets no edges.
    min_corr
        Least |r| (r where `positive`) of an edge.
    positive
        Keep positive correlations alone.
    first_panel
        First panel in `gram`.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range.
    """
    op = "topk_edges"
    check_tensor(op, "inverse_sd", inverse_sd, (torch.float64,), (None,), "[G]")
    n_genes = inverse_sd.shape[0]
    check_tensor(op, "partners", partners, (torch.int32,), (n_genes, None), "[G, top_k]")
    check_tensor(op, "weights", weights, (torch.float32,), tuple(partners.shape), "[G, top_k], as 'partners'")
    check_gram(op, gram, n_genes, first_panel)
    check_tensor(op, "ranks", ranks, (torch.int32,), (n_genes,), "[G]")
    check_tensor(op, "mean_factors", mean_factors, (torch.float64,), (None, n_genes), "[n_levels, G]")
    for name, updated in (("partners", partners), ("weights", weights)):
        if not updated.is_contiguous():
            raise ValueError(f"corrmask.{op}: {name!r} is updated in place and must be contiguous")
    if isinstance(min_corr, bool) or not isinstance(min_corr, Real):
        raise TypeError(f"corrmask.{op}: 'min_corr' must be a number in 0 .. 1, got {min_corr!r}")
    if not 0 <= min_corr <= 1:
        raise ValueError(f"corrmask.{op}: 'min_corr' must be in 0 .. 1, got {min_corr}")
    check_devices(
        op, gram, partners=partners, weights=weights, ranks=ranks, mean_factors=mean_factors, inverse_sd=inverse_sd
    )
    require_device(op, gram)
    tensors = (tensor.contiguous() for tensor in (gram, ranks, mean_factors, inverse_sd))
    call(
        torch.ops.corrmask.topk_edges,
        partners,
        weights,
        *tensors,
        first_panel=first_panel,
        min_corr=float(min_corr),
        positive=bool(positive),
    )


@torch.library.register_fake("corrmask::topk_edges")
def _(
    partners: Tensor,
    weights: Tensor,
    gram: Tensor,
    ranks: Tensor,
    mean_factors: Tensor,
    inverse_sd: Tensor,
    *,
    first_panel: int,
    min_corr: float,
    positive: bool,
) -> None:
    return None
