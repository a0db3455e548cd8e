"""Beside scanpy: the graph in `adata.varp`, modules in `adata.var`, plots on your own axes, known gene sets."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import cells
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

import corrmask
from corrmask.enrichment import enrich, enrich_graph
from corrmask.modules import find_modules


def main() -> AnnData:
    """Cells with the graph and the modules of their genes."""
    adata, _, graph = cells.make()
    graph.to_anndata(adata)  # varp["correlation"], aligned by gene names
    graph = corrmask.GeneGraph.from_anndata(adata)  # and back, from any AnnData that holds one

    modules = find_modules(graph)
    adata.var["community"] = pd.Series({gene: name for name, genes in modules.items() for gene in genes})

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    corrmask.pl.degree(graph, ax=left)
    corrmask.pl.heatmap_modules(graph, modules, ax=right, min_genes=3)
    corrmask.pl.save(left, Path(mkdtemp()) / "graph.png")

    # Gene sets by name; `corrmask.enrichment.read_gene_sets` reads a .gmt or a table.
    known = {
        "MHC class II": [gene for gene in graph.var_names if gene.startswith("HLA-D")] + ["CD74"],
        "cytotoxicity": ["NKG7", "GNLY", "PRF1", "GZMA", "GZMB", "GZMH", "GZMM", "CTSW", "CST7", "FGFBP2", "KLRB1"],
        "T cell receptor": ["CD3D", "CD3E", "CD3G", "CD247", "LCK", "ZAP70", "CD8A", "CD8B", "CD27"],
        "phagocytes": ["LYZ", "CST3", "S100A8", "S100A9", "TYROBP", "FCER1G", "AIF1", "FCN1", "CTSS", "LST1"],
    }
    real, rewired = enrich_graph(graph, known, by="modules")
    print(f"modules that hold a known set: {real.enriched():.0%}; of the rewired graph {rewired.enriched():.0%}")
    print(enrich(modules, known, list(graph.var_names)).table.head())
    return adata


if __name__ == "__main__":
    main()
