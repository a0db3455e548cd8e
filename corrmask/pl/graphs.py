"""Figures of the dependency graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.graph import GeneGraph
from corrmask.pl.style import ARM_COLOURS, GREY, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked
def degree(graph: GeneGraph, ax: Axes | None = None, *, n_hubs: int = 8) -> Axes:
    """How many genes are partners of how many others, with the names of the hubs."""
    ax = axes_of(ax)
    falling = np.sort(graph.in_degree())[::-1]
    falling = falling[falling > 0]
    ax.plot(falling, np.arange(1, len(falling) + 1), ".", color=ARM_COLOURS["corr"], markersize=4)
    hubs = [(name, partners) for name, partners in graph.hubs(n_hubs) if partners]
    if hubs:
        ax.plot([partners for _, partners in hubs], np.arange(1, len(hubs) + 1), "o", color=ARM_COLOURS["rewired"])
        text = "\n".join(["hubs, partner of", *(f"{partners:,}  {name}" for name, partners in hubs)])
        ax.text(0.04, 0.05, text, transform=ax.transAxes, va="bottom", fontsize=8, color=ARM_COLOURS["rewired"])
        ax.set(xscale="log", yscale="log", xlim=(0.8, falling[0] * 1.6), ylim=(0.7, len(falling) * 1.5))
    ax.set(xlabel="in-degree: partner of so many genes", ylabel="genes with that in-degree or more")
    ax.set_title(f"{graph.n_edges:,} edges; {len(falling):,} of {graph.n_genes:,} genes are partners", fontsize=10)
    return ax


@checked
def heatmap_modules(
    graph: GeneGraph,
    modules: Mapping[str, Sequence[str]],
    ax: Axes | None = None,
    *,
    n_modules: int = 12,
    n_genes: int = 25,
    min_genes: int = 5,
) -> Axes:
    """Correlations inside and between modules: their first genes, of the first that have enough; white is no edge.

    `modules` is gene names by module, as `corrmask.modules.find_modules` gives them.

    Raises
    ------
    InputError
        No module has `min_genes` genes in the graph.
    """
    position = {str(gene): i for i, gene in enumerate(graph.var_names)}
    chosen = {
        name: genes
        for name, members in list(modules.items())[:n_modules]
        if len(genes := [position[gene] for gene in members if gene in position][:n_genes]) >= min_genes
    }
    if not chosen:
        raise InputError(f"heatmap_modules: no module has {min_genes} genes in the graph; lower 'min_genes'")
    ax = axes_of(ax, (7, 6))
    order = np.concatenate(list(chosen.values()))
    directed = graph.to_scipy()[order][:, order].toarray()
    values = np.where(directed != 0, directed, directed.T)  # r is the same in both directions
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ends = np.cumsum([len(genes) for genes in chosen.values()])
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color=GREY, linewidth=0.6)
        ax.axvline(end - 0.5, color=GREY, linewidth=0.6)
    shown = (
        np.cumsum([len(genes) for genes in chosen.values()]) - np.array([len(genes) for genes in chosen.values()]) / 2
    )
    names = [f"{name}: {', '.join(str(graph.var_names[g]) for g in genes[:2])}" for name, genes in chosen.items()]
    ax.set_yticks(shown - 0.5, names, fontsize=8)
    ax.set_xticks([])
    ax.set_xlabel(f"up to {n_genes} genes of {len(chosen)} of {len(modules):,} modules")
    ax.figure.colorbar(image, ax=ax, fraction=0.046, label="correlation r of edges")
    return ax
