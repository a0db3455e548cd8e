"""Thresholds with which genes are masked as often as they are wanted to be: counted, corrected, counted again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from corrmask import ops
from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.groups import SPECIAL, GroupTable
from corrmask.progress import Progress, silent

if TYPE_CHECKING:
    from corrmask.corpus import Corpus

ROUNDS = 40
ROUND_CELLS = 8192  # cells of a round; the rounds go through all cells in turn
# What a run will not draw: masks counted here and masks trained on are independent.
_LAST_EPOCH = 2**28 - 1
_BATCH = 512
# Largest share of its wanted frequency that a gene may have as a partner of others; as a seed it has the rest. The
# larger, the more is masked jointly; below 1, so that a partner of many still brings its own group at times.
_AS_PARTNER = 0.95
_LEAST = 1e-3  # least threshold, as a share
_DOUBT = 2.0  # cells by which a gene's counts are drawn towards what is wanted, for genes in few cells
_KNOWN = 200  # times present from which a gene may set the scale of `accept`


class Cells:
    """Rows of a corpus, read a round at a time in a shuffled order that depends on the seed alone."""

    def __init__(self, corpus: Corpus, rows: np.ndarray, *, max_len: int, seed: int) -> None:
        self.corpus, self.max_len = corpus, max_len
        self.order = np.random.default_rng([seed, 0xACCE]).permutation(rows)
        if not np.minimum(corpus.lengths[self.order], max_len).any():
            raise InputError(
                f"mask frequencies: the {len(self.order):,} cells of 'rows' hold no genes; give cells to count masks on"
            )
        self.n_round = min(ROUND_CELLS, len(self.order))

    def count(self, groups: GroupTable, sampling: Mapping[str, Any], turn: int) -> tuple[np.ndarray, ...]:
        """Mask the cells of round `turn`: how often each token is a seed, a partner, and present: int64 [V] each."""
        size = groups.vocabulary_size
        seeds, partners, present = (np.zeros(size, dtype=np.int64) for _ in range(3))
        rows = np.take(self.order, np.arange(turn * self.n_round, (turn + 1) * self.n_round), mode="wrap")
        rows = rows[np.argsort(self.corpus.lengths[rows], kind="stable")]  # little padding; masks do not know the order
        for first in range(0, len(rows), _BATCH):
            batch = self.corpus.batch(rows[first : first + _BATCH], self.max_len)
            owners = ops.sample_groups(
                *batch,
                groups.token_group,
                groups.group_indptr,
                groups.group_tokens,
                **sampling,
                epoch=_LAST_EPOCH - turn,
                accept=groups.accept,
                take=groups.take,
            )
            real = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
            is_seed = owners == batch.input_ids
            for total, where in ((seeds, is_seed), (partners, (owners >= 0) & ~is_seed), (present, real)):
                total += np.bincount(batch.input_ids[where].numpy(), minlength=size)
        return seeds, partners, present


@checked
def mask_frequency(
    groups: GroupTable, cells: Cells, sampling: Mapping[str, Any], progress: Progress, *, power: float = 1.0
) -> np.ndarray:
    """Share of the cells that hold a token in which it is masked: float64 [V]; unknown ones at the rate.

    With a `power`, the shares to that power, none above 1, scaled so that as many tokens of all cells are masked: 0
    masks all genes alike, above 1 what is masked often is masked more often yet.
    """
    masked, present = np.zeros(groups.vocabulary_size), np.zeros(groups.vocabulary_size)
    for turn in range(ROUNDS):
        seeds, partners, seen = cells.count(groups, sampling, turn)
        masked += seeds + partners
        present += seen
        progress("count masks", turn + 1, ROUNDS)
    rate = sampling["rate_ppm"] / 10**6
    frequency = (masked + rate) / (present + 1)
    present[groups.token_group.numpy() == SPECIAL] = 0
    return frequency if power == 1 else _scaled(frequency**power, present, (frequency * present).sum())


def _scaled(shape: np.ndarray, present: np.ndarray, n_masked: float) -> np.ndarray:
    """min(1, scale * shape) such that `n_masked` of the `present` tokens are masked."""
    from scipy.optimize import brentq

    def excess(log_scale: float) -> float:
        return float((np.minimum(1, np.exp(log_scale) * shape) * present).sum() - n_masked)

    lowest, highest = np.log(shape[present > 0].min()), np.log(shape.max())
    log_scale = brentq(excess, -highest - 50, -lowest)  # of the first next to none are masked, of the last all
    return np.minimum(1, np.exp(log_scale) * shape)


def fit_thresholds(
    groups: GroupTable, cells: Cells, wanted: np.ndarray, sampling: Mapping[str, Any], progress: Progress = silent
) -> GroupTable:
    """The same groups with `accept` and `take` such that each gene is masked about as often as wanted. Deterministic.

    Each round masks `ROUND_CELLS` cells with the present thresholds and counts apart how often each gene is masked as a
    seed and as a partner. `take` is scaled so that partners alone stay below what is wanted, `accept` so that seeds
    make up for the rest, with steps that shrink (Robbins and Monro, Ann Math Stat 1951); the means over the second half
    of all rounds (Polyak and Juditsky, 1992) are the result. A gene in few of the cells read matches roughly.

    Parameters
    ----------
    groups
        Thresholds that it has are not looked at.
    cells
        On which it is fitted.
    wanted
        float64 [V] in 0 .. 1: share of the cells that hold a token in which it is to be masked. What matters is their
        proportion: the budget of each cell is met in any case.
    sampling
        ``rate_ppm``, ``seed``, ``expand``, ``max_group``, ``rotate`` of `corrmask.ops.sample_groups`.
    progress
        Called as progress("level masks", rounds done, rounds).
    """
    wanted = np.clip(wanted, 1e-6, 1 - 1e-6)
    is_gene = groups.token_group.numpy() != SPECIAL
    log_accept, log_take, seen = (np.zeros(len(wanted)) for _ in range(3))
    sums = np.zeros((2, len(wanted)))
    for turn in range(ROUNDS):
        trial = groups.with_thresholds(accept=_thresholds(log_accept), take=_thresholds(log_take))
        seeds, partners, present = cells.count(trial, sampling, turn)
        seen += present
        step = 1 / (1 + turn / 6)
        # A partner's draw is one for the cell, so that its frequency is proportional to `take`.
        as_partner = (partners + _DOUBT * np.minimum(partners / np.maximum(present, 1), wanted)) / (present + _DOUBT)
        log_take += step * np.log(_AS_PARTNER * wanted / np.maximum(as_partner, 1e-6))
        log_take = np.clip(log_take, np.log(_LEAST), 0)
        # Seeds are drawn with replacement: the number of hits, -log(1 - frequency), is what `accept` scales.
        as_seed = np.maximum(wanted - as_partner, (1 - _AS_PARTNER) * wanted)
        found = np.minimum((seeds + _DOUBT * as_seed) / (present + _DOUBT), 1 - 1e-6)
        log_accept += step * np.clip(np.log(np.log1p(-as_seed) / np.log1p(-found)), -2, 2)
        known = is_gene & (seen >= min(_KNOWN, seen[is_gene].max(initial=0)))
        log_accept = np.clip(log_accept - log_accept[known].max(initial=-np.inf), np.log(_LEAST), 0)
        if turn >= ROUNDS // 2:
            sums += log_accept, log_take
        progress("level masks", turn + 1, ROUNDS)
    log_accept, log_take = sums / (ROUNDS - ROUNDS // 2)
    return groups.with_thresholds(
        accept=_thresholds(log_accept), take=_thresholds(log_take) if groups.n_groups else None
    )


def level(
    groups: GroupTable,
    corpus: Corpus,
    sampling: Mapping[str, Any],
    *,
    rows: np.ndarray | None,
    max_len: int,
    progress: Progress,
) -> GroupTable:
    """What `GroupTable.calibrate` does."""
    if corpus.vocabulary.size != groups.vocabulary_size:
        raise InputError(
            f"calibrate: the corpus has {corpus.vocabulary.size:,} tokens and the groups {groups.vocabulary_size:,}; "
            "build the groups with the corpus's vocabulary"
        )
    cells = Cells(corpus, corpus.row_numbers(rows, "calibrate"), max_len=max_len, seed=sampling["seed"])
    wanted = np.full(groups.vocabulary_size, sampling["rate_ppm"] / 10**6)
    return fit_thresholds(groups, cells, wanted, sampling, progress)


def _thresholds(log_share: np.ndarray) -> Tensor:
    return torch.from_numpy(np.round(np.exp(log_share) * 2**32).astype(np.int64))
