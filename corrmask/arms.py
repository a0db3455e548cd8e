"""The masks that are compared: random, and what it takes to tell apart why correlated masking differs from it.

random     every gene alike, each for itself
weighted   each for itself, but each gene as often as `corr` masks it: the frequencies without the groups
corr       a gene brings its partners of the dependency graph along
module     a gene brings its community along
levelled   as `corr`, with thresholds by which each gene is masked as often as any other
rewired    as `corr`, in a graph with the same group sizes and hubs and no biology
"""

from __future__ import annotations

import numpy as np

from corrmask.arguments import checked
from corrmask.corpus import Corpus
from corrmask.errors import InputError
from corrmask.graph import GeneGraph
from corrmask.groups import GroupTable, threshold
from corrmask.levelling import Cells, fit_thresholds, mask_frequency
from corrmask.masking import CorrMasker
from corrmask.modules import find_modules
from corrmask.progress import Progress, silent
from corrmask.rewiring import rewire
from corrmask.vocabulary import Vocabulary

ARMS = ("random", "weighted", "corr", "levelled", "module", "rewired")


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
    progress
        Called while thresholds are fitted, which takes seconds to a minute.

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
    if arm == "levelled":
        groups = groups.calibrate(
            corpus, rate, expand, max_group=max_group, rows=rows, max_len=max_len, seed=seed, progress=progress
        )
    if arm != "weighted":
        return _masker(groups, vocabulary, rate=rate, expand=expand, max_group=max_group, seed=seed)
    cells = Cells(corpus, rows, max_len=max_len, seed=seed)
    sampling = {"rate_ppm": round(rate * 10**6), "seed": seed}
    joint = {**sampling, "expand": threshold(expand, "expand"), "max_group": max_group}
    wanted = mask_frequency(groups, cells, joint, progress)
    ungrouped = GroupTable.without_groups(vocabulary)
    fitted = fit_thresholds(ungrouped, cells, wanted, {**sampling, "expand": 0}, progress)
    return _masker(fitted, vocabulary, rate=rate, expand=0.0, seed=seed)


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
