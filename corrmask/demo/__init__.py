"""All in order, on one file of cells: tokens, graph, masks, models, scores, and a page that shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from corrmask.arguments import checked
from corrmask.demo.cells import read_cells
from corrmask.demo.folder import prepare
from corrmask.demo.settings import DemoSettings
from corrmask.demo.stages import run_stages
from corrmask.files import check_apart, check_place
from corrmask.progress import Progress, silent
from corrmask.threads import torch_threads

__all__ = ["DemoSettings", "run_demo"]


@checked
def run_demo(
    output: str | Path,
    settings: DemoSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run everything and write ``output/index.html``; what an earlier run with the same settings finished is kept.

    Parameters
    ----------
    output
        Folder: ``corpus``, ``graph.h5ad``, ``audit/audit.json``, ``models/ARM``, ``cells.h5ad`` (counts, labels,
        embeddings and projections), ``genes/ARM.h5ad``, ``evaluation.json``, ``settings.json``, ``index.html``.
    settings
        By default ``DemoSettings()``.
    overwrite
        Start anew where the folder holds a run with other settings.
    progress
        Called with the stages of the functions called.
    note
        Called with a line as each stage begins.

    Returns
    -------
    dict
        JSON-safe: ``page``, ``findings``, ``leakage``, ``scores``, ``seconds`` by stage, ``resumed`` stages.

    Raises
    ------
    InputError
        Before anything is written, for whatever can be known by then.
    """
    settings = (settings or DemoSettings()).resolve()
    folder = check_place(Path(output).resolve())
    check_apart(folder, [settings.data, settings.gene_labels])
    cells, fingerprint = read_cells(settings)
    record = {
        "kind": "demo",
        "settings": json.loads(json.dumps(asdict(settings))),
        "input_hash": fingerprint,
        "stages": {},
    }
    created = prepare(folder, record, overwrite)
    try:
        with torch_threads(settings.threads):
            return run_stages(folder, settings, cells, record, progress, note)
    except BaseException:
        if created and not record["stages"]:
            shutil.rmtree(folder, ignore_errors=True)
        raise
