"""Gene modules: communities of the dependency graph."""

from __future__ import annotations

import random

import numpy as np

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph


@checked
def find_modules(graph: GeneGraph, *, resolution: float = 1.0, seed: int = 0) -> dict[str, list[str]]:
    """Communities of genes by Leiden (Traag, Waltman, van Eck, Sci Rep 2019) on |r|, both directions taken together.

    Parameters
    ----------
    graph
        Dependency graph; genes without edges are in no module.
    resolution
        Of the modularity; larger gives smaller modules.
    seed
        Of the algorithm; the same graph and seed give the same modules.

    Returns
    -------
    dict
        Gene names of each module of two genes or more, largest module first; within a module by descending sum of |r|
        to its other genes.

    Raises
    ------
    InputError
        The graph has no edges, or igraph is not installed.
    """
    try:
        import igraph
    except ImportError:
        raise InputError("modules need igraph: pip install 'corrmask[train]'") from None
    if graph.n_edges == 0:
        raise InputError("modules: the graph has no edges; build it with a lower --min-corr or from more cells")
    if not 0 < resolution < np.inf:
        raise InputError(f"modules: 'resolution' must be positive and finite, got {resolution}")
    if seed < 0:
        raise InputError(f"modules: 'seed' must be 0 or more, got {seed}")
    strength = abs(graph.to_scipy())
    symmetric = strength.maximum(strength.T).tocoo()
    once = symmetric.row < symmetric.col
    edges = np.column_stack([symmetric.row[once], symmetric.col[once]])
    weights = symmetric.data[once].astype(np.float64)
    igraph.set_random_number_generator(random.Random(seed))
    try:
        membership = np.array(
            igraph.Graph(n=graph.n_genes, edges=edges)
            .community_leiden(objective_function="modularity", weights=weights, resolution=resolution, n_iterations=-1)
            .membership
        )
    finally:
        igraph.set_random_number_generator(random)
    inside = membership[symmetric.row] == membership[symmetric.col]
    within = np.bincount(symmetric.row[inside], weights=symmetric.data[inside], minlength=graph.n_genes)
    sizes = np.bincount(membership)
    modules: dict[str, list[str]] = {}
    for community in np.argsort(-sizes, kind="stable"):
        if sizes[community] < 2:
            break
        genes = np.flatnonzero(membership == community)
        genes = genes[np.argsort(-within[genes], kind="stable")]
        modules[f"module {len(modules) + 1}"] = [str(gene) for gene in graph.var_names[genes]]
    return modules
