"""The gene dependency graph: for each gene the partners with which its expression correlates most."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from corrmask.accumulation import accumulate, check_levels
from corrmask.arguments import checked
from corrmask.covariance import Covariance, no_edges
from corrmask.distributed import ALONE, Ranks
from corrmask.errors import InputError, InputWarning
from corrmask.files import check_output, replacing, write_h5ad
from corrmask.genes import name_by_id, united_genes
from corrmask.memory import memory_budget
from corrmask.ops.covariance_update import panels_size, panels_within
from corrmask.parts import kept_part
from corrmask.progress import Progress, silent
from corrmask.sources import check_resumable, open_sources
from corrmask.staging import on_host
from corrmask.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData


CHUNK_BYTES = 1_000_000_000  # what the cells at hand take beside the products


@checked
@dataclass(frozen=True, eq=False)
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
            adata.uns["corrmask"] = self.provenance
            return adata
        var = DataFrame({"in_degree": self.in_degree()}, index=Index(self.var_names.astype(str)))
        adata = AnnData(shape=(0, self.n_genes), var=var)
        adata.varp["correlation"] = sp.csr_matrix(self.to_scipy())
        adata.uns["corrmask"] = self.provenance
        return adata

    @classmethod
    @checked
    def from_anndata(cls, adata: AnnData, key: str = "correlation", name: str = "graph") -> GeneGraph:
        """Read the graph from ``adata.varp[key]``; rows are put in order of descending |r|, then ascending gene.

        Parameters
        ----------
        adata
            Genes in `var`; the graph [G, G], sparse or dense, signed r, 0 for no edge.
        key
            Of `varp`.
        name
            What messages call it.

        Raises
        ------
        InputError
            There is no such graph, or it holds an edge of a gene with itself or a weight that is not a correlation.
        """
        if key not in adata.varp:
            raise InputError(
                f"{name}: varp has no {key!r} (it has {sorted(adata.varp)}); write one with `corrmask graph`"
            )
        matrix = sp.coo_array(sp.csr_array(on_host(adata.varp[key])))
        weights = matrix.data.astype(np.float32)
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
        try:
            adata = anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
        except Exception as error:  # h5py and zarr raise many kinds for a damaged file
            raise InputError(f"graph {str(path)!r} cannot be read ({error}); write it anew") from error
        return cls.from_anndata(adata, name=f"graph {str(path)!r}")


@checked
def correlation_graph(
    data: Any,
    *,
    top_k: int = 16,
    min_corr: float = 0.1,
    min_cells: int = 10,
    within: str | Sequence[Any] | None = None,
    sign: Literal["absolute", "positive"] = "absolute",
    mutual: bool = False,
    target_sum: float = 1e4,
    device: str | torch.device | None = None,
    matrix: str = "X",
    gene_column: str | None = None,
    gene_map: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
    normalized: bool = False,
    memory: str | float | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 120.0,
    resume: bool = False,
    ranks: Ranks = ALONE,
    progress: Progress = silent,
) -> GeneGraph:
    """Build the dependency graph of genes from the Pearson correlation of log1p-normalised counts.

    y = log1p(count * target_sum / total of the cell), over all cells, zeros included. Bounded: |r - r64| <= 1e-5
    against a float64 two-pass reference; the same input gives the same bytes on any number of threads.

    Parameters
    ----------
    data
        Raw counts, cells x genes, as `corrmask.sources.open_sources` takes them: AnnData, scipy / cupy CSR, torch CSR
        tensor, `corrmask.sources.from_chunks`, a path (.h5ad, .zarr, 10x .h5, SOMA experiment, .mtx folder), a pattern,
        or a list of these. Genes of several files are united, and each pair is correlated over the cells of the files
        that measured both genes, and over those alone: means (within levels too), variances, products and `min_cells`
        are of these cells, so that a gene that a file did not measure never counts as zero (`corrmask.moments` has
        the formula). A pair that no file measured together has no edge. Cell totals are over all genes of the file.
    top_k
        Most partners of a gene.
    min_corr
        Least |r| of an edge.
    min_cells
        Genes expressed in fewer cells get no edges.
    within
        Column of `obs` (or one value per cell): means are taken within each level, and the pooled within-level
        correlation results, so that differences between donors or data sets make no edges.
    sign
        "absolute": strongest |r|; "positive": largest r, and r >= min_corr.
    mutual
        Keep an edge only where both ends list it.
    target_sum
        Counts per cell after normalisation.
    device
        "cpu" (or None), or a CUDA device: the products are formed there, chunks are read on the host and copied. Cells
        that lie there already, in a CSR of cupy (as of rapids-singlecell) or torch, are taken without a copy.
    matrix
        "X", "raw" or "layers/NAME" of each file.
    gene_column
        Column of `var` to name genes by.
    gene_map
        Table of gene symbols and Ensembl ids; symbols become ids.
    vocabulary
        Of a symbol with several ids the one in this vocabulary is taken.
    normalized
        The values are log1p-normalised already and taken as they stand.
    memory
        Budget such as "4GB", or bytes, by default four fifths of what is free. Where the products of all genes, 4 bytes
        times the square of their number, do not fit beside 1 GB for the cells, they are formed in several passes.
    checkpoint
        Folder for the sums of what has been read, so that a run that is killed or interrupted can be taken up; it is
        made, and removed at the end. It takes as much space as the products, twice while it is written.
    checkpoint_seconds
        How often they are written, at the end of a chunk.
    resume
        Go on from what `checkpoint` holds; the graph has the same bytes as without the interruption. Files and
        parameters must be the same; where nothing was kept, all is done.
    ranks
        The processes that share the cells (`corrmask.distributed.joined`, under `torchrun`), each of which calls this
        function with the same arguments and gets the same graph. Chunk i of source s is read by rank (s + i) modulo
        their number; the sums are added up over all of them. They keep no `checkpoint`.
    progress
        Called as progress("correlate", cells done, cells), of several passes as "correlate, pass 1 of 3".

    Returns
    -------
    GeneGraph
        Its `provenance` records parameters, cells, accumulator bytes, versions and hashes.

    Raises
    ------
    InputError
        Bad values, no common gene, a missing column, an argument out of range: one line.
    """
    try:
        device = torch.device(device or "cpu")
    except RuntimeError:
        raise InputError(f"correlation_graph: 'device' must be 'cpu' or a CUDA device, got {device!r}") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"correlation_graph: device {str(device)!r} cannot be used here; use 'cpu' or a CUDA device")
    if top_k < 1:
        raise InputError(f"correlation_graph: 'top_k' must be a whole number of at least 1, got {top_k!r}")
    if not 0 <= min_corr <= 1:
        raise InputError(f"correlation_graph: 'min_corr' must be in 0 .. 1, got {min_corr}")
    budget = min(ranks.gather(ranks.together(lambda: _gram_budget(memory, device))))
    if not 0 <= min_cells < 2**63:
        raise InputError(f"correlation_graph: 'min_cells' must be in 0 .. 2**63 - 1, got {min_cells}")
    if resume and checkpoint is None:
        raise InputError("correlation_graph: 'resume' needs the folder that was given as 'checkpoint'")
    if checkpoint is not None and ranks.world > 1:
        raise InputError(
            f"correlation_graph: {ranks.world} processes keep no 'checkpoint' to resume from; leave it out, or use one"
        )
    if not 0 < target_sum < np.inf:
        raise InputError(f"correlation_graph: 'target_sum' must be positive and finite, got {target_sum}")
    sources = ranks.together(
        lambda: open_sources(data, matrix=matrix, gene_column=gene_column, normalized=normalized, device=device)
    )
    renaming = name_by_id(sources, gene_map, prefer=() if vocabulary is None else vocabulary.genes)
    genes = united_genes(sources)
    if isinstance(within, str):
        check_levels(sources, within)
    if resume:
        check_resumable(sources)
    n_genes = len(genes)
    passes = panels_within(n_genes, budget)
    if len(passes) > 1:
        warnings.warn(
            f"the products of {n_genes:,} genes take {panels_size(n_genes) * 8 / 1e9:.1f} GB: within the memory given "
            f"they are formed in {len(passes)} passes over the cells",
            InputWarning,
            stacklevel=2,
        )
    accumulated = Covariance(n_genes, target_sum=None if normalized else target_sum, panels=passes[0], device=device)
    parameters: dict[str, Any] = {
        "top_k": top_k,
        "min_corr": min_corr,
        "min_cells": min_cells,
        "sign": sign,
        "mutual": mutual,
        "target_sum": target_sum,
        "matrix": matrix,
        "normalized": normalized,
        "within": within if isinstance(within, str) else "" if within is None else "an array",
    }
    identity: dict[str, Any] = {
        "sources": [source.identity() for source in sources],
        "genes": _hash_of(map(str, genes)),
    }
    identity |= {"parameters": parameters, "passes": passes, "version": version("corrmask")}
    if within is not None and not isinstance(within, str):
        identity["within"] = _hash_of(map(str, within))
    edges = no_edges(n_genes, top_k, device)
    with nullcontext() if checkpoint is None else kept_part(Path(checkpoint), identity, resume=resume) as part:
        done = accumulate(
            sources,
            genes,
            accumulated,
            edges,
            passes,
            within=within,
            part=part,
            seconds=checkpoint_seconds,
            ranks=ranks,
            progress=progress,
            min_cells=min_cells,
            min_corr=min_corr,
            positive=sign == "positive",
        )
    partners, weights = (one.cpu() for one in edges)
    kept = partners.numpy() >= 0
    if mutual:
        kept &= _is_mutual(partners.numpy())
    provenance: dict[str, Any] = {
        "parameters": parameters,
        "n_cells": accumulated.n_cells,
        "n_empty_cells": done.n_empty,
        "n_genes_in_all_files": len(set.intersection(*(set(source.genes) for source in sources))),
        "n_gene_sets": len(accumulated.moments),
        "renaming": {} if renaming is None else renaming._asdict(),
        "levels": list(accumulated.level_cells),
        "level_cells": list(accumulated.level_cells.values()),
        "sources": [source.name for source in sources],
        "input_hash": done.digest,
        "genes_hash": _hash_of(map(str, genes)),
        "accumulator_bytes": accumulated.memory_bytes,
        "passes": len(passes),
        "processes": ranks.world,
        "versions": _versions(),
    }
    return GeneGraph(
        np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64),
        partners.numpy()[kept],
        weights.numpy()[kept],
        genes,
        provenance,
    )


def _gram_budget(memory: str | float | None, device: torch.device) -> int:
    """Bytes that the products may take, beside the cells at hand."""
    budget = memory_budget(memory) - CHUNK_BYTES
    if budget <= 0 and memory is None:
        free = memory_budget(None) / 1e9
        raise InputError(f"correlation_graph: {free:.1f} GB of memory can be used here, the cells take 1 GB; free some")
    if budget <= 0:
        raise InputError(f"correlation_graph: 'memory' must be more than 1GB, which the cells take, got {memory!r}")
    if device.type == "cuda":  # a chunk takes a few times its size: its entries by gene, its dense panels
        free = torch.cuda.mem_get_info(device)[0]
        budget = min(budget, int(0.8 * free) - 4 * CHUNK_BYTES)
        if budget <= 0:
            raise InputError(f"correlation_graph: {device} has {free / 1e9:.1f} GB free, too little; use device='cpu'")
    return budget


def _hash_of(names: Iterable[str]) -> str:
    return hashlib.blake2b(json.dumps(list(names)).encode(), digest_size=16).hexdigest()


def _is_mutual(partners: np.ndarray) -> np.ndarray:
    """Whether the partner lists the gene as well: bool, of the shape of `partners` [G, top_k] (-1: none)."""
    n_genes, listed = len(partners), partners >= 0
    own = np.broadcast_to(np.arange(n_genes)[:, None], partners.shape)
    reverse = partners.astype(np.int64) * n_genes + own
    return listed & np.isin(own * n_genes + partners, reverse[listed])


def check_graph_output(path: str | Path, *, overwrite: bool) -> None:
    """Check the output of `GeneGraph.write` before the work begins."""
    if Path(path).suffix not in (".h5ad", ".zarr"):
        raise InputError(f"graph {str(path)!r}: the name must end in .h5ad or .zarr")
    check_output(path, overwrite=overwrite)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("corrmask", "torch", "numpy", "scipy", "anndata")}
