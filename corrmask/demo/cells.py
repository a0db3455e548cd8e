"""The cells of a run: read once, checked before anything is written."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from corrmask.demo.settings import DemoSettings
from corrmask.errors import InputError
from corrmask.sources import open_sources

if TYPE_CHECKING:
    from anndata import AnnData

BUILT_IN = "pbmc68k_reduced"


def read_cells(settings: DemoSettings) -> tuple[AnnData, str]:
    """Read the cells and check what is asked of them.

    Parameters
    ----------
    settings
        Resolved.

    Returns
    -------
    cells : AnnData
        X float32 CSR [n_cells, n_genes]; obs: the columns of label and levels.
    fingerprint : str
        Hash of the file, and of the table of genes where there is one.

    Raises
    ------
    InputError
        A file that cannot be read, values that are not what they are said to be, a missing column, an unknown
        `unlabelled` or type, fewer than two types, a table of genes that cannot be read.
    """
    import pandas as pd
    from anndata import AnnData

    path = Path(settings.data) if settings.data is not None else built_in_path()
    data: Any = str(path) if settings.data is not None else _read_built_in(path)
    sources = open_sources(
        data, matrix=settings.matrix, gene_column=settings.gene_column, normalized=settings.normalized
    )
    if len(sources) != 1:
        raise InputError(f"demo: {len(sources)} files given; the demo takes one")
    source = sources[0]
    assert settings.label is not None
    columns = [settings.label] + ([settings.within] if settings.within is not None else [])
    obs = source.read_obs(columns)
    _check_labels(obs[settings.label], settings)
    if settings.gene_labels is not None:
        from corrmask.evaluation.inputs import read_labels

        read_labels(Path(settings.gene_labels))
    parts = [chunk.counts for chunk in source.chunks()]
    counts = sp.csr_matrix(sp.vstack(parts, format="csr") if len(parts) > 1 else parts[0], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        cells = AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(source.genes.astype(str), dtype=object)))
        cells.obs_names_make_unique()
    return cells, _fingerprint(path, *([] if settings.gene_labels is None else [Path(settings.gene_labels)]))


def _check_labels(column: Any, settings: DemoSettings) -> None:
    from corrmask.evaluation.checks import as_strings, listed
    from corrmask.evaluation.splits import check_thin

    kinds = as_strings(np.asarray(column, dtype=object), "labels", missing_allowed=True)
    if settings.unlabelled is not None and settings.unlabelled not in kinds:
        raise InputError(f"--unlabelled: no cell has the label {settings.unlabelled!r}; there are {listed(kinds)}")
    types = sorted({str(kind) for kind in kinds} - {"", settings.unlabelled})
    if len(types) < 2:
        raise InputError(f"labels: two types or more are needed in obs[{settings.label!r}], found {len(types)}")
    if settings.thin:
        check_thin(dict(settings.thin), types)


def built_in_path() -> Path:
    """The file of 700 blood cells inside the scanpy package, which is found but not imported.

    Raises
    ------
    InputError
        scanpy is not installed, or no longer brings the file.
    """
    found = importlib.util.find_spec("scanpy")
    if found is None or found.origin is None:
        raise InputError(
            "demo: the default cells come with scanpy, which is not installed; pip install scanpy, or give --data"
        )
    path = Path(found.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"
    if not path.exists():
        raise InputError(f"demo: this scanpy does not bring {path.name}; give other cells with --data and --label")
    return path


def _read_built_in(path: Path) -> AnnData:
    """Old in format, so that anndata reads it; its values are log1p-normalised (``.raw``)."""
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old format
        return anndata.read_h5ad(path)


def _fingerprint(*paths: Path) -> str:
    """Hash of files, of folders all that is in them and its names."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not file.is_file():
                continue
            digest.update(str(file.relative_to(path)).encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()
