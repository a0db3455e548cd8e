"""`corrmask enrich`: known gene sets among the groups of a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from corrmask.cli import console


def enrich(
    graph: Annotated[Path, typer.Argument(help="A dependency graph, written by `corrmask graph`.")],
    gene_sets: Annotated[Path, typer.Option(help="A .gmt, or a table (.tsv, .csv) of set and gene with a header.")],
    gene_column: Annotated[
        str | None, typer.Option(help="Column of the table with the genes (the second).", show_default=False)
    ] = None,
    by: Annotated[str, typer.Option(help="neighbourhoods (a gene and its partners) or modules.")] = "neighbourhoods",
    top: Annotated[int, typer.Option(help="Pairs of group and set to list, smallest p first.")] = 15,
    seed: Annotated[int, typer.Option(help="Of the rewiring and the modules.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document in place of the table.")] = False,
) -> None:
    """Ask which gene sets the groups of a graph hold, beside a rewired graph with the same hubs and group sizes.

    Hypergeometric tests, with Benjamini and Hochberg's correction over all of them, among the genes that have edges.

    Example: [bold]corrmask enrich graph.h5ad --gene-sets hallmark.gmt --by modules[/bold]
    """
    from corrmask.enrichment import enrich_graph, read_gene_sets
    from corrmask.graph import GeneGraph

    sets = read_gene_sets(gene_sets, gene_column)
    real, null = enrich_graph(GeneGraph.read(graph), sets, by=by, seed=seed)
    found = real.table.head(top)
    if json:
        document = {
            "kind": "enrichment",
            "by": by,
            "seed": seed,
            "sets": len(sets),
            "background_genes": real.background,
            "enriched_share": {"graph": real.enriched(), "rewired": null.enriched()},
            "groups": {"graph": real.n_groups, "rewired": null.n_groups},
            "tests": {"graph": real.n_tests, "rewired": null.n_tests},
            "pairs": [{str(name): value for name, value in row.items()} for row in found.to_dict("records")],
        }
        console.print_json(document)
        return
    table = Table(caption="fold: shared genes over those expected; q: Benjamini and Hochberg over all pairs")
    for heading in ("group", "set", "shared", "fold", "p", "q"):
        table.add_column(heading, justify="left" if heading in ("group", "set") else "right")
    for row in found.itertuples():
        shared = f"{row.shared} of {row.group_genes} and {row.set_genes}"
        table.add_row(
            escape(str(row.group)), escape(str(row.set)), shared, f"{row.fold:.1f}", f"{row.p:.1e}", f"{row.q:.1e}"
        )
    console.out.print(table)
    console.out.print(
        f"groups with a set at q of 0.05 or less: {real.enriched():.1%} of {real.n_groups:,}; in the rewired graph "
        f"{null.enriched():.1%} of {null.n_groups:,}",
        markup=False,
    )
