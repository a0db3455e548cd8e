"""What an embedding has to beat: principal components and variable genes, both chosen on training cells alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from corrmask.errors import InputError

COMPONENTS = 50
VARIABLE_GENES = 2000
MIN_CELLS = 3
BINS = 20
TARGET_SUM = 1e4
PCA_NAME = "PCA of log-counts"
HVG_NAME = "HVG"


def describe() -> dict[str, Any]:
    """Say what the baselines are, for the report."""
    return {
        PCA_NAME: f"{COMPONENTS} principal components of log1p(count * 10000 / total), fitted on training cells",
        HVG_NAME: (
            f"log1p(count * 10000 / total) of the {VARIABLE_GENES} genes of highest normalised dispersion: "
            f"log(variance / mean) of count * 10000 / total, as a z-score among genes of similar mean ({BINS} bins of "
            f"equal size), over genes found in {MIN_CELLS} training cells or more; chosen on training cells"
        ),
    }


def check_counts(counts: Any, n_cells: int, *, normalized: bool, name: str = "counts") -> sparse.csr_matrix:
    """Check a matrix of counts (or of log1p-normalised values) and give it as float64 CSR [n_cells, n_genes].

    Raises
    ------
    InputError
        Wrong shape, NaN, negative, or not whole numbers where counts are expected.
    """
    try:
        held = counts.to_memory() if hasattr(counts, "to_memory") else counts  # of a backed AnnData
        matrix = sparse.csr_matrix(held[:] if hasattr(held, "id") else held, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: must be a matrix of numbers, cells x genes, got {type(counts).__name__}; give adata.X"
        ) from error
    if matrix.shape[0] != n_cells:
        raise InputError(f"{name}: {matrix.shape[0]} rows for {n_cells} cells; give one row per embedded cell")
    if matrix.shape[1] == 0:
        raise InputError(f"{name}: no genes; give a matrix of counts (--counts FILE)")
    values = matrix.data
    if not np.isfinite(values).all():
        raise InputError(f"{name}: holds NaN or infinite values; give raw counts (--counts FILE, --matrix)")
    if values.size and values.min() < 0:
        raise InputError(f"{name}: holds negative values (scaled data?); give raw counts (--counts FILE, --matrix)")
    if not normalized and (values != np.rint(values)).any():
        raise InputError(
            f"{name}: holds values that are not whole numbers; give raw counts (--counts FILE, --matrix), "
            "or pass --normalized if they are log1p-normalised"
        )
    if normalized and values.size and values.max() > 30:
        raise InputError(
            f"{name}: holds {values.max():g}, too large for log1p values; leave --normalized out for counts"
        )
    return matrix


def normalise(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """count * 10000 / total of the cell; a cell without counts stays zero."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
    return sparse.csr_matrix(sparse.diags(scale) @ counts)


def log_counts(counts: sparse.csr_matrix, *, normalized: bool = False) -> sparse.csr_matrix:
    """log1p(count * 10000 / total), float64 CSR; with `normalized` the values as they stand.

    Each row depends on its own counts alone, so this may be done before cells are split.
    """
    return counts if normalized else normalise(counts).log1p()


def mean_and_variance(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Per column: the mean and the unbiased variance, float64 [n_genes]; zeros count."""
    n = matrix.shape[0]
    mean = np.asarray(matrix.mean(axis=0)).ravel()
    square = np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel()
    return mean, np.maximum(square - n * mean**2, 0.0) / max(n - 1, 1)


def variable_genes(logs: sparse.csr_matrix, *, n_genes: int = VARIABLE_GENES) -> np.ndarray:
    """Choose the genes of highest normalised dispersion.

    log(variance / mean) of expm1(logs), as a z-score within 20 bins of equal size by mean, over genes found in 3 cells
    or more (in any cell where no gene reaches that); ties go to the earlier gene. The rule is that of Seurat's first
    version (Satija et al., Nat. Biotechnol. 2015), with bins of equal size.

    Parameters
    ----------
    logs
        log1p-normalised values of the training cells.

    Returns
    -------
    np.ndarray
        int64, columns, ascending.
    """
    found = np.asarray((logs > 0).sum(axis=0)).ravel()
    mean, variance = mean_and_variance(logs.expm1())
    genes = np.flatnonzero((found >= MIN_CELLS) & (variance > 0))
    if not len(genes):
        genes = np.flatnonzero((found > 0) & (variance > 0))
    dispersion = np.log(variance[genes] / mean[genes])
    z = np.zeros(len(genes))
    for members in np.array_split(np.argsort(mean[genes], kind="stable"), BINS):
        spread = dispersion[members].std() if len(members) else 0.0
        if spread > 0:
            z[members] = (dispersion[members] - dispersion[members].mean()) / spread
    return np.sort(genes[np.argsort(-z, kind="stable")[:n_genes]])


def pca_features(
    logs: sparse.csr_matrix, train: np.ndarray, test: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components fitted on `train`: float64 [n_train, 50] and [n_test, 50], fewer where data have fewer."""
    from sklearn.decomposition import PCA

    fit = logs[train]
    components = min(COMPONENTS, fit.shape[0] - 1, fit.shape[1] - 1)
    if components < 1 or not (mean_and_variance(fit)[1] > 0).any():
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))  # nothing varies among the training cells
    pca = PCA(components, svd_solver="arpack", random_state=seed % 2**32).fit(fit)
    return pca.transform(fit), pca.transform(logs[test])


def hvg_features(logs: sparse.csr_matrix, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-counts of the variable genes of `train`: float64 [n_train, 2000] and [n_test, 2000] at most, dense."""
    fit = logs[train]
    genes = variable_genes(fit)
    if not len(genes):
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    return fit[:, genes].toarray(), logs[test][:, genes].toarray()
