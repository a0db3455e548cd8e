"""`corrmask graph`: from counts to the gene dependency graph."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Annotated

import typer

from corrmask.cli import console


def graph(
    files: Annotated[
        list[str],
        typer.Argument(help=".h5ad, .zarr, 10x .h5, SOMA experiment, folder with matrix.mtx, or a pattern in quotes."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The graph to write, .h5ad or .zarr.")],
    within: Annotated[
        str | None, typer.Option(help="Column of obs: correlate within its levels (data sets, donors, types).")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Most partners of a gene.")] = 16,
    min_corr: Annotated[float, typer.Option(help="Least |r| of an edge.")] = 0.1,
    min_cells: Annotated[int, typer.Option(help="Genes in fewer cells get no edges.")] = 10,
    mutual: Annotated[bool, typer.Option("--mutual", help="Keep edges that both ends list.")] = False,
    sign: Annotated[str, typer.Option(help="absolute or positive.")] = "absolute",
    target_sum: Annotated[float, typer.Option(help="Counts per cell after normalisation.")] = 1e4,
    gene_map: Annotated[
        Path | None, typer.Option(help="Table (TSV, CSV) of gene symbols and Ensembl ids; symbols become ids.")
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Of a symbol with several ids take the one in this vocabulary: a corpus, vocabulary.json or token "
            "dictionary (.pkl, .json)."
        ),
    ] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var to name genes by (10x: id or name).")] = None,
    matrix: Annotated[str, typer.Option(help="X, raw or layers/NAME.")] = "X",
    normalized: Annotated[
        bool, typer.Option("--normalized", help="Values are log1p-normalised already and taken as they stand.")
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Budget such as 4GB; more genes than fit take passes over the cells. \\[default: 4/5 of what is free]",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run of the same command ended.")
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="How often what --resume needs is written, beside the output.")
    ] = 120,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build the dependency graph: each gene's partners by Pearson correlation of log1p-normalised counts.

    Of several files the genes are united. Each pair of genes is correlated over the cells of the files that measured
    both, and those alone: means, variances and --min-cells are of these cells; what a file did not measure is no zero.

    Example: [bold]corrmask graph cells.h5ad -o graph.h5ad --within donor --top-k 16 --min-corr 0.1[/bold]

    After an interruption: [bold]corrmask graph cells.h5ad -o graph.h5ad --within donor --resume[/bold]

    By several processes, which keep nothing for --resume:
    [bold]torchrun --nproc-per-node 2 --no-python corrmask graph cells.zarr -o graph.h5ad[/bold]
    """
    import torch

    from corrmask.distributed import joined
    from corrmask.errors import InputError
    from corrmask.files import explaining
    from corrmask.gene_graph import check_graph_output
    from corrmask.geneformer import read_vocabulary
    from corrmask.genes import Renaming
    from corrmask.graph import correlation_graph
    from corrmask.parts import part_folder

    if vocabulary is not None and gene_map is None:
        raise InputError("--vocabulary chooses among the ids of --gene-map; give both or neither")
    if normalized:
        console.note_normalized()
    started = time.perf_counter()
    with joined(torch.device("cpu")) as ranks, console.progress() as progress, explaining(output, part_folder(output)):
        ranks.first(lambda: check_graph_output(output, overwrite=overwrite, inputs=[*files, gene_map, vocabulary]))
        if resume and ranks.world > 1:
            raise InputError(f"--resume: {ranks.world} processes keep nothing to go on from; leave it out, or use one")
        result = correlation_graph(
            files,
            top_k=top_k,
            min_corr=min_corr,
            min_cells=min_cells,
            within=within,
            sign=sign,  # type: ignore[arg-type]  # checked there
            mutual=mutual,
            target_sum=target_sum,
            gene_map=gene_map,
            vocabulary=None if vocabulary is None else read_vocabulary(vocabulary),
            matrix=matrix,
            gene_column=gene_column,
            normalized=normalized,
            memory=memory,
            checkpoint=part_folder(output) if ranks.world == 1 else None,
            checkpoint_seconds=checkpoint_seconds,
            resume=resume,
            ranks=ranks,
            progress=progress,
        )
        seconds = time.perf_counter() - started
        ranks.first(lambda: result.write(output, overwrite=overwrite))
    degree = result.in_degree()
    report = {
        "output": str(output),
        "n_cells": result.provenance["n_cells"],
        "n_empty_cells": result.provenance["n_empty_cells"],
        "n_genes_in_all_files": result.provenance["n_genes_in_all_files"],
        "n_gene_sets": result.provenance["n_gene_sets"],
        "renaming": result.provenance["renaming"] or None,
        "n_genes": result.n_genes,
        "n_edges": result.n_edges,
        "n_genes_with_partners": int((result.indptr[1:] > result.indptr[:-1]).sum()),
        "hubs": [{"gene": gene, "partner_of": count} for gene, count in result.hubs(10) if count],
        "median_partner_of": float(sorted(degree)[len(degree) // 2]),
        "cells_per_second": result.provenance["n_cells"] / seconds,
        "passes": result.provenance["passes"],
        "accumulator_gb": result.provenance["accumulator_bytes"] / 1e9,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    if json:
        console.print_json(report)
        return
    console.out.print(
        f"{output}: {report['n_edges']:,} edges among {report['n_genes']:,} genes "
        f"({report['n_genes_with_partners']:,} with partners) from {report['n_cells']:,} cells"
    )
    if report["hubs"]:
        console.out.print("hubs: " + ", ".join(f"{hub['gene']} ({hub['partner_of']:,})" for hub in report["hubs"]))
    console.out.print(
        f"{report['cells_per_second']:,.0f} cells/s; accumulators {report['accumulator_gb']:.2f} GB, "
        f"peak memory {report['peak_memory_gb']:.2f} GB"
    )
    if renaming := report["renaming"]:
        console.note(f"--gene-map: {Renaming(**renaming)}")
    if report["n_gene_sets"] > 1:
        console.note(
            f"the files measured {report['n_gene_sets']} different sets of genes and share "
            f"{report['n_genes_in_all_files']:,}: each pair is correlated over the cells that measured both"
        )
    if report["n_empty_cells"]:
        console.note(f"{report['n_empty_cells']:,} cells have no counts; they are counted as cells with zeros")
    if not result.n_edges:
        console.note(
            f"the graph has no edges: no two genes in {min_cells} cells or more (--min-cells) have |r| >= {min_corr} "
            "(--min-corr)" + (f" within the levels of {within!r} (--within)" if within else "")
        )
