"""The page of the study from results.csv: ``python benchmarks/claims/page.py`` writes docs/claims.md and its figures.

Every number and every sentence about results is computed here from the rows that there are; what is missing is said.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import claim_cells
import claim_figures as figures
import numpy as np
import pandas as pd
from claim_figures import ARMS, EndPoint, with_interval
from claim_statistics import SEEDS, Difference, by_seed, data_verdict, paired, verdict
from study import BASELINES, CONFIRMING, CONTROLS, CORPORA, DECISIVE, FACTORS, FRACTIONS, Run, confirming, runs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_FITTED = ("PCA", "HVG")  # to the labelled training cells, not tuned
_CELLS = (*_FITTED, "untrained")
END_POINTS: dict[str, EndPoint] = {
    "purified": ("blood", "rare_f1", "rare macro-F1, purified", _CELLS),
    "pbmc3k": ("blood", "pbmc3k_rare_f1", "rare macro-F1, pbmc3k", _CELLS),
    "all": ("blood", "mean_macro_f1", "macro-F1, mean of both", _CELLS),
    "dosage": ("blood", "auroc", "AUROC, dosage-sensitive genes", ("expression", "untrained")),
    "simulated": ("simulated", "rare_f1", "rare macro-F1, simulated", _CELLS),
    "kang": ("kang", "rare_f1", "rare macro-F1, kang", _CELLS),
}
TUNED: dict[str, EndPoint] = {
    name: (corpus, column, f"{title}, fine-tuned", _CELLS)
    for name, column in {
        "purified": "tuned_rare_f1",
        "pbmc3k": "pbmc3k_tuned_rare_f1",
        "simulated": "tuned_rare_f1",
        "kang": "tuned_rare_f1",
    }.items()
    for corpus, _, title, _ in [END_POINTS[name]]
}
OTHERS: dict[str, EndPoint] = {
    column: ("blood", column, title, ())
    for column, title in (
        ("val_loss", "validation loss"),
        ("val_accuracy", "validation accuracy"),
        ("auroc_static", "AUROC, static gene embeddings"),
    )
}
RARE = ("purified", "pbmc3k", "simulated", "kang")
READ_AS = {"frozen": END_POINTS, "fine-tuned": TUNED}
Gains = Mapping[str, Mapping[str, Difference]]  # by how models are read, by setting
SMALL_GAIN = 0.03  # of rare macro-F1, which one would want to see
LESS_DATA = (("1/3", "1"), ("1/2", "1"), ("1/9", "1/3"))  # of the cells, against how many
ON_BLOOD = [one for one in END_POINTS.values() if one[0] == "blood"]
LEAST_HIDDEN = 0.25  # of what corr hides, for levelled to be a test of joint masking
CAPTIONS = {
    "curves": (
        "Scores against training steps. Lines are means over seeds, points are single runs; dashed, dotted and "
        "dash-dotted lines are baselines on the same cells and splits."
    ),
    "differences": (
        "Differences at the last mark, paired by seed. Points are seeds; bars are 95 % t intervals, where there are "
        "two seeds or more."
    ),
    "joint": (
        "What masking jointly adds at the same frequencies, in every setting. Rare macro-F1 of corr less weighted; "
        "in a lighter colour of levelled less random (evenly), or less weighted (with a power). Points are seeds, bars "
        "95 % t intervals."
    ),
    "differences-tuned": (
        "Differences of models that were fine-tuned, paired by seed. Points are seeds; bars are 95 % t intervals, "
        "where there are two seeds or more."
    ),
    "abundance": "F1 of each type at the last mark against its share of the training cells, means over seeds.",
    "data": "Score at the last mark against the fraction of the training cells, steps alike. Points are single runs.",
    "leakage": "Score at the last mark against leakage, means over seeds, one point an arm: seen, not tested.",
}


def main(arguments: list[str] | None = None) -> None:
    """Read results.csv, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--cpu", type=Path, default=HERE / "results-cpu.csv", help="the same runs on a CPU, to compare")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "claims.md")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the figures")
    options = parser.parse_args(arguments)
    if not options.results.exists():
        parser.error(f"{options.results} is not there: benchmarks/claims/run.py writes it")
    rows = read(options.results)
    images = options.output.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = page(rows, read(options.cpu) if options.cpu.exists() else None, images, options.format)
    text = "\n".join(lines).rstrip("\n") + "\n"
    options.output.write_text(text, encoding="utf-8")
    print(f"written: {options.output}, from {rows['run'].nunique()} runs")


