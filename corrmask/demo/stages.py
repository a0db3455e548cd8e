"""The stages of a run, each leaving its output in the folder; a finished one is not run again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrmask.arms import ARMS
from corrmask.corpus import Corpus
from corrmask.demo.content import AUDIT, EVALUATION, read_content
from corrmask.demo.folder import write_record
from corrmask.demo.settings import HELD_OUT, DemoSettings
from corrmask.files import replacing, write_h5ad
from corrmask.gene_graph import GeneGraph
from corrmask.graph import correlation_graph
from corrmask.progress import Progress
from corrmask.report import render_page
from corrmask.report.summary import UNTRAINED, findings, leakage_at

if TYPE_CHECKING:
    from anndata import AnnData

_FEW_CELLS = 2000  # labelled cells below which five folds take the place of one split
_EXPRESSION_TARGET = 1e4


def run_stages(
    folder: Path,
    settings: DemoSettings,
    cells: AnnData,
    record: dict[str, Any],
    progress: Progress,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Go through the stages that are left, then write the page; `record` is kept up to date. See `run_demo`."""
    stages = _Stages(folder, settings, cells, record, progress)
    plan: list[tuple[str, list[str], Callable[[], None]]] = [
        ("tokenize", ["corpus"], stages.tokenize),
        ("graph", ["graph.h5ad"], stages.graph),
        ("audit", [AUDIT], stages.audit),
        *(
            (f"pretrain {arm}", [f"models/{arm}/model.safetensors"], lambda arm=arm: stages.pretrain(arm))
            for arm in settings.arms
        ),
        ("embed", ["cells.h5ad", *(f"genes/{arm}.h5ad" for arm in settings.arms)], stages.embed),
        ("evaluate", [EVALUATION], stages.evaluate),
    ]
    resumed = []
    for i, (name, outputs, work) in enumerate(plan, start=1):
        if name in record["stages"] and all((folder / output).exists() for output in outputs):
            resumed.append(name)
            continue
        # What comes later was made from this one.
        for later, *_ in plan[i - 1 :]:
            if not later.startswith("pretrain "):  # takes up its own run, and refuses other inputs
                record["stages"].pop(later, None)
        note(f"[{i}/{len(plan) + 1}] {name}")
        started = time.perf_counter()
        work()
        record["stages"][name] = time.perf_counter() - started
        write_record(folder, record)
    note(f"[{len(plan) + 1}/{len(plan) + 1}] page")
    started = time.perf_counter()
    content = read_content(folder, settings, record)
    with replacing(folder / "index.html", overwrite=True) as path:
        path.write_text(render_page(content), encoding="utf-8")
    return {
        "output": str(folder),
        "page": str(folder / "index.html"),
        "findings": findings(content.audit, content.annotation),
        "leakage": {arm: leakage_at(content.audit, arm) for arm in content.audit["arms"]},
        "scores": [
            {name: score[name] for name in ("representation", "kind", "classifier", "macro_f1", "rare_macro_f1")}
            for score in content.annotation["scores"]
            if score["level"] is None
        ],
        "seconds": {**record["stages"], "page": time.perf_counter() - started},
        "resumed": resumed,
    }


