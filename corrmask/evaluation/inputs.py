"""Files -> arrays for the evaluations: embeddings, labels, counts and expression levels, aligned by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from corrmask.errors import InputError
from corrmask.evaluation.baselines import check_counts, log_counts
from corrmask.evaluation.checks import as_strings

EXPRESSION_COLUMNS = ("mean_expression", "detection")


@dataclass(frozen=True)
class AnnotationInputs:
    """What `evaluate_annotation` needs, one row per cell of the first file in its order."""

    embeddings: dict[str, np.ndarray]
    labels: np.ndarray
    counts: sparse.csr_matrix
    within: np.ndarray | None
    holdout: np.ndarray | None


@dataclass(frozen=True)
class GeneInputs:
    """What `evaluate_genes` needs: the labelled genes that every file has."""

    embeddings: dict[str, np.ndarray]
    genes: np.ndarray
    labels: np.ndarray
    expression: np.ndarray
    expression_features: list[str]
    missed: dict[str, list[str]]
    ambiguous: list[str]
    column: str


def named_paths(arguments: Sequence[str]) -> dict[str, Path]:
    """Read ``[NAME=]FILE`` arguments; without NAME the file's stem."""
    paths: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or not name or Path(argument).exists():
            path, name = argument, Path(argument).stem
        if name in paths:
            raise InputError(f"two files are called {name!r}; give each its own name (NAME=FILE)")
        paths[name] = Path(path)
    return paths


def read_anndata(path: Path) -> Any:
    """Open an .h5ad, or say in one line why not."""
    import anndata

    if not path.is_file():
        raise InputError(f"{str(path)!r}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*names are not unique")  # checked where names matter
            return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{str(path)!r}: cannot be read as .h5ad, truncated or another format ({said})") from error


def obs_column(adata: Any, column: str, path: Path) -> np.ndarray:
    """A column of obs as objects."""
    if column not in adata.obs:
        there = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise InputError(f"{str(path)!r}: no column {column!r} in obs; there are {there}")
    return np.asarray(adata.obs[column], dtype=object)


def row_order(wanted: Any, there: Any, path: Path, what: str) -> np.ndarray | slice:
    """Where each wanted name stands in another file; refused where one is missing or names repeat."""
    if len(wanted) == len(there) and (wanted == there).all():
        return slice(None)
    if not wanted.is_unique or not there.is_unique:
        raise InputError(f"{str(path)!r}: {what} cannot be matched, names repeat; make obs_names unique")
    rows = there.get_indexer(wanted)
    lost = int((rows < 0).sum())
    if lost:
        raise InputError(
            f"{str(path)!r}: {lost} of {len(wanted)} {what} of the first file are not in it "
            f"(such as {str(wanted[int(np.argmin(rows))])!r}); give a file with the same obs_names"
        )
    return rows


def take_matrix(adata: Any, matrix: str, path: Path) -> Any:
    """``X``, ``raw`` or ``layers/NAME``."""
    if matrix == "X":
        found = adata.X
    elif matrix == "raw":
        found = None if adata.raw is None else adata.raw.X
    elif matrix.startswith("layers/"):
        name = matrix.removeprefix("layers/")
        if name not in adata.layers:
            there = ", ".join(map(repr, adata.layers)) or "none"
            raise InputError(f"--matrix {matrix}: {str(path)!r} has no such layer; there are {there}")
        found = adata.layers[name]
    else:
        raise InputError(f"--matrix must be X, raw or layers/NAME, got {matrix!r}")
    return None if found is None or 0 in found.shape else found


