"""Matrices in memory: AnnData, scipy, numpy, torch and cupy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from corrmask.errors import InputError
from corrmask.sources.checks import check_shape
from corrmask.sources.cutting import Block, check_indptr, check_within, csr_blocks, dense_blocks, held, make_csr
from corrmask.sources.device import DeviceRows, rows_on
from corrmask.sources.source import Reader
from corrmask.sources.store import StoreReader, choose_gene_names, layer_name, no_matrix
from corrmask.staging import is_cupy, on_host


class ObjectReader:
    """A matrix in memory (sparse by cell, or dense) with its genes and obs."""

    resumable = False

    def __init__(
        self, matrix: Any, genes: np.ndarray | None, obs: pd.DataFrame | None, name: str, device: Any = None
    ) -> None:
        there = rows_on(matrix, device)
        self._matrix = host_matrix(matrix, name) if there is None else there
        n_cells, n_genes = self._matrix.shape
        self.name = name
        self.genes = genes if genes is not None else np.array([str(i) for i in range(n_genes)], dtype=object)
        self._obs = obs
        self.obs_columns = [] if obs is None else [str(column) for column in obs.columns]
        self.n_cells = n_cells if obs is None else len(obs)
        check_shape((n_cells, n_genes), n_cells=self.n_cells, n_genes=len(self.genes), name=name)

    def blocks(self, max_nonzeros: int, max_cells: int, first_cell: int) -> Iterator[Block]:
        """See `corrmask.sources.source.Reader`."""
        matrix, bounds = self._matrix, (self.name, max_nonzeros, max_cells)
        if isinstance(matrix, DeviceRows):
            return matrix.blocks(*bounds)
        if isinstance(matrix, np.ndarray):
            return dense_blocks(held(matrix), matrix.shape, *bounds)
        return csr_blocks(held(matrix), matrix.indptr, matrix.shape[1], *bounds)

    def obs(self, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        """See `corrmask.sources.source.Reader`."""
        if self._obs is None:
            return pd.DataFrame(index=pd.Index([str(row) for row in range(start, stop)], dtype=object))
        frame = self._obs.iloc[start:stop][columns].copy()
        frame.index = pd.Index([str(name) for name in frame.index], dtype=object)
        return frame


def host_matrix(matrix: Any, name: str) -> Any:
    """A CSR matrix of scipy or a dense array of numpy, sharing the memory of what is given where possible.

    Raises
    ------
    InputError
        Of another type, not of two dimensions, or with an `indptr` that is none.
    """
    if not is_matrix(matrix):
        raise InputError(
            f"{name}: cannot read cells from {type(matrix).__name__}; give an AnnData, a sparse matrix of scipy, "
            "a torch or cupy CSR, or a path"
        )
    torch: Any = sys.modules.get("torch")  # without it loaded, this is no tensor
    if torch is not None and isinstance(matrix, torch.Tensor):
        if matrix.layout == torch.strided:
            matrix = _as_array(matrix)
        elif matrix.layout == torch.sparse_csr:
            data, indices, indptr = map(_as_array, (matrix.values(), matrix.col_indices(), matrix.crow_indices()))
            check_indptr(indptr, matrix.shape[0], len(data), name)
            matrix = make_csr(data, indices, indptr, matrix.shape[1], name)
        else:
            raise InputError(f"{name}: a tensor of layout {matrix.layout}; convert it with .to_sparse_csr()")
    matrix = on_host(matrix)
    if sparse.issparse(matrix):
        if matrix.format in ("csr", "csc"):
            length = matrix.shape[0] if matrix.format == "csr" else matrix.shape[1]
            used = min(int(matrix.indptr[-1]), len(matrix.data))  # room may be left behind the values
            check_indptr(matrix.indptr, length, used, name)
        if matrix.format == "csc":
            check_within(matrix.indices, matrix.shape[0], name, "row", "cells")
        elif hasattr(matrix, "row"):  # entries in any order
            check_within(matrix.row, matrix.shape[0], name, "row", "cells")
            check_within(matrix.col, matrix.shape[1], name, "column", "genes")
        matrix = matrix.tocsr()
    else:
        matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise InputError(f"{name}: must be cells x genes, got {matrix.ndim} dimension(s)")
    return matrix


def _as_array(tensor: Any) -> np.ndarray:
    """Of a tensor on any device; numpy has no bfloat16."""
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).detach().cpu().numpy()


def is_matrix(data: object) -> bool:
    """Whether `data` is of a type that `host_matrix` reads."""
    torch: Any = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(data, torch.Tensor)
    return is_tensor or is_cupy(data) or sparse.issparse(data) or isinstance(data, np.ndarray)


def is_anndata(data: object) -> bool:
    """Whether `data` is an AnnData, without importing anndata for the question."""
    anndata: Any = sys.modules.get("anndata")
    return anndata is not None and isinstance(data, anndata.AnnData)


def read_anndata(data: Any, *, matrix: str, gene_column: str | None, name: str, device: Any = None) -> Reader:
    """Read an AnnData: in memory, or from its file where it is backed by one."""
    if data.isbacked:
        if data.is_view:
            raise InputError(f"{name}: a view of a backed AnnData; load it first with .to_memory()")
        return StoreReader(str(data.filename), matrix=matrix, gene_column=gene_column)
    layer = layer_name(matrix, name)
    absent = no_matrix(name, matrix, list(data.layers), data.raw is not None)
    if matrix == "raw":
        if data.raw is None:
            raise absent
        values, var = data.raw.X, data.raw.var
    elif layer is not None:
        if layer not in data.layers:
            raise absent
        values, var = data.layers[layer], data.var
    else:
        if data.X is None:
            raise absent
        values, var = data.X, data.var
    return ObjectReader(values, choose_gene_names(var, gene_column, name), data.obs, name, device)
