"""TileDB-SOMA experiments, the format of CELLxGENE Census: a local folder or a URI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from corrmask.errors import InputError
from corrmask.sources.checks import check_genes, check_shape
from corrmask.sources.cutting import Block, cut, from_entries
from corrmask.sources.faults import damaged

_BUFFER_BYTES = 1 << 26  # of each column that is read; the library's own default is 1 GB


def is_soma(path: str) -> bool:
    """Whether a path is a URI, or a folder that TileDB wrote."""
    return "://" in path or os.path.exists(os.path.join(path, "__tiledb_group.tdb"))


@contextmanager
def _open(uri: str) -> Iterator[Any]:
    """The experiment, for reading."""
    try:
        import tiledbsoma
    except ImportError as error:
        raise InputError(
            f"{uri}: reading SOMA needs the package tiledbsoma; install it (pip install 'corrmask[soma]')"
        ) from error
    context = tiledbsoma.SOMATileDBContext(tiledb_config={"soma.init_buffer_bytes": _BUFFER_BYTES})
    try:
        with tiledbsoma.Experiment.open(uri, context=context) as experiment:
            yield experiment
    except tiledbsoma.DoesNotExistError as error:
        raise InputError(f"{uri}: no SOMA experiment there; check the path or URI") from error
    except (tiledbsoma.SOMAError, RuntimeError, OSError, TypeError) as error:
        raise damaged(uri, error) from error


class SomaReader:
    """One measurement of an experiment ("RNA" where there are several): cells and genes in the order of their ids.

    Parameters
    ----------
    uri
        Of the experiment.
    matrix
        "layers/NAME" or "raw": that layer of the measurement's X. "X": its only one, or else "data" or "raw".
    gene_column
        Column of var that names the genes; by default "var_id", or "feature_id" as in the Census.
    """

    resumable = True

    def __init__(self, uri: str, *, matrix: str, gene_column: str | None) -> None:
        self.name = uri
        with _open(uri) as experiment:
            measurements = sorted(experiment.ms) if "ms" in experiment else []
            if len(measurements) != 1 and "RNA" not in measurements:
                raise InputError(f"{uri}: has no measurement 'RNA' (it has {', '.join(measurements) or 'none'})")
            self._measurement = measurements[0] if len(measurements) == 1 else "RNA"
            measurement = experiment.ms[self._measurement]
            layers = sorted(measurement.X)
            self._layer = _choose_layer(matrix, layers, uri)
            columns = [str(name) for name in measurement.var.schema.names if name != "soma_joinid"]
            gene_column = gene_column or ("var_id" if "var_id" in columns else "feature_id")
            if gene_column not in columns:
                available = ", ".join(columns) or "none"
                raise InputError(
                    f"{uri}: var has no column {gene_column!r} for the genes' names; available: {available}"
                )
            var = _table(measurement.var, ["soma_joinid", gene_column])
            obs = [str(name) for name in experiment.obs.schema.names]
            self._names = "obs_id" if "obs_id" in obs else None
            self.obs_columns = [name for name in obs if name not in ("soma_joinid", "obs_id")]
            sizes = ["nnz"] if "nnz" in obs else []  # in the Census: values of each cell
            table = _table(experiment.obs, ["soma_joinid", *sizes])
            stored = measurement.X[self._layer].nnz
        self._gene_ids = var["soma_joinid"].to_numpy()
        self._cell_ids = table["soma_joinid"].to_numpy()
        self.genes = check_genes(var[gene_column], name=uri, remedy="choose another column with --gene-column")
        self.n_cells = len(self._cell_ids)
        check_shape((self.n_cells, len(self.genes)), n_cells=self.n_cells, n_genes=len(self.genes), name=uri)
        per_cell = table["nnz"].to_numpy() if sizes else np.full(self.n_cells, -(-stored // self.n_cells))
        self._indptr = np.concatenate([[0], np.cumsum(per_cell, dtype=np.int64)])

    def blocks(self, max_nonzeros: int, max_cells: int, first_cell: int) -> Iterator[Block]:
        """See `corrmask.sources.source.Reader`. Without ``obs["nnz"]`` blocks are sized by the mean of all cells."""
        for start, stop in cut(self._indptr, max_nonzeros, max_cells):
            yield start, partial(self._load, start, stop)

    def _load(self, start: int, stop: int) -> sparse.csr_array:
        ids = self._cell_ids[start:stop]
        with _open(self.name) as experiment:
            layer = experiment.ms[self._measurement].X[self._layer]
            table = layer.read(coords=(slice(int(ids[0]), int(ids[-1])),)).tables().concat()
        rows, columns, values = (table.column(name).to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
        places = _places(rows, ids, self.name), _places(columns, self._gene_ids, self.name).astype(np.int32)
        return from_entries([(*places, values)], stop - start, len(self.genes), self.name)

    def obs(self, columns: list[str], start: int, stop: int) -> pd.DataFrame:
        """See `corrmask.sources.source.Reader`."""
        ids = self._cell_ids[start:stop]
        names = [] if self._names is None else [self._names]
        with _open(self.name) as experiment:
            frame = _table(experiment.obs, ["soma_joinid", *names, *columns], slice(int(ids[0]), int(ids[-1])))
        index = frame[self._names or "soma_joinid"].astype(str).to_numpy(dtype=object)
        return frame[columns].set_axis(pd.Index(index, dtype=object))


def _choose_layer(matrix: str, layers: list[str], uri: str) -> str:
    any_of = layers if len(layers) == 1 else ["data", "raw"]
    for layer in any_of if matrix == "X" else [matrix.removeprefix("layers/")]:
        if layer in layers:
            return layer
    available = ", ".join(f"layers/{layer}" for layer in layers) or "none"
    raise InputError(f"{uri}: has no matrix {matrix!r}; choose with --matrix (matrix=) among {available}")


def _table(frame: Any, columns: list[str], rows: slice | None = None) -> pd.DataFrame:
    """Columns of a SOMA data frame in the order of its ids."""
    read = frame.read(coords=() if rows is None else (rows,), column_names=columns).concat().to_pandas()
    return read.sort_values("soma_joinid", ignore_index=True)


def _places(ids: np.ndarray, known: np.ndarray, name: str) -> np.ndarray:
    """The place of each id among the known ones, ascending."""
    places = np.searchsorted(known, ids)
    if len(ids) and not np.array_equal(known[np.minimum(places, len(known) - 1)], ids):
        raise damaged(name, "the matrix holds cells or genes that obs or var do not")
    return places
