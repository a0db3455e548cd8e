"""The page of the study from results.csv: ``python benchmarks/claims/page.py`` writes docs/claims.md and its figures.

Every number and every sentence about results is computed from the rows that there are; what is missing is said.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import claim_figures as figures
import pandas as pd
from claim_factors import Gains, factors, joint_gains, joint_masking
from claim_penalty import penalties, read_penalties
from claim_rows import (
    END_POINTS,
    ON_BLOOD,
    OTHERS,
    RARE,
    TUNED,
    InData,
    judged,
    maker,
    read,
    with_fractions,
    with_tuned,
)
from claim_statistics import SEEDS, by_seed
from claim_tables import against_frozen, leakage, rounding, standing
from claim_verdicts import against_expression, by_type, claim, confirmed, less_data
from study import ARMS, BASELINES, CORPORA, DECISIVE, FACTORS, Run, confirming, runs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LONGER = "steps=4000"
AGAIN = """\
All runs anew, on one device and into a file of their own (those above took {hours:.0f} CPU hours, most of them of one
thread), then their page; the first line goes on if it is stopped, and `--only` takes some of the runs:

```bash
python benchmarks/claims/run.py --data FOLDER --results again.csv
python benchmarks/claims/page.py --results again.csv -o again.md
```

What is left of the plan goes into the file, and is done on the device, of the other runs of its seed; runs on another
device are refused. `--confirm` does the fresh seeds, `penalty.py` the other penalties. FOLDER has

- `pbmc_corpus_core.h5ad`: human blood, raw counts, of public 10x data sets: bead-purified populations (Zheng et al.
  2017), PBMC 3k, frozen PBMC of donor A; `obs` has `dataset` and `cell_type`, `var` has `measured_DATASET`;
- `pbmc_kang_5donors.h5ad`: the control cells of five donors of Kang et al. 2018 (GSE96583), raw counts; `obs` has
  `donor` and `cell_type`;
- `genes/dosage_sensitive_tfs.tsv`: `ensembl_id`, `gene_name` and `label`, from Geneformer's classification of genes.

