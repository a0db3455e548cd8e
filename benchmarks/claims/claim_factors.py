"""One factor at a time, and what masking jointly adds in every setting, in markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from claim_rows import RARE, READ_AS, with_factors
from claim_statistics import Difference, by_seed, paired
from claim_tables import counted
from scipy import stats
from study import CONFIRMING, FACTORS, FRACTIONS

SMALL_GAIN = 0.03  # of rare macro-F1, which one would want to see


@dataclass(frozen=True)
class Gain:
    """What masking jointly does in one setting, less masking as often one by one.

    Attributes
    ----------
    score
        Rare macro-F1.
    hidden
        The share of masked genes with a visible partner (|r| 0.1 and more, genes counted alike) that it takes away,
        mean over the same seeds.
    """

    score: Difference
    hidden: float


Gains = Mapping[str, Mapping[str, Gain]]  # by how models are read, by setting


def factors(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> Iterator[str]:
    """Each factor that has runs: its joint arm against the protocol's, and against weighted with the same factor."""
    lines: list[str] = []
    others: list[str] = []
    mixed: dict[str, None] = {}
    for _, _, (corpus, column, title, _), factor, joint, mine in with_factors(rows, on_cpu):
        with_it = {arm: by_seed(mine, arm, column, factor=factor) for arm in (joint, "weighted")}
        against = [paired(found, by_seed(mine, arm, column)) for arm, found in with_it.items()]
        pairs = [*against, paired(with_it[joint], with_it["weighted"])]
        lines.append(f"| {title}: {factor}, {joint} | " + " | ".join(map(str, pairs)) + " |")
        others += _others(f"{title}: {factor}", column, factor, with_it, mine)
        makers = mine[mine["factor"] == factor].groupby("seed")["machine"].nunique()
        mixed.update(dict.fromkeys(f"{corpus}, {factor}, seed {seed}" for seed in makers.index[makers > 1]))
    if lines:
        yield "### One factor at a time"
        yield ""
        yield (
            "| end point: factor, joint arm | joint arm with it - without | weighted with it - without | joint arm - "
            "weighted, both with it |"
        )
        yield "|---|---|---|---|"
        yield from lines
        yield ""
        if others:
            yield "Arms besides these two, with the same factor:"
            yield ""
            yield from others
            yield ""
        yield (
            "Runs with a factor and without it may be of different CPUs (below), which round differently: what that "
            "alone does is in the next table, and an interval of three seeds need not hold it."
        )
        if mixed:
            yield f"With the same factor, arms are of CPUs of two makers in: {'; '.join(mixed)}."
        yield ""


def _others(
    setting: str, column: str, factor: str, shown: Mapping[str, Mapping[int, float]], rows: pd.DataFrame
) -> Iterator[str]:
    """What a factor does to arms besides those that are shown, and how these, by seed with it, stand to them."""
    for other in FACTORS[factor][2]:
        found = by_seed(rows, other, column, factor=factor)
        if found and other not in shown:
            lies = [f"{arm} - {other} {paired(scores, found)}" for arm, scores in shown.items()]
            less = paired(found, by_seed(rows, other, column))
            yield f"- {setting}: {other} with it - without {less}; {'; '.join(lies)}."


def joint_gains(rows: pd.DataFrame, tuned: pd.DataFrame, on_cpu: pd.DataFrame | None) -> Gains:
    """What masking jointly adds to rare macro-F1 at the same frequencies, by how models are read and by setting."""
    gains: dict[str, dict[str, Gain]] = {read_as: {} for read_as in READ_AS}

    def add(read_as: str, setting: str, mine: pd.DataFrame, joint: str, alone: str, column: str, **which: str) -> None:
        score = paired(*(by_seed(mine, arm, column, **which) for arm in (joint, alone)))
        if score.n > 1:
            leaks = (by_seed(mine, arm, "leak_0.1_alike", **which) for arm in (alone, joint))
            taken_away = paired(*leaks).values
            gains[read_as][setting] = Gain(score, float(np.mean([taken_away[seed] for seed in score.values])))

    for read_as, file in zip(READ_AS, (rows, tuned)):
        for name in RARE:
            corpus, column, *_ = READ_AS[read_as][name]
            mine = file[(file["corpus"] == corpus) & ~file["seed"].isin(CONFIRMING)]
            add(read_as, name, mine, "corr", "weighted", column)
            if on_cpu is not None:
                fresh = on_cpu[(on_cpu["corpus"] == corpus) & on_cpu["seed"].isin(CONFIRMING)]
                add(read_as, f"{name}, fresh seeds", fresh, "corr", "weighted", column)
            add(read_as, f"{name}, evenly", mine, "levelled", "random", column)
            for fraction in map(str, FRACTIONS):
                part = mine
                if on_cpu is not None and not (mine["fraction"] == fraction).any():
                    part = on_cpu[on_cpu["corpus"] == corpus]
                add(read_as, f"{name}, {fraction} of the cells", part, "corr", "weighted", column, fraction=fraction)
    for read_as, name, (_, column, *_), factor, joint, mine in with_factors(rows, on_cpu):
        add(read_as, f"{name}, {factor}", mine, joint, "weighted", column, factor=factor)
    return gains


def _goes_with(hidden: list[float], means: list[float]) -> str:
    """Whether more of it goes with a larger gain, where ranks say anything."""
    if len(means) < 3 or len(set(hidden)) < 2 or len(set(means)) < 2:
        return ""
    rho = stats.spearmanr(hidden, means).statistic
    return f"; rank correlation over settings of what it takes away and the gain {rho:+.2f}, seen, not tested"


def joint_masking(gains: Gains) -> Iterator[str]:
    """The same, counted over all settings."""
    lines = []
    for read_as, found in gains.items():
        if found:
            scores = [one.score for one in found.values()]
            means = [one.mean for one in scores]
            n_narrow = sum(one.high - one.low < 2 * SMALL_GAIN for one in scores)
            lines.append(
                f"- {read_as}, {counted(len(found), 'setting')}: the mean lies above 0 in {sum(m > 0 for m in means)} "
                f"(median of the means {np.median(means):+.3f}), the interval above 0 in "
                f"{sum(one.above for one in scores)}, below 0 in {sum(one.below for one in scores)}. "
                f"In {n_narrow} it is narrow enough to show a gain of {SMALL_GAIN}."
            )
            hidden = [100 * one.hidden for one in found.values()]
            lines.append(
                f"- {read_as}, leakage (visible partners of |r| 0.1 and more, genes counted alike): masking jointly "
                f"takes away {min(hidden):.1f} to {max(hidden):.1f} points (median {np.median(hidden):.1f})"
                f"{_goes_with(hidden, means)}."
            )
    if lines:
        yield "### Joint masking in every setting"
        yield ""
        yield (
            "Rare macro-F1 of masking jointly less that of masking as often one by one, wherever two seeds or more "
            "have\nboth: corr - weighted; levelled - random (evenly); levelled - weighted (with a power). Settings "
            "share cells\nand seeds, and nothing is corrected for that; few intervals above 0 are no proof that there "
            "is nothing."
        )
        yield ""
        yield from lines
        yield ""
