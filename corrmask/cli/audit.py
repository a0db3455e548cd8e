"""`corrmask audit`: the masks of all arms on the same held-out cells."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from corrmask.cli import console
from corrmask.errors import InputError
from corrmask.files import Contents, check_output, replacing

if TYPE_CHECKING:
    from corrmask.audit import AuditReport
    from corrmask.gene_graph import GeneGraph

_FIGURES = ("degree", "leakage", "leakage_standardised", "mask_frequency", "group_sizes")
_CONTENTS = Contents(
    ("audit.json",), ("audit.json", *(f"{name}.{kind}" for name in _FIGURES for kind in ("png", "svg")))
)


def audit(
    corpus: Annotated[Path, typer.Option(help="The corpus folder.")],
    graph: Annotated[Path, typer.Option(help="The dependency graph, by which leakage is judged.")],
    arms: Annotated[str, typer.Option(help="Masks to look at.")] = "random,weighted,corr,levelled,module,rewired",
    rate: Annotated[float, typer.Option(help="Share of each cell's genes that is masked.")] = 0.15,
    expand: Annotated[float, typer.Option(help="Share of seeds that bring their group.")] = 1.0,
    max_group: Annotated[
        int | None, typer.Option(help="Most genes that a seed may bring (no limit).", show_default=False)
    ] = None,
    frequency_power: Annotated[
        float | None,
        typer.Option(help="As in pretrain, for weighted and levelled. \\[default: 1 and 0]", show_default=False),
    ] = None,
    max_len: Annotated[int, typer.Option(help="Most tokens of a cell.")] = 2048,
    held_out: Annotated[
        float, typer.Option(help="Share of cells held out, as in pretrain with the same --seed and --held-out.")
    ] = 0.05,
    cells: Annotated[int, typer.Option(help="Most held-out cells looked at.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Masks drawn for each cell.")] = 4,
    thresholds: Annotated[str, typer.Option(help="|r| from which a partner counts.")] = "0.1,0.3",
    min_cells: Annotated[int, typer.Option(help="Genes in fewer cells are left out of mask frequencies.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the split, the choice of cells and the masks.")] = 0,
    vocabulary: Annotated[
        Path | None, typer.Option(help="For a corpus without one: vocabulary.json or a token dictionary (.pkl, .json).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write: audit.json and plots (PNG, SVG).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document in place of tables.")] = False,
) -> None:
    """Look at masks before training on them: rate, 80/10/10, leakage, mask frequency of genes, groups.

    Leakage is the share of masked genes with a visible partner in the same cell: a gene that shares an edge of the
    graph with it. Masked positions are not visible, whatever they show.

    Example: [bold]corrmask audit --corpus corpus --graph graph.h5ad -o audit[/bold]
    """
    if output is not None:
        check_output(output, overwrite=overwrite, contents=_CONTENTS, inputs=[corpus, graph, vocabulary])
    levels = _numbers(thresholds)

    from corrmask.audit import audit as look
    from corrmask.corpus import Corpus
    from corrmask.gene_graph import GeneGraph
    from corrmask.geneformer import read_vocabulary

    dependency = GeneGraph.read(graph)
    with console.progress() as progress:
        report = look(
            Corpus.open(corpus, None if vocabulary is None else read_vocabulary(vocabulary)),
            dependency,
            arms=[arm.strip() for arm in arms.split(",") if arm.strip()],
            rate=rate,
            expand=expand,
            max_group=max_group,
            frequency_power=frequency_power,
            max_len=max_len,
            held_out=held_out,
            cells=cells,
            epochs=epochs,
            thresholds=levels,
            min_cells=min_cells,
            seed=seed,
            progress=progress,
        )
    document = report.to_dict()
    if output is not None:
        _write(report, dependency, document, output, overwrite)
    if json:
        console.print_json(document)
    else:
        _print(document)
        if output is not None:
            console.out.print(f"written: {output} (audit.json and plots)", markup=False)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--thresholds takes numbers between commas, such as 0.1,0.3, got {text!r}") from None


def _write(report: AuditReport, graph: GeneGraph, document: dict[str, Any], output: Path, overwrite: bool) -> None:
    from corrmask import pl

    figures = (
        pl.degree(graph),
        pl.leakage(document),
        pl.leakage(document, measure="standardised"),
        pl.mask_frequency(document),
        pl.group_sizes(document),
    )
    with replacing(output, overwrite=overwrite) as folder:
        folder.mkdir()
        (folder / "audit.json").write_text(json_format.dumps(document, indent=2, allow_nan=False) + "\n")
        for name, ax in zip(_FIGURES, figures, strict=True):
            for suffix in ("png", "svg"):
                pl.save(ax, folder / f"{name}.{suffix}")


def _print(document: dict[str, Any]) -> None:
    settings, cells, arms = document["settings"], document["cells"], document["arms"]
    masks = Table(
        title=f"{cells['audited']:,} of {cells['held_out']:,} held-out cells, {settings['epochs']} masks of each"
    )
    for heading in (
        "arm",
        "rate",
        "shown: mask/\ngene/same",
        "groups\nper cell",
        "genes per\ngroup",
        "alone",
        "cells/s",
    ):
        masks.add_column(heading, justify="left" if heading == "arm" else "right")
    leaks = Table(
        title="leakage: masked genes with a visible partner",
        caption="could: with any partner in the cell; alike: genes counted as often as they are present (standardised)",
    )
    leaks.add_column("arm")
    for threshold in settings["thresholds"]:
        for heading in (f"|r| ≥ {threshold:g}", "could", "alike"):
            leaks.add_column(heading, justify="right")
    for name, arm in arms.items():
        shown = "/".join(f"{100 * one['share']:.1f}" for one in arm["shown"].values())
        groups = arm["groups"]
        figures = [
            f"{groups['per_cell']['mean']:.1f}",
            f"{groups['size']['mean']:.1f}",
            _percent(groups["masked_alone"]),
        ]
        masks.add_row(name, f"{arm['rate']['realised']:.2%}", shown, *figures, f"{arm['cells_per_second']:,.0f}")
        keys = ("share", "partner_in_cell", "standardised")
        leaks.add_row(name, *(_percent(row[key]) for row in arm["leakage"] for key in keys))
    console.out.print(masks)
    console.out.print(leaks)
    first = next(iter(arms.values()))["mask_frequency"]
    by_gene = Table(
        title=f"mask frequency of {first['genes']:,} genes, each in {settings['min_cells']} cells or more",
        caption="half: the median; near: genes within a quarter of the rate",
    )
    for heading in ("arm", "5 %", "25 %", "half", "75 %", "95 %", "most", "near"):
        by_gene.add_column(heading, justify="left" if heading == "arm" else "right")
    for name, arm in arms.items():
        frequency = arm["mask_frequency"]
        quantiles = [_percent(frequency[key]) for key in ("q5", "q25", "q50", "q75", "q95", "max", "near_rate")]
        by_gene.add_row(name, *quantiles)
    if first["genes"]:
        console.out.print(by_gene)
        for name, arm in arms.items():
            most, least = (_names(arm["mask_frequency"][key]) for key in ("most_masked", "least_masked"))
            console.out.print(f"{name}: masked most {most}; least {least}", markup=False)
    else:
        console.note(
            f"no gene is in {settings['min_cells']} of the cells looked at: lower --min-cells, or raise --held-out or "
            "--cells to see how often genes are masked"
        )
    for name, arm in arms.items():
        if off := arm["rate"]["cells_off_budget"]:
            console.note(f"{name}: {off:,} cells miss the budget of masked genes")
    weakest = document["graph"]["weakest_edge"]
    if weakest > min(settings["thresholds"]) + 0.05:
        console.note(f"the weakest edge of the graph has |r| = {weakest:.2f}: what is weaker cannot count as leaking")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _names(rows: list[dict[str, Any]]) -> str:
    return ", ".join(row["gene"] for row in rows[:3])
