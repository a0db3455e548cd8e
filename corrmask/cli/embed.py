"""`corrmask embed`: cells and genes as a trained model sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrmask.cli import console
from corrmask.errors import InputError
from corrmask.files import check_output, replacing, write_h5ad


def embed(
    model: Annotated[Path, typer.Argument(help="Model folder, written by `corrmask pretrain`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Cells, .h5ad: embeddings in obsm['X_corrmask'].")],
    corpus: Annotated[Path | None, typer.Option(help="Cells tokenised with the model's vocabulary; or")] = None,
    data: Annotated[
        Path | None, typer.Option(help="a file of counts (.h5ad, .zarr, 10x .h5, folder with matrix.mtx).")
    ] = None,
    genes: Annotated[Path | None, typer.Option(help="Genes, .h5ad: contextual means in X.")] = None,
    matrix: Annotated[str, typer.Option(help="Of --data: X, raw or layers/NAME.")] = "X",
    gene_column: Annotated[str | None, typer.Option(help="Of --data: column of var to name genes by.")] = None,
    gene_map: Annotated[
        Path | None, typer.Option(help="Of --data: table of gene symbols and Ensembl ids; symbols become ids.")
    ] = None,
    normalized: Annotated[
        bool, typer.Option("--normalized", help="Of --data: values are log1p-normalised, taken as they stand.")
    ] = False,
    layer: Annotated[int, typer.Option(help="Hidden layer: 0 is the input of the first, -1 the last.")] = -1,
    pooling: Annotated[str, typer.Option(help="mean: over the cell's gene tokens.")] = "mean",
    batch_size: Annotated[int, typer.Option(help="Cells at a time.")] = 32,
    max_len: Annotated[
        int | None, typer.Option(help="Most tokens of a cell. \\[default: the model's]", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Embed cells, and genes, with a trained model.

    A cell is the mean of a hidden layer over its gene tokens (zeros where it has none); a gene is the mean over all
    cells that hold it.

    Example: [bold]corrmask embed model --data cells.h5ad -o cells.embedded.h5ad --genes genes.h5ad[/bold]
    """
    for path in [output] if genes is None else [output, genes]:
        if path.suffix != ".h5ad":
            raise InputError(f"output {str(path)!r} must end in .h5ad")
        check_output(path, overwrite=overwrite, inputs=[corpus, model] if path == output else [corpus, model, data])
    if genes is not None and genes.resolve() == output.resolve():
        raise InputError(f"cells and genes would be written to one file, {str(output)!r}; choose another for --genes")

    from corrmask.embedding import SETTINGS_KEY
    from corrmask.embedding import embed as compute
    from corrmask.genes import Renaming

    with console.progress() as progress:
        found = compute(
            model,
            corpus=corpus,
            data=data,
            matrix=matrix,
            gene_column=gene_column,
            gene_map=gene_map,
            normalized=normalized,
            layer=layer,
            pooling=pooling,  # type: ignore[arg-type]  # checked there
            batch_size=batch_size,
            max_len=max_len,
            device=device,
            progress=progress,
        )
    with replacing(output, overwrite=overwrite) as path:
        write_h5ad(found.cells, path)
    if genes is not None:
        with replacing(genes, overwrite=overwrite) as path:
            write_h5ad(found.genes, path)
    n_empty = int((found.cells.obs["corrmask_n_tokens"] == 0).sum())
    summary = {
        "output": str(output),
        "genes_output": None if genes is None else str(genes),
        "cells": found.cells.n_obs,
        "cells_without_tokens": n_empty,
        "genes_seen": found.genes.n_obs,
        "dimensions": found.genes.n_vars,
    }
    if json:
        console.print_json(summary)
        return
    console.out.print(
        f"{output}: {summary['cells']:,} cells, {summary['dimensions']} dimensions in obsm['X_corrmask']"
        + ("" if genes is None else f"\n{genes}: {summary['genes_seen']:,} genes"),
        markup=False,
    )
    if renaming := found.cells.uns[SETTINGS_KEY]["renaming"]:
        console.note(f"--gene-map: {Renaming(**renaming)}")
    if n_empty:
        console.note(f"{n_empty:,} cells have no token of the model: their embeddings are zeros")