class _Stages:
    """What each stage does."""

    def __init__(
        self, folder: Path, settings: DemoSettings, cells: AnnData, record: dict[str, Any], progress: Progress
    ) -> None:
        self.folder, self.settings, self.cells = folder, settings, cells
        self.record, self.progress = record, progress

    def _named(self, name: str) -> Progress:
        """Bars of their own for what is done once for each arm."""
        return lambda stage, done, total: self.progress(f"{stage} {name}", done, total)

    def tokenize(self) -> None:
        from corrmask.tokenization import tokenize

        report = tokenize(
            self.cells,
            self.folder / "corpus",
            obs=list(self.cells.obs.columns),
            normalized=self.settings.normalized,
            overwrite=True,
            progress=self.progress,
        )
        self.record["tokenize"] = report.to_dict()

    def graph(self) -> None:
        graph = correlation_graph(
            self.cells,
            top_k=self.settings.top_k,
            min_corr=self.settings.min_corr,
            within=self.settings.within,
            normalized=self.settings.normalized,
            progress=self.progress,
        )
        graph.write(self.folder / "graph.h5ad", overwrite=True)

    def audit(self) -> None:
        from corrmask.audit import audit

        report = audit(
            Corpus.open(self.folder / "corpus"),
            GeneGraph.read(self.folder / "graph.h5ad"),
            arms=ARMS,
            rate=self.settings.rate,
            max_len=self.settings.max_len,
            held_out=HELD_OUT,
            cells=1000,
            min_cells=max(2, min(20, round(self.cells.n_obs * HELD_OUT / 4))),
            seed=self.settings.seed,
            progress=self.progress,
        )
        with replacing(self.folder / "audit", overwrite=True) as path:
            path.mkdir()
            (path / Path(AUDIT).name).write_text(json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n")

    def pretrain(self, arm: str) -> None:
        from corrmask.training import pretrain

        (self.folder / "models").mkdir(exist_ok=True)
        pretrain(
            self.folder / "corpus",
            self.folder / "models" / arm,
            self.settings.training(arm),
            graph=self.folder / "graph.h5ad",
            resume=True,
            progress=self._named(arm),
        )

    def embed(self) -> None:
        from corrmask.embedding import CELL_KEY, embed
        from corrmask.report.projection import project

        corpus = Corpus.open(self.folder / "corpus")
        cells = self.cells.copy()
        levels = _expression(cells, self.settings.normalized)
        with replacing(self.folder / "genes", overwrite=True) as genes:
            genes.mkdir()
            for i, arm in enumerate(self.settings.arms):
                found = embed(
                    self.folder / "models" / arm, corpus=corpus, device="cpu", progress=self._named(arm), batch_size=64
                )
                cells.obsm[f"X_{arm}"] = found.cells.obsm[CELL_KEY]
                for name, values in levels.items():
                    found.genes.obs[name] = values.reindex(found.genes.obs_names).to_numpy()
                write_h5ad(found.genes, genes / f"{arm}.h5ad")
                self.progress("project", i, len(self.settings.arms))
                cells.obsm[f"projection_{arm}"], method = project(cells.obsm[f"X_{arm}"], self.settings.seed)
                self.progress("project", i + 1, len(self.settings.arms))
        cells.obsm[f"X_{UNTRAINED}"] = self._untrained(corpus)
        cells.uns["projection"] = method
        with replacing(self.folder / "cells.h5ad", overwrite=True) as path:
            write_h5ad(cells, path)

    def _untrained(self, corpus: Corpus) -> np.ndarray:
        """Embeddings by the very weights that all arms start from."""
        from corrmask.embedding import CELL_KEY, embed
        from corrmask.model import build_model, save_model

        shape = self.settings.training("random")
        model = build_model(
            corpus.vocabulary,
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            intermediate=shape.intermediate,
            max_len=shape.max_len,
            dropout=shape.dropout,
            seed=shape.seed,
        )
        with replacing(self.folder / "models" / UNTRAINED, overwrite=True) as path:
            path.mkdir()
            save_model(model, corpus.vocabulary, path)
        found = embed(
            self.folder / "models" / UNTRAINED,
            corpus=corpus,
            device="cpu",
            batch_size=64,
            progress=self._named(UNTRAINED),
        )
        return np.asarray(found.cells.obsm[CELL_KEY])

    def evaluate(self) -> None:
        import anndata

        from corrmask.evaluation import evaluate_annotation, evaluate_genes
        from corrmask.evaluation.inputs import read_genes

        settings = self.settings
        cells = anndata.read_h5ad(self.folder / "cells.h5ad")
        labels = np.asarray(cells.obs[settings.label], dtype=object)
        few = sum(label == label and label is not None and label != settings.unlabelled for label in labels)
        annotation = evaluate_annotation(
            {name: np.asarray(cells.obsm[f"X_{name}"]) for name in (*settings.arms, UNTRAINED)},
            labels,
            counts=cells.X,
            normalized=settings.normalized,
            within=None if settings.within is None else np.asarray(cells.obs[settings.within], dtype=object),
            unlabelled=settings.unlabelled,
            thin=settings.thin,
            folds=5 if few < _FEW_CELLS else None,
            seed=settings.seed,
            progress=self.progress,
        ).to_dict()
        genes = None
        if settings.gene_labels is not None:
            inputs = read_genes(
                {arm: self.folder / "genes" / f"{arm}.h5ad" for arm in settings.arms}, Path(settings.gene_labels)
            )
            genes = evaluate_genes(
                inputs.embeddings,
                inputs.labels,
                expression=inputs.expression,
                expression_features=inputs.expression_features,
                positive=settings.positive,
                missed=inputs.missed,
                ambiguous=inputs.ambiguous,
                seed=settings.seed,
                progress=self.progress,
            ).to_dict()
        with replacing(self.folder / EVALUATION, overwrite=True) as path:
            path.write_text(json.dumps({"annotation": annotation, "genes": genes}, indent=2, allow_nan=False) + "\n")


def _expression(cells: AnnData, normalized: bool) -> dict[str, Any]:
    """Mean of log1p(count * 1e4 / total) and share of cells with a count, by gene: pandas Series."""
    import pandas as pd
    import scipy.sparse as sp

    from corrmask.covariance import log_normalize

    counts = sp.csr_array(cells.X)
    values = counts.data if normalized else log_normalize(counts, _EXPRESSION_TARGET)
    sums = np.bincount(counts.indices, weights=values, minlength=counts.shape[1])
    found = np.bincount(counts.indices, weights=counts.data > 0, minlength=counts.shape[1])
    return {
        "mean_expression": pd.Series(sums / counts.shape[0], index=cells.var_names),
        "detection": pd.Series(found / counts.shape[0], index=cells.var_names),
    }
