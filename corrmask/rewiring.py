"""The dependency graph without its biology: as many partners of each gene, as many genes to each hub, at random."""

from __future__ import annotations

import numpy as np

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.graph import GeneGraph

_ROUNDS = 30  # every round offers each edge one swap; most are accepted, so 30 leave no memory of the start


@checked
def rewire(graph: GeneGraph, seed: int = 0) -> GeneGraph:
    """Shuffle the partners of a graph, keeping the number of partners and the in-degree of every gene.

    Directed double-edge swaps (Maslov and Sneppen, Science 2002): two edges exchange their partners where neither
    becomes a loop nor stands already. Each edge keeps its place and its weight, so that group sizes and the order of
    strengths are those of the real graph. A graph in which every edge is mutual does not stay so.

    Parameters
    ----------
    graph
        Any graph.
    seed
        Of the shuffle; the same graph and seed give the same result.

    Returns
    -------
    GeneGraph
        ``provenance["rewired"]`` holds the seed.
    """
    if seed < 0:
        raise InputError(f"rewire: 'seed' must be 0 or more, got {seed}")
    rng = np.random.default_rng([seed, 0x5EED])
    owner = np.repeat(np.arange(graph.n_genes, dtype=np.int64), np.diff(graph.indptr))
    partner = graph.indices.astype(np.int64)
    n_pairs = len(partner) // 2
    for _ in range(_ROUNDS):
        order = rng.permutation(len(partner))
        a, b = order[:n_pairs], order[n_pairs : 2 * n_pairs]
        new_a = owner[a] * graph.n_genes + partner[b]
        new_b = owner[b] * graph.n_genes + partner[a]
        standing = np.sort(owner * graph.n_genes + partner)
        proposed, counts = np.unique(np.concatenate([new_a, new_b]), return_counts=True)
        contested = np.union1d(proposed[counts > 1], standing)
        fits = (owner[a] != partner[b]) & (owner[b] != partner[a])
        fits &= ~np.isin(new_a, contested) & ~np.isin(new_b, contested)
        a, b = a[fits], b[fits]
        partner[a], partner[b] = partner[b], partner[a]
    return GeneGraph(
        graph.indptr, partner.astype(np.int32), graph.weights, graph.var_names, {**graph.provenance, "rewired": seed}
    )
