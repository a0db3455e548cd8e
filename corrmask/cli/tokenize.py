"""`corrmask tokenize`: from counts to a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrmask.cli import console


def tokenize(
    files: Annotated[
        list[str],
        typer.Argument(help=".h5ad, .zarr, 10x .h5, SOMA experiment, folder with matrix.mtx, or a pattern in quotes."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The corpus folder to write.")],
    obs: Annotated[list[str] | None, typer.Option(help="A column of obs to carry along (may be repeated).")] = None,
    max_len: Annotated[int, typer.Option(help="Most tokens of a cell.")] = 2048,
    tokens: Annotated[
        Path | None, typer.Option(help="Token dictionary to use: Geneformer's .pkl, .json, or a vocabulary.json.")
    ] = None,
    medians: Annotated[
        Path | None,
        typer.Option(help="Median dictionary for --tokens (.pkl or .json); without it medians come from these cells."),
    ] = None,
    gene_map: Annotated[
        Path | None, typer.Option(help="Table (TSV, CSV) of gene symbols and Ensembl ids; symbols become ids.")
    ] = None,
    gene_column: Annotated[str | None, typer.Option(help="Column of var to name genes by (10x: id or name).")] = None,
    matrix: Annotated[str, typer.Option(help="X, raw or layers/NAME.")] = "X",
    normalized: Annotated[
        bool,
        typer.Option(
            "--normalized",
            help="Values are log1p-normalised: taken as natural log1p of counts scaled alike in all cells.",
        ),
    ] = False,
    memory: Annotated[str, typer.Option(help="For exact medians; beyond it a sketch with error 1e-3.")] = "2GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run of the same command ended.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Tokenise cells: genes by descending count / median, as Geneformer does. Of several files the genes are united.

    Example: [bold]corrmask tokenize cells.h5ad -o corpus --obs cell_type --obs donor[/bold]

    With Geneformer's tokens: [bold]corrmask tokenize cells.h5ad -o corpus --tokens token_dictionary.pkl
    --medians gene_median_dictionary.pkl --gene-map genes.tsv[/bold]

    After an interruption: [bold]corrmask tokenize cells.h5ad -o corpus --obs cell_type --obs donor --resume[/bold]
    """
    from corrmask.errors import InputError
    from corrmask.files import check_apart
    from corrmask.geneformer import read_vocabulary
    from corrmask.tokenization import tokenize as write_corpus

    check_apart(output, [tokens, medians])
    if medians is not None and tokens is None:
        raise InputError("--medians needs --tokens, the dictionary that its genes belong to")
    vocabulary = None
    if tokens is not None:
        vocabulary = read_vocabulary(tokens, medians)
    if normalized:
        console.note_normalized()
    with console.progress() as progress:
        report = write_corpus(
            files,
            output,
            vocabulary=vocabulary,
            obs=obs or (),
            max_len=max_len,
            gene_map=gene_map,
            matrix=matrix,
            gene_column=gene_column,
            normalized=normalized,
            memory=memory,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
    if json:
        console.print_json({"output": str(output), **report.to_dict()})
        return
    console.out.print(
        f"{output}: {report.n_cells:,} cells, {report.n_tokens:,} tokens ({report.token_dtype}), "
        f"{report.n_genes_with_token:,} of {report.n_genes_in_files:,} genes have a token, medians {report.medians}, "
        f"{report.cells_per_second:,.0f} cells/s"
    )
    if report.renaming is not None:
        console.note(f"--gene-map: {report.renaming}")
    if report.n_genes_in_all_files < report.n_genes_in_files:
        console.note(
            f"the files share {report.n_genes_in_all_files:,} genes; tokens are of all {report.n_genes_in_files:,}"
        )
    if report.n_empty_cells:
        console.note(f"{report.n_empty_cells:,} cells have no tokens; they are kept: rows stay those of the files")
    if report.n_truncated_cells:
        console.note(f"{report.n_truncated_cells:,} cells were cut to {max_len:,} tokens (--max-len)")