def read(path: Path) -> pd.DataFrame:
    """The rows, with the mean macro-F1 of both parts of the blood corpus, of frozen and of tuned models."""
    rows = pd.read_csv(path, dtype={"fraction": str, "factor": str})
    rows["factor"] = rows["factor"].fillna("")
    for how in ("", "tuned_"):
        rows[f"mean_{how}macro_f1"] = (rows[f"{how}macro_f1"] + rows[f"pbmc3k_{how}macro_f1"]) / 2
    return rows


def page(rows: pd.DataFrame, on_cpu: pd.DataFrame | None, images: Path, suffix: str) -> Iterator[str]:
    """The lines of the page; figures are drawn on the way."""
    all_runs, rows = rows, _judged(rows, on_cpu)
    seeds = {corpus: max(SEEDS, rows.loc[rows["corpus"] == corpus, "seed"].nunique()) for corpus in CORPORA}
    planned = [run for run in runs(range(max(seeds.values()))) if run.arm != BASELINES and run.seed < seeds[run.corpus]]
    trained = rows[rows["step"] > 0]
    done = set(trained["run"])
    if on_cpu is not None:
        is_extra = (on_cpu["factor"] != "") | (on_cpu["fraction"] != "1")
        done |= set(on_cpu.loc[is_extra, "run"])  # blood's are a CPU's
    yield "# The claims, measured"
    yield ""
    yield (
        "Does masking correlated genes jointly do what it is said to do: better annotation of rare populations, "
        "better\nprediction of dosage sensitivity, the same quality from less data? `benchmarks/claims/PROTOCOL.md` "
        "has the arms,\ncells, end points and rules, and was written before the first run. This page is written by\n"
        "`benchmarks/claims/page.py` from `results.csv` and `results-cpu.csv` beside it; nothing on it was put in by "
        "hand."
    )
    yield ""
    count = sum(run.name in done for run in planned)
    yield f"**{count} of the {len(planned)} models of the plan, as amended, are trained and scored.** {_seeds(rows)}"
    yield ""
    tuned = _with_tuned(rows, on_cpu)
    gains = _joint_gains(rows, tuned, on_cpu)
    yield from _figures(rows, tuned, gains, on_cpu, images, suffix)
    yield "## What the runs say"
    yield ""
    yield "### Rare populations"
    yield ""
    for name in RARE:
        yield from _claim(rows, END_POINTS[name])
    yield "### Rare populations, by fine-tuning"
    yield ""
    yield from _tuning(tuned)
    for name, end_point in TUNED.items():
        yield from _confirmed(tuned, end_point) if name == "purified" else _claim(tuned, end_point)
        if name == "simulated":
            yield from _by_type(tuned, name)
    yield from _joint(gains)
    yield "### Dosage sensitivity"
    yield ""
    yield from _claim(rows, END_POINTS["dosage"], to_beat="expression")
    yield from _genes(rows)
    yield "### Less data"
    yield ""
    for title, file, column in _data_curves(rows, on_cpu):
        yield from _less_data(title, file[file["corpus"] == "blood"], column)
    yield "### All arms"
    yield ""
    yield from _standing(rows, END_POINTS)
    yield from _standing(tuned, TUNED)
    yield from _against_frozen(tuned)
    yield from _standing(rows, OTHERS)
    for corpus in CORPORA:
        yield from _leakage(trained[trained["corpus"] == corpus], corpus)
    yield from _factors(rows, on_cpu)
    yield from _rounding(all_runs, on_cpu)
    yield "## What is missing"
    yield ""
    yield from _missing(planned, done)
    yield from _untuned(planned, done, tuned)
    yield "## What it does not show"
    yield ""
    yield from _limits(rows)
    yield "## Again"
    yield ""
    yield "The first line does the runs that `results.csv` lacks (each on the device that its seed has), the second"
    yield "simulated tissues, fractions and factors on blood, the third the fresh seeds; all go on if stopped."
    yield ""
    yield "```bash"
    command = "python benchmarks/claims/run.py --data FOLDER"
    yield f"{command} --only 'blood-*' 'kang-*'"
    for what in ("--only 'simulated-*' 'blood-*of*' 'blood-*=*'", "--confirm"):
        yield f"{command} --device cpu \\"
        yield "    --results benchmarks/claims/results-cpu.csv \\"
        yield f"    {what}"
    yield "python benchmarks/claims/page.py"
    yield "```"
    yield ""
    yield from _how(all_runs[all_runs["step"] > 0])
    if on_cpu is not None and len(on_cpu):
        yield from _how(on_cpu[on_cpu["step"] > 0])


