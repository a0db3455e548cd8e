"""Counts -> the gene dependency graph: for each gene the partners with which its expression correlates most."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from corrmask.accumulation import accumulate, check_levels, check_order
from corrmask.arguments import checked
from corrmask.covariance import Covariance, no_edges
from corrmask.devices import choose_device
from corrmask.distributed import ALONE, Ranks
from corrmask.errors import InputError, InputWarning
from corrmask.gene_graph import GeneGraph
from corrmask.genes import name_by_id, united_genes
from corrmask.memory import memory_budget
from corrmask.ops.covariance_update import panels_size, panels_within
from corrmask.parts import kept_part
from corrmask.progress import Progress, silent
from corrmask.sources import check_resumable, open_sources
from corrmask.vocabulary import Vocabulary

if TYPE_CHECKING:
    pass


CHUNK_BYTES = 1_000_000_000  # what the cells at hand take beside the products


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
        Counts per cell after normalisation, from 1e-6 to 1e12.
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
        Folder for the sums of what has been read, so that a run that is killed or interrupted can be taken up: a new or
        empty one, made here and removed at the end. It takes as much space as the products, twice while it is written.
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
    device = choose_device(device or "cpu")
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
    if not checkpoint_seconds >= 0:
        raise InputError(f"correlation_graph: 'checkpoint_seconds' must be 0 or more, got {checkpoint_seconds}")
    if not 1e-6 <= target_sum <= 1e12:  # far beyond, products in float32 underflow and the bound does not hold
        raise InputError(f"correlation_graph: 'target_sum' must be from 1e-6 to 1e12, such as 1e4, got {target_sum}")
    sources = ranks.together(
        lambda: open_sources(data, matrix=matrix, gene_column=gene_column, normalized=normalized, device=device)
    )
    renaming = name_by_id(sources, gene_map, prefer=() if vocabulary is None else vocabulary.genes)
    genes = united_genes(sources)
    if isinstance(within, str):
        check_levels(sources, within)
    elif isinstance(within, pd.Series):
        check_order(sources, within)
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
    resumable = all(source.resumable for source in sources)
    with (
        nullcontext()
        if checkpoint is None
        else kept_part(Path(checkpoint), identity, resume=resume, resumable=resumable) as part
    ):
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
    budget = memory_budget(memory, "correlation_graph") - CHUNK_BYTES
    if budget <= 0 and memory is None:
        free = memory_budget(None, "correlation_graph") / 1e9
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


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("corrmask", "torch", "numpy", "scipy", "anndata")}
