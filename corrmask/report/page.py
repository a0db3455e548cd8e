"""The page: plain values in, one HTML document out. Nothing in it is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.report import figures, summary
from corrmask.report.summary import NOTHING


@dataclass(frozen=True, eq=False)
class Content:
    """All that the page shows; text is taken as text, whatever it holds.

    Attributes
    ----------
    title
        Of the page.
    steps
        What was done, a sentence each.
    graph, modules
        The dependency graph and its modules (none: no heat map).
    corpus
        Figures of the cells, name -> value.
    audit
        ``AuditReport.to_dict()``, of all arms that were audited.
    curves
        Arm -> rows with ``step`` and ``validation_loss``.
    annotation
        ``AnnotationReport.to_dict()``.
    genes
        ``GenesReport.to_dict()``, or None where no genes are labelled.
    projections, method, labels
        Arm -> float [n, 2]; "UMAP" or "PCA"; label of each of the n cells, None where it has none.
    limits
        What the run does not show, a sentence each.
    settings, environment, hashes
        Name -> value.
    seconds
        Stage -> seconds.
    command
        What repeats the run.
    """

    title: str
    steps: Sequence[str]
    graph: GeneGraph
    modules: Mapping[str, Sequence[str]]
    corpus: Mapping[str, Any]
    audit: Mapping[str, Any]
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    annotation: Mapping[str, Any]
    genes: Mapping[str, Any] | None
    projections: Mapping[str, np.ndarray]
    method: str
    labels: Sequence[Any]
    limits: Sequence[str]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    hashes: Mapping[str, str]
    seconds: Mapping[str, float]
    command: str
    n_hubs: int = field(default=10)


def render_page(content: Content) -> str:
    """Render the page.

    Raises
    ------
    InputError
        jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise InputError("the page needs jinja2: pip install 'corrmask[eval]'") from None
    drawn = {
        **figures.of_graph(content.graph, content.modules),
        **figures.of_audit(content.audit),
        **figures.of_training(content.curves),
        **figures.of_annotation(content.annotation),
    }
    projected = figures.of_projection(content.projections, content.labels, content.method)
    environment = Environment(
        loader=PackageLoader("corrmask", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": summary.show, "percent": _percent, "number": _number, "value": _value}
    # The SVG is matplotlib's own, which escapes the text that it draws; all else goes through autoescape.
    environment.filters["svg"] = lambda figure: Markup(figure.svg)
    return environment.get_template("page.html").render(
        content=content,
        figures=drawn,
        projected=projected,
        findings=summary.findings(content.audit, content.annotation),
        scores=_scores(content.annotation),
        types=_types(content.annotation),
        levels=content.annotation["levels"],
        hubs=content.graph.hubs(content.n_hubs),
        thresholds=content.audit["settings"]["thresholds"],
    )


def _scores(annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per representation: logistic regression, and macro-F1 by nearest neighbours beside it."""
    neighbours = summary.overall(annotation, summary.KNN)
    return [
        {
            "name": name,
            "kind": score["kind"],
            "accuracy": score["accuracy"],
            "macro_f1": score["macro_f1"],
            "rare_macro_f1": score["rare_macro_f1"],
            "knn": neighbours[name]["macro_f1"] if name in neighbours else None,
        }
        for name, score in summary.overall(annotation).items()
    ]


def _types(annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per type, the rarest first, with the F1 of every representation; no type is left out."""
    scores = summary.overall(annotation)
    first = next(iter(scores.values()))
    f1 = {name: {one["type"]: one["f1"] for one in score["types"]} for name, score in scores.items()}
    rows = sorted(first["types"], key=lambda one: (one["n_cells"], one["type"]))
    return [{**one, "f1": {name: f1[name][one["type"]] for name in scores}} for one in rows]


def _percent(share: float | None, digits: int = 1) -> str:
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def _number(value: float | int | None, digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def _value(value: Any) -> str:
    """A setting as text."""
    if value is None:
        return NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_value(one)}" for name, one in value.items()) or NOTHING
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value)) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
