"""What masked positions show: the mask token, a random gene or themselves."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from corrmask._library import call
from corrmask.ops._checks import check_integer
from corrmask.ops.sample_groups import ALWAYS, sampling_arguments


def mask_tokens(
    input_ids: Tensor,
    lengths: Tensor,
    cell_ids: Tensor,
    token_group: Tensor,
    group_indptr: Tensor,
    group_tokens: Tensor,
    *,
    rate_ppm: int,
    seed: int | Tensor,
    epoch: int | Tensor = 0,
    expand: int = ALWAYS,
    accept: Tensor | None = None,
    take: Tensor | None = None,
    max_group: int | None = None,
    rotate: bool = False,
    mask_token_id: int,
    gene_token_range: tuple[int, int],
    mask_threshold: int,
    random_threshold: int,
    unit: Literal["token", "group"] = "token",
) -> tuple[Tensor, Tensor]:
    """Sample the masked positions as `sample_groups` does and corrupt them, in one pass. Exact.

    Parameters
    ----------
    input_ids, lengths, cell_ids, token_group, group_indptr, group_tokens
        As in `sample_groups`.
    rate_ppm, seed, epoch, expand, accept, take, max_group, rotate
        As in `sample_groups`.
    mask_token_id
        The token that a masked position shows.
    gene_token_range
        (lo, hi): random genes are drawn from lo .. hi - 1.
    mask_threshold, random_threshold
        Shares of 2**32 of the masked positions that show the mask token and a random gene; the rest stay as they are.
        80 / 10 / 10 is round(0.8 * 2**32) and round(0.1 * 2**32).
    unit
        "token": each position decides for itself; "group": all that one seed masked share the decision.

    Returns
    -------
    input_ids : Tensor
        [B, L], dtype of `input_ids`: the corrupted tokens.
    labels : Tensor
        int64 [B, L]: the token at masked positions, -100 elsewhere.

    Raises
    ------
    TypeError, ValueError
        As `sample_groups` does.
    """
    op = "mask_tokens"
    tensors, options = sampling_arguments(
        op,
        input_ids=input_ids,
        lengths=lengths,
        cell_ids=cell_ids,
        token_group=token_group,
        group_indptr=group_indptr,
        group_tokens=group_tokens,
        rate_ppm=rate_ppm,
        seed=seed,
        epoch=epoch,
        expand=expand,
        accept=accept,
        take=take,
        max_group=max_group,
        rotate=rotate,
    )
    largest = 2**16 - 1 if input_ids.dtype == torch.uint16 else 2**31 - 1
    if not isinstance(gene_token_range, (tuple, list)) or len(gene_token_range) != 2:
        raise TypeError(f"corrmask.{op}: 'gene_token_range' must be two ints (lo, hi), got {gene_token_range!r}")
    gene_lo, gene_hi = gene_token_range
    mask_token_id = check_integer(op, "mask_token_id", mask_token_id, 0, largest)
    gene_hi = check_integer(op, "gene_token_range[1]", gene_hi, 1, largest + 1)
    gene_lo = check_integer(op, "gene_token_range[0]", gene_lo, 0, gene_hi - 1)
    mask_threshold = check_integer(op, "mask_threshold", mask_threshold, 0, ALWAYS)
    # Two rounded thresholds may sum to 2**32 + 1, which is as good as always.
    random_threshold = check_integer(op, "random_threshold", random_threshold, 0, ALWAYS - mask_threshold + 1)
    if unit not in ("token", "group"):
        raise ValueError(f"corrmask.{op}: 'unit' must be 'token' or 'group', got {unit!r}")
    return call(
        torch.ops.corrmask.mask_tokens.default,
        *tensors,
        **options,
        mask_token_id=mask_token_id,
        gene_lo=gene_lo,
        gene_hi=gene_hi,
        mask_threshold=mask_threshold,
        random_threshold=random_threshold,
        unit_is_group=unit == "group",
    )


@torch.library.register_fake("corrmask::mask_tokens")
def _(input_ids: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(input_ids), input_ids.new_empty(input_ids.shape, dtype=torch.int64)
