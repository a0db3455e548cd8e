"""Figures of graphs, masks, training and scores. Needs matplotlib (``corrmask[eval]``); pyplot is never touched.

Every function draws into `ax`, or into a new figure without it, and returns the axes: ``plots.save(ax, "name.png")``.
Each arm has one colour everywhere, of a palette that colour-blind readers can tell apart (Okabe and Ito, 2008).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from corrmask.audit.report import AuditReport
from corrmask.errors import InputError
from corrmask.graph import GeneGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARM_COLOURS = {
    "random": "#7f7f7f",
    "weighted": "#e69f00",
    "corr": "#0072b2",
    "levelled": "#56b4e9",
    "module": "#009e73",
    "rewired": "#d55e00",
}
_OTHERS = ("#cc79a7", "#f0e442", "#000000", "#8a6d00", "#882255", "#44aa99")
_LABELS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#332288", "#999933", "#882255", "#44aa99")
_MARKERS = "osD^vPX<>*"
_GREY = "#bdbdbd"
_LEAKAGE = {
    "share": "masked genes with a visible partner (%)",
    "standardised": "leakage, genes counted as often as present (%)",
    "of_partnered": "of masked genes with a partner in the cell,\none is visible (%)",
}


def save(ax: Axes, path: str | Path) -> None:
    """Write the figure of `ax`; the suffix decides the format, and the same figure gives the same bytes."""
    import matplotlib

    metadata = {"Date": None} if Path(path).suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "corrmask"}):
        figure: Any = ax.get_figure(root=True)
        figure.savefig(path, dpi=150, metadata=metadata)


def degree(graph: GeneGraph, ax: Axes | None = None, *, n_hubs: int = 8) -> Axes:
    """How many genes are partners of how many others, with the names of the hubs."""
    ax = _axes(ax)
    falling = np.sort(graph.in_degree())[::-1]
    falling = falling[falling > 0]
    ax.plot(falling, np.arange(1, len(falling) + 1), ".", color=ARM_COLOURS["corr"], markersize=4)
    hubs = [(name, partners) for name, partners in graph.hubs(n_hubs) if partners]
    if hubs:
        ax.plot([partners for _, partners in hubs], np.arange(1, len(hubs) + 1), "o", color=ARM_COLOURS["rewired"])
        text = "\n".join(["hubs, partner of", *(f"{partners:,}  {name}" for name, partners in hubs)])
        ax.text(0.04, 0.05, text, transform=ax.transAxes, va="bottom", fontsize=8, color=ARM_COLOURS["rewired"])
        ax.set(xscale="log", yscale="log", xlim=(0.8, falling[0] * 1.6), ylim=(0.7, len(falling) * 1.5))
    ax.set(xlabel="in-degree: partner of so many genes", ylabel="genes with that in-degree or more")
    ax.set_title(f"{graph.n_edges:,} edges; {len(falling):,} of {graph.n_genes:,} genes are partners", fontsize=10)
    return ax


def leakage(
    report: AuditReport | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    measure: Literal["share", "standardised", "of_partnered"] = "share",
) -> Axes:
    """Leakage of each arm, a bar per threshold; for ``share`` a line over each bar marks all that could leak."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    document = _document(report)
    arms, thresholds = document["arms"], document["settings"]["thresholds"]
    ax = _axes(ax, (max(5.5, 1.5 + 0.55 * len(arms) * len(thresholds)), 4))
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
            ax.annotate(
                f"{height:.0f}",
                (bar.get_x() + bar.get_width() / 2, top),
                (0, 3),
                textcoords="offset points",
                ha="center",
            )
    if measure == "share":
        handles.append(Line2D([], [], color="black", linewidth=1.2, label="all that could leak"))
    ax.legend(handles=handles, frameon=False, ncols=len(handles), loc="lower center", bbox_to_anchor=(0.5, 1))
    ax.set_xticks(range(len(arms)), list(arms))
    ax.set(ylabel=_LEAKAGE[measure], ylim=(0, 105))
    return ax