Simulated tissues (`--only 'simulated-*'`) need none of them.
"""
CAPTIONS = {
    "curves": (
        "Scores against training steps. Lines are means over seeds, points are single runs; dashed, dotted and "
        "dash-dotted lines are baselines on the same cells and splits."
    ),
    "curves-longer": (
        "Scores against training steps, runs of 4,000 steps, on CPUs. Thin lines are runs of 1,000 steps, whose "
        "learning rate ends at 0 there."
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
    "hidden": (
        "What masking jointly adds, against the leakage that it takes away: a point a setting, the same as above. "
        "Lines are 95 % t intervals, cut where they leave the panel: seen, not tested."
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Read results.csv, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="of all runs, done anew; else those beside this script, with")
    parser.add_argument("--cpu", type=Path, help="the same runs on a CPU, to compare, and")
    parser.add_argument("--penalty", type=Path, help="what penalty.py wrote")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "claims.md")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the figures")
    options = parser.parse_args(arguments)
    if options.results is None:
        options.results = HERE / "results.csv"
        options.cpu = options.cpu or HERE / "results-cpu.csv"
        options.penalty = options.penalty or HERE / "results-penalty.csv"
    for path in filter(None, (options.results, options.cpu, options.penalty)):
        if not path.exists():
            parser.error(f"{path} is not there: benchmarks/claims/run.py and penalty.py write such files")
    rows = read(options.results)
    images = options.output.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    on_cpu = read(options.cpu) if options.cpu else None
    penalty = read_penalties(options.penalty) if options.penalty else None
    lines = page(rows, on_cpu, penalty, images, options.format)
    text = "\n".join(lines).rstrip("\n") + "\n"
    options.output.write_text(text, encoding="utf-8")
    print(f"written: {options.output}, from {rows['run'].nunique()} runs")


def page(
    rows: pd.DataFrame, on_cpu: pd.DataFrame | None, penalty: pd.DataFrame | None, images: Path, suffix: str
) -> Iterator[str]:
    """The lines of the page; figures are drawn on the way."""
    all_runs, rows = rows, judged(rows, on_cpu)
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
        "`benchmarks/claims/page.py` from `results.csv`, `results-cpu.csv` and `results-penalty.csv` beside it; no "
        "number on it was\nput in by hand."
    )
    yield ""
    count = sum(run.name in done for run in planned)
    yield f"**{count} of the {len(planned)} models of the plan, as amended, are trained and scored.** {_seeds(rows)}"
    yield ""
    tuned = with_tuned(rows, on_cpu)
    gains = joint_gains(rows, tuned, on_cpu)
    curves = with_fractions(rows, on_cpu)
    yield from _figures(rows, tuned, on_cpu, gains, curves, images, suffix)
    yield "## What the runs say"
    yield ""
    yield "### Rare populations"
    yield ""
    for name in RARE:
        yield from claim(rows, END_POINTS[name])
    yield "### All types"
    yield ""
    yield from claim(rows, END_POINTS["all"])
    yield "### By fine-tuning"
    yield ""
    yield from _tuning(tuned)
    for name, end_point in TUNED.items():
        yield from confirmed(tuned, end_point) if name == "purified" else claim(tuned, end_point)
        if name == "simulated":
            yield from by_type(tuned, name)
    yield from joint_masking(gains)
    yield "### Dosage sensitivity"
    yield ""
    yield from claim(rows, END_POINTS["dosage"], to_beat="expression")
    yield from against_expression(rows)
    yield "### Less data"
    yield ""
    for title, file, column in curves:
        yield from less_data(title, file[file["corpus"] == "blood"], column)
    if len(curves) > 1:
        yield "A CPU's runs on fractions and on all cells may be of different CPUs (below), which round differently."
        yield ""
    yield "### All arms"
    yield ""
    yield from standing(rows, END_POINTS)
    yield from standing(tuned, TUNED)
    yield from against_frozen(tuned)
    yield from standing(rows, OTHERS)
    if penalty is not None:
        yield from penalties(penalty)
    for corpus in CORPORA:
        yield from leakage(trained[trained["corpus"] == corpus], corpus)
    yield from factors(rows, on_cpu, None if penalty is None else penalty[penalty["c"] == 1])
    yield from rounding(all_runs, on_cpu)
    yield "## What is missing"
    yield ""
    yield from _missing(planned, done)
    yield from _untuned(planned, done, tuned)
    yield "## What it does not show"
    yield ""
    yield from _limits(rows)
    yield "## Again"
    yield ""
    yield from _again([file for file in (all_runs, on_cpu, penalty) if file is not None])
    yield from _how(all_runs[all_runs["step"] > 0])
    if on_cpu is not None and len(on_cpu):
        yield from _how(on_cpu[on_cpu["step"] > 0])


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


def _figures(
    rows: pd.DataFrame,
    tuned: pd.DataFrame,
    on_cpu: pd.DataFrame | None,
    gains: Gains,
    curves: Sequence[InData],
    images: Path,
    suffix: str,
) -> Iterator[str]:
    """Each figure that there is data for, with its caption; the others by name."""
    others = [one for one in END_POINTS.values() if one not in ON_BLOOD]
    longer = [(rows if on_cpu is None else on_cpu, END_POINTS[name], LONGER) for name in ("purified", "pbmc3k", "all")]
    longer.append((rows, END_POINTS["kang"], LONGER))
    drawing = {
        "curves": lambda path: figures.curves([(rows, one, "") for one in ON_BLOOD], path),
        "curves-longer": lambda path: figures.curves(longer, path),
        "differences": lambda path: figures.differences(rows, ON_BLOOD, path),
        "joint": lambda path: figures.joint(gains, path),
        "abundance": lambda path: figures.abundance(rows, path),
        "data": lambda path: figures.data_curves(curves, path),
        "leakage": lambda path: figures.leakage(rows, [*ON_BLOOD, *others], path),
        "hidden": lambda path: figures.hidden(gains, path),
        "curves-others": lambda path: figures.curves([(rows, one, "") for one in others], path),
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


def _tuning(tuned: pd.DataFrame) -> Iterator[str]:
    """What was tuned, and where."""
    trained = tuned[tuned["step"] > 0].drop_duplicates("run")
    if not len(trained):
        return
    counts = ", ".join(f"{n} on {corpus}" for corpus, n in trained["corpus"].value_counts().items())
    makers = maker(trained)
    machines = ", ".join(sorted(set(makers)))
    yield (
        f"{len(trained)} models ({counts}; {int((trained['factor'] != '').sum())} of them with a factor), trained and "
        f"tuned on {machines}: a layer of types over\nthe mean of the last layer, all weights learning from the "
        "labelled training cells. `untrained` is tuned in the same way: what labels alone give."
    )
    usual = trained.assign(maker=makers)[(trained["factor"] == "") & (trained["fraction"] == "1")]
    apart = []
    for corpus, mine in usual.groupby("corpus", sort=False):
        of_corr = mine[mine["arm"] == "corr"].set_index("seed")["maker"]
        other = mine["maker"] != mine["seed"].map(of_corr)
        if other.any():
            apart.append(f"{', '.join(arm for arm in ARMS if arm in set(mine.loc[other, 'arm']))} on {corpus}")
    if apart:
        yield f"Of another CPU than corr of the same seed, which rounds differently: {'; '.join(apart)}."
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


def _untuned(planned: list[Run], done: set[str], tuned: pd.DataFrame) -> Iterator[str]:
    """Runs of fresh seeds, and of blood on a CPU, that are not there; models without end points by fine-tuning."""
    known = set(tuned["run"])
    fresh = [run.name for run in confirming() if run.name not in known]
    if fresh:
        yield f"- fresh seeds on a CPU: {', '.join(fresh)}"
    on_blood = [run.name for run in planned if run.corpus == "blood" and not run.factor and run.seed < SEEDS]
    if again := [name for name in on_blood if name in done and name not in known]:
        yield f"- on a CPU as well: {', '.join(again)}"
    left = len({run.name for run in planned} - known)
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
        cells = usual.loc[usual["fraction"] == "1"].groupby("corpus", sort=False)["training_cells"].max()
        yield (
            f"- Anything about much data: {', '.join(f'{n:,.0f} cells of {name}' for name, n in cells.items())} are "
            "seen again and again; most parameters are the table of tokens."
        )
    yield "- Intervals of few seeds are wide: what is not shown may be there."
    yield "- Many intervals stand here and none is corrected for their number: of 20 where nothing is, one excludes 0."
    yield (
        "- On purified and kang, rare types are thinned in the training cells alone: among the tested cells they are "
        "common, so that F1 says little of false positives where they are rare. Those of pbmc3k are few cells in all."
    )
    yield "- Blood of few donors, and one simulation: nothing about other tissues."
    yield "- Where all arms lie below plain principal components, a difference between arms says little of use."
    yield (
        "- An arm above principal components or variable genes is no proof of use: these are fitted on the labelled "
        "training cells alone, the models on all cells of the corpus; and both are read with C = 1, which costs the "
        "baselines more."
    )
    yield "- The paper's own rules and models: they are not public; arms and graph are those of this package."
    yield ""


def _again(files: Sequence[pd.DataFrame]) -> Iterator[str]:
    """How to do all of it anew, and from what cells."""
    hours = sum(file.drop_duplicates("run")["cpu_seconds"].sum() for file in files) / 3600
    yield from AGAIN.format(hours=hours).splitlines()
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
