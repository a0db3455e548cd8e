"""From what the user gives to sources."""

from __future__ import annotations

import glob
import os
import warnings
from pathlib import Path
from typing import Any

from corrmask.errors import InputError, InputWarning
from corrmask.sources.mtx import MtxReader
from corrmask.sources.objects import ObjectReader, is_anndata, read_anndata
from corrmask.sources.soma import SomaReader, is_soma
from corrmask.sources.source import Reader, Source
from corrmask.sources.store import StoreReader
from corrmask.sources.tenx import TenxReader

_FORMATS = "an .h5ad, a .zarr, a 10x .h5, a SOMA experiment, or a folder with matrix.mtx"


def open_sources(
    data: Any, *, matrix: str = "X", gene_column: str | None = None, normalized: bool = False, device: Any = None
) -> list[Source]:
    """Open whatever holds cells.

    Parameters
    ----------
    data
        An AnnData; a matrix cells x genes of scipy, numpy, torch (CSR) or cupy (CSR), whose genes are then "0", "1",
        ...; a path (.h5ad, .zarr, 10x .h5, SOMA experiment, folder with matrix.mtx), a URI of a SOMA experiment or a
        pattern of paths ("cells/*.h5ad"); what `from_chunks` returns; or a list of these.
    matrix
        "X", "raw" or "layers/NAME", of AnnData and SOMA alone.
    gene_column
        Column of var that names the genes, instead of the index; "id" or "name" (the default) for 10x.
    normalized
        Announces log1p-normalised values.
    device
        A CSR of cupy or torch that lies on this device is read there: its chunks hold
        `corrmask.sources.device.DeviceRows`. None reads all on the host.

    Returns
    -------
    list of Source
        In the order given; paths of a pattern in the order of their names. At least one: those that hold no cells are
        left out, with a warning.

    Raises
    ------
    InputError
        One line that names the file, what was found and what to do.
    """
    items = list(data) if isinstance(data, (list, tuple)) else [data]
    sources, opened = [], set[str]()
    for position, item in enumerate(items):
        if isinstance(item, Source):
            _without_options(item.name, matrix, gene_column)
            sources.append(Source(item.reader, normalized=normalized))
            continue
        if isinstance(item, (str, os.PathLike)):
            paths = _expand(os.fspath(item))
            for path in paths:
                real = path if "://" in path else os.path.realpath(path)
                if real in opened:
                    raise InputError(f"{path}: given twice, so that its cells would count twice; give each file once")
                opened.add(real)
            readers = [_open_path(path, matrix, gene_column) for path in paths]
        else:
            name = type(item).__name__ + (f" (number {position + 1})" if len(items) > 1 else "")
            readers = [_open_object(item, matrix, gene_column, name, device)]
        sources += [Source(reader, normalized=normalized) for reader in readers]
    if not sources:
        raise InputError(f"no cells given; give {_FORMATS}, or an AnnData")
    return _with_cells(sources)


def _with_cells(sources: list[Source]) -> list[Source]:
    """The sources that hold cells."""
    kept = [source for source in sources if source.n_cells]
    empty = [source.name for source in sources if not source.n_cells]
    if not kept:
        raise InputError(f"{', '.join(empty[:3])}: holds no cells; give {_FORMATS} with cells")
    if empty:
        shown = ", ".join(empty[:3]) + (", ..." if len(empty) > 3 else "")
        warnings.warn(f"left out, holding no cells: {shown}", InputWarning, stacklevel=3)
    return kept


def _expand(pattern: str) -> list[str]:
    path = os.path.expanduser(pattern)
    if "://" in path or os.path.exists(path) or not glob.has_magic(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise InputError(f"{pattern}: no file matches this pattern; check the path")
    return found


def _open_path(path: str, matrix: str, gene_column: str | None) -> Reader:
    if is_soma(path):
        return SomaReader(path, matrix=matrix, gene_column=gene_column)
    suffix = Path(path).suffix.lower()
    if not path:
        raise InputError(f"the path of the cells is empty; give {_FORMATS}")
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file or folder; check the path")
    if suffix in (".h5ad", ".zarr"):
        return StoreReader(path, matrix=matrix, gene_column=gene_column)
    if matrix != "X":
        raise InputError(f"{path}: holds one matrix alone, {matrix!r} is not in it; leave out --matrix (matrix=)")
    if os.path.isdir(path):
        return MtxReader(path, gene_column=gene_column)
    if suffix in (".h5", ".hdf5"):
        return TenxReader(path, gene_column=gene_column)
    if path.endswith((".mtx", ".mtx.gz")):
        raise InputError(f"{path}: give the folder that holds matrix.mtx, features.tsv and barcodes.tsv instead")
    raise InputError(f"{path}: unknown suffix {suffix!r}; give {_FORMATS}")


def _open_object(item: Any, matrix: str, gene_column: str | None, name: str, device: Any) -> Reader:
    if is_anndata(item):
        return read_anndata(item, matrix=matrix, gene_column=gene_column, name=name, device=device)
    _without_options(name, matrix, gene_column)
    return ObjectReader(item, None, None, name, device)


def _without_options(name: str, matrix: str, gene_column: str | None) -> None:
    for argument, given in (("matrix", matrix != "X"), ("gene_column", gene_column is not None)):
        if given:
            raise InputError(f"{name}: a bare matrix takes no {argument!r}; leave it out or give an AnnData")
