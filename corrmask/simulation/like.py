"""What a simulation takes from real cells: gene shares, dispersions, library sizes and gene names."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from corrmask.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

LIBRARY_POINTS = 1001  # quantiles that stand for the library sizes: a small table however many cells there were
PRIOR_PAIRS = 5.0  # pairs of molecules at which a gene's own dispersion and the common one weigh the same


@dataclass(frozen=True)
class RealCells:
    """Moments of real cells.

    Attributes
    ----------
    source
        Name of the file, or "AnnData" for an object.
    gene_names
        [G], in the order of the file.
    share
        float64 [G]: the gene's part of all counts; sums to 1.
    dispersion
        float64 [G]: variance beyond Poisson in units of mean^2, depth taken out (see `total_dispersion`); >= 0.
    library_sizes
        float64 [LIBRARY_POINTS]: quantiles of the counts per cell at evenly spaced levels from 0 to 1.
    """

    source: str
    gene_names: np.ndarray
    share: np.ndarray
    dispersion: np.ndarray
    library_sizes: np.ndarray


def read_real_cells(data: AnnData | str | Path, n_genes: int | None, rng: np.random.Generator) -> RealCells:
    """Take the moments of real cells.

    Parameters
    ----------
    data
        Raw counts in ``X``: a .h5ad file or an AnnData. It is held in memory.
    n_genes
        Keep so many genes, drawn at random so that their means spread as those of all genes; None keeps all.
        Library sizes are those of the genes kept.
    rng
        Draws the genes.

    Raises
    ------
    InputError
        The file cannot be read, holds no counts, fewer genes than asked for, or values that are not raw counts.
    """
    adata, source = _open(data)
    counts = _raw_counts(adata.X, source)
    names = np.asarray(adata.var_names, dtype=object)
    if len(set(names)) != len(names):
        raise InputError(f"like {source!r}: gene names occur twice; make them unique (var_names_make_unique)")
    if n_genes is not None and n_genes > len(names):
        raise InputError(f"n_genes is {n_genes}, but like {source!r} has {len(names)} genes; ask for at most that many")
    if n_genes is not None and n_genes < len(names):
        kept = np.sort(rng.choice(len(names), n_genes, replace=False))
        counts, names = counts[:, kept], names[kept]
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    if not totals.sum() > 0:
        raise InputError(f"like {source!r}: no counts in the {len(names)} genes used; give cells with counts")
    sums = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    return RealCells(
        source=source,
        gene_names=names,
        share=sums / sums.sum(),
        dispersion=total_dispersion(counts, totals),
        library_sizes=np.quantile(totals, np.linspace(0.0, 1.0, LIBRARY_POINTS)),
    )


def total_dispersion(counts: sp.csr_matrix, totals: np.ndarray) -> np.ndarray:
    """Overdispersion of each gene over cells of unequal depth, by moments.

    For x ~ NB(mean = L q, dispersion = phi), E[x (x - 1)] = E[L^2] q^2 (1 + phi), so 1 + phi is the number of pairs of
    molecules seen in the same cell over the number a Poisson gene would show. Rare genes have few pairs: both numbers
    get `PRIOR_PAIRS` at the median 1 + phi of the genes with at least 20 expected pairs (a gamma prior).

    Parameters
    ----------
    counts
        [N, G] raw counts.
    totals
        float64 [N]: library sizes.

    Returns
    -------
    float64 [G], >= 0; it includes what cell types and programmes of genes add.
    """
    data = counts.data.astype(np.float64)
    n_genes = counts.shape[1]
    pairs = np.bincount(counts.indices, weights=data * (data - 1.0), minlength=n_genes)
    share = np.bincount(counts.indices, weights=data, minlength=n_genes) / totals.sum()
    expected = (totals**2).sum() * share**2
    frequent = expected >= 20.0
    common = float(np.median(pairs[frequent] / expected[frequent])) if frequent.any() else 1.0
    common = max(common, 1.0)
    ratio = (pairs + PRIOR_PAIRS * common) / (expected + PRIOR_PAIRS)
    return np.maximum(ratio - 1.0, 0.0)


def _open(data: AnnData | str | Path) -> tuple[Any, str]:
    import anndata

    if isinstance(data, anndata.AnnData):
        return data.to_memory() if data.isbacked else data, "AnnData"
    path = Path(data)
    if not path.is_file():
        raise InputError(f"like {str(path)!r}: no such file; give a .h5ad file of raw counts")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")  # refused by name below
            return anndata.read_h5ad(path), path.name
    except Exception as error:  # h5py and anndata raise many kinds for a file that is cut or of another format
        line = " ".join(str(error).split())[:200]
        raise InputError(f"like {str(path)!r}: cannot be read as .h5ad ({line}); check or copy it again") from error


def _raw_counts(x: Any, source: str) -> sp.csr_matrix:
    if x is None:
        raise InputError(f"like {source!r}: X is empty; put the raw counts there")
    counts = sp.csr_matrix(x)
    counts.sum_duplicates()
    data = counts.data
    for bad, what in (
        (~np.isfinite(data), "NaN or infinite"),
        (data < 0, "negative"),
        (data != np.floor(data), "fractional"),
    ):
        if bad.any():
            raise InputError(
                f"like {source!r}: X holds {what} values ({int(bad.sum())} of {data.size}, such as "
                f"{data[bad.argmax()]:g}); give raw counts, not normalised or scaled ones"
            )
    return counts
