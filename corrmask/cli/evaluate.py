"""`corrmask evaluate`: frozen embeddings scored beside baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from corrmask.cli import console
from corrmask.errors import InputError
from corrmask.files import check_output, replacing

if TYPE_CHECKING:
    from corrmask.evaluation.bootstrap import Interval

app = typer.Typer(no_args_is_help=True, help="Score frozen embeddings beside baselines, on the same splits.")

Seed = Annotated[int, typer.Option(min=0, help="Decides on splits, thinning, components and resamples.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples for the 95 % intervals; 0: none.")]
Matrix = Annotated[str, typer.Option(help="Where the counts are: X, raw or layers/NAME.")]
Normalized = Annotated[bool, typer.Option("--normalized", help="The counts are log1p-normalised already.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document in place of tables.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Also write the JSON document here.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]


@app.command(
    epilog="Example: corrmask evaluate annotation random=a.h5ad corr=b.h5ad --label cell_type --counts cells.h5ad "
    "--unlabelled unlabelled --within dataset -o results.json"
)
def annotation(
    files: Annotated[
        list[str], typer.Argument(metavar="[NAME=]EMBEDDED.h5ad...", help="Embedded cells; the same in each.")
    ],
    label: Annotated[str, typer.Option(help="Column of obs with the types.")],
    key: Annotated[str, typer.Option(help="Where the embeddings are in obsm.")] = "X_corrmask",
    counts: Annotated[
        Path | None, typer.Option(help="Counts of these cells, for the baselines; without: those of the first file.")
    ] = None,
    matrix: Matrix = "X",
    normalized: Normalized = False,
    holdout: Annotated[
        str | None, typer.Option(metavar="OBS=LEVEL", help="Test this level, train on all others.")
    ] = None,
    unlabelled: Annotated[str | None, typer.Option(metavar="VALUE", help="A label that is no type: left out.")] = None,
    within: Annotated[str | None, typer.Option(metavar="OBS", help="Split and score inside each level.")] = None,
    thin: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=FRACTION", help="Keep a type at this share of the labelled cells; may be repeated."),
    ] = None,
    test_fraction: Annotated[float, typer.Option(help="Share of each type that is tested.")] = 0.5,
    folds: Annotated[int | None, typer.Option(help="Stratified folds in place of a single split.")] = None,
    repeats: Annotated[int, typer.Option(help="How often the split is drawn; scores are averaged.")] = 1,
    rare_below: Annotated[
        float, typer.Option(help="Types with a smaller share of the cells are scored apart too.")
    ] = 0.05,
    penalty_c: Annotated[
        float,
        typer.Option(help="C of the logistic regression (inverse strength of l2); baselines may gain by 10 or 100."),
    ] = 1.0,
    seed: Seed = 0,
    bootstrap: Bootstrap = 1000,
    as_json: AsJson = False,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict cell types from frozen embeddings; PCA of log-counts and HVG + logistic regression always beside."""
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=[*_unnamed(files), counts])
    column, level = _pair(holdout, "--holdout", "OBS=LEVEL") if holdout is not None else (None, None)
    fractions = _fractions(thin or [])

    from corrmask.evaluation.annotation import evaluate_annotation
    from corrmask.evaluation.inputs import named_paths, read_annotation

    paths = named_paths(files)
    inputs = read_annotation(
        paths,
        label=label,
        key=key,
        counts=counts,
        matrix=matrix,
        normalized=normalized,
        within=within,
        holdout=column,
    )
    with console.progress() as progress:
        report = evaluate_annotation(
            inputs.embeddings,
            inputs.labels,
            counts=inputs.counts,
            normalized=normalized,
            within=inputs.within,
            holdout=inputs.holdout,
            holdout_level=level,
            unlabelled=unlabelled,
            thin=fractions,
            test_fraction=test_fraction,
            folds=folds,
            repeats=repeats,
            rare_below=rare_below,
            seed=seed,
            n_resamples=bootstrap,
            c=penalty_c,
            progress=progress,
        )
    report.settings |= {
        "label": label,
        "key": key,
        "within": within,
        "holdout": None if column is None else {"obs": column, "level": level},
        "files": {name: path.name for name, path in paths.items()},
        "counts": {"file": (counts or next(iter(paths.values()))).name, "matrix": matrix},
    }
    result = report.to_dict()
    _write(result, output, overwrite)
    if as_json:
        console.print_json(result)
        return
    by_level = Table(title=f"{escape(label)}: {report.cells['used']:,} cells, mean [95 % interval]")
    for heading in (["level"] if within else []) + [
        "representation",
        "classifier",
        "accuracy",
        "macro-F1",
        "rare macro-F1",
    ]:
        by_level.add_column(heading, no_wrap=heading == "representation")
    for row in report.table():
        cells = [escape(row["representation"]), row["classifier"].replace("_", " ")]
        cells += [_show(row[one]) for one in ("accuracy", "macro_f1", "rare_macro_f1")]
        by_level.add_row(*([escape(row["level"] or "mean")] if within else []), *cells)
    console.out.print(by_level)
    types = report.type_table()
    by_type = Table(title="F1 per type, logistic regression, the rarest first")
    for heading in ["type", "share", "train", "test", *map(escape, types[0]["f1"])]:
        by_type.add_column(heading)
    for row in types:
        share = f"{row['fraction']:.2%}" + (" (rare)" if row["rare"] else "")
        numbers = [f"{row['n_train']:,}", f"{row['n_test']:,}"]
        by_type.add_row(escape(row["type"]), share, *numbers, *(_show(one) for one in row["f1"].values()))
    console.out.print(by_type)
    for done in report.thinned:
        where = f" in {done['level']}" if done["level"] else ""
        console.note(
            f"thinned {done['type']}{where}: {done['before']:,} -> {done['after']:,} cells ({done['fraction']:.2%})"
        )
    for one in report.levels:
        if one.reason:
            console.note(f"no score for {one.name}: {one.reason} ({one.n_cells:,} cells)")
    if left_out := report.cells["unlabelled"]:
        console.note(f"left out without label: {left_out:,} cells")
    _note_convergence(sum(score.not_converged for score in report.scores if score.level is None))


