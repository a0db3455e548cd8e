"""Figures of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.pl.style import ARM_COLOURS, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked
def collator_speed(report: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Cells a second of each collator, hatched where its masks cannot be replayed.

    `report` is what `corrmask.bench.collators.bench_collators` returns.
    """
    if not report.get("rows"):
        raise InputError("collator_speed: the report has no rows; give what bench_collators returns")
    ax = axes_of(ax, (7, 0.6 * len(report["rows"]) + 1.2))
    rows = sorted(report["rows"], key=lambda row: row["cells_per_second"])
    bars = ax.barh(range(len(rows)), [row["cells_per_second"] for row in rows], color=ARM_COLOURS["random"])
    for bar, row in zip(bars, rows, strict=True):
        if row["name"].startswith("corrmask"):
            bar.set_color(ARM_COLOURS["corr"])
        bar.set_hatch("" if row["replayable"] else "//")
        at = (bar.get_width(), bar.get_y() + bar.get_height() / 2)
        ax.annotate(f"{row['cells_per_second']:,.0f}", at, (3, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(rows)), [row["name"].replace(" ", "\n", 1) for row in rows])
    ax.set(xlabel=f"cells/s, {report['cells']} cells of up to {report['settings']['max_len']:,} tokens")
    ax.margins(x=0.12)
    return ax
