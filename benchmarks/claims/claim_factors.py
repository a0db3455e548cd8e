"""One factor at a time, and what masking jointly adds in every setting, in markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from claim_rows import RARE, READ_AS, of_two_makers, with_factors
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


def factors(rows: pd.DataFrame, on_cpu: pd.DataFrame | None, again: pd.DataFrame | None) -> Iterator[str]:
    """Each factor that has runs: its joint arm against the protocol's, and against weighted with the same factor.

    `again` has runs of blood without a factor that were trained once more, if there are any.
    """
    lines: list[str] = []
    others: list[str] = []
    mixed: dict[str, None] = {}
    against: list[Difference] = []
    for _, _, (corpus, column, title, _), factor, joint, mine in with_factors(rows, on_cpu, (*RARE, "all")):
        with_it = {arm: by_seed(mine, arm, column, factor=factor) for arm in (joint, "weighted")}
        less = [paired(found, by_seed(mine, arm, column)) for arm, found in with_it.items()]
        less_again = paired(with_it[joint], _without(again, corpus, joint, column))
        pairs = [*map(str, less), str(less_again) if less_again.n else "", str(paired(*with_it.values()))]
        lines.append(f"| {title}: {factor}, {joint} | " + " | ".join(pairs) + " |")
        against += [one for one in less if one.n > 1]
        others += _others(f"{title}: {factor}", column, factor, with_it, mine)
        two = of_two_makers(mine[mine["factor"] == factor])
        mixed.update(dict.fromkeys(f"{corpus}, {factor}, seed {seed}" for seed in two))
    if lines:
        yield "### One factor at a time"
        yield ""
        yield (
            "| end point: factor, joint arm | joint arm with it - without | weighted with it - without | joint arm "
            "with it - without, once more | joint arm - weighted, both with it |"
        )
        yield "|---|---|---|---|---|"
        yield from lines
        yield ""
        yield (
            f"Of the {len(against)} intervals of what a factor does to an arm (with it - without, first two columns), "
            f"{sum(one.below for one in against)} lie below 0 and {sum(one.above for one in against)} above; if no "
            f"factor did anything, about {0.05 * len(against):.0f} would lie on one side or the other."
        )
        yield ""
        if others:
            yield "Arms besides these two, with the same factor:"
            yield ""
            yield from others
            yield ""
        yield (
            "Most of blood's runs with a factor are of CPUs of another maker than those without it, and round "
            "differently. The third column has, frozen, the runs without it that `penalty.py` trained once more, most "
            "of them on CPUs of the former maker: what it differs by from the first is the noise of one more run."
        )
        if mixed:
            yield f"With the same factor, arms are of CPUs of two makers in: {'; '.join(mixed)}."
        yield ""


def _without(again: pd.DataFrame | None, corpus: str, arm: str, column: str) -> dict[int, float]:
    """Scores by seed of an arm that was trained once more, where it was."""
    if again is None or column not in again:
        return {}
    return by_seed(again[again["corpus"] == corpus], arm, column)


def _others(
    setting: str, column: str, factor: str, shown: Mapping[str, Mapping[int, float]], rows: pd.DataFrame
) -> Iterator[str]:
    """What a factor does to arms besides those that are shown, and how these, by seed with it, stand to them."""
    for other in FACTORS[factor][2]:
        found = by_seed(rows, other, column, factor=factor)
        if found and other not in shown:
            lies = [f"{arm} - {other} {paired(scores, found)}" for arm, scores in shown.items()]
            lies += [f"{other} with it - {arm} without {paired(found, by_seed(rows, arm, column))}" for arm in shown]
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


def _goes_with(found: Mapping[str, Gain]) -> str:
    """Whether more leakage taken away goes with a larger gain, by end point, where ranks say anything."""
    said = []
    for name in RARE:
        mine = [one for setting, one in found.items() if setting.split(",")[0] == name]
        if len({one.hidden for one in mine}) > 2:
            rho = stats.spearmanr([one.hidden for one in mine], [one.score.mean for one in mine]).statistic
            said.append(f"{name} {rho:+.2f} ({counted(len(mine), 'setting')})")
    if not said:
        return ""
    return f"; rank correlation of what it takes away with the gain, seen, not tested: {', '.join(said)}"


def joint_masking(gains: Gains) -> Iterator[str]:
    """The same, counted over all settings."""
    lines = []
    for read_as, found in gains.items():
        if found:
            scores = [one.score for one in found.values()]
            means = [one.mean for one in scores]
            n_narrow = sum(one.high - one.low < 2 * SMALL_GAIN for one in scores)
            n_excluded = sum(one.high < SMALL_GAIN for one in scores)
            lines.append(
                f"- {read_as}, {counted(len(found), 'setting')}: the mean lies above 0 in {sum(m > 0 for m in means)} "
                f"(median of the means {np.median(means):+.3f}), the interval above 0 in "
                f"{sum(one.above for one in scores)}, below 0 in {sum(one.below for one in scores)}. "
                f"It excludes a gain of {SMALL_GAIN} in {n_excluded}, and is narrow enough to show one in {n_narrow}."
            )
            hidden = [100 * one.hidden for one in found.values()]
            lines.append(
                f"- {read_as}, leakage (visible partners of |r| 0.1 and more, genes counted alike): masking jointly "
                f"takes away {min(hidden):.1f} to {max(hidden):.1f} points (median {np.median(hidden):.1f})"
                f"{_goes_with(found)}."
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
