"""Simulated cells, tokenised, and their graph: what the examples start from. Yours come from your own files."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

from anndata import AnnData

import corrmask
from corrmask.corpus import Corpus
from corrmask.simulation import simulate
from corrmask.tokenization import tokenize


def make(n_cells: int = 320) -> tuple[AnnData, Corpus, corrmask.GeneGraph]:
    """Cells with known gene modules, their corpus in a temporary folder, and their dependency graph."""
    adata = simulate(n_cells, n_types=2, n_rare=0, n_modules=6, n_genes=200, depth=600)
    folder = Path(mkdtemp()) / "corpus"
    tokenize(adata, folder, max_len=64)
    return adata, Corpus.open(folder), corrmask.correlation_graph(adata, top_k=8)
