"""Differences paired by seed, and the verdicts that PROTOCOL.md lays down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from study import CONTROLS, ON_FRACTIONS

SEEDS = 3  # from which a verdict is given
MARGIN = 0.01  # by which corr on a third of the cells may lie below random on all


@dataclass(frozen=True)
class Difference:
    """First minus second, seed by seed.

    Attributes
    ----------
    values
        By seed.
    low, high
        95 % t interval of the mean; -inf and inf for fewer than two seeds.
    """

    values: Mapping[int, float]
    low: float
    high: float

    @property
    def n(self) -> int:
        """Number of seeds that both have."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether the interval lies below 0."""
        return self.high < 0

    def __str__(self) -> str:
        """The mean, and its interval where there is one."""
        if not self.n:
            return "no pair yet"
        ends = "" if self.n < 2 else f" [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.mean:+.3f}{ends} (n = {self.n})"


Verdict = tuple[str, dict[str, Difference]]  # what is said, and what it rests on


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t interval of a mean; all numbers for fewer than two values."""
    if len(values) < 2:
        return -np.inf, np.inf
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def with_interval(values: np.ndarray) -> str:
    """A mean, and its interval over seeds where there is one."""
    if not len(values):
        return ""
    low, high = interval(values)
    return f"{values.mean():.3f}" + ("" if len(values) < 2 else f" [{low:.3f}, {high:.3f}]")


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Scores by seed -> their difference, over the seeds that both have."""
    values = {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}
    return Difference(values, *interval(np.array(list(values.values()))))


def by_seed(rows: pd.DataFrame, arm: str, end_point: str, *, fraction: str = "1", factor: str = "") -> dict[int, float]:
    """Scores at the last mark of one arm's runs, by seed; runs without this end point left out."""
    found = rows[(rows["arm"] == arm) & (rows["fraction"] == fraction) & (rows["factor"] == factor)]
    found = found[found["step"] == found.groupby("run")["step"].transform("max")].dropna(subset=[end_point])
    return dict(zip(found["seed"].astype(int), found[end_point].astype(float)))


def verdict(rows: pd.DataFrame, end_point: str, seeds: int = SEEDS, to_beat: str = "") -> Verdict:
    """What the protocol says of joint masking by one end point of one corpus, and the differences it rests on.

    Of dosage sensitivity `to_beat` is the level of expression alone: corr no better than it speaks against the claim.
    """
    pairs = [("corr", other) for other in CONTROLS]
    pairs += [(arm, "random") for arm in ("weighted", "rewired", "levelled", "module", "random30")]
    pairs += [("corr", to_beat)] if to_beat else []
    of = {arm: by_seed(rows, arm, end_point) for pair in pairs for arm in pair}
    found = {f"{one} - {other}": paired(of[one], of[other]) for one, other in pairs}
    decisive = [found[f"corr - {other}"] for other in CONTROLS]
    if min(one.n for one in decisive) < seeds:
        return f"open: {min(one.n for one in decisive)} of {seeds} seeds have all four arms that it takes", found
    level = found.get(f"corr - {to_beat}")
    beaten = level is None or (level.n >= seeds and level.mean > 0)
    if all(one.above for one in decisive) and beaten:
        return "supported: corr lies above random, weighted and rewired", found
    said = []
    if found["weighted - random"].above and not found["corr - weighted"].above:
        said.append("the gain over random is one of frequency: weighted has it")
    if found["rewired - random"].above and not found["corr - rewired"].above:
        said.append("it needs no biology: rewired has it")
    below = [f"corr - {other}" for other, one in zip(CONTROLS, decisive) if one.below]
    against = [f"below 0 lies {' and '.join(below)}"] if below else []
    if level is not None and level.n >= seeds and not beaten:
        against.append(f"corr is no better than {to_beat} alone")
        if not said and not any(one.above for one in decisive):
            said.append("between corr and the other arms no difference is shown")
    if against:
        return "; ".join([f"against the claim: {'; '.join(against)}", *said]), found
    shown = [other for other, one in zip(CONTROLS, decisive) if one.above]
    if shown and not said:
        left = [other for other in CONTROLS if other not in shown]
        said.append(f"corr lies above {' and '.join(shown)}, and is not shown to lie above {' and '.join(left)}")
    return "not supported: " + ("; ".join(said) or "no difference is shown"), found


def data_verdict(rows: pd.DataFrame, end_point: str, less: str = "1/3", more: str = "1") -> Verdict:
    """The same for a third of the data: of `less` of the cells against `more` of them."""
    part, whole = ({arm: by_seed(rows, arm, end_point, fraction=of) for arm in ON_FRACTIONS} for of in (less, more))
    all_cells = "all" if more == "1" else more
    found = {f"{arm} on {less} - random on {all_cells}": paired(part[arm], whole["random"]) for arm in part}
    limited, weighted, corr = found.values()
    n = min(one.n for one in found.values())
    found |= {f"{arm} on {less} - {arm} on {all_cells}": paired(part[arm], whole[arm]) for arm in part}
    found[f"corr on {less} - weighted on {less}"] = paired(part["corr"], part["weighted"])
    if n < SEEDS:
        return f"open: {n} of {SEEDS} seeds have the runs that it takes", found
    if not limited.below:
        return f"cannot be tested at this budget: random on {less} is not shown to be worse than on {all_cells}", found
    if corr.low <= -MARGIN:
        return f"not supported: corr on {less} may be more than {MARGIN} below random on {all_cells}", found
    whose = "not of joint masking: weighted reaches it too" if weighted.low > -MARGIN else "of joint masking"
    return f"supported, and {whose}", found
