"""Checks of what is read: counts that can be counts, genes that can be told apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import sparse

from corrmask.errors import InputError

LARGEST_LOG1P = 20.0  # log1p(1e4) is 9.2 and log1p(1e8) is 18.4: no usual target sum leads beyond this
_BLOCK = 1 << 17  # values looked at together: they stay in the processor's cache

_RAW = "choose raw counts, for instance --matrix layers/counts (matrix='layers/counts') or --matrix raw"


def check_counts(counts: sparse.csr_array, *, name: str, start: int = 0, normalized: bool = False) -> None:
    """Check that a block of cells holds raw counts, or log1p-normalised values where these were announced.

    Stored zeros and cells without counts are fine.

    Parameters
    ----------
    counts
        [n, n_genes], floating.
    name
        The file or object, for the message.
    start
        Row of the first cell in the source, for the message.
    normalized
        Whether the values are log1p-normalised.

    Raises
    ------
    InputError
        A value is NaN, infinite or negative; is no whole number (`normalized=False`); or is above 20
        (`normalized=True`). The message gives the first such value and its cell.
    """
    values = counts.data[: counts.indptr[-1]]
    for first in range(0, len(values), _BLOCK):
        block = values[first : first + _BLOCK]
        if _may_be_counts(block, normalized):
            continue
        for wrong, remedy in (
            (~np.isfinite(block), "counts must be finite; remove or repair such cells"),
            (block < 0, f"a count cannot be negative, these look scaled; {_RAW}"),
            _above(block) if normalized else _broken(block),
        ):
            if wrong.any():
                at = int(wrong.argmax())
                cell = start + int(np.searchsorted(counts.indptr, first + at, side="right")) - 1
                raise InputError(f"{name}: cell {cell} holds the value {block[at]:g}; {remedy}")


def _may_be_counts(block: np.ndarray, normalized: bool) -> bool:
    """Whether nothing is wrong with the values; of NaN no comparison holds."""
    if not (block.min() >= 0 and block.max() <= (LARGEST_LOG1P if normalized else np.finfo(block.dtype).max)):
        return False
    return normalized or bool((block == np.rint(block)).all())


def is_ascending(counts: sparse.csr_array) -> bool:
    """Whether the columns of every cell ascend, none of them twice: what scipy calls canonical, without its lock."""
    columns = counts.indices[: counts.indptr[-1]]
    falls = 0
    for first in range(0, len(columns) - 1, _BLOCK):
        after = columns[first + 1 : first + 1 + _BLOCK]
        falls += int(np.count_nonzero(after <= columns[first : first + len(after)]))
    starts = np.unique(counts.indptr[(counts.indptr > 0) & (counts.indptr < len(columns))])
    return bool(falls == np.count_nonzero(columns[starts] <= columns[starts - 1]))


def _above(block: np.ndarray) -> tuple[np.ndarray, str]:
    return (
        block > LARGEST_LOG1P,
        f"log1p-normalised values stay below {LARGEST_LOG1P:g}, these look like raw counts; leave out --normalized "
        "(normalized=False) or choose another --matrix (matrix=...)",
    )


def _broken(block: np.ndarray) -> tuple[np.ndarray, str]:
    return (
        block != np.rint(block),
        "no whole number: this matrix looks normalised or scaled; pass --normalized (normalized=True) if it is "
        "log1p-normalised, or --matrix layers/counts (matrix='layers/counts') for raw counts",
    )


def check_genes(names: Iterable[object], *, name: str, remedy: str) -> np.ndarray:
    """Return gene names as an object array of str, [n_genes].

    Raises
    ------
    InputError
        A gene has no name; or a name stands twice: the message shows the first few and ends with `remedy`.
    """
    given = list(names)
    nameless = [i for i, gene in enumerate(given) if gene is None or gene is pd.NA or gene != gene or gene == ""]
    if nameless:
        raise InputError(
            f"{name}: {len(nameless)} of {len(given)} genes have no name (the first is number {nameless[0]}); name "
            "each, or choose a column that does with --gene-column (gene_column=)"
        )
    genes = np.array([str(gene) for gene in given], dtype=object)
    unique, counts = np.unique(genes.astype(str), return_counts=True)
    if len(unique) < len(genes):
        repeated = unique[counts > 1]
        shown = ", ".join(map(str, repeated[:3])) + (", ..." if len(repeated) > 3 else "")
        raise InputError(f"{name}: {len(repeated)} gene names stand more than once ({shown}); {remedy}")
    return genes


def check_shape(shape: tuple[int, ...], *, n_cells: int, n_genes: int, name: str) -> None:
    """Check that a matrix has as many rows and columns as there are cells and genes, and at least one gene."""
    if tuple(shape) != (n_cells, n_genes):
        raise InputError(
            f"{name}: the matrix is {' x '.join(map(str, shape))} but there are {n_cells} cells and {n_genes} genes; "
            "write the file again"
        )
    if n_genes == 0:
        raise InputError(f"{name}: holds {n_cells} cells and no genes; there must be at least 1")
