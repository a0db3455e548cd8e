"""The figures of the page, each from the rows of results.csv alone; None where there is nothing to draw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from claim_factors import Gains
from claim_rows import EndPoint, InData
from claim_statistics import Difference, by_seed, paired
from matplotlib.figure import Figure
from study import ARMS, FRACTIONS, ON_FRACTIONS

from corrmask import pl

COLOURS = {arm: pl.arm_colour(arm) for arm in ARMS}
Curves = tuple[pd.DataFrame, EndPoint, str]  # rows, what is shown of them, with which factor
BASELINE_LINES = {"PCA": "--", "HVG": ":", "expression": "-", "untrained": "-."}


def _panels(n: int, height: float = 3.4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.4 * n, height), layout="constrained")
    axes = figure.subplots(1, n, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _on_all(rows: pd.DataFrame, corpus: str, column: str, factor: str = "") -> pd.DataFrame:
    """Rows of a corpus on all cells, with the protocol's settings but for a factor, that have an end point."""
    found = rows[(rows["corpus"] == corpus) & (rows["fraction"] == "1") & (rows["factor"] == factor)]
    return found.dropna(subset=[column])


def _legend(figure: Figure, axes: Any) -> None:
    """One legend below for all panels, each name once."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", frameon=False, ncols=10, fontsize=8
    )


def curves(shown: Sequence[Curves], path: Path) -> bool:
    """End points against steps: means over seeds as lines, seeds as points, baselines across; a factor's line whole.

    Where there is a factor, runs of the same arms without it are thin lines.
    """
    shown = [one for one in shown if (_on_all(one[0], *one[1][:2], one[2])["step"] > 0).any()]
    if not shown:
        return False
    figure, axes = _panels(len(shown))
    for ax, (rows, (corpus, column, title, baselines), factor) in zip(axes, shown):
        usual = _on_all(rows, corpus, column)
        for arm in ARMS:
            mine = [
                one[(one["arm"] == arm) & (one["step"] > 0)] for one in (_on_all(rows, corpus, column, factor), usual)
            ]
            for found, width in zip(mine, (1.6, 0.7) if factor and len(mine[0]) else (1.6,)):
                if len(found):
                    mean = found.groupby("step")[column].mean()
                    ax.plot(mean.index, mean, color=COLOURS[arm], linewidth=width, label=arm if width > 1 else None)
                    ax.plot(found["step"], found[column], "o", color=COLOURS[arm], markersize=2 * width, alpha=0.6)
        for name in baselines:
            value = usual.loc[usual["arm"] == name, column].mean()
            if np.isfinite(value):
                ax.axhline(value, color="#555555", linestyle=BASELINE_LINES[name], linewidth=1, label=name)
        ax.set(xlabel="training step", title=title)
        ax.title.set_fontsize(9)
    _legend(figure, axes)
    pl.save(axes[0], path)
    return True


def differences(rows: pd.DataFrame, end_points: Sequence[EndPoint], path: Path) -> bool:
    """Paired differences at the last mark: seeds as points, means with 95 % t intervals as bars."""
    pairs = [("corr", "random"), ("corr", "weighted"), ("corr", "rewired"), ("levelled", "random")]
    pairs += [("weighted", "random"), ("rewired", "random"), ("module", "random"), ("random30", "random")]
    drawn: dict[str, dict[tuple[str, str], Any]] = {}
    for corpus, column, title, _ in end_points:
        mine = rows[rows["corpus"] == corpus]
        of = {arm: by_seed(mine, arm, column) for arm in ARMS}
        found = {pair: paired(of[pair[0]], of[pair[1]]) for pair in pairs}
        if any(one.n for one in found.values()):
            drawn[title] = found
    if not drawn:
        return False
    shown = [pair for pair in pairs if any(found[pair].n for found in drawn.values())]
    panels = {
        title: [(f"{one} - {other}", found[one, other], COLOURS[one]) for one, other in shown]
        for title, found in drawn.items()
    }
    _intervals(panels, 0.3, path)
    return True


def joint(gains: Gains, path: Path) -> bool:
    """What masking jointly adds in every setting: a panel for each way to read models, a row a setting."""
    drawn = {read_as: found for read_as, found in gains.items() if found}
    if not drawn:
        return False
    settings = list(dict.fromkeys(name for found in drawn.values() for name in found))
    types = list(dict.fromkeys(name.split(",")[0] for name in settings))
    settings = sorted(settings, key=lambda name: types.index(name.split(",")[0]))
    nothing = paired({}, {})
    panels = {
        read_as: [
            (name, found[name].score if name in found else nothing, COLOURS[_joint_arm(name)]) for name in settings
        ]
        for read_as, found in drawn.items()
    }
    _intervals(panels, 0.26, path, "rare macro-F1: jointly - one by one")
    return True


def hidden(gains: Gains, path: Path) -> bool:
    """The same against the leakage that it takes away, a point a setting: a panel for each way to read models."""
    drawn = {read_as: found for read_as, found in gains.items() if found}
    if not drawn:
        return False
    figure, axes = _panels(len(drawn))
    for ax, (read_as, found) in zip(axes, drawn.items()):
        ax.axhline(0, color=pl.style.GREY, linewidth=1)
        for name, one in found.items():
            arm = _joint_arm(name)
            at = [100 * one.hidden]
            ax.plot(at * 2, [one.score.low, one.score.high], color=COLOURS[arm], linewidth=0.6, alpha=0.35)
            ax.plot(at, [one.score.mean], "o", color=COLOURS[arm], markersize=5, label=arm)
        means = [one.score.mean for one in found.values()]
        ax.set_ylim(min(*means, 0) - 0.1, max(*means, 0) + 0.1)  # long intervals are cut
        ax.set(xlabel="masked genes with a visible partner:\none by one - jointly (points)", title=read_as)
        ax.title.set_fontsize(9)
    axes[0].set_ylabel("rare macro-F1: jointly - one by one")
    _legend(figure, axes)
    pl.save(axes[0], path)
    return True


def _joint_arm(setting: str) -> str:
    """The arm that masks jointly in a setting, by its name."""
    return "levelled" if "evenly" in setting or "power" in setting else "corr"


def _intervals(
    panels: Mapping[str, Sequence[tuple[str, Difference, Any]]], row_height: float, path: Path, label: str = ""
) -> None:
    """Panels with the same rows from the top down: seeds as points, means with 95 % t intervals as bars, if any."""
    names = [name for name, *_ in next(iter(panels.values()))]
    figure, axes = _panels(len(panels), 0.9 + row_height * len(names))
    figure.supxlabel(label, fontsize=10)
    for ax, (title, rows) in zip(axes, panels.items()):
        ax.axvline(0, color=pl.style.GREY, linewidth=1)
        for place, (_, one, colour) in enumerate(reversed(rows)):
            ax.plot(list(one.values.values()), [place] * one.n, "o", color=colour, markersize=3.5, alpha=0.6)
            if one.n > 1:
                ax.plot([one.low, one.high], [place, place], color=colour, linewidth=1.4)
                ax.plot([one.mean], [place], "|", color=colour, markersize=10, markeredgewidth=2)
        ax.set_yticks(range(len(names)), names[::-1] if ax is axes[0] else [""] * len(names))
        ax.set_ylim(-0.6, len(names) - 0.4)
        ax.set_title(title, fontsize=9)
    pl.save(axes[0], path)


def abundance(rows: pd.DataFrame, path: Path) -> bool:
    """F1 of each type at the last mark against its share of the training cells: means over seeds.

    Types of nearly the same share are moved apart, and arms stand side by side around their type.
    """
    found = rows[(rows["fraction"] == "1") & (rows["factor"] == "") & rows["f1"].notna()]
    found = found[found["step"] == found.groupby(["run", "arm"])["step"].transform("max")]
    if not (found["step"] > 0).any():
        return False
    records = [
        {"level": level, "arm": arm, "type": name, "share": share, "f1": f1}
        for arm, text in zip(found["arm"], found["f1"])
        for level, types in json.loads(text).items()
        for name, (share, f1) in types.items()
        if arm in (*ARMS, "PCA")
    ]
    table = pd.DataFrame(records)
    levels = sorted(table.loc[table["arm"] != "PCA", "level"].unique(), key=["purified", "pbmc3k"].__contains__)[::-1]
    figure, axes = _panels(len(levels), 3.9)
    for ax, level in zip(axes, levels):
        here = table[table["level"] == level]
        shares = here.groupby("type")["share"].mean().sort_values()
        places = dict(zip(shares.index, _apart(100 * shares.to_numpy())))
        for i, arm in enumerate((*ARMS, "PCA")):
            mean = here[here["arm"] == arm].groupby("type")["f1"].mean()
            if len(mean):
                baseline = arm == "PCA"
                ax.plot(
                    [places[name] * 10 ** (0.018 * (i - 3.5)) for name in mean.index],
                    mean,
                    "s" if baseline else "o",
                    color="#555555" if baseline else COLOURS[arm],
                    markerfacecolor="white" if baseline else COLOURS[arm],
                    markersize=4,
                    label=arm,
                )
        for name, place in places.items():
            ax.axvline(place, color=pl.style.GREY, linewidth=0.4, zorder=0)
            text = f"{name} ({100 * shares[name]:.2g} %)"
            ax.text(place, 1.02, text, rotation=60, fontsize=7, transform=ax.get_xaxis_transform(), va="bottom")
        ax.set(xscale="log", xlabel=f"{level}: share of training cells (%)", ylabel="F1", ylim=(-0.03, 1.03))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _legend(figure, axes)
    pl.save(axes[0], path)
    return True


def _apart(shares: np.ndarray) -> list[float]:
    """Places on a log axis that keep their order and a gap between neighbours."""
    places: list[float] = []
    for share in shares:
        places.append(max(share, places[-1] * 10**0.17) if places else float(share))
    return places


def data_curves(shown: Sequence[InData], path: Path) -> bool:
    """Against the fraction of blood's training cells, seeds that have all: titles, rows and column of each panel."""
    fractions = {str(part): float(part) for part in sorted((*FRACTIONS, Fraction(1)))}

    def scores(rows: pd.DataFrame, column: str, arm: str) -> dict[float, list[float]]:
        mine = rows[rows["corpus"] == "blood"]
        found = {part: by_seed(mine, arm, column, fraction=name) for name, part in fractions.items()}
        found = {part: of for part, of in found.items() if of}
        seeds = set.intersection(*map(set, found.values())) if found else set()
        return {part: [of[seed] for seed in sorted(seeds)] for part, of in found.items()}

    panels = [(title, {arm: scores(rows, column, arm) for arm in ON_FRACTIONS}) for title, rows, column in shown]
    panels = [one for one in panels if min(map(len, one[1].values())) > 1]  # of all arms
    if not panels:
        return False
    figure, axes = _panels(len(panels))
    for ax, (title, by_arm) in zip(axes, panels):
        for arm, found in by_arm.items():
            ax.plot(list(found), [np.mean(one) for one in found.values()], "-", color=COLOURS[arm], label=arm)
            for part, values in found.items():
                ax.plot([part] * len(values), values, "o", color=COLOURS[arm], markersize=3.5, alpha=0.6)
        ax.set_xticks(list(fractions.values()), list(fractions))
        ax.set(xlabel="fraction of the training cells", title=title)
        ax.title.set_fontsize(9)
    _legend(figure, axes)
    pl.save(axes[0], path)
    return True


def leakage(rows: pd.DataFrame, end_points: Sequence[EndPoint], path: Path) -> bool:
    """End points at the last mark against leakage, means over seeds, a point an arm."""
    shown: list[tuple[EndPoint, dict[str, tuple[float, float]]]] = []
    for one in end_points:
        mine = rows[rows["corpus"] == one[0]]
        points: dict[str, tuple[float, float]] = {}
        for arm in ARMS:
            leak, score = by_seed(mine, arm, "leak_0.1_alike"), by_seed(mine, arm, one[1])
            if leak and score:
                points[arm] = float(np.mean(list(leak.values()))), float(np.mean(list(score.values())))
        if len(points) > 1:
            shown.append((one, points))
    if not shown:
        return False
    figure, axes = _panels(len(shown))
    for ax, ((_, _, title, _), points) in zip(axes, shown):
        for arm, (leaking, reached) in points.items():
            ax.plot([100 * leaking], [reached], "o", color=COLOURS[arm], markersize=7, label=arm)
        ax.set(xlabel="masked genes with a visible partner,\n|r| ≥ 0.1, genes counted alike (%)", title=title)
        ax.title.set_fontsize(9)
    _legend(figure, axes)
    pl.save(axes[0], path)
    return True
