"""Cells in two dimensions."""

from __future__ import annotations

import os
import warnings

import numpy as np

MOST_CELLS_OF_UMAP = 20_000


def project(x: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Project embeddings: UMAP, or principal components without umap-learn, for a few cells or above 20,000.

    Parameters
    ----------
    x
        float [n_cells, d].
    seed
        Of UMAP, which then runs on one thread; the same on the same machine.

    Returns
    -------
    coordinates : numpy.ndarray
        float32 [n_cells, 2].
    method : str
        "UMAP" or "PCA".
    """
    x = np.asarray(x, dtype=np.float32)
    if 30 <= len(x) <= MOST_CELLS_OF_UMAP:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # umap looks for tensorflow, which talks
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numba, of sklearn, of the one thread that a seed costs
                from umap import UMAP

                found = UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(x)
            return np.asarray(found, dtype=np.float32), "UMAP"
        except ImportError:
            pass
    centred = x - x.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    coordinates = np.zeros((len(x), 2), dtype=np.float32)
    coordinates[:, : len(axes[:2])] = centred @ axes[:2].T
    return coordinates, "PCA"
