"""The graph of genes: its edges, and how it is kept in AnnData and on disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.files import check_output, replacing, store_contents, write_h5ad
from corrmask.staging import on_host

if TYPE_CHECKING:
    from anndata import AnnData


@checked
@dataclass(frozen=True, eq=False, repr=False)
class GeneGraph:
    """Directed edges from each gene to its partners, strongest first.

    Attributes
    ----------
    indptr
        int64 [G + 1]: where each gene's partners start.
    indices
        int32 [n_edges]: partners of each gene, by descending |r|, then ascending gene.
    weights
        float32 [n_edges]: signed correlation r.
    var_names
        str [G]: gene names.
    provenance
        Parameters, cells, versions and hashes from which the graph came; plain strings, numbers and lists.
    """

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    var_names: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("indptr", "indices", "weights", "var_names"):
            array = np.asarray(getattr(self, name))
            if array.ndim != 1 or (name in ("indptr", "indices") and array.size and array.dtype.kind not in "iu"):
                raise InputError(
                    f"GeneGraph: {name!r} must be of one dimension, and whole numbers but for weights and names"
                )
            object.__setattr__(self, name, array)
        n, indptr, indices = len(self.var_names), self.indptr, self.indices
        if len(indptr) != n + 1 or indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
            raise InputError(
                f"GeneGraph: 'indptr' must have {n + 1} values (genes + 1) rising from 0 to {len(indices)}"
            )
        if len(self.weights) != len(indices):
            raise InputError(
                f"GeneGraph: 'weights' must have {len(indices)} values, as 'indices', got {len(self.weights)}"
            )
        if len(indices) and not 0 <= indices.min() <= indices.max() < n:
            raise InputError(
                f"GeneGraph: 'indices' must be genes, 0 .. {n - 1}, got {indices.min()} .. {indices.max()}"
            )

    def __repr__(self) -> str:
        return f"GeneGraph of {self.n_genes:,} genes, {self.n_edges:,} edges"

    @property
    def n_genes(self) -> int:
        """Number of genes G."""
        return len(self.var_names)

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return len(self.indices)

    def in_degree(self) -> np.ndarray:
        """Among the partners of how many genes each gene is: int64 [G]; large for hubs."""
        return np.bincount(self.indices, minlength=self.n_genes)

    @checked
    def hubs(self, n: int = 10) -> list[tuple[str, int]]:
        """The `n` genes that are partners of most others, and of how many."""
        if n < 0:
            raise InputError(f"hubs: 'n' must be 0 or more, got {n}")
        degree = self.in_degree()
        return [(str(self.var_names[g]), int(degree[g])) for g in np.argsort(-degree, kind="stable")[:n]]

    def to_scipy(self) -> sp.csr_array:
        """CSR [G, G] of signed correlations; within a row strongest first, so indices are not sorted."""
        # A copy: what scipy sorts or sums in place would part the graph's weights from their partners.
        return sp.csr_array((self.weights, self.indices, self.indptr), shape=(self.n_genes, self.n_genes), copy=True)

    def to_cupy(self) -> Any:
        """`to_scipy` in the memory of cupy's current device: `cupyx.scipy.sparse.csr_matrix` [G, G].

        Raises
        ------
        InputError
            cupy is not installed.
        """
        try:
            from cupyx.scipy.sparse import csr_matrix
        except ImportError:
            raise InputError("to_cupy: cupy is not installed; `pip install cupy-cuda13x`, or use to_scipy()") from None
        return csr_matrix(sp.csr_matrix(self.to_scipy()))

    @checked
    def to_anndata(self, adata: AnnData | None = None, key: str = "correlation") -> AnnData:
        """Genes in `var`, the graph in ``varp[key]``, provenance in ``uns["corrmask"]``; no cells.

        Parameters
        ----------
        adata
            Put the graph into this object instead, by gene names; genes that only one of both has get no edges.
        key
            Of `varp`.

        Raises
        ------
        InputError
            `adata` lists a gene twice, or has none of the graph's genes.
        """
        from anndata import AnnData
        from pandas import DataFrame, Index

        if adata is not None:
            names = Index(adata.var_names.astype(str))
            if not names.is_unique:
                twice = names[names.duplicated()][0]
                raise InputError(f"to_anndata: gene {twice!r} is listed twice; call adata.var_names_make_unique()")
            place = names.get_indexer(Index(self.var_names.astype(str)))
            if not np.any(place >= 0):
                raise InputError(
                    f"to_anndata: none of the graph's {self.n_genes:,} genes is among the {adata.n_vars:,} of 'adata'; "
                    "give the cells that the graph was built from, with the same kind of gene names"
                )
            edges = self.to_scipy().tocoo()
            ends = place[edges.row], place[edges.col]
            kept = (ends[0] >= 0) & (ends[1] >= 0)
            shape = (adata.n_vars, adata.n_vars)
            adata.varp[key] = sp.csr_matrix((edges.data[kept], (ends[0][kept], ends[1][kept])), shape=shape)
            adata.uns["corrmask"] = dict(self.provenance)
            return adata
        var = DataFrame({"in_degree": self.in_degree()}, index=Index(self.var_names.astype(str)))
        adata = AnnData(shape=(0, self.n_genes), var=var)
        adata.varp[key] = sp.csr_matrix(self.to_scipy())
        adata.uns["corrmask"] = dict(self.provenance)
        return adata

    @classmethod
    @checked
    def from_anndata(cls, adata: AnnData, key: str = "correlation", name: str = "graph") -> GeneGraph:
        """Read the graph from ``adata.varp[key]``; rows are put in order of descending |r|, then ascending gene.

        Parameters
        ----------
        adata
            Genes in `var`; the graph [G, G], sparse or dense, signed r, 0 for no edge, stored or not.
        key
            Of `varp`.
        name
            What messages call it.

        Raises
        ------
        InputError
            There is no such graph, a gene is listed twice, or the graph holds an edge of a gene with itself or a weight
            that is not a correlation.
        """
        if key not in adata.varp:
            raise InputError(
                f"{name}: varp has no {key!r} (it has {sorted(adata.varp)}); write one with `corrmask graph`"
            )
        if not adata.var_names.is_unique:
            twice = adata.var_names[adata.var_names.duplicated()][0]
            raise InputError(f"{name}: gene {twice!r} is listed twice; call adata.var_names_make_unique()")
        matrix = sp.csr_array(on_host(adata.varp[key]), dtype=np.float32, copy=True)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        matrix = sp.coo_array(matrix)
        weights = matrix.data
        if np.any(matrix.row == matrix.col):
            raise InputError(f"{name}: varp[{key!r}] must have an empty diagonal; remove it (matrix.setdiag(0))")
        if not np.all(np.abs(weights) <= 1):
            raise InputError(f"{name}: varp[{key!r}] must hold correlations in -1 .. 1; scale them")
        order = np.lexsort((matrix.col, -np.abs(weights), matrix.row))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(matrix.row, minlength=adata.n_vars))]).astype(np.int64)
        names = np.asarray(adata.var_names.astype(str), dtype=object)
        provenance = dict(adata.uns.get("corrmask", {}))
        return cls(indptr, matrix.col[order].astype(np.int32), weights[order], names, provenance)

    @checked
    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write ``.h5ad`` or ``.zarr``, whole or not at all.

        Raises
        ------
        InputError
            Another suffix, or the output exists and `overwrite` is False.
        """
        check_graph_output(path, overwrite=overwrite)
        with replacing(path, overwrite=overwrite) as temporary:
            adata = self.to_anndata()
            if Path(path).suffix == ".h5ad":
                write_h5ad(adata, temporary)
            else:
                with warnings.catch_warnings():
                    # anndata announces a new default; either format is read.
                    warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
                    adata.write_zarr(temporary)

    @classmethod
    @checked
    def read(cls, path: str | Path) -> GeneGraph:
        """Read what `write` wrote, or any AnnData with ``varp["correlation"]``.

        Raises
        ------
        InputError
            The file is missing, damaged or holds no graph.
        """
        import anndata

        path = Path(path)
        if not path.exists():
            raise InputError(f"graph {str(path)!r} does not exist; write one with `corrmask graph FILES -o {path}`")
        if path.is_dir() and path.suffix != ".zarr":
            raise InputError(f"graph {str(path)!r} is a folder; give the .h5ad or .zarr that `corrmask graph` wrote")
        try:
            adata = anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
        except Exception as error:  # h5py and zarr raise many kinds for a damaged file
            raise InputError(
                f"graph {str(path)!r} cannot be read ({' '.join(str(error).split())}); write it anew"
            ) from error
        return cls.from_anndata(adata, name=f"graph {str(path)!r}")


def check_graph_output(path: str | Path, *, overwrite: bool, inputs: Iterable[Any] = ()) -> None:
    """Check the output of `GeneGraph.write` before the work begins; see `corrmask.files.check_output`."""
    if Path(path).suffix not in (".h5ad", ".zarr"):
        raise InputError(f"graph {str(path)!r}: the name must end in .h5ad or .zarr")
    check_output(path, overwrite=overwrite, contents=store_contents(path), inputs=inputs)
