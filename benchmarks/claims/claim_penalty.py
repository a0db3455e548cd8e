"""What other penalties of the classifier make of the frozen scores on blood: the rows of penalty.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from claim_rows import END_POINTS, of_two_makers
from claim_statistics import by_seed, paired, verdict
from study import CONTROLS

ARMS = ("corr", *CONTROLS)


def read_penalties(path: Path) -> pd.DataFrame:
    """The rows of penalty.py, with the columns that the study's rows have."""
    rows = pd.read_csv(path).assign(fraction="1", factor="", step=0)
    return rows.assign(mean_macro_f1=(rows["macro_f1"] + rows["pbmc3k_macro_f1"]) / 2)


def penalties(rows: pd.DataFrame) -> Iterator[str]:
    """Scores at each C, and what the protocol says of joint masking there."""
    by_c = {float(c): part for c, part in rows.groupby("c")}
    yield "### Other penalties of the classifier"
    yield ""
    yield "Frozen scores elsewhere on this page are read by logistic regression with C = 1, the inverse strength of its"
    yield "penalty, which shrinks some representations more than others. Here blood's arms, trained once more on a CPU,"
    yield "and the baselines are read with other C: means over the seeds that there are, differences paired by seed."
    if two := of_two_makers(rows):
        yield f"Arms are of CPUs of two makers in seed {', '.join(map(str, two))}."
    yield ""
    for name in ("purified", "pbmc3k"):
        _, column, title, baselines = END_POINTS[name]
        if rows[column].isna().all():
            continue
        yield f"| {title} | " + " | ".join(f"C = {c:,g}" for c in by_c) + " |"
        yield "|---" * (len(by_c) + 1) + "|"
        for arm in (*ARMS, *baselines):
            cells = [
                f"{np.mean(list(found.values())):.3f}"
                for part in by_c.values()
                if (found := by_seed(part, arm, column))
            ]
            if cells:
                yield f"| {arm} | " + " | ".join(cells) + " |"
        yield ""
        for c, part in by_c.items():
            said, pairs = verdict(part, column)
            if not any(pairs[f"corr - {other}"].n for other in CONTROLS):
                continue
            shown = ", ".join(f"corr - {other} {pairs[f'corr - {other}']}" for other in CONTROLS)
            yield f"- {title}, C = {c:,g}: {said}. {shown}{_best(part, column, baselines)}."
        yield ""


def _best(part: pd.DataFrame, column: str, baselines: Sequence[str]) -> str:
    """The best arm less the best baseline, over the seeds that all have."""
    scores = {arm: found for arm in (*ARMS, *baselines) if (found := by_seed(part, arm, column))}
    seeds = sorted(set.intersection(*map(set, scores.values()))) if scores else []
    means = {arm: float(np.mean([found[seed] for seed in seeds])) for arm, found in scores.items() if seeds}
    arms, others = ([name for name in means if name in names] for names in (ARMS, baselines))
    if not (arms and others):
        return ""
    arm, baseline = max(arms, key=means.__getitem__), max(others, key=means.__getitem__)
    return f"; the best arm, {arm}, less the best baseline, {baseline}: {paired(scores[arm], scores[baseline])}"