@app.command(
    epilog="Example: corrmask evaluate genes random=a.genes.h5ad corr=b.genes.h5ad --labels dosage_sensitive_tfs.tsv "
    "--positive sensitive"
)
def genes(
    files: Annotated[list[str], typer.Argument(metavar="[NAME=]GENES.h5ad...", help="Gene embeddings: genes in obs.")],
    labels: Annotated[Path, typer.Option(help="Table of labelled genes, tab-separated (.csv: commas).")],
    label_column: Annotated[str, typer.Option(help="Its column with the two classes.")] = "label",
    gene_column: Annotated[
        str | None, typer.Option(help="Its column with the genes; without: the one that names most of them.")
    ] = None,
    positive: Annotated[str, typer.Option(help="The class that a high score should mean.")] = "sensitive",
    expression: Annotated[
        Path | None,
        typer.Option(
            help="Expression levels or counts, for the baseline; without: obs['mean_expression'] of the first file."
        ),
    ] = None,
    matrix: Matrix = "X",
    normalized: Normalized = False,
    folds: Annotated[int, typer.Option(help="Stratified folds over genes.")] = 5,
    repeats: Annotated[int, typer.Option(help="How often the folds are drawn.")] = 5,
    penalty_c: Annotated[float, typer.Option(help="C of the logistic regression (inverse strength of l2).")] = 0.1,
    seed: Seed = 0,
    bootstrap: Bootstrap = 1000,
    as_json: AsJson = False,
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Tell two classes of genes apart by their embeddings: 5 x 5-fold AUROC, with expression level alone beside."""
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=[*_unnamed(files), labels, expression])

    from corrmask.evaluation.gene_labels import evaluate_genes
    from corrmask.evaluation.inputs import named_paths, read_genes

    paths = named_paths(files)
    inputs = read_genes(
        paths,
        labels,
        label_column=label_column,
        gene_column=gene_column,
        expression=expression,
        matrix=matrix,
        normalized=normalized,
    )
    with console.progress() as progress:
        report = evaluate_genes(
            inputs.embeddings,
            inputs.labels,
            expression=inputs.expression,
            expression_features=inputs.expression_features,
            positive=positive,
            missed=inputs.missed,
            ambiguous=inputs.ambiguous,
            folds=folds,
            repeats=repeats,
            seed=seed,
            n_resamples=bootstrap,
            c=penalty_c,
            progress=progress,
        )
    report.settings |= {
        "files": {name: path.name for name, path in paths.items()},
        "labels": labels.name,
        "label_column": label_column,
        "gene_column": inputs.column,
        "expression": None if expression is None else expression.name,
    }
    result = report.to_dict()
    _write(result, output, overwrite)
    if as_json:
        console.print_json(result)
        return
    found, missed = report.genes["found"], report.genes["missed"]
    table = Table(
        title=f"AUROC of {escape(repr(positive))}, {repeats} x {folds} folds over genes, mean [95 % interval]"
    )
    for heading in ("representation", "features", "AUROC", "sd over folds", "sd over repeats"):
        table.add_column(heading, no_wrap=heading == "representation")
    for row in report.table():
        spread = "" if row["sd_repeats"] is None else f"{row['sd_repeats']:.3f}"
        table.add_row(
            escape(row["representation"]), str(row["n_features"]), _show(row["auroc"]), f"{row['sd_folds']:.3f}", spread
        )
    console.out.print(table)
    for name, number in found.items():
        console.note(f"{name}: {number} genes found, {len(missed.get(name, []))} missed")
    if report.genes["ambiguous"]:
        console.note(f"left out, labelled both ways: {', '.join(report.genes['ambiguous'])}")
    _note_convergence(sum(score.not_converged for score in report.scores))


def _unnamed(files: list[str]) -> list[str]:
    """``[NAME=]FILE`` read in either way, for `check_output`, to which a file that is not there does not matter."""
    return [*files, *(one.partition("=")[2] for one in files)]


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    """Split at the last '=': names may hold one, values and fractions do not."""
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise InputError(f"{option} takes {form}, got {text!r}")
    return name, value


def _fractions(texts: Sequence[str]) -> dict[str, float]:
    fractions: dict[str, float] = {}
    for text in texts:
        name, value = _pair(text, "--thin", "TYPE=FRACTION")
        if name in fractions:
            raise InputError(f"--thin: {name!r} is given twice")
        try:
            fractions[name] = float(value)
        except ValueError:
            raise InputError(f"--thin: the fraction of {name!r} must be a number, got {value!r}") from None
    return fractions


def _show(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if interval.low is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} \\[{interval.low:.3f}, {interval.high:.3f}]"


def _note_convergence(fits: int) -> None:
    if fits:
        console.note(f"{fits} fits of logistic regression stopped before they converged (not_converged in the JSON)")


def _write(result: dict[str, Any], output: Path | None, overwrite: bool) -> None:
    if output is not None:
        with replacing(output, overwrite=overwrite) as path:
            path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
