"""`corrmask bench`: our kernels beside their peers on this machine."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from corrmask.cli import console
from corrmask.files import Contents, check_output, replacing

_CONTENTS = Contents(("masking.json",), ("masking.json", "masking.png", "masking.svg"))
_WIDTH = 130  # of the table where it is written to a file

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@app.callback()
def bench(
    context: typer.Context,
    seconds: Annotated[float, typer.Option(help="About how long to run; larger sizes follow as it allows.")] = 60.0,
    threads: Annotated[
        int | None, typer.Option(help="Threads (by default one, and all that torch uses).", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the JSON document to this file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document in place of the table.")] = False,
) -> None:
    """Time the kernels beside the peers that are installed (`pip install "corrmask\\[bench]"`), each result checked.

    Medians of runs in turns. The roof is the time that memory (as fast as it copies) or arithmetic (as fast as a
    float32 product) needs at least; both are measured first.

    Example: [bold]corrmask bench --seconds 60 -o bench.json[/bold]
    """
    if context.invoked_subcommand is not None:
        return
    if output is not None:
        check_output(output, overwrite=overwrite)

    from corrmask.bench import run

    with console.progress() as progress:
        document = run(seconds, threads, progress=progress)
    if output is not None:
        with replacing(output, overwrite=overwrite) as path:
            path.write_text(json_format.dumps(document, indent=2, allow_nan=False) + "\n")
    if json:
        console.print_json(document)
    else:
        _print(document)


@app.command()
def masking(
    collator: Annotated[
        str | None, typer.Argument(help="Yours, as module:attribute: takes examples, returns input_ids and labels.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="About how long to time.")] = 20.0,
    cells: Annotated[int, typer.Option(help="Cells of a batch.")] = 64,
    max_len: Annotated[int, typer.Option(help="Most tokens of a cell.")] = 2048,
    step_cells_per_second: Annotated[
        float | None, typer.Option(help="At which your model trains, for masking's share of a step.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write: masking.json and a plot (PNG, SVG).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document in place of the table.")] = False,
) -> None:
    """Compare a collator of yours with ours and transformers': speed, exactness, whether masks can be replayed.

    Example: [bold]corrmask bench masking my_code.collators:collator --step-cells-per-second 840[/bold]
    """
    if output is not None:
        check_output(output, overwrite=overwrite, contents=_CONTENTS)

    from corrmask.bench.collators import bench_collators, load_collator

    yours = None if collator is None else load_collator(collator)
    with console.progress() as progress:
        document = bench_collators(
            yours,
            name=collator or "",
            seconds=seconds,
            n_cells=cells,
            max_len=max_len,
            step_cells_per_second=step_cells_per_second,
            progress=progress,
        )
    if output is not None:
        from corrmask import pl

        with replacing(output, overwrite=overwrite) as folder:
            folder.mkdir()
            (folder / "masking.json").write_text(json_format.dumps(document, indent=2, allow_nan=False) + "\n")
            for suffix in ("png", "svg"):
                pl.save(pl.collator_speed(document), folder / f"masking.{suffix}")
    if json:
        console.print_json(document)
    else:
        _print_collators(document)


def _print_collators(document: dict[str, Any]) -> None:
    rows = sorted(document["rows"], key=lambda row: -row["cells_per_second"])
    table = Table(
        title=f"{document['cells']} cells, {document['tokens']:,} tokens",
        box=box.SIMPLE_HEAD,
        caption="off budget: cells in which not round(n * rate) of n genes are masked",
    )
    table.add_column("")
    for row in rows:
        table.add_column(row["name"], justify="right", overflow="fold")
    measures: dict[str, Callable[[dict[str, Any]], str]] = {
        "cells/s": lambda row: f"{row['cells_per_second']:,.0f}",
        "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
        "share of a step": lambda row: "-" if row["step_share"] is None else f"{row['step_share']:.1%}",
        "rate": lambda row: f"{row['rate']['realised']:.2%}",
        "off budget": lambda row: f"{row['rate']['cells_off_budget']:.0%}",
        "shown: mask/gene/same": lambda row: "/".join(
            f"{100 * row['shown'][name]:.1f}" for name in ("mask_token", "another_gene", "unchanged")
        ),
        "standard errors off 80/10/10": lambda row: f"{row['shown']['worst_standard_errors']:.1f}",
        "wrong labels or tokens": lambda row: f"{row['labels_wrong'] + row['special_masked']:,}",
        "same masks again": lambda row: "yes" if row["replayable"] else "no",
        "same masks in other batches": lambda row: "yes" if row["batch_independent"] else "no",
        "other masks in other epochs": lambda row: "yes" if row["epochs_differ"] else "no",
    }
    for name, tell in measures.items():
        table.add_row(name, *map(tell, rows))
    console.out.print(table)
    fastest = rows[0]["name"]
    if not fastest.startswith("corrmask"):
        console.out.print(f"{fastest} is the fastest", markup=False)


def _print(document: dict[str, Any]) -> None:
    machine = document["machine"]
    cache = ", ".join(f"{name} {_bytes(size)}" for name, size in machine["caches"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction_set']}; {cache or 'caches unknown'}; "
        f"{machine['memory_bytes'] / 1e9:.0f} GB of memory; {machine['system']}"
    ]
    for n, speed in document["speed"].items():
        lines.append(
            f"{n} thread{'s' * (n != '1')}: copies {speed['copy_bytes_per_second'] / 1e9:.0f} GB/s, "
            f"float32 product {speed['sgemm_flops'] / 1e9:.0f} GFLOP/s"
        )
    lines.append(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    console.out.print("\n".join(lines), markup=False)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="cells x tokens, or cells x genes (nonzeros of a cell); ratio: time of the best peer over ours; "
        "*: written for this benchmark after what is published or usual",
        caption_justify="left",
    )
    for heading in ("kernel", "size", "dtype"):
        table.add_column(heading, no_wrap=heading == "kernel")
    for heading in ("threads", "median", "cells/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("best peer")
    for heading in ("ratio", "of the roof"):
        table.add_column(heading, justify="right")
    for row in document["rows"]:
        roof = row["roofline"]
        table.add_row(
            *(row["kernel"], row["size"], row["dtype"], str(row["threads"])),
            _seconds(row["median_seconds"]),
            f"{row['cells_per_second']:,.0f}",
            _best(row),
            "-" if row["ratio"] is None else f"{row['ratio']:.1f}",
            f"{roof['share']:.0%} {roof['bound']}",
        )
    console.out.print(table, width=None if console.out.is_terminal else _WIDTH)
    for row in document["rows"]:
        if row["ratio"] is not None and row["ratio"] < 1:
            console.out.print(
                f"{row['best_peer']} is faster than {row['kernel']} at {row['size']} on {row['threads']} "
                f"thread{'s' * (row['threads'] != 1)}: {1 / row['ratio']:.1f} times",
                markup=False,
            )
    for name, reason in document["missing"].items():
        console.note(f"without {name} ({reason}); pip install 'corrmask[bench]' brings the peers")
    for row in document["rows"]:
        if row["left_out"]:
            console.note(f"no time at {row['size']} ({row['threads']} threads) for: {', '.join(row['left_out'])}")


def _best(row: dict[str, Any]) -> str:
    return "-" if not row["peers"] else row["best_peer"] + "*" * row["peers"][0]["restated"]


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _bytes(size: int) -> str:
    return f"{size >> 20} MB" if size >= 2**20 else f"{size >> 10} kB"