def read_annotation(
    paths: Mapping[str, Path],
    *,
    label: str,
    key: str = "X_corrmask",
    counts: Path | None = None,
    matrix: str = "X",
    normalized: bool = False,
    within: str | None = None,
    holdout: str | None = None,
) -> AnnotationInputs:
    """Read embedded cells, their labels and their counts.

    Parameters
    ----------
    paths
        Name -> .h5ad with ``obsm[key]``. All hold the same cells, in any order; labels come from the first.
    label, within, holdout
        Columns of the first file's obs.
    counts
        .h5ad with the counts of these cells (others may be in it); None: those of the first file.
    matrix, normalized
        Which matrix holds the counts, and whether it is log1p-normalised.
    """
    embeddings: dict[str, np.ndarray] = {}
    first: Any = None
    first_path = next(iter(paths.values()))
    for name, path in paths.items():
        adata = read_anndata(path)
        if key not in adata.obsm:
            there = ", ".join(map(repr, adata.obsm)) or "none"
            raise InputError(f"{str(path)!r}: no {key!r} in obsm; there are {there} (--key)")
        if first is None:
            first = adata
            rows: np.ndarray | slice = slice(None)
        else:
            if adata.n_obs != first.n_obs:
                raise InputError(
                    f"{str(path)!r}: {adata.n_obs} cells, {first.n_obs} in {str(first_path)!r}; embed the same cells"
                )
            rows = row_order(first.obs_names, adata.obs_names, path, "cells")
            if (
                label in adata.obs
                and (
                    as_strings(obs_column(adata, label, path)[rows], label, missing_allowed=True)
                    != as_strings(obs_column(first, label, first_path), label, missing_allowed=True)
                ).any()
            ):
                raise InputError(
                    f"{str(path)!r}: obs[{label!r}] differs from that of {str(first_path)!r} for the same cells"
                )
        embeddings[name] = np.asarray(adata.obsm[key])[rows]
    source, source_path, rows = first, first_path, slice(None)
    if counts is not None:
        source, source_path = read_anndata(counts), counts
        rows = row_order(first.obs_names, source.obs_names, counts, "cells")
    values = take_matrix(source, matrix, source_path)
    if values is None:
        raise InputError(
            f"{str(source_path)!r}: no counts in {matrix} for the baselines; "
            "give them with --counts FILE.h5ad (and --matrix)"
        )
    return AnnotationInputs(
        embeddings,
        obs_column(first, label, first_path),
        check_counts(values[rows], first.n_obs, normalized=normalized, name=f"{str(source_path)!r} ({matrix})"),
        None if within is None else obs_column(first, within, first_path),
        None if holdout is None else obs_column(first, holdout, first_path),
    )


def read_labels(path: Path, *, label_column: str = "label") -> Any:
    """Read a table of labelled genes: .csv, else tab-separated; every column as text, rows without label left out."""
    import pandas as pd

    if not path.is_file():
        raise InputError(
            f"labels {str(path)!r}: no such file; give a table with a header, tab-separated or .csv (--labels)"
        )
    try:
        table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise InputError(
            f"labels {str(path)!r}: cannot be read as a table ({' '.join(str(error).split())[:120]}); give one with a "
            "header, tab-separated or .csv (--labels)"
        ) from error
    if label_column not in table:
        raise InputError(f"{str(path)!r}: no column {label_column!r}; there are {', '.join(map(repr, table.columns))}")
    return table[table[label_column] != ""]


def choose_gene_column(table: Any, names: set[str], path: Path, *, label_column: str, column: str | None) -> str:
    """The column whose entries name most genes, or the one asked for."""
    columns = [one for one in table.columns if one != label_column]
    if column is not None:
        if column not in columns:
            raise InputError(f"--gene-column: {str(path)!r} has no column {column!r}; there are {', '.join(columns)}")
        columns = [column]
    shared = {one: len(names & set(table[one])) for one in columns}
    best = max(shared, key=lambda one: shared[one], default=None)
    if best is None or not shared[best]:
        raise InputError(
            f"{str(path)!r}: no gene in common with the embeddings in {', '.join(map(repr, columns)) or 'any column'} "
            f"(embeddings: such as {min(names, default='none')!r}); give labels for the same kind of name"
        )
    return best


def gene_expression(path: Path, *, matrix: str = "X", normalized: bool = False) -> Any:
    """Expression level per gene, a DataFrame indexed by gene.

    From columns `mean_expression` (and `detection`) of obs or var where the file has them, else computed from its
    cells: the mean of log1p(count * 10000 / total), and the share of cells with a count.
    """
    import pandas as pd

    adata = read_anndata(path)
    for frame in (adata.obs, adata.var):
        if EXPRESSION_COLUMNS[0] in frame:
            return frame[[one for one in EXPRESSION_COLUMNS if one in frame]]
    values = take_matrix(adata, matrix, path)
    if values is None:
        raise InputError(
            f"{str(path)!r}: neither mean_expression in obs or var nor counts in {matrix}; give another file"
        )
    logs = log_counts(
        check_counts(values, adata.n_obs, normalized=normalized, name=f"{str(path)!r} ({matrix})"),
        normalized=normalized,
    )
    names = adata.raw.var_names if matrix == "raw" else adata.var_names
    detection = np.asarray((logs > 0).mean(axis=0)).ravel()
    return pd.DataFrame({"mean_expression": np.asarray(logs.mean(axis=0)).ravel(), "detection": detection}, index=names)


