"""Cells, corpora and models small enough to train within a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from corrmask.graph import correlation_graph
from corrmask.tokenization import tokenize
from corrmask.training import Settings

N_GENES = 60


def cells(n_cells: int = 120, seed: int = 0, empty: tuple[int, ...] = ()) -> anndata.AnnData:
    """Two kinds of cells that share no gene, so that the visible genes tell which half a masked one is from."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n_cells) % 2
    counts = rng.poisson(1.0, (n_cells, N_GENES)).astype(np.float32)
    counts[(np.arange(N_GENES)[None, :] < N_GENES // 2) != (kind == 0)[:, None]] = 0
    counts[list(empty)] = 0
    obs = pd.DataFrame({"kind": kind.astype(str)}, index=[f"cell{i}" for i in range(n_cells)])
    return anndata.AnnData(
        sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    )


def write_inputs(folder: Path, adata: anndata.AnnData) -> tuple[Path, Path]:
    """The corpus and the graph of these cells."""
    tokenize(adata, folder / "corpus", obs=["kind"])
    graph = correlation_graph(adata, top_k=4)
    graph.write(folder / "graph.h5ad")
    return folder / "corpus", folder / "graph.h5ad"


SHAPE: dict[str, Any] = {
    "layers": 1,
    "hidden": 32,
    "heads": 2,
    "intermediate": 64,
    "max_len": 32,
    "batch_size": 16,
    "dropout": 0.1,
    "held_out": 0.2,
    "lr": 3e-3,
    "threads": 1,
    "device": "cpu",
}


def settings(**changed: Any) -> Settings:
    """A run of seconds."""
    return Settings(**{**SHAPE, "mask": "corr", "steps": 12, "checkpoint_every": 3, **changed})


def options(**changed: Any) -> list[str]:
    """The same for the command line."""
    given = {**SHAPE, "mask": "corr", "steps": 12, "checkpoint_every": 3, **changed}
    options = []
    for name, value in given.items():
        options += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return options
