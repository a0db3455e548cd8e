"""The feature table of 10x Genomics, in HDF5 or beside an .mtx: which column names the genes, which rows are genes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from corrmask.errors import InputError
from corrmask.sources.checks import check_genes
from corrmask.sources.cutting import Load


class Features(NamedTuple):
    """The genes of a 10x matrix."""

    genes: np.ndarray  # [n_genes] object array of str
    kept: np.ndarray | None  # int64 [n_genes], columns of the stored matrix that are genes; None where all are

    def load(self, load: Load) -> sparse.csr_array:
        """Read a block and leave out what is no gene (antibodies, peaks, guides)."""
        counts = load()
        return counts if self.kept is None else counts[:, self.kept]


def choose_features(
    ids: np.ndarray, names: np.ndarray, types: np.ndarray | None, *, gene_column: str | None, name: str
) -> Features:
    """Take the rows of type "Gene Expression", named by `gene_column` ("name", the default, or "id").

    Raises
    ------
    InputError
        Another column is asked for, no row is a gene, or a name stands twice.
    """
    if gene_column not in (None, "id", "name"):
        raise InputError(f"{name}: a 10x matrix has no gene column {gene_column!r}; available: id, name")
    genes = ids if gene_column == "id" else names
    kept = None
    if types is not None and not (types == "Gene Expression").all():
        kept = np.flatnonzero(types == "Gene Expression")
        if not len(kept):
            found = ", ".join(sorted(set(types.tolist()))) or "none"
            raise InputError(f"{name}: no feature is of the type 'Gene Expression', found: {found}; give gene counts")
        genes = genes[kept]
    remedy = "give a matrix whose ids are unique"
    if gene_column != "id":
        remedy = "pass --gene-column id (gene_column='id') to use the gene ids instead"
    return Features(check_genes(genes, name=name, remedy=remedy), kept)
