"""Tables of arms and differences, in markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from claim_rows import END_POINTS, ON_BLOOD, TUNED, EndPoint, frozen, last_mark
from claim_statistics import SEEDS, Difference, by_seed, paired, with_interval
from study import ARMS

LEAST_HIDDEN = 0.25  # of what corr hides, for levelled to be a test of joint masking


def counted(n: int, name: str) -> str:
    """A number with its noun."""
    return f"{n} {name}{'' if n == 1 else 's'}"


def head(titles: Sequence[str]) -> Iterator[str]:
    """The head of a table with named rows and these columns."""
    yield "| | " + " | ".join(titles) + " |"
    yield "|---" * (len(titles) + 1) + "|"


def differences(found: Mapping[str, Difference]) -> Iterator[str]:
    """Differences that have pairs, one a row."""
    found = {name: one for name, one in found.items() if one.n}
    if not found:
        return
    yield "| difference | mean over seeds [95 % interval] | seeds above 0 |"
    yield "|---|---|---|"
    for name, one in found.items():
        yield f"| {name} | {one} | {sum(value > 0 for value in one.values.values())} of {one.n} |"
    yield ""


def standing(rows: pd.DataFrame, end_points: Mapping[str, EndPoint]) -> Iterator[str]:
    """Arms and baselines on each end point, and the better of each, paired."""
    shown = [one for one in end_points.values() if any(len(last_mark(rows, arm, one)) for arm in ARMS)]
    if not shown:
        return
    yield "At the last mark, means over the seeds that there are [95 % t interval for two or more]:"
    yield ""
    yield from head([title for _, _, title, _ in shown])
    for arm in (*ARMS, "untrained", "PCA", "HVG", "expression"):
        cells = [with_interval(np.array(list(last_mark(rows, arm, one).values()))) for one in shown]
        if any(cells):
            yield f"| {arm} | " + " | ".join(cells) + " |"
    yield ""
    for one in shown:
        scores = {arm: found for arm in (*ARMS, *one[3]) if (found := last_mark(rows, arm, one))}
        enough = min(SEEDS, max(map(len, scores.values())))  # no arm is best by fewer
        scores = {arm: found for arm, found in scores.items() if len(found) >= enough}
        arms, baselines = ([name for name in scores if name in names] for names in (ARMS, one[3]))
        if arms and baselines:
            means = {name: np.mean(list(found.values())) for name, found in scores.items()}
            arm, baseline = max(arms, key=means.__getitem__), max(baselines, key=means.__getitem__)
            less = paired(scores[arm], scores[baseline])
            yield f"- {one[2]}: the best arm, {arm}, less the best baseline, {baseline}: {less}."
    yield ""


def against_frozen(tuned: pd.DataFrame) -> Iterator[str]:
    """What tuning makes of the score of a model, and whether pre-training at random is worth more than none."""
    lines = []
    for corpus, column, title, _ in TUNED.values():
        mine = tuned[tuned["corpus"] == corpus]
        both = {arm: [by_seed(mine, arm, one) for one in (column, frozen(column))] for arm in ("untrained", *ARMS)}
        said = [f"{arm} {pair}" for arm, scores in both.items() if (pair := paired(*scores)).n]
        if said:
            lines.append(f"- {title}, less the same models frozen: {', '.join(said)}.")
        none = paired(by_seed(mine, "random", column), by_seed(mine, "untrained", column))
        if none.n:
            lines.append(f"- {title}: random less untrained {none}.")
    yield from lines
    yield ""


def leakage(trained: pd.DataFrame, corpus: str) -> Iterator[str]:
    """What each arm leaks on one corpus."""
    mine = trained[(trained["fraction"] == "1") & (trained["factor"] == "")]
    columns = ["leak_0.1", "leak_0.1_alike", "leak_0.3", "leak_0.3_alike"]
    means = mine.groupby("arm")[columns].mean()
    if not len(means):
        return
    yield f"Masked genes with a visible partner on held-out cells of {corpus}, as masked and all genes counted alike:"
    yield ""
    yield "| | r of 0.1 or more, as masked | counted alike | r of 0.3 or more, as masked | counted alike |"
    yield "|---|---|---|---|---|"
    for arm in ARMS:
        if arm in means.index:
            yield f"| {arm} | " + " | ".join(f"{100 * value:.1f} %" for value in means.loc[arm]) + " |"
    yield ""
    yield from hidden(means["leak_0.1_alike"])


def hidden(leaks: pd.Series) -> Iterator[str]:
    """How much of what corr hides its controls hide: a control that hides nothing does not test joint masking."""
    if not {"random", "corr"} < set(leaks.index) or leaks["corr"] >= leaks["random"]:
        return
    hides = leaks["random"] - leaks["corr"]
    shares = {arm: (leaks["random"] - leaks[arm]) / hides for arm in ("weighted", "levelled") if arm in leaks.index}
    said = ", ".join(f"{arm} takes {share:.0%}" for arm, share in shares.items())
    yield f"Of the leakage that corr takes away (r of 0.1 or more, counted alike), {said}."
    if shares.get("levelled", 1.0) < LEAST_HIDDEN:
        yield (
            "Where all genes are masked about as often, partners are hidden hardly more often than at random here, for "
            "hubs are partners of too many: levelled says little of joint masking."
        )
        if shares.get("weighted", 1.0) < 0.5:
            yield "corr against weighted, alike in frequency, says more."
    yield ""


def rounding(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> Iterator[str]:
    """Runs that a CPU did as well: between the two lie precision, device and versions of libraries."""
    if on_cpu is None:
        return
    shown = [*ON_BLOOD, END_POINTS["simulated"]]
    lines = []
    for arm in ARMS:
        pairs = [paired(*(last_mark(file, arm, one) for file in (rows, on_cpu))) for one in shown]
        if any(one.n for one in pairs):
            lines.append(f"| {arm} | " + " | ".join(str(one) if one.n else "" for one in pairs) + " |")
    if lines:
        yield "### What rounding does"
        yield ""
        yield (
            "The same weights, cells, order and masks, once on a GPU in bf16 and once on a CPU in fp32 with other "
            "versions of the libraries (`results-cpu.csv`): GPU - CPU."
        )
        yield ""
        yield from head([title for _, _, title, _ in shown])
        yield from lines
        yield ""
