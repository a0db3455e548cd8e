"""Which positions are masked: groups of correlated genes within an exact budget."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import (
    TOKEN_DTYPES,
    check_bool,
    check_devices,
    check_integer,
    check_tensor,
    scalar_tensor,
)

ALWAYS = 2**32  # the threshold of an event that always happens
UNLIMITED = 2**31 - 1


def sample_groups(
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
) -> Tensor:
    """Sample the masked positions of each cell, and who masked them. Exact.

    A seed position is drawn; its token brings along the members of its group that are in the cell, in the group's
    order, until the budget is met. The result depends on (seed, epoch, cell id, the cell's tokens, the groups, the
    parameters) and on nothing else: not on batch, order, padding, threads or device.

    Parameters
    ----------
    input_ids
        int32, int64 or (on the CPU) uint16 [B, L]: tokens of each cell, each in 0 .. V - 1.
    lengths
        int64 [B]: tokens in each cell, 0 .. L.
    cell_ids
        int64 [B], >= 0: each cell's row in its corpus (never its place in the batch).
    token_group
        int32 [V]: the group a token brings along; -1 none; -2 special, never masked.
    group_indptr
        int64 [n_groups + 1]: where each group starts in `group_tokens`.
    group_tokens
        int32: members of each group, in the order in which they are taken.
    rate_ppm
        Share of the eligible positions that is masked, in parts per million, 1 .. 10**6. Of n eligible positions
        min(n, max(1, (n * rate_ppm + 500000) // 1000000)) are masked, exactly.
    seed, epoch
        int, or int64 tensor of one element (so that a CUDA graph can be replayed); seed in 0 .. 2**63 - 1, epoch in
        0 .. 2**28 - 1.
    expand
        Threshold in 0 .. 2**32: the share of seeds that bring their group; 0 is plain random masking.
    accept, take
        int64 [V] thresholds in 0 .. 2**32: how readily a token becomes a seed, and how readily it comes along.
    max_group
        Most members a seed may bring; None is unlimited.
    rotate
        Whether a group is read from a random start (for modules) or from its first member (for neighbourhoods).

    Returns
    -------
    Tensor
        int32 [B, L]: the seed token that masked each position, -1 where it stays visible.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range; on the CPU also a token or a length out of range.
    """
    arguments = sampling_arguments("sample_groups", **locals())
    return call(torch.ops.corrmask.sample_groups.default, *arguments[0], **arguments[1])


def sampling_arguments(
    op: str,
    *,
    input_ids: Tensor,
    lengths: Tensor,
    cell_ids: Tensor,
    token_group: Tensor,
    group_indptr: Tensor,
    group_tokens: Tensor,
    rate_ppm: int,
    seed: int | Tensor,
    epoch: int | Tensor,
    expand: int,
    accept: Tensor | None,
    take: Tensor | None,
    max_group: int | None,
    rotate: bool,
) -> tuple[list[Tensor], dict[str, Any]]:
    """Check what `sample_groups` and `mask_tokens` share, and put it as the operators take it."""
    check_tensor(op, "input_ids", input_ids, TOKEN_DTYPES, (None, None), "[B, L]")
    n_cells = input_ids.shape[0]
    check_tensor(op, "lengths", lengths, (torch.int64,), (n_cells,), "[B]")
    check_tensor(op, "cell_ids", cell_ids, (torch.int64,), (n_cells,), "[B]")
    check_tensor(op, "token_group", token_group, (torch.int32,), (None,), "[V]")
    check_tensor(op, "group_indptr", group_indptr, (torch.int64,), (None,), "[n_groups + 1]")
    check_tensor(op, "group_tokens", group_tokens, (torch.int32,), (None,), "[n_members]")
    for name, thresholds in (("accept", accept), ("take", take)):
        if thresholds is not None:
            check_tensor(op, name, thresholds, (torch.int64,), (token_group.shape[0],), "[V]")
    rate_ppm = check_integer(op, "rate_ppm", rate_ppm, 1, 10**6)
    expand = check_integer(op, "expand", expand, 0, ALWAYS)
    max_group = UNLIMITED if max_group is None else max_group
    max_group = check_integer(op, "max_group", max_group, 0, UNLIMITED)
    check_devices(
        op,
        input_ids,
        lengths=lengths,
        cell_ids=cell_ids,
        token_group=token_group,
        group_indptr=group_indptr,
        group_tokens=group_tokens,
        accept=accept,
        take=take,
    )
    require_device(op, input_ids)
    tensors = [input_ids, lengths, cell_ids, token_group, group_indptr, group_tokens]
    options = {
        "seed": scalar_tensor(op, "seed", seed, 2**63 - 1, input_ids),
        "epoch": scalar_tensor(op, "epoch", epoch, 2**28 - 1, input_ids),
        "rate_ppm": rate_ppm,
        "expand": expand,
        "accept": None if accept is None else accept.contiguous(),
        "take": None if take is None else take.contiguous(),
        "max_group": max_group,
        "rotate": check_bool(op, "rotate", rotate),
    }
    return [tensor.contiguous() for tensor in tensors], options


@torch.library.register_fake("corrmask::sample_groups")
def _(input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
    return input_ids.new_empty(input_ids.shape, dtype=torch.int32)
