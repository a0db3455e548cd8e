"""Masks looked at before anything is trained on them: rate, what they show, what they leak, which genes they hit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corrmask.arguments import checked
from corrmask.arms import ARMS, WITH_FREQUENCY, check_arm, make_masker
from corrmask.audit.counting import ArmCounts, partner_strength
from corrmask.audit.report import RULES, ArmAudit, AuditReport
from corrmask.corpus import Corpus, split_cells
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.groups import GroupTable
from corrmask.progress import Progress, silent

__all__ = ["ArmAudit", "AuditReport", "audit"]

_BATCH = 64  # cells: few, so that the table of who is visible stays in cache


@checked
def audit(
    corpus: Corpus,
    graph: GeneGraph,
    *,
    arms: Sequence[str] = ARMS,
    rate: float = 0.15,
    expand: float = 1.0,
    max_group: int | None = None,
    frequency_power: float | None = None,
    max_len: int = 2048,
    held_out: float = 0.05,
    cells: int = 2000,
    epochs: int = 4,
    thresholds: Sequence[float] = (0.1, 0.3),
    min_cells: int = 50,
    seed: int = 0,
    progress: Progress = silent,
) -> AuditReport:
    """Mask the same held-out cells with every arm and count what comes out. Exact, but for cells/s.

    Parameters
    ----------
    corpus
        Tokenised cells.
    graph
        The real dependency graph: what leaks is judged by it for every arm.
    arms
        Some of `corrmask.arms.ARMS`.
    rate, expand, max_group
        As `corrmask.arms.make_masker` takes them.
    frequency_power
        The same, for those of the arms that have one.
    max_len
        Most tokens of a cell.
    held_out
        Share of cells held out, as in pre-training with the same seed (`corrmask.corpus.split_cells`).
    cells
        Most held-out cells looked at.
    epochs
        Masks drawn for each cell.
    thresholds
        |r| from which a partner counts, each above 0 (compared in float32, as the graph holds r).
    min_cells
        Genes in fewer of the cells audited are left out of mask frequencies.
    seed
        Of the split, the choice of cells and the masks.
    progress
        Called as progress("audit ARM", cells masked, cells), and while thresholds are fitted.

    Raises
    ------
    InputError
        An unknown arm, a value out of range, a graph that does not fit the vocabulary, no held-out genes.
    """
    arms, thresholds = list(dict.fromkeys(arms)), sorted({float(threshold) for threshold in thresholds})
    _check_choices(arms, thresholds)
    check_arm(next((arm for arm in arms if arm in WITH_FREQUENCY), arms[0]), frequency_power)
    at_least_one = {"max_len": max_len, "cells": cells, "epochs": epochs, "min_cells": min_cells}
    for name, value, least in (*((*item, 1) for item in at_least_one.items()), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"audit: {name!r} must be at least {least}, got {value}")
    if max_group is not None and max_group < 0:
        raise InputError(f"audit: 'max_group' must be at least 0, got {max_group}")
    if not 0 < held_out < 1:
        raise InputError(f"audit: 'held_out' must be above 0 and below 1, got {held_out}")
    GroupTable.from_graph(graph, corpus.vocabulary)  # refuses a graph that does not fit
    train, held = split_cells(corpus.n_cells, held_out, seed)
    rows = held
    if len(held) > cells:
        rows = np.sort(np.random.default_rng([seed, 0xA0D1]).choice(held, cells, replace=False))
    lengths = np.minimum(corpus.lengths[rows], max_len)
    if not lengths.any():
        raise InputError(
            f"corpus {corpus.name!r}: of {corpus.n_cells:,} cells, {len(rows):,} are held out and hold no genes; "
            "raise 'held_out' or give more cells"
        )

    partners = partner_strength(graph, corpus.vocabulary)
    reports = {}
    for arm in arms:
        masker = make_masker(
            arm,
            graph=graph,
            corpus=corpus,
            rows=train,
            max_len=max_len,
            rate=rate,
            expand=expand,
            max_group=max_group,
            frequency_power=frequency_power if arm in WITH_FREQUENCY else None,
            seed=seed,
            progress=progress,
        )
        counts = ArmCounts(arm, corpus.vocabulary, partners, thresholds)
        for first in range(0, len(rows), _BATCH):
            batch = corpus.batch(rows[first : first + _BATCH], max_len)
            if first == 0:
                masker(*batch)  # warms up for the timing; a mask is pure, so that this changes nothing
            for epoch in range(epochs):
                counts.add(masker, batch, epoch)
            progress(f"audit {arm}", first + len(batch.lengths), len(rows))
        reports[arm] = counts.finish(rate=rate, epochs=epochs, min_cells=min_cells)

    return AuditReport(
        settings={
            "corpus": Path(corpus.name).name,
            "corpus_hash": corpus.hash,
            "vocabulary_hash": corpus.vocabulary.hash,
            "arms": arms,
            "rate": rate,
            "expand": expand,
            "max_group": max_group,
            "frequency_power": frequency_power,
            "max_len": max_len,
            "held_out": held_out,
            "cells": cells,
            "epochs": epochs,
            "thresholds": thresholds,
            "min_cells": min_cells,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "batch_cells": _BATCH,
        },
        graph={
            "genes": graph.n_genes,
            "edges": graph.n_edges,
            "weakest_edge": float(np.abs(graph.weights).min()),
            "provenance": _plain(graph.provenance),
        },
        cells={
            "corpus": corpus.n_cells,
            "training": len(train),
            "held_out": len(held),
            "audited": len(rows),
            "without_genes": int((lengths == 0).sum()),
            "median_tokens": float(np.median(lengths)),
        },
        arms=reports,
        rules=RULES,
    )


def _check_choices(arms: Sequence[str], thresholds: Sequence[float]) -> None:
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"audit: arm {arm!r} is unknown; choose among {', '.join(ARMS)}")
    if not arms:
        raise InputError(f"audit: no arm is given; choose among {', '.join(ARMS)}")
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise InputError(f"audit: 'thresholds' must be |r| above 0 and up to 1, got {list(thresholds)}")


def _plain(value: Any) -> Any:
    """JSON-safe form of what a file's ``uns`` holds."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
