"""The figures of the page: drawn by `corrmask.pl`, embedded as SVG that needs nothing from outside."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from corrmask import pl
from corrmask.gene_graph import GeneGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Figure(NamedTuple):
    """An SVG element, what it shows in words, and its caption."""

    svg: str
    alt: str
    caption: str


def draw(make: Callable[[], Axes], name: str, alt: str, caption: str) -> Figure:
    """Draw one figure.

    Parameters
    ----------
    make
        Draws and returns the axes.
    name
        Prefix of all ids inside, so that several figures share a page.
    alt, caption
        Plain text.
    """
    import matplotlib

    buffer = io.BytesIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "savefig.transparent": True}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has fonts of its own
        ax = make()
        figure: Any = ax.figure
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None})
    return Figure(_inline(buffer.getvalue().decode(), name, alt), alt, caption)


def _inline(document: str, name: str, alt: str) -> str:
    """The svg element alone: without prolog, metadata, styles that would reach the page, or ids that would clash."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<=[\s"])id="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) ', head)
    assert box is not None
    head = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head)
    label = alt.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    width = round(float(box[1]) * 4 / 3)  # points to CSS pixels
    return f'{head} role="img" aria-label="{label}" style="max-width: {width}px">{rest}'


def _unmathed(text: Any) -> Any:
    """What matplotlib draws as `text`: dollar signs of a name are no formula."""
    return text.replace("$", r"\$") if isinstance(text, str) else text


def of_graph(graph: GeneGraph, modules: Mapping[str, Sequence[str]]) -> dict[str, Figure]:
    """In-degrees with hubs, and correlations within modules where there are any."""
    hubs = ", ".join(f"{gene} ({n:,})" for gene, n in graph.hubs(3))
    graph = replace(graph, var_names=np.array([_unmathed(str(name)) for name in graph.var_names], dtype=object))
    modules = {name: [_unmathed(gene) for gene in genes] for name, genes in modules.items()}
    found = {
        "degree": draw(
            lambda: pl.degree(graph),
            "degree",
            f"In-degrees of the genes of the graph; the largest hubs are {hubs}",
            "How many genes are among the partners of how many others. Both axes are logarithmic.",
        )
    }
    if modules:
        found["modules"] = draw(
            lambda: pl.heatmap_modules(graph, modules),
            "modules",
            f"Heat map of the correlations within and between the largest of {len(modules)} gene modules",
            "Edges within and between the largest modules (Leiden on |r|); each is named by its strongest genes.",
        )
    return found


def of_audit(audit: Mapping[str, Any]) -> dict[str, Figure]:
    """Leakage, mask frequency and group sizes of all arms."""
    leaks = ", ".join(f"{arm} {one['leakage'][0]['share']:.1%}" for arm, one in audit["arms"].items())
    return {
        "leakage": draw(
            lambda: pl.leakage(audit),
            "leakage",
            f"Leakage of each arm at the lower threshold: {leaks}",
            "Share of masked genes that have a visible partner in the same cell.",
        ),
        "mask_frequency": draw(
            lambda: pl.mask_frequency(audit),
            "mask-frequency",
            "How often genes are masked, by arm",
            "How unevenly genes are masked: the further to the right, the more often.",
        ),
        "group_sizes": draw(
            lambda: pl.group_sizes(audit),
            "group-sizes",
            "Sizes of the groups in which genes are masked, by arm",
            "How many genes one seed takes along in a cell.",
        ),
    }


def of_training(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Figure]:
    """Validation loss against steps."""
    last = ", ".join(f"{arm} {rows[-1]['validation_loss']:.3f}" for arm, rows in curves.items() if rows)
    return {
        "loss_curves": draw(
            lambda: pl.loss_curves(curves),
            "loss-curves",
            f"Validation loss of each arm against training steps, at the end: {last}",
            "Loss on the same randomly masked held-out cells for every arm, so that arms compare.",
        )
    }


def of_annotation(annotation: Mapping[str, Any]) -> dict[str, Figure]:
    """F1 of each type against its abundance."""
    types = {one["type"] for score in annotation["scores"] for one in score["types"]}
    scores = [
        {**score, "types": [{**one, "type": _unmathed(one["type"])} for one in score["types"]]}
        for score in annotation["scores"]
    ]
    return {
        "f1_by_abundance": draw(
            lambda: pl.f1_by_abundance({**annotation, "scores": scores}),
            "f1-by-abundance",
            f"F1 of each of {len(types)} cell types against its abundance, by representation",
            "Logistic regression; bars are 95 % intervals over the tested cells; baselines are hollow.",
        )
    }


def of_projection(projections: Mapping[str, np.ndarray], labels: Sequence[Any], method: str) -> dict[str, Figure]:
    """Cells in two dimensions, a figure per arm."""

    def make(arm: str) -> Axes:
        ax = pl.embedding(projections[arm], [_unmathed(label) for label in labels], axis=method)
        ax.set_title(arm, fontsize=11, color=pl.arm_colour(arm))
        return ax

    return {
        arm: draw(
            lambda arm=arm: make(arm),  # type: ignore[misc]
            "projection-" + re.sub(r"\W", "-", arm),
            f"{method} of the cells embedded by the model that was trained with {arm} masks, coloured by label",
            f"{arm}: {method} of the cell embeddings.",
        )
        for arm in projections
    }
