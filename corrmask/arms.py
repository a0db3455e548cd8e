"""The masks that are compared: random, and what it takes to tell apart why correlated masking differs from it.

random     every gene alike, each for itself
weighted   each for itself, but each gene as often as `corr` masks it: the frequencies without the groups
corr       a gene brings its partners of the dependency graph along
module     a gene brings its community along
rewired    as `corr`, in a graph with the same group sizes and hubs and no biology
"""

from __future__ import annotations

import numpy as np
import torch

from corrmask.corpus import Corpus
from corrmask.errors import InputError
from corrmask.graph import GeneGraph
from corrmask.groups import GroupTable
from corrmask.masking import CorrMasker
from corrmask.modules import find_modules
from corrmask.rewiring import rewire
from corrmask.vocabulary import Vocabulary

ARMS = ("random", "weighted", "corr", "module", "rewired")

_FIT_CELLS = 4096  # cells on which mask frequencies are counted
_FIT_ROUNDS = 16
_FIT_BATCH = 256


def make_masker(
    arm: str,
    *,
    graph: GeneGraph | None,
    corpus: Corpus,
    rows: np.ndarray,
    max_len: int,
    rate: float = 0.15,
    expand: float = 1.0,
    max_group: int | None = None,
    seed: int = 0,
) -> CorrMasker:
    """Build the masker of an arm.

    Parameters
    ----------
    arm
        One of `ARMS`.
    graph
        Dependency graph; may be None for "random".
    corpus
        Gives the vocabulary, and to "weighted" the cells on which frequencies are counted.
    rows
        int64: training rows of the corpus; at most 4,096 of them are counted.
    max_len
        Most tokens of a cell.
    rate, expand, max_group, seed
        As `CorrMasker` takes them; the seed is also that of the rewiring, the modules and the choice of cells.

    Raises
    ------
    InputError
        An unknown arm, or no graph where one is needed.
    """
    if arm not in ARMS:
        raise InputError(f"mask {arm!r} is unknown; choose one of {', '.join(ARMS)}")
    vocabulary = corpus.vocabulary
    if arm == "random":
        return _masker(GroupTable.without_groups(vocabulary), vocabulary, rate=rate, expand=0.0, seed=seed)
    if graph is None:
        raise InputError(f"mask {arm!r} needs a graph; give --graph (written by `corrmask graph`) or use --mask random")
    if arm == "module":
        groups = GroupTable.from_modules(find_modules(graph, seed=seed), vocabulary)
        return _masker(groups, vocabulary, rate=rate, expand=expand, max_group=max_group, rotate=True, seed=seed)
    groups = GroupTable.from_graph(rewire(graph, seed) if arm == "rewired" else graph, vocabulary)
    masker = _masker(groups, vocabulary, rate=rate, expand=expand, max_group=max_group, seed=seed)
    if arm != "weighted":
        return masker
    accept = matching_accept(masker, corpus, rows, max_len=max_len, seed=seed)
    ungrouped = GroupTable.without_groups(vocabulary).with_thresholds(accept=accept)
    return _masker(ungrouped, vocabulary, rate=rate, expand=0.0, seed=seed)


def _masker(
    groups: GroupTable,
    vocabulary: Vocabulary,
    *,
    rate: float,
    expand: float,
    seed: int,
    max_group: int | None = None,
    rotate: bool = False,
) -> CorrMasker:
    return CorrMasker(
        groups,
        rate,
        expand,
        max_group=max_group,
        rotate=rotate,
        mask_token_id=vocabulary.mask_token_id,
        gene_token_range=vocabulary.gene_token_range,
        seed=seed,
    )


def mask_frequency(
    masker: CorrMasker, corpus: Corpus, rows: np.ndarray, *, max_len: int, epoch: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """How often each token is masked, and in how many cells it is, over one epoch.

    Parameters
    ----------
    masker
        Any masker over the corpus's vocabulary.
    corpus, rows, max_len
        The cells.
    epoch
        Of the draws.

    Returns
    -------
    masked, present : numpy.ndarray
        int64 [V]: positions masked, and positions, by token.
    """
    size = corpus.vocabulary.size
    masked, present = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for first in range(0, len(rows), _FIT_BATCH):
        batch = corpus.batch(rows[first : first + _FIT_BATCH], max_len)
        owners = masker.owners(*batch, epoch=epoch)
        real = torch.arange(batch.input_ids.shape[1])[None, :] < batch.lengths[:, None]
        masked += np.bincount(batch.input_ids[owners >= 0].numpy(), minlength=size)
        present += np.bincount(batch.input_ids[real].numpy(), minlength=size)
    return masked, present


def matching_accept(masker: CorrMasker, corpus: Corpus, rows: np.ndarray, *, max_len: int, seed: int) -> torch.Tensor:
    """Thresholds `accept` [V] with which independent masking masks each gene as often as `masker` does.

    Found by proportional fitting: each round masks the cells with the present thresholds and scales those of each gene
    by wanted / realised frequency. Fitted on at most 4,096 cells, so that genes in few of them match roughly.

    Parameters
    ----------
    masker
        Whose frequencies are wanted.
    corpus, rows, max_len
        The cells, as in `make_masker`.
    seed
        Of the choice of cells.

    Returns
    -------
    torch.Tensor
        int64 [V].
    """
    rng = np.random.default_rng([seed, 0xACCE])
    rows = np.sort(rng.permutation(rows)[:_FIT_CELLS])
    wanted, present = np.zeros(corpus.vocabulary.size), np.zeros(corpus.vocabulary.size)
    n_epochs = max(2, -(-2 * _FIT_CELLS // max(len(rows), 1)))
    for epoch in range(n_epochs):
        masked, seen = mask_frequency(masker, corpus, rows, max_len=max_len, epoch=epoch)
        wanted += masked
        present += seen
    rate = masker.rate_ppm / 10**6
    frequency = (wanted + rate) / (present + 1)  # a gene that is never present is masked like any other
    share = frequency / frequency.max()
    for fit_round in range(_FIT_ROUNDS):
        groups = GroupTable.without_groups(corpus.vocabulary).with_thresholds(accept=_as_thresholds(share))
        trial = _masker(groups, corpus.vocabulary, rate=rate, expand=0.0, seed=masker.seed)
        masked, seen = mask_frequency(trial, corpus, rows, max_len=max_len, epoch=n_epochs + fit_round)
        realised = (masked + frequency) / (seen + 1)
        share = share * (frequency / realised) ** (1 / (1 + fit_round / 4))
        share = np.clip(share / share[present > 0].max(initial=1e-12), 1e-4, 1)
    return _as_thresholds(share)


def _as_thresholds(share: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.round(share * 2**32).astype(np.int64))