def mask_frequency(report: AuditReport | Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """How many genes are masked how often, by arm: the tail on the right are genes that are nearly always masked."""
    document = _document(report)
    ax = _axes(ax)
    most = 1
    for arm, counts in document["arms"].items():
        frequency = counts["mask_frequency"]
        if frequency["genes"]:
            share = 1 - np.linspace(0, 1, 101)
            share[-1] = 1 / frequency["genes"]  # the most masked gene
            most = max(most, frequency["genes"])
            ax.plot(
                100 * np.array(frequency["percentiles"]), 100 * share, color=arm_colour(arm), linewidth=2, label=arm
            )
    rate, cells = document["settings"]["rate"], document["settings"]["min_cells"]
    ax.axvline(100 * rate, color=_GREY, linewidth=1, linestyle="--", label=f"rate {100 * rate:g} %", zorder=0)
    ax.set(yscale="log", xlim=(0, 100), ylim=(80 / most, 120), ylabel="genes masked at least that often (%)")
    ax.set_xlabel(f"cells that hold the gene in which it is masked (%)\n{most:,} genes in {cells} cells or more")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.legend(frameon=False)
    return ax


def group_sizes(report: AuditReport | Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """How many of the masked genes were masked in groups of how many, by arm."""
    ax = _axes(ax)
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


def loss_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], ax: Axes | None = None) -> Axes:
    """Validation loss of each arm against steps: rows with ``step`` and ``validation_loss``; others are passed over."""
    ax = _axes(ax)
    for arm, history in histories.items():
        rows = [row for row in history if row.get("validation_loss") is not None]
        steps, losses = [row["step"] for row in rows], [row["validation_loss"] for row in rows]
        label = f"{arm} ({losses[-1]:.3f})" if losses else arm
        ax.plot(steps, losses, "o-", markersize=3, color=arm_colour(arm), linewidth=1.8, label=label)
    ax.set(xlabel="training step", ylabel="validation loss (nats per masked gene)")
    ax.legend(frameon=False, title="arm (last value)")
    return ax


def f1_by_abundance(
    report: Mapping[str, Any],
    ax: Axes | None = None,
    *,
    classifier: str = "logistic_regression",
    level: str | None = None,
) -> Axes:
    """F1 of each cell type against its share of the cells, with intervals, by representation.

    `report` is ``AnnotationReport.to_dict()``. Representations stand side by side around each type's abundance;
    baselines are hollow. Types whose labels would overlap are moved apart.
    """
    ax = _axes(ax, (9, 5.2))
    scores = [one for one in report["scores"] if (one["classifier"], one["level"]) == (classifier, level)]
    if not scores:
        raise InputError(f"f1_by_abundance: the report has no scores of {classifier!r} in level {level!r}")
    types = sorted(scores[0]["types"], key=lambda one: (one["fraction"], one["type"]))
    places = dict(zip([one["type"] for one in types], _apart([one["fraction"] for one in types], 0.055), strict=True))
    baselines = 0
    for i, score in enumerate(scores):
        rows = [one for one in score["types"] if one["f1"] is not None]
        nudge = 10 ** (0.09 / len(scores) * (i - (len(scores) - 1) / 2))
        value = np.array([one["f1"]["value"] for one in rows])
        ends = [
            [one["f1"][end] if one["f1"][end] is not None else one["f1"]["value"] for one in rows]
            for end in ("low", "high")
        ]
        hollow = score["kind"] == "baseline"
        colour = ARM_COLOURS.get(score["representation"], _OTHERS[baselines % len(_OTHERS)])
        baselines += score["representation"] not in ARM_COLOURS
        ax.errorbar(
            [100 * places[one["type"]] * nudge for one in rows],
            value,
            yerr=np.abs(np.array(ends) - value),
            fmt=_MARKERS[i % len(_MARKERS)],
            color=colour,
            markerfacecolor="white" if hollow else colour,
            markersize=5.5,
            elinewidth=0.9,
            label=f"{score['representation']} (macro-F1 {score['macro_f1']['value']:.3f})",
        )
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="share of the cells (%)", ylabel="F1")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for one in types:
        place = 100 * places[one["type"]]
        ax.axvline(place, color=_GREY, linewidth=0.5, zorder=0)
        text = f"{one['type']} ({100 * one['fraction']:.2g} %)"
        transform = ax.get_xaxis_transform()
        ax.text(place, 1.02, text, transform=transform, rotation=40, ha="left", va="bottom", fontsize=8)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def embedding(
    coords: np.ndarray, labels: Sequence[Any] | np.ndarray, ax: Axes | None = None, *, axis: str = "UMAP"
) -> Axes:
    """Cells in two dimensions, coloured by label, the rarest on top; cells without a label are grey."""
    coords = np.asarray(coords)
    if coords.ndim != 2 or coords.shape[1] != 2 or len(labels) != len(coords):
        raise InputError(f"embedding: 'coords' must be [{len(labels)}, 2], one row per label, got {list(coords.shape)}")
    ax = _axes(ax, (7, 5))
    names = np.array(["" if label is None or label != label else str(label) for label in labels], dtype=object)
    found, counts = np.unique(names.astype(str), return_counts=True)
    size = float(np.clip(3e4 / max(len(names), 1), 2, 25))
    coloured = 0
    for name, count in sorted(zip(found, counts, strict=True), key=lambda one: (one[0] != "", -one[1], one[0])):
        colour, marker = _GREY, "o"
        if name:
            colour = _LABELS[coloured % len(_LABELS)]
            marker = _MARKERS[coloured // len(_LABELS) % len(_MARKERS)]
            coloured += 1
        label = f"{name or 'no label'} ({count:,})"
        at = coords[names == name]
        ax.scatter(at[:, 0], at[:, 1], s=size, c=colour, marker=marker, linewidths=0, rasterized=True, label=label)
    ax.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2", xticks=[], yticks=[])
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=(40 / size) ** 0.5)
    return ax


