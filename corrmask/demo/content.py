"""From the folder of a run to what its page shows."""

from __future__ import annotations

import json
import os
import platform
import shlex
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corrmask.config import show_config
from corrmask.corpus import Corpus
from corrmask.demo.cells import BUILT_IN
from corrmask.demo.settings import HELD_OUT, DemoSettings
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.modules import find_modules
from corrmask.report import Content

AUDIT = "audit/audit.json"
EVALUATION = "evaluation.json"
_PACKAGES = ("torch", "transformers", "numpy", "scipy", "anndata", "scikit-learn", "umap-learn", "matplotlib", "scanpy")


def read_content(folder: Path, settings: DemoSettings, record: dict[str, Any]) -> Content:
    """Read what the stages left.

    Parameters
    ----------
    folder
        Of a run whose stages are all finished.
    settings
        Resolved.
    record
        What ``settings.json`` holds.
    """
    import anndata

    from corrmask.training.log import read_metrics

    graph = GeneGraph.read(folder / "graph.h5ad")
    corpus = Corpus.open(folder / "corpus")
    cells = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    audit = json.loads((folder / AUDIT).read_text())
    evaluation = json.loads((folder / EVALUATION).read_text())
    curves = {
        arm: [
            {"step": row["step"], "validation_loss": row["loss"]}
            for row in read_metrics(folder / "models" / arm)
            if row["kind"] == "validation"
        ]
        for arm in settings.arms
    }
    training = json.loads((folder / "models" / "corr" / "training.json").read_text())
    try:
        modules = find_modules(graph, seed=settings.seed)
    except InputError:  # no edges
        modules = {}
    labels = [
        None if label is None or label != label or label == settings.unlabelled else str(label)
        for label in np.asarray(cells.obs[settings.label], dtype=object)
    ]
    name = _name(settings)
    content = Content(
        title=f"corrmask on {name}",
        steps=_steps(settings, record, graph, training),
        graph=graph,
        modules=modules,
        corpus=_corpus(settings, record, graph, modules),
        audit=audit,
        curves=curves,
        annotation=evaluation["annotation"],
        genes=evaluation["genes"],
        projections={arm: np.asarray(cells.obsm[f"projection_{arm}"]) for arm in settings.arms},
        method=str(cells.uns["projection"]),
        labels=labels,
        limits=_limits(settings, record, training, evaluation["annotation"]),
        settings={**record["settings"], "held out": HELD_OUT, "model": training["settings"]},
        environment=_environment(),
        hashes={
            "cells": record["input_hash"],
            "corpus": corpus.hash,
            "vocabulary": corpus.vocabulary.hash,
            "graph": str(training["inputs"]["graph"]),
        },
        seconds=record["stages"],
        command=command(settings, folder),
    )
    cells.file.close()
    return content


def _name(settings: DemoSettings) -> str:
    return BUILT_IN if settings.data is None else Path(settings.data).name


def command(settings: DemoSettings, folder: Path) -> str:
    """The command line that repeats the run: all that differs from the defaults."""
    words = ["corrmask", "demo"]
    given, usual = {one.name: getattr(settings, one.name) for one in fields(settings)}, DemoSettings().resolve()
    if settings.data is None:  # these say how the default cells are read
        given |= {"matrix": usual.matrix, "normalized": usual.normalized}
    else:
        usual = DemoSettings(data="", label="").resolve()
    names = {"gene_labels": "--labels"}
    for name, value in given.items():
        option = names.get(name, "--" + name.replace("_", "-"))
        if value == getattr(usual, name) and name not in ("data", "label"):
            continue
        if value is None or (settings.data is None and name == "label" and value == usual.label):
            continue
        if name == "thin":
            words += [word for kind, share in value.items() for word in (option, f"{kind}={share:g}")]
        elif name == "arms":
            words += [option, ",".join(value)]
        elif value is True:
            words.append(option)
        else:
            words += [option, str(value)]
    return shlex.join([*words, "-o", str(folder)])


