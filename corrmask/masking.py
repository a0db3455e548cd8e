"""Masking of batches on any device."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from corrmask import ops
from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.groups import SPECIAL, GroupTable, threshold


class CorrMasker(nn.Module):
    """Masks correlated genes jointly, within an exact budget, as a pure function of seed, epoch and cell.

    Parameters
    ----------
    groups
        Which tokens are masked along with which, and their `accept` and `take` thresholds.
    rate
        Share of each cell's genes that is masked (rounded to 1e-6).
    expand
        Share of seeds that bring their group; 0 is random masking.
    mask_prob, random_prob
        Shares of masked positions that show the mask token and a random gene; the rest stay as they are.
    unit
        "token": each position decides for itself what it shows; "group": all that one seed masked share the decision.
    max_group
        Most members a seed may bring; None is unlimited.
    rotate
        Read a group from a random start (for modules) instead of its first member (for neighbourhoods).
    mask_token_id
        The mask token.
    gene_token_range
        (lo, hi): random genes come from lo .. hi - 1; None takes the range of tokens that are not special.
    seed
        0 <= seed < 2**63.

    Raises
    ------
    InputError
        An argument is out of range, or gene tokens do not follow one another and `gene_token_range` is not given.

    Examples
    --------
    >>> masker = CorrMasker(GroupTable.from_graph(graph, vocabulary), rate=0.15, seed=0)
    >>> input_ids, labels = masker(batch.input_ids, batch.lengths, batch.cell_ids, epoch=3)
    """

    token_group: Tensor
    group_indptr: Tensor
    group_tokens: Tensor
    accept: Tensor | None
    take: Tensor | None

    @checked
    def __init__(
        self,
        groups: GroupTable,
        rate: float = 0.15,
        expand: float = 1.0,
        *,
        mask_prob: float = 0.8,
        random_prob: float = 0.1,
        unit: Literal["token", "group"] = "token",
        max_group: int | None = None,
        rotate: bool = False,
        mask_token_id: int = 1,
        gene_token_range: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 1e-6 <= rate <= 1:
            raise InputError(f"CorrMasker: 'rate' must be in 1e-6 .. 1, got {rate}")
        if mask_prob + random_prob > 1 + 1e-12:
            raise InputError(f"CorrMasker: mask_prob + random_prob must be at most 1, got {mask_prob + random_prob}")
        if max_group is not None and not 0 <= max_group < 2**31:
            raise InputError(f"CorrMasker: 'max_group' must be None or in 0 .. 2**31 - 1, got {max_group}")
        if not 0 <= seed < 2**63:
            raise InputError(f"CorrMasker: 'seed' must be in 0 .. 2**63 - 1, got {seed}")
        if not 0 <= mask_token_id < groups.vocabulary_size:
            raise InputError(
                f"CorrMasker: 'mask_token_id' must be a token of the groups, 0 .. {groups.vocabulary_size - 1}, got "
                f"{mask_token_id}"
            )
        # Derived from the corpus, not learned: they follow the module to a device, but stay out of checkpoints.
        for name in ("token_group", "group_indptr", "group_tokens", "accept", "take"):
            self.register_buffer(name, getattr(groups, name), persistent=False)
        if gene_token_range is None:
            genes = torch.nonzero(groups.token_group != SPECIAL).ravel()
            if len(genes) == 0 or int(genes[-1]) - int(genes[0]) + 1 != len(genes):
                raise InputError("CorrMasker: gene tokens do not follow one another; pass 'gene_token_range'")
            gene_token_range = int(genes[0]), int(genes[-1]) + 1
        lo, hi = gene_token_range
        if not 0 <= lo < hi <= groups.vocabulary_size:
            raise InputError(
                f"CorrMasker: 'gene_token_range' must be within 0 .. {groups.vocabulary_size}, its ends in order, "
                f"got {lo} .. {hi}"
            )
        never = torch.nonzero(groups.token_group == SPECIAL).ravel()
        self.special_token = int(never[0]) if len(never) else None  # one that is never masked
        self.rate_ppm = round(rate * 10**6)
        self.expand = expand
        self.mask_threshold = threshold(mask_prob, "CorrMasker: 'mask_prob'")
        self.random_threshold = threshold(random_prob, "CorrMasker: 'random_prob'")
        self.unit: Literal["token", "group"] = unit
        self.max_group = max_group
        self.rotate = rotate
        self.mask_token_id = mask_token_id
        self.gene_token_range = gene_token_range
        self.seed = seed

    @property
    def expand(self) -> float:
        """Share of seeds that bring their group; may be set between batches, for a schedule."""
        return self._expand / 2**32

    @expand.setter
    def expand(self, share: float) -> None:
        self._expand = threshold(share, "CorrMasker: 'expand'")

    def forward(
        self, input_ids: Tensor, lengths: Tensor, cell_ids: Tensor, epoch: int | Tensor = 0
    ) -> tuple[Tensor, Tensor]:
        """Mask a batch.

        Parameters
        ----------
        input_ids
            int32, int64 or (CPU) uint16 [B, L].
        lengths, cell_ids
            int64 [B]: tokens of each cell, and its row in the corpus.
        epoch
            0 <= epoch < 2**28.

        Returns
        -------
        input_ids, labels : Tensor
            As `corrmask.ops.mask_tokens` gives them.
        """
        tensors, options = self._sampling(input_ids, lengths, cell_ids, epoch)
        return ops.mask_tokens(
            *tensors,
            **options,
            mask_token_id=self.mask_token_id,
            gene_token_range=self.gene_token_range,
            mask_threshold=self.mask_threshold,
            random_threshold=self.random_threshold,
            unit=self.unit,
        )

    def owners(self, input_ids: Tensor, lengths: Tensor, cell_ids: Tensor, epoch: int | Tensor = 0) -> Tensor:
        """Which token masked each position: int32 [B, L], -1 where visible (as `corrmask.ops.sample_groups`)."""
        tensors, options = self._sampling(input_ids, lengths, cell_ids, epoch)
        return ops.sample_groups(*tensors, **options)

    def _sampling(
        self, input_ids: Tensor, lengths: Tensor, cell_ids: Tensor, epoch: int | Tensor
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """What both operators take: the batch and the groups, and the options."""
        tables: dict[str, Any] = self._buffers  # found faster than by attributes
        groups = tables["token_group"], tables["group_indptr"], tables["group_tokens"]
        return (input_ids, lengths, cell_ids, *groups), {
            "rate_ppm": self.rate_ppm,
            "seed": self.seed,
            "epoch": epoch,
            "expand": self._expand,
            "accept": tables["accept"],
            "take": tables["take"],
            "max_group": self.max_group,
            "rotate": self.rotate,
        }
