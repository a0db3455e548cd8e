"""The 700 blood cells that come with scanpy, tokenised, and their graph: what the examples start from, as the demo."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

from anndata import AnnData

import corrmask
from corrmask.corpus import Corpus
from corrmask.demo.cells import read_cells
from corrmask.demo.settings import DemoSettings
from corrmask.tokenization import tokenize


def make() -> tuple[AnnData, Corpus, corrmask.GeneGraph]:
    """Cells x genes, their corpus in a temporary folder, and their dependency graph."""
    adata, _ = read_cells(DemoSettings().resolve())
    adata = adata[::2].copy()  # every second one, so that an example takes seconds
    # Your own cells: adata = anndata.read_h5ad(...), with raw counts and without `normalized`.
    folder = Path(mkdtemp()) / "corpus"
    tokenize(adata, folder, max_len=64, normalized=True)
    return adata, Corpus.open(folder), corrmask.correlation_graph(adata, top_k=8, normalized=True)
