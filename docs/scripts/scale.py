"""The tables of docs/scale.md: 100 million cells on 8 nodes, worked out from what was measured on one small machine.

Each input has its conditions beside it. What follows from inputs by counting alone is "counted"; what takes it for
granted that more cores, nodes or devices do as much each is "extrapolated".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from corrmask.training.utilisation import operations, published_tflops

CELLS, EPOCHS, GENES = 100_000_000, 3, 20_000
NODES, DEVICES, NODE_CORES = 8, 8, 64  # devices of a node; cores are virtual ones, as those that were measured
BATCH = 32  # cells of an update on each device
LENGTH, RATE = 1480, 0.15  # mean tokens of a cell, at most 2,048; share that is masked
NETWORK = 400e9 / 8  # bytes/s of a node

MACHINE = "2 virtual cores of an AMD EPYC (Zen 4), others at work beside"


@dataclass(frozen=True)
class Measured:
    """A number and how it came about."""

    value: float
    unit: str
    conditions: str


RAW = Measured(3740, "bytes a cell", "simulated counts, 1,935 nonzeros a cell, zarr v3 with zstd, 100,000 cells")
CORPUS = Measured(3007, "bytes a cell", "1,492 uint16 tokens a cell, no columns of obs, 200,000 cells")
TOKENISE = Measured(34_800, "cells/s", "a million of such cells, medians given, 2 cores, nothing beside, 0.8 GB")
GRAPH = Measured(2200, "cells/s", "that zarr, 20,000 genes, 2 cores, load 1 to 2, 2.9 GB (5,170 on two quiet ones)")
SUMS = Measured(1.6e9, "bytes", "float64 sums of 20,000 genes, half of the square")
LOAD = Measured(13.6e-6, "core seconds a cell", "batches of 64 from the page cache, groups masked, all of the process")
ROWS = Measured(24, "bytes a cell", "peak of a process: lengths, split and rows; 20 million cells")
SHARE = Measured(0.083, "of the published bf16 peak", "one H200, 10 M parameters, 48 cells of 1,527 tokens an update")

INPUTS = {
    "counts on disk": RAW,
    "corpus on disk": CORPUS,
    "tokenise": TOKENISE,
    "graph": GRAPH,
    "its sums": SUMS,
    "loader": LOAD,
    "rows in memory": ROWS,
    "training": SHARE,
}

# Name, then layers, dimensions, feed-forward. The second is Geneformer's shape of 104 M parameters.
MODELS = {"10 M": (6, 256, 512), "104 M": (12, 768, 3072)}


def parameters(layers: int, hidden: int, intermediate: int, vocabulary: int, positions: int) -> int:
    """Of `corrmask.model.build_model`."""
    embeddings = (vocabulary + positions + 1) * hidden + 2 * hidden
    layer = 4 * (hidden**2 + hidden) + 2 * hidden * intermediate + intermediate + hidden + 4 * hidden
    return embeddings + layers * layer + hidden**2 + hidden + 2 * hidden + vocabulary


def work(layers: int, hidden: int, intermediate: int, vocabulary: int, length: float) -> float:
    """Floating-point operations of an update, a cell."""
    config: Any = SimpleNamespace(
        num_hidden_layers=layers, hidden_size=hidden, intermediate_size=intermediate, vocab_size=vocabulary
    )
    return operations(config, length, length**2, RATE * length)


def ring(size: float, members: int) -> float:
    """Bytes that each member sends, and receives, to sum `size` bytes over all."""
    return 2 * size * (members - 1) / members


def hours(seconds: float) -> str:
    """For people: minutes below two hours."""
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def rows() -> Iterator[tuple[str, str, str, str]]:
    """What, how much, how it was worked out, and what kind of number it is."""
    yield "counts, zarr", f"{CELLS * RAW.value / 1e9:,.0f} GB", "on disk", "counted"
    yield "corpus", f"{CELLS * CORPUS.value / 1e9:,.0f} GB", "on disk, seen by all nodes", "counted"
    for name, rate in (("tokenise", TOKENISE), ("graph", GRAPH)):
        yield f"{name}, 2 cores", hours(CELLS / rate.value), f"{CELLS:,} / {rate.value:,.0f} cells/s", "counted"
        yield f"{name}, 2 cores on each node", hours(CELLS / rate.value / NODES), f"/ {NODES}", "extrapolated"
    yield (
        "sums of the graph over the network",
        f"{ring(SUMS.value, NODES) / 1e9:.1f} GB a node, {ring(SUMS.value, NODES) / NETWORK:.2f} s",
        f"once, 2 (n - 1) / n of {SUMS.value / 1e9} GB at {8 * NETWORK / 1e9:.0f} Gbit/s",
        "extrapolated",
    )
    memory = CELLS * ROWS.value
    yield "memory for rows", f"{memory / 1e9:.1f} GB a process, {DEVICES * memory / 1e9:.0f} a node", "peak", "counted"


def training() -> Iterator[tuple[str, ...]]:
    """A line for each model."""
    peak, devices = published_tflops("H200", "bf16"), NODES * DEVICES
    assert peak is not None
    for name, (layers, hidden, intermediate) in MODELS.items():
        size = parameters(layers, hidden, intermediate, GENES + 4, 2048)
        cell = work(layers, hidden, intermediate, GENES + 4, LENGTH)
        speed = devices * SHARE.value * 1e12 * peak / cell
        update = BATCH * devices / speed
        sent = ring(4 * size, NODES)  # within a node devices sum among themselves first
        yield (
            name,
            f"{size / 1e6:.1f} M",
            f"{cell / 1e9:,.0f} G",
            f"{speed / NODES:,.0f}",
            hours(EPOCHS * CELLS / speed),
            f"{LOAD.value * speed / NODES:.2f}",
            f"{CORPUS.value * speed / NODES / 1e6:,.0f} MB/s",
            f"{sent / 1e6:,.0f} MB, {sent / update / NETWORK:.1%}",
            f"{16 * size / 1e9:.2f} GB, {16 * size / devices / 1e9:.3f} GB",
        )


def table(head: tuple[str, ...], lines: Iterator[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *lines)) + "\n"


def page() -> str:
    """What the page includes."""
    measured = ((name, f"{one.value:,.4g} {one.unit}", one.conditions) for name, one in INPUTS.items())
    head = ("model", "parameters", "operations a cell", "cells/s a node", f"{EPOCHS} epochs", "cores a node for masks")
    head += (
        "read a node",
        "gradients a node sends an update, share of its network",
        "weights and moments: DDP, sharded",
    )
    return (
        f"## What was measured\n\nOn {MACHINE}, but for the last line:\n\n"
        + table(("what", "value", "conditions"), measured)
        + f"\n## Cells, corpus and graph\n\n{CELLS:,} cells x {GENES:,} genes on {NODES} nodes:\n\n"
        + table(("what", "value", "how", "kind"), rows())
        + f"\n## Training\n\nOn {NODES} x {DEVICES} H200, {BATCH} cells of {LENGTH:,} tokens a device and update, at "
        f"{SHARE.value:.1%} of the published bf16 peak, which one of them reached with the smaller model (larger ones "
        "keep a device busier). All of it is extrapolated:\n\n" + table(head, training())
    )


def write(path: Path) -> None:
    """Write it, where it differs: Sphinx reads again what is new."""
    if not path.exists() or path.read_text() != page():
        path.write_text(page())


if __name__ == "__main__":
    print(page())
