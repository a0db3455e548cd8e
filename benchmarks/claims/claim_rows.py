"""Which rows and columns of results.csv and results-cpu.csv an end point is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from claim_statistics import by_seed
from study import FACTORS

EndPoint = tuple[str, str, str, Sequence[str]]  # corpus, column, title, baselines
InData = tuple[str, pd.DataFrame, str]  # title, rows, column
FITTED = ("PCA", "HVG")  # to the labelled training cells, not tuned
_CELLS = (*FITTED, "untrained")
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
        "all": "mean_tuned_macro_f1",
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
ON_BLOOD = [one for one in END_POINTS.values() if one[0] == "blood"]


def read(path: Path) -> pd.DataFrame:
    """The rows, with the mean macro-F1 of both parts of the blood corpus, of frozen and of tuned models."""
    rows = pd.read_csv(path, dtype={"fraction": str, "factor": str})
    rows["factor"] = rows["factor"].fillna("")
    for how in ("", "tuned_"):
        rows[f"mean_{how}macro_f1"] = (rows[f"{how}macro_f1"] + rows[f"pbmc3k_{how}macro_f1"]) / 2
    return rows


def maker(rows: pd.DataFrame) -> pd.Series:
    """The processor or GPU that each row is of."""
    return rows["machine"].str.split(",").str[0]


def of_two_makers(rows: pd.DataFrame) -> list[int]:
    """The seeds of which some rows are of one maker's processor and some of another's."""
    makers = maker(rows).groupby(rows["seed"]).nunique()
    return list(makers.index[makers > 1])


def judged(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> pd.DataFrame:
    """The rows that verdicts rest on: of simulated tissues a CPU's, as the protocol was amended, once there are any."""
    if on_cpu is None or not (is_simulated := on_cpu["corpus"] == "simulated").any():
        return rows
    return pd.concat([rows[rows["corpus"] != "simulated"], on_cpu[is_simulated]], ignore_index=True)


def with_tuned(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> pd.DataFrame:
    """Runs that have end points by fine-tuning; blood's are those of a CPU, as the protocol has it, if apart."""
    parts = [rows] if on_cpu is None else [rows[rows["corpus"] != "blood"], on_cpu[on_cpu["corpus"] == "blood"]]
    kept = [part[part["tuned_macro_f1"].notna() | part["arm"].isin(FITTED)] for part in parts]
    found = [row for part in kept for row in part.to_dict("records")]
    return pd.DataFrame(found, columns=rows.columns)


def frozen(column: str) -> str:
    """The column of the same end point without fine-tuning."""
    return column.replace("tuned_", "")


def last_mark(rows: pd.DataFrame, arm: str, end_point: EndPoint) -> dict[int, float]:
    """Scores at the last mark by seed; those of what has nothing to tune beside those of models that were tuned."""
    corpus, column, *_ = end_point
    return by_seed(rows[rows["corpus"] == corpus], arm, frozen(column) if arm in FITTED else column)


def with_fractions(rows: pd.DataFrame, on_cpu: pd.DataFrame | None) -> list[InData]:
    """What is shown against the fraction of blood's cells: titles, rows and columns; a CPU's once it has fractions."""
    title = END_POINTS["all"][2]
    shown = [(title, rows, "mean_macro_f1")]
    if on_cpu is not None and (on_cpu["fraction"] != "1").any():
        shown.append((f"{title}, on a CPU", on_cpu, "mean_macro_f1"))
        shown.append((f"{title}, fine-tuned, on a CPU", on_cpu, "mean_tuned_macro_f1"))
    return shown


def with_factors(
    rows: pd.DataFrame, on_cpu: pd.DataFrame | None, names: Sequence[str] = RARE
) -> Iterator[tuple[str, str, EndPoint, str, str, pd.DataFrame]]:
    """How models are read, which types, the end point, factor, joint arm and rows, of each factor with runs."""
    for name in names:
        for read_as, end_points in READ_AS.items():
            corpus, column, title, baselines = end_points[name]
            for file, where in ((rows, ""), *([] if on_cpu is None else [(on_cpu, ", on a CPU")])):
                mine = file[file["corpus"] == corpus]
                for factor, (_, _, arms) in FACTORS.items():
                    joint = "corr" if "corr" in arms else "levelled"
                    if any(by_seed(mine, arm, column, factor=factor) for arm in (joint, "weighted")):
                        yield read_as, name, (corpus, column, title + where, baselines), factor, joint, mine
