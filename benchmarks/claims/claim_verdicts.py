"""What the protocol says of each claim, and what that rests on, in markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction

import claim_cells
import pandas as pd
from claim_rows import ON_BLOOD, TUNED, EndPoint
from claim_statistics import MARGIN, SEEDS, Difference, by_seed, data_verdict, paired, verdict
from claim_tables import counted, differences, head
from study import ARMS, CONFIRMING, CONTROLS, ON_FRACTIONS

LESS_DATA = (("1/3", "1"), ("1/2", "1"), ("1/9", "1/3"))  # of the cells, against how many


def claim(
    rows: pd.DataFrame, end_point: EndPoint, which: str = "", seeds: int = SEEDS, to_beat: str = ""
) -> Iterator[str]:
    """The verdict on one end point, and what it rests on; `which` seeds these are, where it matters."""
    corpus, column, title, _ = end_point
    title += which
    said, found = verdict(rows[rows["corpus"] == corpus], column, seeds, to_beat)
    if not any(one.n for one in found.values()):
        yield f"{title}: no runs yet."
        yield ""
        return
    yield f"{title}: **{said}**."
    yield ""
    yield from differences(found)
    yield from shared(found)


def shared(found: Mapping[str, Difference]) -> Iterator[str]:
    """How much of corr's gain over random its controls have, where there is a gain that is shown."""
    gain = found["corr - random"]
    shares = {}
    for control in ("weighted", "rewired", "levelled"):
        other = found[f"{control} - random"]
        if gain.n >= SEEDS and other.values.keys() == gain.values.keys() and gain.above:
            shares[control] = other.mean / gain.mean
    if shares:
        said = ", ".join(f"{control} {share:.0%}" for control, share in shares.items())
        yield f"Of the gain of corr over random, controls of the same {counted(gain.n, 'seed')} have: {said}."
        yield ""


def confirmed(tuned: pd.DataFrame, end_point: EndPoint) -> Iterator[str]:
    """What the first seeds suggested, and what the fresh ones, which took no part in that, say of it."""
    is_fresh = tuned["seed"].isin(CONFIRMING)
    if not is_fresh.any():
        yield from claim(tuned, end_point)
        return
    fresh = tuned[is_fresh & (tuned["corpus"] == end_point[0])]
    which = f", fresh seeds ({CONFIRMING[0]} to {CONFIRMING[-1]}), which decide it"
    yield from claim(tuned[~is_fresh], end_point, ", the first seeds, which suggested it")
    yield from claim(fresh, end_point, which, len(CONFIRMING))
    yield "All seeds together, which decide nothing, for the first ones asked the question:"
    yield ""
    yield from differences(verdict(tuned[tuned["corpus"] == end_point[0]], end_point[1])[1])
    yield "Other end points of the same models, fresh seeds alone:"
    yield ""
    yield from head([f"corr - {other}" for other in CONTROLS])
    for _, column, title, _ in (*ON_BLOOD, TUNED["pbmc3k"]):
        corr = by_seed(fresh, "corr", column)
        cells = [str(paired(corr, by_seed(fresh, other, column))) for other in CONTROLS]
        yield f"| {title} | " + " | ".join(cells) + " |"
    yield ""


def by_type(tuned: pd.DataFrame, level: str) -> Iterator[str]:
    """F1 of each rare type after fine-tuning, where a mean over few types may be the score of one."""
    mine = tuned[(tuned["corpus"] == level) & tuned["tuned_f1"].notna() & (tuned["factor"] == "")]
    if not len(mine):
        return
    scores = pd.DataFrame([json.loads(text)[level] for text in mine["tuned_f1"]], index=mine["arm"])
    types = [name for name in scores if name in claim_cells.RARE[level]]
    means = scores[types].groupby(level=0).mean()
    yield f"F1 of each rare type, {level}, fine-tuned, means over the seeds that there are:"
    yield ""
    yield from head(types)
    for arm in (*ARMS, "untrained"):
        if arm in means.index:
            yield f"| {arm} | " + " | ".join(f"{value:.3f}" for value in means.loc[arm]) + " |"
    yield ""


def against_expression(rows: pd.DataFrame) -> Iterator[str]:
    """Against expression level alone; and how wide the choice of genes makes it."""
    blood = rows[rows["corpus"] == "blood"]
    for arm in CONTROLS:
        against = paired(by_seed(blood, arm, "auroc"), by_seed(blood, "expression", "auroc"))
        if against.n:
            yield f"- {arm} - expression level alone: {against}."
    last = blood[(blood["arm"] == "corr") & (blood["factor"] == "") & (blood["fraction"] == "1")]
    if len(last):
        one = last.iloc[-1]
        classes = ", ".join(f"{number} {name}" for name, number in json.loads(one["genes"]).items())
        yield (
            f"- The choice of genes ({classes}) alone leaves corr's AUROC of {one['auroc']:.3f} (seed {one['seed']}) "
            f"between {one['auroc_low']:.3f} and {one['auroc_high']:.3f}; intervals over seeds do not hold it."
        )
        yield ""


def less_data(title: str, rows: pd.DataFrame, column: str) -> Iterator[str]:
    """The verdicts on a third of the cells, on half, and on a ninth against a third."""
    for less, more in LESS_DATA:
        if less == "1/3" or (rows["fraction"] == less).any():
            said, found = data_verdict(rows, column, less, more)
            yield f"{title}: **{said}**."
            yield ""
            yield from differences(found)
    yield from _least_data(title, rows, column)


def _least_data(title: str, rows: pd.DataFrame, column: str) -> Iterator[str]:
    """The smallest fraction at which each arm reaches what random reaches on all cells."""
    whole = by_seed(rows, "random", column)
    parts = sorted(Fraction(part) for part in set(rows["fraction"]))
    said = []
    for arm in ON_FRACTIONS:
        less = {part: paired(by_seed(rows, arm, column, fraction=str(part)), whole) for part in parts}
        reached = [part for part, one in less.items() if one.n >= SEEDS and one.low > -MARGIN]
        if arm == "random" and reached == [1]:
            said.append("random none but all")
        elif reached:
            said.append(f"{arm} {reached[0]} ({less[reached[0]]})")
    if len(parts) > 1 and said:
        yield (
            f"{title}: the smallest of the fractions {', '.join(map(str, parts))} at which an arm reaches random on "
            f"all cells (the interval of the difference above -{MARGIN}): {', '.join(said)}."
        )
        yield ""