def _steps(settings: DemoSettings, record: dict[str, Any], graph: GeneGraph, training: dict[str, Any]) -> list[str]:
    n_cells, model = record["tokenize"]["n_cells"], training["settings"]
    within = f" within the levels of {settings.within}" if settings.within else ""
    return [
        f"{n_cells:,} cells of {_name(settings)} were turned into ranked genes, and the graph of genes that vary "
        f"together was drawn from them{within}: {graph.n_edges:,} edges among {graph.n_genes:,} genes.",
        f"The same small model ({model['layers']} layers, {model['hidden']} dimensions, "
        f"{training['parameters']:,} weights) was pre-trained from the same start with "
        f"{len(settings.arms)} ways of masking ({', '.join(settings.arms)}), {model['steps']:,} steps of "
        f"{model['batch_size']} cells each, in the same order and with the same held-out cells.",
        f"Each model's embeddings of the cells, left as they are, were then asked for {settings.label}, beside "
        "baselines on the same cells in the same splits.",
    ]


def _corpus(
    settings: DemoSettings, record: dict[str, Any], graph: GeneGraph, modules: dict[str, list[str]]
) -> dict[str, Any]:
    report = record["tokenize"]
    weakest = float(np.abs(graph.weights).min()) if graph.n_edges else None
    return {
        "cells": f"{report['n_cells']:,}",
        "cells without tokens": f"{report['n_empty_cells']:,}",
        "genes with a token": f"{report['n_genes_with_token']:,} of {report['n_genes_in_files']:,}",
        "tokens": f"{report['n_tokens']:,} ({report['n_tokens'] / max(1, report['n_cells']):.0f} a cell; a model reads "
        f"the first {settings.max_len})",
        "medians": report["medians"],
        "edges of the graph": f"{graph.n_edges:,}",
        "genes with partners": f"{int((np.diff(graph.indptr) > 0).sum()):,} of {graph.n_genes:,}",
        "weakest edge |r|": None if weakest is None else f"{weakest:.3f}",
        "modules": f"{len(modules):,}",
    }


def _limits(
    settings: DemoSettings, record: dict[str, Any], training: dict[str, Any], annotation: dict[str, Any]
) -> list[str]:
    n_cells = record["tokenize"]["n_cells"]
    passes = training["settings"]["steps"] / training["steps_per_epoch"]
    sentences = []
    if settings.data is None:
        sentences += [
            f"Few cells: {n_cells} blood cells, of which the rarest types have about ten, so that a single "
            "cell more or less moves their F1.",
            f"Genes were selected beforehand: {record['tokenize']['n_genes_in_files']} variable ones, so that the "
            "graph is denser and the cells are easier to tell apart than in whole transcriptomes.",
            "The values are log-normalised, not counts: they are taken as natural log1p of counts that were scaled "
            "alike, and ranks and medians rest on that.",
            "Its labels were given by correlation with purified cells: some are wrong, and close types overlap.",
        ]
    elif settings.normalized:
        sentences.append("The values are log1p-normalised, not counts; ranks and medians rest on that.")
    sentences += [
        f"A tiny model, trained briefly: {training['parameters']:,} weights, {passes:.1f} passes over the training "
        "cells. Arms may change places in longer training.",
        "One seed: intervals cover which cells were tested, not how another start or another order would have ended.",
        f"The graph was built from all cells, those of the tests among them, and models read the first "
        f"{settings.max_len} genes of a cell; no label was used for either.",
    ]
    rare = sum(one["rare"] for one in next(s for s in annotation["scores"] if s["level"] is None)["types"])
    share = annotation["settings"]["rare_below"]
    among = "the cells of a level" if settings.within else "the cells"
    sentences.append(
        f"{rare} types are rare, that is, below {100 * share:g} % of {among}."
        if rare
        else f"No type is rare (below {100 * share:g} % of the cells), so that this run says nothing about rare types."
    )
    if settings.within:
        sentences.append(
            f"Cells are told apart within each level of {settings.within} alone; nothing is said about carrying labels "
            "from one level to another."
        )
    return sentences


def _environment() -> dict[str, Any]:
    config = show_config()
    found: dict[str, Any] = {"corrmask": config["corrmask"], "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {
        "built with": config["cxx_compiler"],
        "instruction set": config["instruction_set_in_use"],
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads of torch": torch.get_num_threads(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
