"""Hubs of the graph are masked several times as often as other genes; `calibrate` levels that, at a price."""

from __future__ import annotations

import cells
import numpy as np

import corrmask
from corrmask.audit import audit


def main() -> dict[str, np.ndarray]:
    """Mask frequency of each gene in held-out cells, before and after."""
    _, corpus, graph = cells.make()
    groups = corrmask.GroupTable.from_graph(graph, corpus.vocabulary)
    level = groups.calibrate(corpus, rate=0.15, max_len=64)
    corrmask.CorrMasker(level, rate=0.15, seed=0)  # used like any other

    # The same as an arm of its own: `corrmask audit`, `corrmask pretrain --mask levelled`.
    report = audit(corpus, graph, arms=["corr", "levelled"], max_len=64, held_out=0.5, epochs=20)
    for arm, found in report.arms.items():
        share = found.leakage(0.1)["standardised"]
        print(
            f"{arm}: 5 % to 95 %: {np.nanquantile(found.frequency, [0.05, 0.95])}, {share:.0%} with a visible partner"
        )
    return {arm: found.frequency for arm, found in report.arms.items()}


if __name__ == "__main__":
    main()
