"""The picture of what leaks under each mask; prints its figures: python docs/scripts/leakage_figure.py FILE.svg.

Two panels, both of cells that anyone has: `corrmask.simulation.simulate` with its defaults, and the 700 real cells that
come with scanpy (values normalised, 765 preselected genes), as the demo takes them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import corrmask
from corrmask import pl
from corrmask.audit import AuditReport, audit
from corrmask.corpus import Corpus
from corrmask.demo.cells import read_cells
from corrmask.demo.settings import DemoSettings
from corrmask.simulation import simulate
from corrmask.tokenization import tokenize

THRESHOLD = 0.1


def measure(cells: Any, *, normalized: bool) -> AuditReport:
    """Audit the five masks on a fifth of the cells, held out."""
    with tempfile.TemporaryDirectory() as temporary:
        tokenize(cells, Path(temporary) / "corpus", normalized=normalized)
        graph = corrmask.correlation_graph(cells, normalized=normalized)
        corpus = Corpus.open(Path(temporary) / "corpus")
        return audit(corpus, graph, held_out=0.2, thresholds=[THRESHOLD], min_cells=1)


def draw(reports: dict[str, AuditReport], path: Path) -> None:
    """A panel per report: bars with every gene counted alike, lines as masked."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(reports), sharey=True)
    for ax, (name, report) in zip(axes, reports.items()):
        rows = {arm: one.leakage(THRESHOLD) for arm, one in report.arms.items()}
        places = np.arange(len(rows))
        alike = [100 * row["standardised"] for row in rows.values()]
        as_masked = [100 * row["share"] for row in rows.values()]
        ax.bar(places, alike, 0.7, color=[pl.arm_colour(arm) for arm in rows])
        ax.hlines(as_masked, places - 0.42, places + 0.42, color="black", linewidth=1.4)
        for place, share, other in zip(places, alike, as_masked):
            # Below the bar's top, or below the line where that is close above it.
            inside = share - 2 if abs(other - share) > 7 else min(share, other) - 2
            ax.text(place, inside, f"{share:.0f}", ha="center", va="top", color="white", fontweight="bold")
        ax.set_xticks(places, list(rows))
        ax.set_title(f"{name}: {report.cells['audited']:,} held-out cells", fontsize=10)
        ax.set_ylim(0, 102)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"masked genes with a visible\npartner, |r| ≥ {THRESHOLD} (%)")
    handles = [
        Patch(color="#555555", label="every gene counted as often as cells hold it"),
        Line2D([], [], color="black", linewidth=1.4, label="as often as it is masked"),
    ]
    figure.legend(handles=handles, frameon=False, ncols=2, loc="outside lower center")
    pl.save(axes[0], path)


def main(path: Path) -> None:
    """Measure, print, draw."""
    settings = DemoSettings().resolve()
    built_in, _ = read_cells(settings)
    reports = {
        "simulated": measure(simulate(3000), normalized=False),
        "blood (scanpy)": measure(built_in, normalized=settings.normalized),
    }
    for name, report in reports.items():
        print(f"{name}: {report.cells}, {report.graph['genes']} genes, {report.graph['edges']} edges")
        for arm, one in report.arms.items():
            row = one.leakage(THRESHOLD)
            print(f"  {arm:9} standardised {100 * row['standardised']:5.1f} %, as masked {100 * row['share']:5.1f} %")
    draw(reports, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