def read_genes(
    paths: Mapping[str, Path],
    labels: Path,
    *,
    label_column: str = "label",
    gene_column: str | None = None,
    expression: Path | None = None,
    matrix: str = "X",
    normalized: bool = False,
) -> GeneInputs:
    """Read gene embeddings and labels; only labelled genes that every file (and the expression levels) has are kept.

    Parameters
    ----------
    paths
        Name -> .h5ad with genes in obs, X the contextual embeddings, and perhaps ``obsm["X_static"]``, which is scored
        as ``NAME (static)``.
    labels, label_column, gene_column
        Table of labels; without `gene_column`, the column that shares most names with the first file.
    expression
        See `gene_expression`; None: obs of the first file.
    matrix, normalized
        Where `expression` holds cells: which matrix, and whether it is log1p-normalised.
    """
    files = {name: read_anndata(path) for name, path in paths.items()}
    first_path = next(iter(paths.values()))
    first = next(iter(files.values()))
    for adata, path in zip(files.values(), paths.values()):
        if not adata.obs_names.is_unique:
            raise InputError(f"{str(path)!r}: gene names repeat; make obs_names unique")
        if adata.X is None:
            raise InputError(f"{str(path)!r}: no X; give gene embeddings (genes in obs, X float [n_genes, d])")
    if expression is not None:
        levels, levels_path = gene_expression(expression, matrix=matrix, normalized=normalized), expression
    elif EXPRESSION_COLUMNS[0] in first.obs:
        levels, levels_path = first.obs[[one for one in EXPRESSION_COLUMNS if one in first.obs]], first_path
    else:
        raise InputError(
            f"{str(first_path)!r}: no column 'mean_expression' in obs; there are "
            f"{', '.join(map(repr, first.obs.columns)) or 'none'}; "
            "give expression levels or counts with --expression FILE.h5ad"
        )
    if not levels.index.is_unique:
        raise InputError(f"{str(levels_path)!r}: gene names repeat; make them unique")
    table = read_labels(labels, label_column=label_column)
    column = choose_gene_column(table, set(first.obs_names), labels, label_column=label_column, column=gene_column)
    given: dict[str, set[str]] = {}
    for gene, kind in zip(table[column], table[label_column]):
        if gene:
            given.setdefault(gene, set()).add(kind)
    ambiguous = [gene for gene, kinds in given.items() if len(kinds) > 1]
    clear = {gene: next(iter(kinds)) for gene, kinds in given.items() if len(kinds) == 1}
    shared = set.intersection(*(set(adata.obs_names) for adata in files.values()))
    if not shared & clear.keys() & set(levels.index):
        raise InputError(
            f"{str(levels_path)!r}: no labelled gene that is in every file; give files with the same gene names"
        )
    shared &= set(levels.index)
    genes = [gene for gene in first.obs_names if gene in shared and gene in clear]
    missed: dict[str, list[str]] = {}
    for gene, kind in clear.items():
        if gene not in shared:
            missed.setdefault(kind, []).append(gene)
    embeddings: dict[str, np.ndarray] = {}
    for name, adata in files.items():
        rows = adata.obs_names.get_indexer(genes)
        x = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
        embeddings[name] = x[rows]
        if "X_static" in adata.obsm:
            embeddings[f"{name} (static)"] = np.asarray(adata.obsm["X_static"])[rows]
    return GeneInputs(
        embeddings,
        np.array(genes, dtype=object),
        np.array([clear[gene] for gene in genes], dtype=object),
        levels.loc[genes].to_numpy(dtype=np.float64),
        list(levels.columns),
        missed,
        ambiguous,
        column,
    )
