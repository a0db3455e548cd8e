"""Scores of one model: annotation of cells, dosage of genes. Everything through `corrmask.evaluation`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from claim_cells import RARE

from corrmask.embedding import CELL_KEY, embed
from corrmask.evaluation import evaluate_annotation, evaluate_genes
from corrmask.evaluation.annotation import AnnotationReport
from corrmask.evaluation.baselines import HVG_NAME, PCA_NAME
from corrmask.evaluation.gene_labels import EXPRESSION_NAME
from corrmask.evaluation.inputs import read_genes
from corrmask.progress import Progress

MODEL = "model"
BASELINES = {"PCA": PCA_NAME, "HVG": HVG_NAME}
HALVES = 5  # draws of training and test cells where they are drawn
MIN_CELLS = 10  # cells that hold a gene whose dosage is predicted
RESAMPLES = 500  # of the genes


def score(
    model: Path, cells: Any, *, seed: int, labels: Path | None, device: str, progress: Progress
) -> dict[str, Any]:
    """What a model reaches: columns of results.csv."""
    embedded = embed(model, data=cells, batch_size=64, device=device, progress=progress)
    vectors = np.asarray(embedded.cells.obsm[CELL_KEY])
    found = annotation_columns(annotate(cells, vectors, seed=seed), MODEL)
    return found if labels is None else found | _genes(embedded.genes, labels)


def score_baselines(
    untrained: Path, cells: Any, *, seed: int, labels: Path | None, device: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    """The same columns for the untrained model, principal components, variable genes and expression level, by name."""
    embedded = embed(untrained, data=cells, batch_size=64, device=device, progress=progress)
    reports = annotate(cells, np.asarray(embedded.cells.obsm[CELL_KEY]), seed=seed, baselines=True)
    found = {"untrained": annotation_columns(reports, MODEL)}
    found |= {name: annotation_columns(reports, representation) for name, representation in BASELINES.items()}
    if labels is not None:
        genes = _genes(embedded.genes, labels)
        found["untrained"] |= genes
        found["expression"] = _genes(embedded.genes, labels, EXPRESSION_NAME)
    return found


def annotate(
    cells: Any, vectors: np.ndarray, *, seed: int, baselines: bool = False, c: float = 1.0
) -> dict[str, AnnotationReport]:
    """A report for each level of the cells; `c` is the inverse strength of the classifier's penalty."""
    reports = {}
    for level in sorted(set(cells.obs["level"]) - {""}):
        rows = np.flatnonzero(cells.obs["level"] == level)
        role = np.asarray(cells.obs["role"].astype(str))[rows]
        drawn = (role == "halves").all()
        reports[level] = evaluate_annotation(
            {MODEL: vectors[rows]},
            np.asarray(cells.obs["cell_type"].astype(str))[rows],
            counts=cells.X[rows] if baselines else None,
            holdout=None if drawn else role,
            holdout_level=None if drawn else "test",
            repeats=HALVES if drawn else 1,
            seed=seed,
            n_resamples=0,
            c=c,
        )
    return reports


def annotation_columns(reports: dict[str, AnnotationReport], representation: str) -> dict[str, Any]:
    """Macro-F1 over all and over rare types, accuracy, and F1 by type beside its share of the training cells."""
    columns: dict[str, Any] = {}
    by_type: dict[str, Any] = {}
    for level, report in reports.items():
        found = report.get(representation)
        f1 = {name: one.value for name, one in found.f1.items() if one is not None}
        n_train = sum(one.n_train for one in found.types)
        by_type[level] = {
            one.type: [round(one.n_train / n_train, 6), round(f1[one.type], 6)] for one in found.types if one.type in f1
        }
        start = column_start(level)
        columns[f"{start}macro_f1"] = found.macro_f1.value
        columns[f"{start}rare_f1"] = rare_f1(level, f1)
        columns[f"{start}accuracy"] = found.accuracy.value
    return columns | {"f1": json.dumps(by_type)}


def column_start(level: str) -> str:
    """What the columns of a level begin with: a corpus has one level, but blood, which has two."""
    return "pbmc3k_" if level == "pbmc3k" else ""


def rare_f1(level: str, f1: Mapping[str, float]) -> float:
    """Mean F1 of a level's rare types, of those that are tested."""
    return float(np.mean([f1[name] for name in RARE[level] if name in f1]))


def _genes(genes: Any, labels: Path, representation: str = MODEL) -> dict[str, Any]:
    """AUROC for dosage sensitivity, with its interval over genes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "genes.h5ad"
        genes[genes.obs["n_cells"] >= MIN_CELLS].copy().write_h5ad(path)
        inputs = read_genes({MODEL: path}, labels)
    report = evaluate_genes(
        inputs.embeddings,
        inputs.labels,
        expression=inputs.expression,
        expression_features=inputs.expression_features,
        n_resamples=RESAMPLES,
    )
    auroc = report.get(representation).auroc
    columns: dict[str, Any] = {"auroc": auroc.value, "auroc_low": auroc.low, "auroc_high": auroc.high}
    columns["genes"] = json.dumps(report.genes["found"])
    if representation == MODEL:
        columns["auroc_static"] = report.get(f"{MODEL} (static)").auroc.value
    return columns