def heatmap_modules(
    graph: GeneGraph,
    modules: Mapping[str, Sequence[str]],
    ax: Axes | None = None,
    *,
    n_modules: int = 12,
    n_genes: int = 25,
    min_genes: int = 5,
) -> Axes:
    """Correlations inside and between modules: their first genes, of the first that have enough; white is no edge."""
    position = {str(gene): i for i, gene in enumerate(graph.var_names)}
    chosen = {
        name: genes
        for name, members in list(modules.items())[:n_modules]
        if len(genes := [position[gene] for gene in members if gene in position][:n_genes]) >= min_genes
    }
    if not chosen:
        raise InputError(f"heatmap_modules: no module has {min_genes} genes in the graph; lower 'min_genes'")
    ax = _axes(ax, (7, 6))
    order = np.concatenate(list(chosen.values()))
    directed = graph.to_scipy()[order][:, order].toarray()
    values = np.where(directed != 0, directed, directed.T)  # r is the same in both directions
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ends = np.cumsum([len(genes) for genes in chosen.values()])
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color=_GREY, linewidth=0.6)
        ax.axvline(end - 0.5, color=_GREY, linewidth=0.6)
    shown = (
        np.cumsum([len(genes) for genes in chosen.values()]) - np.array([len(genes) for genes in chosen.values()]) / 2
    )
    names = [f"{name}: {', '.join(str(graph.var_names[g]) for g in genes[:2])}" for name, genes in chosen.items()]
    ax.set_yticks(shown - 0.5, names, fontsize=8)
    ax.set_xticks([])
    ax.set_xlabel(f"up to {n_genes} genes of {len(chosen)} of {len(modules):,} modules")
    ax.figure.colorbar(image, ax=ax, fraction=0.046, label="correlation r of edges")
    return ax


def arm_colour(name: str) -> str:
    """The colour of an arm; black for what is none."""
    return ARM_COLOURS.get(name, "#000000")


def _document(report: AuditReport | Mapping[str, Any]) -> Mapping[str, Any]:
    return report.to_dict() if isinstance(report, AuditReport) else report


def _axes(ax: Axes | None, size: tuple[float, float] = (6, 4)) -> Axes:
    if ax is None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise InputError("plots need matplotlib: pip install 'corrmask[eval]'") from None
        ax = Figure(figsize=size, layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _apart(shares: Sequence[float], gap: float) -> list[float]:
    """Ascending positive shares, moved up so that neighbours are at least a share of the log range apart."""
    logs = np.log10(np.maximum(shares, 1e-6))
    least = gap * max(float(np.ptp(logs)), 0.5)
    for i in range(1, len(logs)):
        logs[i] = max(logs[i], logs[i - 1] + least)
    return list(10**logs)
