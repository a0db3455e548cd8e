"""Cells drawn block by block: a pure function of the tissue and the block's number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from corrmask.simulation.tissue import BLOCK_STREAM, Tissue

BLOCK_CELLS = 256  # part of what a seed means: another size gives other cells


@dataclass(frozen=True)
class Block:
    """B cells and the truth about them.

    Attributes
    ----------
    counts
        float32 CSR [B, G], whole numbers, columns ascending in each row.
    cell_type
        int32 [B]: index into ``tissue.type_names``.
    library_size
        float64 [B]: counts that the cell is expected to have.
    activity
        float32 [B, K]: activity of each module in the cell, the level of its type included.
    """

    counts: sp.csr_matrix
    cell_type: np.ndarray
    library_size: np.ndarray
    activity: np.ndarray

    def first(self, n: int) -> Block:
        """The first `n` cells of the block."""
        return Block(self.counts[:n], self.cell_type[:n], self.library_size[:n], self.activity[:n])


def n_blocks(n_cells: int) -> int:
    """Number of blocks that hold `n_cells` cells."""
    return -(-n_cells // BLOCK_CELLS)


def draw_block(tissue: Tissue, block: int) -> Block:
    """Draw cells ``block * BLOCK_CELLS`` to ``(block + 1) * BLOCK_CELLS - 1``.

    Cell c of type t, with library size L and module activity a + z, z ~ N(0, 1), has in gene g of module k

        mu = L * type_share[t, g] * exp(loading[g] * z[k] - loading[g]^2 / 2),     x ~ NB(mu, dispersion[g])

    with variance mu + dispersion * mu^2. The counts are exact draws: a negative binomial is a Poisson number, of mean
    nu = log1p(dispersion * mu) / dispersion, of bursts whose sizes follow the logarithmic series of parameter
    dispersion * mu / (1 + dispersion * mu) (Quenouille, Biometrics 1949). The first burst of a Poisson process comes at
    time -log(1 - u), u uniform; the gene is seen if that is before nu, and Poisson(nu - time) more follow. A gene
    that is seen has u < 1 - exp(-nu) <= nu <= mu, so one uniform number and one comparison with mu settle nearly all
    zeros, and only the few genes left cost a logarithm.

    Parameters
    ----------
    tissue
        From `corrmask.simulation.tissue.design_tissue`.
    block
        0, 1, ...: cells depend on ``tissue`` (with its seed) and this number alone.
    """
    rng = np.random.default_rng(np.random.SeedSequence(tissue.seed, spawn_key=(BLOCK_STREAM, block)))
    n_modules = tissue.activity.shape[1]
    bounds = np.cumsum(tissue.proportions)[:-1]
    cell_type = np.searchsorted(bounds, rng.random(BLOCK_CELLS), side="right").astype(np.int32)
    levels = np.linspace(0.0, 1.0, len(tissue.library_sizes))
    library_size = np.interp(rng.random(BLOCK_CELLS), levels, tissue.library_sizes)
    z = rng.standard_normal((BLOCK_CELLS, n_modules))

    mean = tissue.type_share[cell_type]  # [B, G]
    mean *= library_size[:, None]
    members = np.flatnonzero(tissue.module >= 0)
    loading = tissue.loading[members]
    mean[:, members] *= np.exp(loading * z[:, tissue.module[members]] - loading**2 / 2)

    uniform = rng.random(mean.shape)
    candidates = np.flatnonzero(uniform < mean)
    mu, genes = mean.ravel()[candidates], candidates % tissue.n_genes
    dispersion = tissue.dispersion[genes]
    product = dispersion * mu
    bursts = np.where(dispersion > 0, np.log1p(product) / np.where(dispersion > 0, dispersion, 1.0), mu)
    left = bursts + np.log1p(-uniform.ravel()[candidates])  # time after the first burst; negative: there was none
    seen = left > 0
    candidates, genes, product, left = candidates[seen], genes[seen], product[seen], left[seen]

    sizes = 1 + rng.poisson(left)
    starts = np.cumsum(sizes) - sizes
    bursts_of = np.repeat(product / (1.0 + product), sizes)
    values = np.add.reduceat(rng.logseries(bursts_of), starts) if sizes.size else sizes
    indptr = np.searchsorted(candidates, np.arange(BLOCK_CELLS + 1) * tissue.n_genes)
    counts = sp.csr_matrix(
        (values.astype(np.float32), genes.astype(np.int32), indptr.astype(np.int32)),
        shape=(BLOCK_CELLS, tissue.n_genes),
    )
    activity = (tissue.activity[cell_type] + z).astype(np.float32)
    return Block(counts, cell_type, library_size, activity)
