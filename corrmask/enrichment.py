"""Known gene sets among the groups of a graph: are genes that are masked together known to belong together?"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.rewiring import rewire


@dataclass(frozen=True)
class Enrichment:
    """Groups of genes tested against gene sets.

    Attributes
    ----------
    table
        A row for each pair of a group and a set that share genes, smallest p first: ``group``, ``set``, ``shared``,
        ``group_genes``, ``set_genes``, ``fold`` (shared genes over those expected), ``p``, ``q``.
    n_groups, n_tests, background
        Groups of two genes or more, tests made (groups x sets), and genes that any of both could hold.
    """

    table: pd.DataFrame
    n_groups: int
    n_tests: int
    background: int

    def enriched(self, q: float = 0.05) -> float:
        """Share of the groups with a set of at most this q."""
        return self.table.loc[self.table["q"] <= q, "group"].nunique() / self.n_groups


@checked
def read_gene_sets(path: str | Path, gene_column: str | None = None) -> dict[str, list[str]]:
    """Gene sets of a ``.gmt`` (name, description, genes; by tab) or of a table with a header, set and gene a line.

    Parameters
    ----------
    path
        The file; a table may be ``.csv``, anything else is taken as separated by tabs; ``.gz`` is unpacked.
    gene_column
        Column of the table with the genes, where it is not the second; the first names the set.

    Raises
    ------
    InputError
        The file is missing, of another form, or holds no sets.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"gene sets {str(path)!r} do not exist; give a .gmt, or a table of set and gene")
    sets: dict[str, list[str]] = {}
    try:
        zipped = path.suffix.lower() == ".gz"
        kind = Path(path.stem if zipped else path.name).suffix.lower()
        if kind == ".gmt":
            packed = path.read_bytes()
            text = (gzip.decompress(packed) if zipped else packed).decode("utf-8-sig")
            # Not str.splitlines, which cuts at form feeds and the like inside a description as well.
            for number, line in enumerate(io.StringIO(text, newline=None), start=1):
                name, *genes = (part.strip() for part in line.split("\t"))
                if not name and not any(genes):
                    continue
                if not name or not genes or name in sets:
                    raise ValueError(f"line {number}: {f'set {name!r} stands twice' if name in sets else 'no set'}")
                sets[name] = list(dict.fromkeys(filter(None, genes[1:])))
        else:
            table = pd.read_csv(path, sep="," if kind == ".csv" else "\t", dtype=str)
            if gene_column is not None and gene_column not in table.columns[1:]:
                raise ValueError(f"there is no column {gene_column!r} of genes among {', '.join(table.columns)}")
            if table.shape[1] < 2:
                raise ValueError("it has one column")
            table = table[[table.columns[0], gene_column or table.columns[1]]].dropna()
            table = table.apply(lambda column: column.str.strip())
            for name, genes in table.groupby(table.columns[0], sort=False):
                sets[str(name)] = list(dict.fromkeys(genes.iloc[:, 1]))
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"gene sets {str(path)!r} cannot be read ({' '.join(str(error).split())}); give a .gmt, or a table with a "
            "header whose first columns are set and gene"
        ) from error
    if not any(sets.values()):
        raise InputError(f"gene sets {str(path)!r} hold no genes; give a .gmt, or a table of set and gene")
    return sets


@checked
def neighbourhoods(graph: GeneGraph) -> dict[str, list[str]]:
    """Each gene with its partners: what one seed masks."""
    groups = {}
    for gene, (start, stop) in enumerate(zip(graph.indptr[:-1], graph.indptr[1:], strict=True)):
        if stop > start:
            groups[str(graph.var_names[gene])] = [str(graph.var_names[g]) for g in (gene, *graph.indices[start:stop])]
    return groups


