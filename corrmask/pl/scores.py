"""Figures of trained models: losses, F1 by abundance, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.pl.style import ARM_COLOURS, GREY, LABELS, MARKERS, OTHERS, arm_colour, axes_of
from corrmask.staging import on_host

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from corrmask.evaluation import AnnotationReport


@checked
def loss_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], ax: Axes | None = None) -> Axes:
    """Validation loss of each arm against steps.

    `histories` is arm -> the lines of its log (`corrmask.training.log.read_metrics`), or rows with ``step`` and
    ``validation_loss``; rows that are no validation are passed over, an arm that has no other is refused.
    """
    ax = axes_of(ax)
    for arm, history in histories.items():
        rows = [row for row in history if _validation_loss(row) is not None]
        if history and not rows:
            raise InputError(f"loss_curves: no row of {arm!r} is a validation; give read_metrics(FOLDER) of its run")
        steps, losses = [row["step"] for row in rows], [_validation_loss(row) for row in rows]
        label = f"{arm} ({losses[-1]:.3f})" if losses else arm
        ax.plot(steps, losses, "o-", markersize=3, color=arm_colour(arm), linewidth=1.8, label=label)
    ax.set(xlabel="training step", ylabel="validation loss (nats per masked gene)")
    ax.legend(frameon=False, title="arm (last value)")
    return ax


def _validation_loss(row: Mapping[str, Any]) -> Any:
    return row.get("loss") if row.get("kind") == "validation" else row.get("validation_loss")


@checked
def f1_by_abundance(
    report: AnnotationReport | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    classifier: str = "logistic_regression",
    level: str | None = None,
) -> Axes:
    """F1 of each cell type against its share of the cells, with intervals, by representation.

    `report` is an `AnnotationReport`, or what its ``to_dict`` gives. Representations stand side by side around each
    type's abundance; baselines are hollow. Types whose labels would overlap are moved apart.
    """
    ax = axes_of(ax, (9, 5.2))
    document = report if isinstance(report, Mapping) else report.to_dict()
    scores = [one for one in document.get("scores", ()) if (one["classifier"], one["level"]) == (classifier, level)]
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
        colour = ARM_COLOURS.get(score["representation"], OTHERS[baselines % len(OTHERS)])
        baselines += score["representation"] not in ARM_COLOURS
        ax.errorbar(
            [100 * places[one["type"]] * nudge for one in rows],
            value,
            yerr=np.abs(np.array(ends) - value),
            fmt=MARKERS[i % len(MARKERS)],
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
        ax.axvline(place, color=GREY, linewidth=0.5, zorder=0)
        text = f"{one['type']} ({100 * one['fraction']:.2g} %)"
        transform = ax.get_xaxis_transform()
        ax.text(place, 1.02, text, transform=transform, rotation=40, ha="left", va="bottom", fontsize=8)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


@checked
def embedding(
    coords: np.ndarray, labels: Sequence[Any] | np.ndarray, ax: Axes | None = None, *, axis: str = "UMAP"
) -> Axes:
    """Cells in two dimensions, coloured by label, the rarest on top; cells without a label (None, NaN, "") are grey.

    `coords` is float [n_cells, 2] and `labels` [n_cells]; `axis` names the dimensions.

    Raises
    ------
    InputError
        Another shape.
    """
    coords = np.asarray(on_host(coords))
    if coords.ndim != 2 or coords.shape[1] != 2 or len(labels) != len(coords):
        raise InputError(f"embedding: 'coords' must be [{len(labels)}, 2], one row per label, got {list(coords.shape)}")
    ax = axes_of(ax, (7, 5))
    names = np.array(
        ["" if label is None or label is pd.NA or label != label else str(label) for label in labels], dtype=object
    )
    found, counts = np.unique(names.astype(str), return_counts=True)
    size = float(np.clip(3e4 / max(len(names), 1), 2, 25))
    coloured = 0
    for name, count in sorted(zip(found, counts, strict=True), key=lambda one: (one[0] != "", -one[1], one[0])):
        colour, marker = GREY, "o"
        if name:
            colour = LABELS[coloured % len(LABELS)]
            marker = MARKERS[coloured // len(LABELS) % len(MARKERS)]
            coloured += 1
        label = f"{name or 'no label'} ({count:,})"
        at = coords[names == name]
        ax.scatter(at[:, 0], at[:, 1], s=size, c=colour, marker=marker, linewidths=0, rasterized=True, label=label)
    ax.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2", xticks=[], yticks=[])
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=(40 / size) ** 0.5)
    return ax


def _apart(shares: Sequence[float], gap: float) -> list[float]:
    """Ascending positive shares, moved up so that neighbours are at least a share of the log range apart."""
    logs = np.log10(np.maximum(shares, 1e-6))
    least = gap * max(float(np.ptp(logs)), 0.5)
    for i in range(1, len(logs)):
        logs[i] = max(logs[i], logs[i - 1] + least)
    return list(10**logs)
