"""`corrmask demo`: everything in order, and a page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrmask.cli import console


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for all outputs and the page.")] = Path("demo"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Cells: .h5ad, .zarr, 10x .h5, folder with matrix.mtx; without it 700 blood cells of scanpy's."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(metavar="OBS", help="Column of obs with the cell types.")] = None,
    unlabelled: Annotated[str | None, typer.Option(metavar="VALUE", help="A label that is no type.")] = None,
    within: Annotated[
        str | None, typer.Option(metavar="OBS", help="Correlate, split and score inside each level.")
    ] = None,
    matrix: Annotated[str, typer.Option(help="X, raw or layers/NAME.")] = "X",
    gene_column: Annotated[str | None, typer.Option(help="Column of var to name genes by (10x: id or name).")] = None,
    normalized: Annotated[
        bool, typer.Option("--normalized", help="Values are log1p-normalised already and taken as they stand.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(metavar="TSV", help="Table of genes of two classes, which embeddings are asked for.")
    ] = None,
    positive: Annotated[str, typer.Option(help="The class of --labels that a high score should mean.")] = "sensitive",
    thin: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=FRACTION", help="Evaluate with a type kept at this share; may be repeated."),
    ] = None,
    arms: Annotated[
        str, typer.Option(help="Masks to train with, by comma: random, weighted, corr, levelled, module, rewired.")
    ] = "random,corr,weighted,rewired",
    steps: Annotated[
        int | None, typer.Option(help="Updates of each model (300; with --data 600).", show_default=False)
    ] = None,
    layers: Annotated[int, typer.Option(help="Layers of each model.")] = 2,
    hidden: Annotated[int, typer.Option(help="Dimensions of each model.")] = 64,
    heads: Annotated[int, typer.Option(help="Attention heads of each layer.")] = 4,
    max_len: Annotated[int, typer.Option(help="Genes of a cell that a model reads, the highest ranks first.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Cells of an update.")] = 32,
    lr: Annotated[float, typer.Option(help="Largest learning rate.")] = 3e-3,
    rate: Annotated[float, typer.Option(help="Share of each cell's genes that is masked.")] = 0.15,
    top_k: Annotated[int, typer.Option(help="Most partners of a gene.")] = 16,
    min_corr: Annotated[float, typer.Option(help="Least |r| of an edge.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="all cores")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where there is a demo already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Tokenise, build the graph, look at the masks, train a model with each, and score them beside baselines: one page.

    Run again with the same settings, it goes on after the last stage that was finished.

    Example: [bold]corrmask demo[/bold]

    Own cells: [bold]corrmask demo --data cells.h5ad --label cell_type --within donor -o demo[/bold]
    """
    from corrmask.cli.evaluate import _fractions
    from corrmask.demo import DemoSettings, run_demo

    settings = DemoSettings(
        data=None if data is None else str(data),
        label=label,
        unlabelled=unlabelled,
        within=within,
        matrix=matrix,
        normalized=normalized,
        gene_column=gene_column,
        gene_labels=None if labels is None else str(labels),
        positive=positive,
        thin=_fractions(thin or []),
        arms=tuple(arm.strip() for arm in arms.split(",") if arm.strip()),
        steps=steps,
        layers=layers,
        hidden=hidden,
        heads=heads,
        max_len=max_len,
        batch_size=batch_size,
        lr=lr,
        rate=rate,
        top_k=top_k,
        min_corr=min_corr,
        seed=seed,
        threads=threads,
    )
    with console.progress() as progress:
        result = run_demo(output, settings, overwrite=overwrite, progress=progress, note=console.note)
    if json:
        console.print_json(result)
        return
    for sentence in result["findings"]:
        console.out.print(f"- {sentence}", markup=False)
    took = sum(seconds for stage, seconds in result["seconds"].items() if stage not in result["resumed"])
    kept = f"; {len(result['resumed'])} stages were there already" if result["resumed"] else ""
    console.out.print(f"{result['page']} ({took:.0f} s{kept})", markup=False)