def _judged(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> pd.DataFrame:
    """The rows that verdicts rest on: of simulated tissues a CPU's, as the protocol was amended, once there are any."""
    if on_cpu is None or not (is_simulated := on_cpu["corpus"] == "simulated").any():
        return rows
    return pd.concat([rows[rows["corpus"] != "simulated"], on_cpu[is_simulated]], ignore_index=True)


def _seeds(rows: pd.DataFrame) -> str:
    """How many seeds are whole."""
    whole = {}
    for corpus in CORPORA:
        mine = rows[rows["corpus"] == corpus]
        whole[corpus] = len(set.intersection(*(set(by_seed(mine, arm, "macro_f1")) for arm in DECISIVE)))
    said = f"Seeds with all of {', '.join(DECISIVE)}: " + ", ".join(f"{n} on {corpus}" for corpus, n in whole.items())
    if min(whole.values()) >= SEEDS:
        return f"{said}."
    return f"{said}. With fewer than {SEEDS} nothing is decided: what stands below are observations."


def _data_curves(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> list[tuple[str, pd.DataFrame, str]]:
    """What is shown against the fraction of blood's cells: titles, rows and columns; a CPU's once it has fractions."""
    title = END_POINTS["all"][2]
    shown = [(title, rows, "mean_macro_f1")]
    if on_cpu is not None and (on_cpu["fraction"] != "1").any():
        shown.append((f"{title}, on a CPU", on_cpu, "mean_macro_f1"))
        shown.append((f"{title}, fine-tuned, on a CPU", on_cpu, "mean_tuned_macro_f1"))
    return shown


def _figures(
    rows: pd.DataFrame, tuned: pd.DataFrame, gains: Gains, on_cpu: pd.DataFrame | None, images: Path, suffix: str
) -> Iterator[str]:
    """Each figure that there is data for, with its caption; the others by name."""
    others = [one for one in END_POINTS.values() if one not in ON_BLOOD]
    drawing = {
        "curves": lambda path: figures.curves(rows, ON_BLOOD, path),
        "differences": lambda path: figures.differences(rows, ON_BLOOD, path),
        "joint": lambda path: figures.joint(gains, path),
        "abundance": lambda path: figures.abundance(rows, path),
        "data": lambda path: figures.data_curves(_data_curves(rows, on_cpu), path),
        "leakage": lambda path: figures.leakage(rows, [*ON_BLOOD, *others], path),
        "curves-others": lambda path: figures.curves(rows, others, path),
        "differences-others": lambda path: figures.differences(rows, others, path),
        "differences-tuned": lambda path: figures.differences(tuned, list(TUNED.values()), path),
    }
    missing = []
    for name, draw in drawing.items():
        path = images / f"claims-{name}.{suffix}"
        if not draw(path):
            path.unlink(missing_ok=True)
            missing.append(name)
            continue
        caption = CAPTIONS[name.removesuffix("-others")]
        yield f"```{{figure}} images/{path.name}"
        yield f":alt: {caption.split('.')[0]}"
        yield ""
        yield caption
        yield "```"
        yield ""
    if missing:
        yield f"Not drawn yet, for want of runs: {', '.join(missing)}."
        yield ""


def _claim(
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
    yield from _differences(found)
    yield from _shared(found)


def _shared(found: Mapping[str, Difference]) -> Iterator[str]:
    """How much of corr's gain over random its controls have, where there is a gain that is shown."""
    gain = found["corr - random"]
    shares = {}
    for control in ("weighted", "rewired", "levelled"):
        other = found[f"{control} - random"]
        if gain.n >= SEEDS and other.values.keys() == gain.values.keys() and gain.above:
            shares[control] = other.mean / gain.mean
    if shares:
        said = ", ".join(f"{control} {share:.0%}" for control, share in shares.items())
        yield f"Of the gain of corr over random, controls of the same {_counted(gain.n, 'seed')} have: {said}."
        yield ""


def _counted(n: int, name: str) -> str:
    return f"{n} {name}{'' if n == 1 else 's'}"


def _differences(found: Mapping[str, Difference]) -> Iterator[str]:
    found = {name: one for name, one in found.items() if one.n}
    if not found:
        return
    yield "| difference | mean over seeds [95 % interval] | seeds above 0 |"
    yield "|---|---|---|"
    for name, one in found.items():
        yield f"| {name} | {one} | {sum(value > 0 for value in one.values.values())} of {one.n} |"
    yield ""


def _genes(rows: pd.DataFrame) -> Iterator[str]:
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


def _less_data(title: str, rows: pd.DataFrame, column: str) -> Iterator[str]:
    """The verdicts on a third of the cells, on half, and on a ninth against a third."""
    for less, more in LESS_DATA:
        if less == "1/3" or (rows["fraction"] == less).any():
            said, found = data_verdict(rows, column, less, more)
            yield f"{title}: **{said}**."
            yield ""
            yield from _differences(found)


def _last(rows: pd.DataFrame, arm: str, end_point: EndPoint) -> dict[int, float]:
    """Scores at the last mark by seed; those of what has nothing to tune beside those of models that were tuned."""
    corpus, column, *_ = end_point
    return by_seed(rows[rows["corpus"] == corpus], arm, _frozen(column) if arm in _FITTED else column)


def _frozen(column: str) -> str:
    """The column of the same end point without fine-tuning."""
    return column.replace("tuned_", "")


def _head(titles: Sequence[str]) -> Iterator[str]:
    """The head of a table with named rows and these columns."""
    yield "| | " + " | ".join(titles) + " |"
    yield "|---" * (len(titles) + 1) + "|"


def _standing(rows: pd.DataFrame, end_points: Mapping[str, EndPoint]) -> Iterator[str]:
    """Arms and baselines on each end point, and the better of each, paired."""
    shown = [one for one in end_points.values() if any(len(_last(rows, arm, one)) for arm in ARMS)]
    if not shown:
        return
    yield "At the last mark, means over the seeds that there are [95 % t interval for two or more]:"
    yield ""
    yield from _head([title for _, _, title, _ in shown])
    for arm in (*ARMS, "untrained", "PCA", "HVG", "expression"):
        cells = [with_interval(np.array(list(_last(rows, arm, one).values()))) for one in shown]
        if any(cells):
            yield f"| {arm} | " + " | ".join(cells) + " |"
    yield ""
    for one in shown:
        scores = {arm: found for arm in (*ARMS, *one[3]) if (found := _last(rows, arm, one))}
        enough = min(SEEDS, max(map(len, scores.values())))  # no arm is best by fewer
        scores = {arm: found for arm, found in scores.items() if len(found) >= enough}
        arms, baselines = ([name for name in scores if name in names] for names in (ARMS, one[3]))
        if arms and baselines:
            means = {name: np.mean(list(found.values())) for name, found in scores.items()}
            arm, baseline = max(arms, key=means.__getitem__), max(baselines, key=means.__getitem__)
            less = paired(scores[arm], scores[baseline])
            yield f"- {one[2]}: the best arm, {arm}, less the best baseline, {baseline}: {less}."
    yield ""


def _against_frozen(tuned: pd.DataFrame) -> Iterator[str]:
    """What tuning makes of the score of a model, and whether pre-training at random is worth more than none."""
    lines = []
    for corpus, column, title, _ in TUNED.values():
        mine = tuned[tuned["corpus"] == corpus]
        both = {arm: [by_seed(mine, arm, one) for one in (column, _frozen(column))] for arm in ("untrained", *ARMS)}
        said = [f"{arm} {pair}" for arm, scores in both.items() if (pair := paired(*scores)).n]
        if said:
            lines.append(f"- {title}, less the same models frozen: {', '.join(said)}.")
        none = paired(by_seed(mine, "random", column), by_seed(mine, "untrained", column))
        if none.n:
            lines.append(f"- {title}: random less untrained {none}.")
    yield from lines
    yield ""


def _leakage(trained: pd.DataFrame, corpus: str) -> Iterator[str]:
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
    yield from _hidden(means["leak_0.1_alike"])


def _hidden(leaks: pd.Series) -> Iterator[str]:
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


def _with_factors(
    rows: pd.DataFrame, on_cpu: pd.DataFrame | None
) -> Iterator[tuple[str, str, EndPoint, str, str, pd.DataFrame]]:
    """How models are read, which rare types, the end point, factor, joint arm and rows, of each factor with runs."""
    for name in RARE:
        for read_as, end_points in READ_AS.items():
            corpus, column, title, baselines = end_points[name]
            for file, where in ((rows, ""), *([] if on_cpu is None else [(on_cpu, ", on a CPU")])):
                mine = file[file["corpus"] == corpus]
                for factor, (_, _, arms) in FACTORS.items():
                    joint = "corr" if "corr" in arms else "levelled"
                    if any(by_seed(mine, arm, column, factor=factor) for arm in (joint, "weighted")):
                        yield read_as, name, (corpus, column, title + where, baselines), factor, joint, mine


def _factors(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> Iterator[str]:
    """Each factor that has runs: its joint arm against the protocol's, and against weighted with the same factor."""
    lines: list[str] = []
    mixed: dict[str, None] = {}
    for _, _, (corpus, column, title, _), factor, joint, mine in _with_factors(rows, on_cpu):
        with_it = {arm: by_seed(mine, arm, column, factor=factor) for arm in (joint, "weighted")}
        against = [paired(found, by_seed(mine, arm, column)) for arm, found in with_it.items()]
        pairs = [*against, paired(with_it[joint], with_it["weighted"])]
        lines.append(f"| {title}: {factor}, {joint} | " + " | ".join(map(str, pairs)) + " |")
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
        yield (
            "Runs with a factor and without it may be of different CPUs (below), which round differently: what that "
            "alone does is in the next table, and an interval of three seeds need not hold it."
        )
        if mixed:
            yield f"With the same factor, arms are of CPUs of two makers in: {'; '.join(mixed)}."
        yield ""


def _joint_gains(rows: pd.DataFrame, tuned: pd.DataFrame, on_cpu: pd.DataFrame | None) -> Gains:
    """What masking jointly adds to rare macro-F1 at the same frequencies, by how models are read and by setting."""
    gains: dict[str, dict[str, Difference]] = {read_as: {} for read_as in READ_AS}

    def add(read_as: str, setting: str, mine: pd.DataFrame, joint: str, alone: str, column: str, **which: str) -> None:
        one = paired(*(by_seed(mine, arm, column, **which) for arm in (joint, alone)))
        if one.n > 1:
            gains[read_as][setting] = one

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
                is_there = on_cpu is None or (mine["fraction"] == fraction).any()
                part = mine if is_there else on_cpu[on_cpu["corpus"] == corpus]
                add(read_as, f"{name}, {fraction} of the cells", part, "corr", "weighted", column, fraction=fraction)
    for read_as, name, (_, column, *_), factor, joint, mine in _with_factors(rows, on_cpu):
        add(read_as, f"{name}, {factor}", mine, joint, "weighted", column, factor=factor)
    return gains


def _joint(gains: Gains) -> Iterator[str]:
    """The same, counted over all settings."""
    lines = []
    for read_as, found in gains.items():
        if found:
            means = [one.mean for one in found.values()]
            n_narrow = sum(one.high - one.low < 2 * SMALL_GAIN for one in found.values())
            lines.append(
                f"- {read_as}, {_counted(len(found), 'setting')}: the mean lies above 0 in {sum(m > 0 for m in means)} "
                f"(median of the means {np.median(means):+.3f}), the interval above 0 in "
                f"{sum(one.above for one in found.values())}, below 0 in {sum(one.below for one in found.values())}. "
                f"In {n_narrow} it is narrow enough to show a gain of {SMALL_GAIN}."
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


def _by_type(tuned: pd.DataFrame, level: str) -> Iterator[str]:
    """F1 of each rare type after fine-tuning, where a mean over few types may be the score of one."""
    mine = tuned[(tuned["corpus"] == level) & tuned["tuned_f1"].notna() & (tuned["factor"] == "")]
    if not len(mine):
        return
    scores = pd.DataFrame([json.loads(text)[level] for text in mine["tuned_f1"]], index=mine["arm"])
    types = [name for name in scores if name in claim_cells.RARE[level]]
    means = scores[types].groupby(level=0).mean()
    yield f"F1 of each rare type, {level}, fine-tuned, means over the seeds that there are:"
    yield ""
    yield from _head(types)
    for arm in (*ARMS, "untrained"):
        if arm in means.index:
            yield f"| {arm} | " + " | ".join(f"{value:.3f}" for value in means.loc[arm]) + " |"
    yield ""


def _rounding(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> Iterator[str]:
    """Runs that a CPU did as well: between the two lie precision, device and versions of libraries."""
    if on_cpu is None:
        return
    shown = [*ON_BLOOD, END_POINTS["simulated"]]
    lines = []
    for arm in ARMS:
        pairs = [paired(*(_last(file, arm, one) for file in (rows, on_cpu))) for one in shown]
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
        yield from _head([title for _, _, title, _ in shown])
        yield from lines
        yield ""


def _missing(planned: list[Run], done: set[str]) -> Iterator[str]:
    """Runs of the plan that are not there, by corpus and kind."""
    groups: dict[str, list[Run]] = {}
    for run in planned:
        kind = run.factor or (f"fraction {run.fraction}" if run.fraction != 1 else "all cells")
        groups.setdefault(f"{run.corpus}, {kind}", []).append(run)
    left = {name: [run for run in mine if run.name not in done] for name, mine in groups.items()}
    for name, mine in left.items():
        if mine:
            by_arm = {arm: [str(run.seed) for run in mine if run.arm == arm] for arm in ARMS}
            whole = len(mine) == len(groups[name])
            said = "; ".join(f"{arm} {', '.join(seeds)}" for arm, seeds in by_arm.items() if seeds)
            which = "" if whole else f": {said}"
            yield f"- {name}: {'all ' if whole else ''}{len(mine)} runs{which}"


def _with_tuned(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> pd.DataFrame:
    """Runs that have end points by fine-tuning; blood's are those of a CPU, as the protocol has it."""
    parts = [rows[rows["corpus"] != "blood"], *([] if on_cpu is None else [on_cpu[on_cpu["corpus"] == "blood"]])]
    kept = [part[part["tuned_macro_f1"].notna() | part["arm"].isin(_FITTED)] for part in parts]
    found = [row for part in kept for row in part.to_dict("records")]
    return pd.DataFrame(found, columns=rows.columns)


def _tuning(tuned: pd.DataFrame) -> Iterator[str]:
    """What was tuned, and where."""
    trained = tuned[tuned["step"] > 0].drop_duplicates("run")
    if not len(trained):
        return
    counts = ", ".join(f"{n} on {corpus}" for corpus, n in trained["corpus"].value_counts().items())
    machines = ", ".join(sorted({machine.split(",")[0] for machine in trained["machine"]}))
    yield (
        f"{len(trained)} models ({counts}; {int((trained['factor'] != '').sum())} of them with a factor), trained and "
        f"tuned on {machines}: a layer of types over\nthe mean of the last layer, all weights learning from the "
        "labelled training cells. `untrained` is tuned in the same way: what labels alone give."
    )
    yield ""


def _confirmed(tuned: pd.DataFrame, end_point: EndPoint) -> Iterator[str]:
    """What the first seeds suggested, and what the fresh ones, which took no part in that, say of it."""
    is_fresh = tuned["seed"].isin(CONFIRMING)
    if not is_fresh.any():
        yield from _claim(tuned, end_point)
        return
    fresh = tuned[is_fresh & (tuned["corpus"] == end_point[0])]
    which = f", fresh seeds ({CONFIRMING[0]} to {CONFIRMING[-1]}), which decide it"
    yield from _claim(tuned[~is_fresh], end_point, ", the first seeds, which suggested it")
    yield from _claim(fresh, end_point, which, len(CONFIRMING))
    yield "All seeds together, which decide nothing, for the first ones asked the question:"
    yield ""
    yield from _differences(verdict(tuned[tuned["corpus"] == end_point[0]], end_point[1])[1])
    yield "Other end points of the same models, fresh seeds alone:"
    yield ""
    yield from _head([f"corr - {other}" for other in CONTROLS])
    for _, column, title, _ in (*ON_BLOOD, TUNED["pbmc3k"]):
        corr = by_seed(fresh, "corr", column)
        cells = [str(paired(corr, by_seed(fresh, other, column))) for other in CONTROLS]
        yield f"| {title} | " + " | ".join(cells) + " |"
    yield ""


def _untuned(planned: list[Run], done: set[str], tuned: pd.DataFrame) -> Iterator[str]:
    """Which runs of the fresh seeds are not there; how many models of the plan have no end points by fine-tuning."""
    fresh = [run.name for run in confirming() if run.name not in set(tuned["run"])]
    if fresh:
        yield f"- fresh seeds on a CPU: {', '.join(fresh)}"
    left = len({run.name for run in planned} - set(tuned["run"]))
    if left:
        where = "those of blood and of simulated tissues are done on a CPU"
        yield f"- end points by fine-tuning: {left} of {len(planned)} runs; {where}"
    elif {run.name for run in planned} <= done:
        yield "Nothing of the plan."
    yield ""


def _limits(rows: pd.DataFrame) -> Iterator[str]:
    """What cannot be read off it."""
    trained = rows[rows["step"] > 0]
    if len(trained):
        usual = trained[trained["factor"] == ""]
        settings = json.loads(usual["settings"].iloc[-1])
        steps = [settings["steps"], *(changed["steps"] for changed, *_ in FACTORS.values() if "steps" in changed)]
        seen = ", or ".join(f"{settings['batch_size'] * number:,}" for number in steps)
        yield (
            f"- Anything about large models or large corpora: these have {int(usual['parameters'].min()):,} to "
            f"{int(usual['parameters'].max()):,} parameters, {settings['layers']} layers, and saw {seen} cells."
        )
    yield "- Intervals of few seeds are wide: what is not shown may be there."
    yield "- Blood of few donors, and one simulation: nothing about other tissues."
    yield "- Where all arms lie below plain principal components, a difference between arms says little of use."
    yield (
        "- An arm above principal components or variable genes is no proof of use: these are fitted on the labelled "
        "training cells alone, the models on all cells of the corpus."
    )
    yield "- The paper's own rules and models: they are not public; arms and graph are those of this package."
    yield ""


def _how(trained: pd.DataFrame) -> Iterator[str]:
    """Times and machines."""
    if not len(trained):
        return
    one = trained.drop_duplicates("run")
    there = one.assign(machine=one["machine"].str.split(",").str[0])
    for (corpus, machine), runs_there in there.groupby(["corpus", "machine"], sort=False):
        minutes = runs_there["cpu_seconds"] / 60
        yield f"A run on {corpus} took {minutes.min():.1f} to {minutes.max():.1f} CPU minutes on {machine}."
    yield f"Commits: {', '.join(sorted(one['commit'].unique()))}."
    yield ""


if __name__ == "__main__":
    main()