@checked
def enrich(
    groups: Mapping[str, Collection[str]],
    gene_sets: Mapping[str, Collection[str]],
    background: Collection[str],
    *,
    min_genes: int = 5,
) -> Enrichment:
    """Test every group against every set: hypergeometric, one-sided, Benjamini-Hochberg over all tests. Exact.

    Parameters
    ----------
    groups, gene_sets
        Gene names; those outside the background are left out.
    background
        Genes that a group could hold, such as those of the graph that have partners; each counts once.
    min_genes
        Sets with fewer genes in the background are left out.

    Raises
    ------
    InputError
        No group of two genes, or no set of `min_genes`, is in the background.

    References
    ----------
    Benjamini, Hochberg. Controlling the false discovery rate. J R Stat Soc B, 1995.
    """
    from scipy.stats import hypergeom

    listed = map(str, sorted(background) if isinstance(background, Set) else background)
    position = {gene: i for i, gene in enumerate(dict.fromkeys(listed))}
    in_groups = _members(groups, position, 2)
    in_sets = _members(gene_sets, position, min_genes)
    if not in_groups or not in_sets:
        raise InputError(
            f"enrich: of {len(groups):,} groups and {len(gene_sets):,} sets, {len(in_groups):,} and {len(in_sets):,} "
            f"have enough genes among the {len(position):,} of the background; give sets with the same kind of names"
        )
    shared = sp.coo_array(_matrix(in_groups, len(position)) @ _matrix(in_sets, len(position)).T)
    of_group = np.array([len(genes) for genes in in_groups.values()])[shared.row]
    of_set = np.array([len(genes) for genes in in_sets.values()])[shared.col]
    p = hypergeom.sf(shared.data - 1, len(position), of_set, of_group)
    order = np.lexsort((shared.col, shared.row, p))
    # Pairs that share no gene have p = 1 and come last: they count among the tests, and change no other q.
    n_tests = len(in_groups) * len(in_sets)
    stepped = p[order] * n_tests / np.arange(1, len(p) + 1)
    q = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1)
    table = pd.DataFrame(
        {
            "group": np.array(list(in_groups), dtype=object)[shared.row[order]],
            "set": np.array(list(in_sets), dtype=object)[shared.col[order]],
            "shared": shared.data[order],
            "group_genes": of_group[order],
            "set_genes": of_set[order],
            "fold": (shared.data * len(position) / (of_group * of_set))[order],
            "p": p[order],
            "q": q,
        }
    )
    return Enrichment(table, len(in_groups), n_tests, len(position))


@checked
def enrich_graph(
    graph: GeneGraph, gene_sets: Mapping[str, Sequence[str]], *, by: str = "neighbourhoods", seed: int = 0
) -> tuple[Enrichment, Enrichment]:
    """The groups of a graph tested against gene sets, and as null those of the rewired graph.

    Rewiring keeps how many partners each gene has and of how many it is one, so that what both share is owed to hubs.
    The background is the genes with an edge.

    Parameters
    ----------
    graph
        Dependency graph.
    gene_sets
        Gene names of each set.
    by
        "neighbourhoods" (a gene and its partners) or "modules" (Leiden).
    seed
        Of the rewiring and the modules.

    Raises
    ------
    InputError
        As `enrich`; another `by`; or the graph has no edges.
    """
    from corrmask.modules import find_modules

    if by not in ("neighbourhoods", "modules"):
        raise InputError(f"enrich: 'by' must be 'neighbourhoods' or 'modules', got {by!r}")
    if graph.n_edges == 0:
        raise InputError("enrich: the graph has no edges; build it with a lower --min-corr or from more cells")
    with_edges = (np.diff(graph.indptr) > 0) | (graph.in_degree() > 0)
    background = [str(gene) for gene in graph.var_names[with_edges]]
    real, null = (
        enrich(neighbourhoods(one) if by == "neighbourhoods" else find_modules(one, seed=seed), gene_sets, background)
        for one in (graph, rewire(graph, seed))
    )
    return real, null


def _members(groups: Mapping[str, Collection[str]], position: Mapping[str, int], least: int) -> dict[str, np.ndarray]:
    """Positions of the genes of each group that has enough of them."""
    named = {name: [str(gene) for gene in genes] for name, genes in groups.items()}
    found = {name: np.unique([position[gene] for gene in genes if gene in position]) for name, genes in named.items()}
    return {name: genes for name, genes in found.items() if len(genes) >= least}


def _matrix(groups: Mapping[str, np.ndarray], n_genes: int) -> sp.csr_array:
    """Groups x genes, 1 where a gene is in a group: int64."""
    indptr = np.cumsum([0, *(len(genes) for genes in groups.values())])
    indices = np.concatenate(list(groups.values()))
    return sp.csr_array((np.ones(len(indices), dtype=np.int64), indices, indptr), shape=(len(groups), n_genes))
