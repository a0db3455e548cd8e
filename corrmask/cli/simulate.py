"""`corrmask simulate`: cells with a known truth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrmask.cli import console
from corrmask.errors import InputError
from corrmask.files import check_output, replacing, store_contents, write_h5ad

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def simulate(
    output: Annotated[
        Path, typer.Option("-o", "--output", help=".h5ad, or .zarr: written as cells are drawn, in bounded memory.")
    ],
    cells: Annotated[int, typer.Option(help="Number of cells.")] = 5000,
    genes: Annotated[
        int | None, typer.Option(help="Number of genes (2000, or all of --like).", show_default=False)
    ] = None,
    types: Annotated[int, typer.Option(help="Number of cell types, the rare ones among them.")] = 8,
    rare: Annotated[int, typer.Option(help="How many types are rare: 1 % for one, else 2 % down to 0.5 %.")] = 2,
    rare_genes: Annotated[
        int | None,
        typer.Option(
            help="Each rare type is a common one but for so many genes (without it, as different as any other).",
            show_default=False,
        ),
    ] = None,
    modules: Annotated[int, typer.Option(help="Number of gene modules.")] = 40,
    module_size: Annotated[int, typer.Option(help="Genes in each module.")] = 20,
    strength: Annotated[float, typer.Option(help="sd of a module gene's log mean within a type, 0 to 3.")] = 0.8,
    markers: Annotated[int, typer.Option(help="Marker genes of each type.")] = 15,
    depth: Annotated[
        float | None,
        typer.Option(help="Median counts per cell (4000, or that of --like).", show_default=False),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Real cells (.h5ad, raw counts): gene names, means, dispersions and depth come from them."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same cells; more cells are added at the end.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Simulate raw counts with known gene modules and cell types, rare ones too.

    The truth is stored with the counts: types in obs, modules and markers in var, all settings in uns["simulation"].

    Example: [bold]corrmask simulate -o cells.h5ad --cells 5000 --genes 2000 --types 8 --rare 2 --modules 40[/bold]

    A million cells: [bold]corrmask simulate -o cells.zarr --cells 1000000 --genes 20000[/bold]

    With real means and depth: [bold]corrmask simulate -o cells.h5ad --like blood.h5ad[/bold]
    """
    if output.suffix not in (".h5ad", ".zarr"):
        raise InputError(f"output {str(output)!r} must end in .h5ad or .zarr")
    check_output(output, overwrite=overwrite, contents=store_contents(output), inputs=[like])

    import numpy as np

    from corrmask.simulation import simulate as draw
    from corrmask.simulation.writing import write_simulation

    start = time.perf_counter()
    parameters: dict[str, Any] = {
        "n_genes": genes,
        "n_types": types,
        "n_rare": rare,
        "n_modules": modules,
        "module_size": module_size,
        "strength": strength,
        "n_markers": markers,
        "rare_genes": rare_genes,
        "depth": depth,
        "like": like,
        "seed": seed,
    }
    with console.progress() as progress, replacing(output, overwrite=overwrite) as path:
        if output.suffix == ".zarr":
            adata, totals, nonzeros = write_simulation(path, cells, progress=progress, **parameters)
            seconds = time.perf_counter() - start
        else:
            adata = draw(cells, progress=progress, **parameters)
            seconds = time.perf_counter() - start
            totals = np.asarray(adata.X.sum(axis=1)).ravel()
            nonzeros = np.diff(adata.X.indptr)
            write_h5ad(adata, path)
    summary = _summary(adata, totals, nonzeros, output, seconds)
    if json:
        console.print_json(summary)
    else:
        _print(summary)


def _summary(adata: AnnData, totals: np.ndarray, nonzeros: np.ndarray, output: Path, seconds: float) -> dict[str, Any]:
    import numpy as np

    n_cells, n_genes = adata.shape
    per_type = adata.obs["cell_type"].value_counts(sort=False)
    return {
        "output": str(output),
        "cells": n_cells,
        "genes": n_genes,
        "nonzeros": int(nonzeros.sum()),
        "density": int(nonzeros.sum()) / (n_cells * n_genes),
        "median_counts_per_cell": float(np.median(totals)),
        "median_genes_per_cell": float(np.median(nonzeros)),
        "cells_without_counts": int((totals == 0).sum()),
        "modules": int(adata.var["module"].max()) + 1,
        "genes_in_modules": int((adata.var["module"] >= 0).sum()),
        "types": {str(name): int(n) for name, n in per_type.items()},
        "seed": int(adata.uns["simulation"]["seed"]),
        "seconds": seconds,
        "cells_per_second": n_cells / seconds,
    }


def _print(summary: dict[str, Any]) -> None:
    lines = [
        f"{summary['output']}: {summary['cells']:,} cells x {summary['genes']:,} genes, "
        f"{summary['nonzeros']:,} nonzeros ({summary['density']:.1%})",
        f"median {summary['median_counts_per_cell']:,.0f} counts in {summary['median_genes_per_cell']:,.0f} genes; "
        f"{summary['genes_in_modules']:,} genes in {summary['modules']} modules",
        "types: " + ", ".join(f"{name} {n:,} ({n / summary['cells']:.1%})" for name, n in summary["types"].items()),
        f"drawn in {summary['seconds']:.1f} s, {summary['cells_per_second']:,.0f} cells/s",
    ]
    if summary["cells_without_counts"]:
        lines.append(f"{summary['cells_without_counts']:,} cells have no counts at this depth")
    console.out.print("\n".join(lines), markup=False)
