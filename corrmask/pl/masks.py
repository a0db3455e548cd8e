"""Figures of masks: what an audit counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from corrmask.arguments import checked
from corrmask.audit.report import AuditReport
from corrmask.errors import InputError
from corrmask.pl.style import GREY, arm_colour, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAKAGE = {
    "share": "masked genes with a visible partner (%)",
    "standardised": "leakage, genes counted as often as present (%)",
    "of_partnered": "of masked genes with a partner in the cell,\none is visible (%)",
}


@checked
def leakage(
    report: AuditReport | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    measure: Literal["share", "standardised", "of_partnered"] = "share",
) -> Axes:
    """Leakage of each arm, a bar per threshold; for ``share`` a line over each bar marks all that could leak.

    `report` is an `AuditReport`, or what its ``to_dict`` gives; `measure` is explained in its ``rules``.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    document = _document(report)
    arms, thresholds = document["arms"], document["settings"]["thresholds"]
    ax = axes_of(ax, (max(5.5, 1.5 + 0.55 * len(arms) * len(thresholds)), 4))
    width = 0.84 / len(thresholds)
    handles: list[Any] = []
    for i, threshold in enumerate(thresholds):
        alpha = 1 - 0.6 * i / max(len(thresholds) - 1, 1)
        rows = [arm["leakage"][i] for arm in arms.values()]
        centres = np.arange(len(arms)) + (i - (len(thresholds) - 1) / 2) * width
        heights = [100 * row[measure] for row in rows]
        bars = ax.bar(centres, heights, 0.92 * width, color=[arm_colour(arm) for arm in arms], alpha=alpha)
        handles.append(Patch(color="black", alpha=0.75 * alpha, label=f"|r| ≥ {threshold:g}"))
        tops = heights
        if measure == "share":
            tops = [100 * row["partner_in_cell"] for row in rows]
            ax.hlines(tops, centres - 0.46 * width, centres + 0.46 * width, color="black", linewidth=1.2)
        for bar, height, top in zip(bars, heights, tops, strict=True):
            # Inside, where a line over the bar could be taken for what the number means.
            inside = measure == "share" and height > 8
            ax.annotate(
                f"{height:.0f}",
                (bar.get_x() + bar.get_width() / 2, height if inside else top),
                (0, -3 if inside else 3),
                textcoords="offset points",
                ha="center",
                va="top" if inside else "baseline",
                color="white" if inside and alpha > 0.7 else "black",
            )
    if measure == "share":
        handles.append(Line2D([], [], color="black", linewidth=1.2, label="all that could leak"))
    ax.legend(handles=handles, frameon=False, ncols=len(handles), loc="lower center", bbox_to_anchor=(0.5, 1))
    ax.set_xticks(range(len(arms)), list(arms))
    ax.set(ylabel=_LEAKAGE[measure], ylim=(0, 105))
    return ax


@checked
def mask_frequency(report: AuditReport | Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """How many genes are masked how often, by arm: the tail on the right are genes that are nearly always masked."""
    document = _document(report)
    ax = axes_of(ax)
    most = 1
    for arm, counts in document["arms"].items():
        frequency = counts["mask_frequency"]
        if frequency["genes"]:
            share = 1 - np.linspace(0, 1, 101)
            share[-1] = 1 / frequency["genes"]  # the most masked gene
            most = max(most, frequency["genes"])
            wide = 4.5 if arm in ("random", "weighted") else 2  # `levelled` and `corr` lie on them
            at, colour = 100 * np.array(frequency["percentiles"]), arm_colour(arm)
            ax.plot(at, 100 * share, color=colour, linewidth=wide, label=arm, zorder=4 - wide / 2)
    rate, cells = document["settings"]["rate"], document["settings"]["min_cells"]
    ax.axvline(100 * rate, color=GREY, linewidth=1, linestyle="--", label=f"rate {100 * rate:g} %", zorder=0)
    ax.set(yscale="log", xlim=(0, 100), ylim=(80 / most, 120), ylabel="genes masked at least that often (%)")
    ax.set_xlabel(f"cells that hold the gene in which it is masked (%)\n{most:,} genes in {cells} cells or more")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.legend(frameon=False)
    return ax


@checked
def group_sizes(report: AuditReport | Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """How many of the masked genes were masked in groups of how many, by arm."""
    ax = axes_of(ax)
    largest = 2
    for arm, counts in _document(report)["arms"].items():
        size, number = np.array(counts["groups"]["by_size"]).T
        inside = np.cumsum((size * number)[::-1])[::-1] / (size * number).sum()
        largest = max(largest, int(size[-1]))
        at, share = [*size, size[-1] + 1], [*(100 * inside), 0]
        wide = 4.5 if arm == "random" else 2  # `weighted` lies on it
        ax.plot(at, share, ".-", color=arm_colour(arm), linewidth=wide, markersize=5, label=arm, zorder=4 - wide / 2)
    ax.set(xscale="log", xlim=(0.9, 1.15 * largest), ylim=(0, 103))
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= largest]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set(
        xlabel="genes that one seed masked in a cell, itself included",
        ylabel="masked genes in such groups\nor larger (%)",
    )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _document(report: AuditReport | Mapping[str, Any]) -> Mapping[str, Any]:
    document = report.to_dict() if isinstance(report, AuditReport) else report
    if not {"arms", "settings"} <= set(document):
        raise InputError(f"the figure needs the report of an audit, got a mapping with {sorted(map(str, document))}")
    return document
