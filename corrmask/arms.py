"""The masks that are compared: random, and what it takes to tell apart why correlated masking differs from it.

random     every gene alike, each for itself
weighted   each for itself, but each gene as often as `corr` masks it: the frequencies without the groups
corr       a gene brings its partners of the dependency graph along
module     a gene brings its community along
levelled   as `corr`, with thresholds by which each gene is masked as often as any other
rewired    as `corr`, in a graph with the same group sizes and hubs and no biology

Between and beyond them lies `frequency_power`: each gene's frequency in `corr` to that power, which is 1 for "weighted"
and 0 for "levelled" unless it is given. So masks may be compared that are alike in frequency and differ in what goes
together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from corrmask.arguments import checked
from corrmask.corpus import Corpus
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.groups import GroupTable, threshold
from corrmask.levelling import Cells, fit_thresholds, mask_frequency
from corrmask.masking import CorrMasker
from corrmask.modules import find_modules
from corrmask.progress import Progress, silent
from corrmask.rewiring import rewire
from corrmask.vocabulary import Vocabulary

ARMS = ("random", "weighted", "corr", "levelled", "module", "rewired")
WITH_FREQUENCY = ("weighted", "levelled")  # arms whose frequencies are asked for


@checked
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
    frequency_power: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> CorrMasker:
    """Build the masker of an arm.

    Parameters
    ----------
    arm
        One of `ARMS`.
    graph
        Dependency graph; may be None for "random".
    corpus
        Gives the vocabulary, and to "weighted" and "levelled" the cells on which frequencies are counted.
    rows
        int64: training rows of the corpus.
    max_len
        Most tokens of a cell.
    rate, expand, max_group, seed
        As `CorrMasker` takes them; the seed is also that of the rewiring, the modules and the choice of cells.
    frequency_power
        Of "weighted" and "levelled": genes are masked as often as in "corr", to this power (0 .. 2), the same number
        of genes in all. 0: all alike; 1: as in "corr"; None: 1 for "weighted", 0 for "levelled".
    progress
        Called while thresholds are fitted, which takes seconds to a minute.

    Raises
    ------
    InputError
        An unknown arm, no graph where one is needed, or a power out of range or of another arm.
    """
    check_arm(arm, frequency_power)
    vocabulary = corpus.vocabulary
    if arm == "random":
        return _masker(GroupTable.without_groups(vocabulary), vocabulary, rate=rate, expand=0.0, seed=seed)
    if graph is None:
        raise InputError(
            f"mask {arm!r} needs a graph; give --graph, or graph= (written by `corrmask graph`) or use --mask random"
        )
    if arm == "module":
        groups = GroupTable.from_modules(find_modules(graph, seed=seed), vocabulary)
        return _masker(groups, vocabulary, rate=rate, expand=expand, max_group=max_group, rotate=True, seed=seed)
    groups = GroupTable.from_graph(rewire(graph, seed) if arm == "rewired" else graph, vocabulary)
    if arm == "levelled" and not frequency_power:
        groups = groups.calibrate(
            corpus, rate, expand, max_group=max_group, rows=rows, max_len=max_len, seed=seed, progress=progress
        )
    elif arm in WITH_FREQUENCY:
        cells = Cells(corpus, corpus.row_numbers(rows, "make_masker"), max_len=max_len, seed=seed)
        sampling: dict[str, Any] = {"rate_ppm": round(rate * 10**6), "seed": seed, "max_group": max_group}
        sampling["expand"] = threshold(expand, "'expand'")
        power = 1.0 if frequency_power is None else frequency_power
        wanted = mask_frequency(groups, cells, sampling, progress, power=power)
        if arm == "weighted":
            groups, expand, max_group = GroupTable.without_groups(vocabulary), 0.0, None
            sampling |= {"expand": 0, "max_group": None}
        groups = fit_thresholds(groups, cells, wanted, sampling, progress)
    return _masker(groups, vocabulary, rate=rate, expand=expand, max_group=max_group, seed=seed)


def check_arm(arm: str, frequency_power: float | None) -> None:
    """Raise InputError, one line, for an unknown arm or a power that is out of range or has no meaning for it."""
    if arm not in ARMS:
        raise InputError(f"mask {arm!r} is unknown; choose one of {', '.join(ARMS)}")
    if frequency_power is None:
        return
    if arm not in WITH_FREQUENCY:
        raise InputError(
            f"'frequency_power' has no meaning for mask {arm!r}; leave it out, or use {' or '.join(WITH_FREQUENCY)}"
        )
    if not 0 <= frequency_power <= 2:
        raise InputError(f"'frequency_power' must be in 0 .. 2, got {frequency_power}")


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
