"""The cells of the study: which are pre-trained on, which types are rare, which cells train and test classifiers.

Each corpus is one AnnData with these columns of obs:

source      where a cell is from: a data set, a donor, or "tissue"
level       in which cells are annotated: "purified", "pbmc3k", "kang", "simulated"; "" for unlabelled cells
cell_type   "unlabelled" where it is unknown
role        "train" or "test" of classifiers; "halves": drawn anew; "none": unlabelled
corpus      whether it is pre-trained on
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np

from corrmask.evaluation.splits import stratified_halves, thin_types
from corrmask.simulation import simulate

if TYPE_CHECKING:
    from study import Budget

UNLABELLED = "unlabelled"
PURIFIED, UNSORTED, FROZEN = "pbmc_zheng_facs", "pbmc3k", "pbmc_frozenA_unlabelled"
THINNED = {
    "purified": {"CD34+ progenitor": 0.005, "CD14 Mono": 0.01, "NK": 0.02, "B": 0.03},
    "kang": {"NK cells": 0.01, "B cells": 0.03},
}
RARE = {name: tuple(shares) for name, shares in THINNED.items()} | {
    "pbmc3k": ("DC", "Platelet"),
    "simulated": ("rare_0", "rare_1", "rare_2"),
}
LABELS = Path("genes") / "dosage_sensitive_tfs.tsv"


def read_cells(corpus: str, seed: int, data: Path | None, budget: Budget) -> Any:
    """The AnnData of a corpus and seed: raw counts, and what the head of this file says."""
    if corpus == "simulated":
        return _simulated(seed, budget)
    assert data is not None, "the folder of real cells"
    return _blood(seed, data) if corpus == "blood" else _kang(seed, data)


def _blood(seed: int, data: Path) -> Any:
    whole = anndata.read_h5ad(data / "pbmc_corpus_core.h5ad")
    sources = (UNSORTED, PURIFIED, FROZEN)
    measured = np.all([whole.var[f"measured_{source}"] for source in sources], axis=0)
    cells = whole[whole.obs["dataset"].isin(sources).to_numpy(), measured].copy()
    source, types = (np.asarray(cells.obs[name].astype(str)) for name in ("dataset", "cell_type"))
    level = np.select([source == PURIFIED, source == UNSORTED], ["purified", "pbmc3k"], "")
    role = np.select([level == "pbmc3k", level == ""], ["halves", "none"], "train").astype(object)
    purified = np.flatnonzero(level == "purified")
    codes = np.unique(types[purified], return_inverse=True)[1]
    set_aside = stratified_halves(codes, test_fraction=0.25, rng=np.random.default_rng([seed, 0xC1A1]))
    role[purified[set_aside]] = "test"
    rest = purified[~set_aside]
    role[rest[~thin_types(types[rest], THINNED["purified"], seed=seed)]] = "test"
    return _described(cells, source, level, types, role)


def _kang(seed: int, data: Path) -> Any:
    cells = anndata.read_h5ad(data / "pbmc_kang_5donors.h5ad")
    source, types = (np.asarray(cells.obs[name].astype(str)) for name in ("donor", "cell_type"))
    donors = np.unique(source)
    tested = source == donors[seed % len(donors)]
    rest = np.flatnonzero(~tested)
    kept = np.ones(len(source), dtype=bool)
    kept[rest] = thin_types(types[rest], THINNED["kang"], seed=seed)
    role = np.where(tested, "test", "train").astype(object)
    level = np.full(len(source), "kang")
    return _described(cells, source, level, types, role)[kept].copy()


def _simulated(seed: int, budget: Budget) -> Any:
    n_train, n_test = budget.simulated
    cells = simulate(n_train + n_test, budget.simulated_genes, n_rare=3, rare_genes=15, depth=3000.0, seed=seed)
    n = cells.n_obs
    role = np.where(np.arange(n) < n_train, "train", "test").astype(object)
    types = np.asarray(cells.obs["cell_type"].astype(str))
    return _described(cells, np.full(n, "tissue"), np.full(n, "simulated"), types, role)


def _described(cells: Any, source: np.ndarray, level: np.ndarray, types: np.ndarray, role: np.ndarray) -> Any:
    """Counts and these columns alone."""
    import pandas as pd

    obs = pd.DataFrame({"source": source, "level": level, "cell_type": types, "role": role.astype(str)})
    obs["corpus"] = obs["role"] != "test"
    obs.index = pd.Index([f"cell_{i}" for i in range(len(obs))])
    return anndata.AnnData(cells.X, obs=obs, var=pd.DataFrame(index=cells.var_names.astype(str)))
