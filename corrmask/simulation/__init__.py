"""Cells with a known truth: counts drawn from stated gene modules and cell types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.progress import Progress, silent
from corrmask.simulation.blocks import BLOCK_CELLS, Block, draw_block, n_blocks
from corrmask.simulation.tissue import Tissue, design_tissue
from corrmask.sources.ahead import ahead

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["BLOCK_CELLS", "Block", "Tissue", "blocks", "design_tissue", "draw_block", "simulate"]


def blocks(tissue: Tissue, n_cells: int, *, progress: Progress = silent) -> Iterator[Block]:
    """Draw `n_cells` cells, up to `BLOCK_CELLS` at a time: memory does not grow with their number.

    The first cells are the same however many are asked for. Blocks are drawn ahead on threads.
    """
    drawn = ahead(partial(draw_block, tissue, block) for block in range(n_blocks(n_cells)))
    for first, block in zip(range(0, n_cells, BLOCK_CELLS), drawn, strict=True):
        yield block.first(n_cells - first)
        progress("simulate", min(first + BLOCK_CELLS, n_cells), n_cells)


@checked
def simulate(
    n_cells: int = 5000,
    n_genes: int | None = None,
    n_types: int = 8,
    n_rare: int = 2,
    n_modules: int = 40,
    *,
    proportions: Sequence[float] | None = None,
    module_size: int = 20,
    strength: float = 0.8,
    type_strength: float = 1.0,
    n_markers: int = 15,
    marker_fold: float = 6.0,
    rare_genes: int | None = None,
    depth: float | None = None,
    depth_sigma: float = 0.4,
    like: AnnData | str | Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> AnnData:
    """Simulate raw counts of cells with known gene modules and cell types.

    The model and how it is drawn: `corrmask.simulation.blocks.draw_block`. Cells depend on `seed` and on the parameters
    but not on `n_cells`: asking for more adds cells at the end. (On another machine or under another numpy the last bit
    of a logarithm may differ, and with it a count here and there.)

    Parameters
    ----------
    n_cells
        Number of cells.
    n_genes
        Number of genes; by default 2,000, or all those of `like`. Fewer than `like` has are drawn from it at random.
    n_types, n_rare
        Number of cell types, and how many of them are rare: 1 % for one, else from 2 % down to 0.5 %. Each cell's
        type is drawn independently.
    n_modules, module_size
        Number of gene modules and genes in each. No gene is in two, and markers are in none.
    proportions
        [n_types] instead of the default proportions; rare types last.
    strength
        sd of a module gene's log mean within a type, 0 .. 3; each gene's own ``var["loading"]`` lies within 25 %.
    type_strength
        sd of the level of a module, in units of its sd within a type, in the 30 % of modules that are special to a
        type.
    n_markers, marker_fold
        Marker genes per type, and by how much they are raised in it.
    rare_genes
        Each rare type is one of the common types but for so many markers. By default they differ as common ones do.
    depth, depth_sigma
        Median counts per cell (4,000, or that of `like`), and sd of their logarithm (log-normal; without `like`).
    like
        Real cells, raw counts in ``X``: gene names, means, dispersions and library sizes come from them. What types and
        modules add to a gene's variance is kept within its real dispersion: where it would be more, its effects shrink.
    seed
        0 .. 2**63 - 1.
    progress
        Called once per block.

    Returns
    -------
    AnnData
        ``X`` float32 CSR, whole numbers.
        obs: ``cell_type``, ``library_size`` (expected counts, before the effects of type and modules).
        obsm: ``module_activity`` float32 [n_cells, n_modules].
        var: ``module`` (int32, -1 for none), ``loading``, ``marker_of`` ("none" or a type), ``share`` (expected part
        of all counts), ``dispersion`` (beyond Poisson, type and modules known).
        varm: ``type_share`` [n_genes, n_types], expected counts of each type at library size 1.
        uns["simulation"]: version, seed, parameters, types, proportions, parents, module_activity [n_types, n_modules].

    Raises
    ------
    InputError
        A parameter out of range, more genes needed than there are, or `like` not raw counts.
    """
    check_cells(n_cells)
    parameters: dict[str, Any] = {
        "n_genes": n_genes,
        "n_types": n_types,
        "n_rare": n_rare,
        "proportions": proportions,
        "n_modules": n_modules,
        "module_size": module_size,
        "strength": strength,
        "type_strength": type_strength,
        "n_markers": n_markers,
        "marker_fold": marker_fold,
        "rare_genes": rare_genes,
        "depth": depth,
        "depth_sigma": depth_sigma,
    }
    tissue = design_tissue(**parameters, like=like, seed=seed)
    drawn = list(blocks(tissue, n_cells, progress=progress))
    cell_type = np.concatenate([block.cell_type for block in drawn])
    library_size = np.concatenate([block.library_size for block in drawn])
    activity = np.concatenate([block.activity for block in drawn])
    counts = _stack([block.counts for block in drawn], drawn)
    return annotate(tissue, counts, cell_type, library_size, activity, parameters | {"n_cells": n_cells})


def check_cells(n_cells: int) -> None:
    """Check a number of cells."""
    if n_cells < 1:
        raise InputError(f"n_cells must be a whole number of at least 1, got {n_cells}")


def _stack(parts: list[sp.csr_matrix], drawn: list[Block]) -> sp.csr_matrix:
    """One matrix from the blocks, which are let go as they are copied: the peak is little above the result."""
    drawn.clear()
    shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.concatenate([np.diff(part.indptr) for part in parts]), out=indptr[1:])
    index_dtype = np.int32 if indptr[-1] < 2**31 else np.int64
    indices = np.empty(indptr[-1], dtype=index_dtype)
    data = np.empty(indptr[-1], dtype=np.float32)
    start = 0
    parts.reverse()
    while parts:
        part = parts.pop()
        indices[start : start + part.nnz] = part.indices
        data[start : start + part.nnz] = part.data
        start += part.nnz
    return sp.csr_matrix((data, indices, indptr.astype(index_dtype)), shape=shape)


def annotate(
    tissue: Tissue,
    counts: sp.csr_matrix | None,
    cell_type: np.ndarray,
    library_size: np.ndarray,
    activity: np.ndarray,
    parameters: dict[str, Any],
) -> AnnData:
    """The cells and the truth about them; `parameters` are those that were given."""
    import pandas as pd
    from anndata import AnnData

    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(cell_type, categories=list(tissue.type_names)),
            "library_size": library_size,
        },
        index=pd.Index([f"cell_{c}" for c in range(len(cell_type))], dtype=object),
    )
    var = pd.DataFrame(
        {
            "module": tissue.module,
            "loading": tissue.loading,
            "marker_of": pd.Categorical.from_codes(tissue.marker_of + 1, categories=["none", *tissue.type_names]),
            "share": tissue.share,
            "dispersion": tissue.dispersion,
        },
        index=pd.Index(tissue.gene_names, dtype=object),
    )
    # proportions stand beside them, given or not
    parameters = {name: value for name, value in parameters.items() if value is not None and name != "proportions"}
    names = np.array(["none", *tissue.type_names], dtype=object)
    truth = {
        "version": _version(),
        "seed": tissue.seed,
        "like": tissue.source,
        "block_cells": BLOCK_CELLS,
        "parameters": parameters,
        "types": tissue.type_names,
        "proportions": tissue.proportions,
        "parents": names[tissue.parent + 1],
        "module_activity": tissue.activity,
    }
    return AnnData(
        X=counts,
        obs=obs,
        var=var,
        obsm={"module_activity": activity},
        varm={"type_share": np.ascontiguousarray(tissue.type_share.T)},
        uns={"simulation": truth},
    )


def _version() -> str:
    try:
        return version("corrmask")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
