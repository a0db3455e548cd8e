"""Plots return axes that show what they were given, and leave pyplot alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from corrmask import pl
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph

SUMMARY = {"mean": 0.2, "q5": 0.0, "q25": 0.1, "q50": 0.2, "q75": 0.3, "q95": 0.4, "max": 0.5}


def audit_document(*arms: str) -> dict:
    """An audit as `AuditReport.to_dict` gives it, as far as plots read it."""
    one = {
        "leakage": [
            {"threshold": 0.1, "share": 0.5, "partner_in_cell": 0.75, "of_partnered": 2 / 3, "standardised": 0.4},
            {"threshold": 0.3, "share": 0.25, "partner_in_cell": 0.5, "of_partnered": 0.5, "standardised": 0.2},
        ],
        "mask_frequency": {"genes": 200, **SUMMARY, "percentiles": np.linspace(0, 0.5, 101).tolist()},
        "groups": {"per_cell": SUMMARY, "size": SUMMARY, "by_size": [[1, 30], [2, 20], [10, 3]], "masked_alone": 0.3},
    }
    settings = {"thresholds": [0.1, 0.3], "rate": 0.15, "min_cells": 50}
    return {"settings": settings, "arms": dict.fromkeys(arms, one)}


@pytest.fixture
def graph() -> GeneGraph:
    """a -> hub, b -> hub, hub -> a; c has no edge."""
    indptr, indices = np.array([0, 1, 2, 3, 3]), np.array([2, 2, 0], dtype=np.int32)
    weights = np.array([0.5, -0.25, 0.5], dtype=np.float32)
    return GeneGraph(indptr, indices, weights, np.array(["a", "b", "hub", "c"], dtype=object))


@pytest.fixture
def own() -> object:
    """Axes of a caller's figure."""
    return Figure().add_subplot()


def words(ax) -> str:
    legend = ax.get_legend()
    texts = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), *(legend.get_texts() if legend else [])]
    return "\n".join([*(text.get_text() for text in texts), ax.get_xlabel(), ax.get_ylabel(), ax.get_title()])


def test_degree_names_hubs(graph, own):
    ax = pl.degree(graph, own)
    assert ax is own
    points = ax.lines[0].get_xydata()
    assert points.tolist() == [[2, 1], [1, 2]]
    assert "2  hub" in words(ax)
    assert "2 of 4 genes" in words(ax)
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_degree_of_no_edges():
    ax = pl.degree(GeneGraph(np.zeros(3, int), np.zeros(0, np.int32), np.zeros(0, np.float32), np.array(["a", "b"])))
    assert "0 of 2 genes" in words(ax)
    assert "hubs" not in words(ax)


def test_leakage_bars_and_ceilings(own):
    ax = pl.leakage(audit_document("random", "corr"), own)
    assert [bar.get_height() for bar in ax.patches] == [50, 50, 25, 25]  # by threshold, then arm
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches[:2]] == [
        pl.ARM_COLOURS[arm] for arm in ("random", "corr")
    ]
    ceilings = [segment[0][1] for lines in ax.collections for segment in lines.get_segments()]
    assert ceilings == [75, 75, 50, 50]
    for word in ("random", "corr", "|r| ≥ 0.1", "|r| ≥ 0.3", "all that could leak", "50", "25", "%"):
        assert word in words(ax)


def test_leakage_other_measures():
    ax = pl.leakage(audit_document("corr"), measure="standardised")
    assert [bar.get_height() for bar in ax.patches] == [40, 20]
    assert not ax.collections
    assert "could leak" not in words(ax)


def test_mask_frequency_has_a_line_per_arm_and_the_rate(own):
    ax = pl.mask_frequency(audit_document("random", "corr", "module"), own)
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["random", "corr", "module", "rate 15 %"]
    assert lines["corr"].get_xydata()[0].tolist() == [0, 100]
    assert lines["corr"].get_xydata()[-1].tolist() == [50, 0.5]  # the most masked of 200 genes
    assert to_hex(lines["module"].get_color()) == pl.ARM_COLOURS["module"]


def test_mask_frequency_of_no_genes():
    document = audit_document("corr")
    document["arms"]["corr"]["mask_frequency"] |= {"genes": 0, "percentiles": []}
    assert len(pl.mask_frequency(document).lines) == 1  # the rate


def test_group_sizes_are_shares_of_masked_genes(own):
    ax = pl.group_sizes(audit_document("corr"), own)
    at, share = ax.lines[0].get_data()
    assert list(at) == [1, 2, 10, 11]
    assert list(share) == [100, 70, 30, 0]  # of 30 + 40 + 30 genes


def test_loss_curves_skip_rows_without_validation(own):
    rows = [{"step": 0, "validation_loss": 5.0}, {"step": 1, "loss": 4.0}, {"step": 2, "validation_loss": 3.5}]
    ax = pl.loss_curves({"corr": rows, "random": rows, "mine": []}, own)
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 2], [0, 2], []]
    assert "corr (3.500)" in words(ax)
    assert "nats" in ax.get_ylabel()
    log = [{"kind": "train", "step": 1, "loss": 9.0}, {"kind": "validation", "step": 4, "loss": 2.5}]
    assert [list(line.get_xydata()[0]) for line in pl.loss_curves({"corr": log}).lines] == [[4, 2.5]]


def annotation() -> dict:
    def score(name: str, kind: str, f1: float) -> dict:
        interval = {"value": f1, "low": f1 - 0.1, "high": None if kind == "baseline" else f1 + 0.1}
        return {
            "representation": name,
            "kind": kind,
            "classifier": "logistic_regression",
            "level": None,
            "macro_f1": {"value": f1, "low": None, "high": None},
            "types": [
                {"type": "common", "fraction": 0.9, "f1": interval},
                {"type": "rare", "fraction": 0.1, "f1": interval},
                {"type": "untested", "fraction": 0.1, "f1": None},
            ],
        }

    return {"scores": [score("corr", "embedding", 0.8), score("PCA", "baseline", 0.5)]}


def test_f1_has_one_marker_per_representation(own):
    ax = pl.f1_by_abundance(annotation(), own)
    assert [len(drawn.lines[0].get_xdata()) for drawn in ax.containers] == [2, 2]
    assert list(ax.containers[0].lines[0].get_ydata()) == [0.8, 0.8]
    assert to_hex(ax.containers[0].lines[0].get_color()) == pl.ARM_COLOURS["corr"]
    assert ax.containers[1].lines[0].get_markerfacecolor() == "white"
    for word in ("corr (macro-F1 0.800)", "PCA (macro-F1 0.500)", "common (90 %)", "rare (10 %)", "untested (10 %)"):
        assert word in words(ax)
    places = [text.get_position()[0] for text in ax.texts]
    assert places == sorted(set(places))  # types of the same share stand apart
    with pytest.raises(InputError, match="no scores of 'knn'"):
        pl.f1_by_abundance(annotation(), classifier="knn")


def test_embedding_has_one_cloud_per_label(own):
    coords = np.arange(12.0).reshape(6, 2)
    ax = pl.embedding(coords, ["b", "b", "b", "a", None, float("nan")], own)
    assert [len(cloud.get_offsets()) for cloud in ax.collections] == [2, 3, 1]  # no label first, the rarest last
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["no label (2)", "b (3)", "a (1)"]
    assert ax.collections[2].get_offsets().tolist() == coords[3:4].tolist()
    ax = pl.embedding(coords[:3], pd.array(["a", None, "b"], dtype="string"))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["no label (1)", "a (1)", "b (1)"]
    with pytest.raises(InputError, match="'coords' must be"):
        pl.embedding(coords, ["a"])


def test_heatmap_takes_edges_of_either_direction(graph, own):
    before = graph.weights.copy()
    ax = pl.heatmap_modules(graph, {"one": ["hub", "b", "missing"], "two": ["a"]}, own, min_genes=1)
    values = np.asarray(ax.images[0].get_array())
    assert values.tolist() == [[0, -0.25, 0.5], [-0.25, 0, 0], [0.5, 0, 0]]
    assert "one: hub, b" in words(ax)
    assert len(ax.lines) == 2  # between two modules
    assert np.array_equal(graph.weights, before)
    with pytest.raises(InputError, match="no module has 5 genes"):
        pl.heatmap_modules(graph, {"one": ["hub", "b"]})


def test_arms_have_colours_of_their_own():
    from corrmask.arms import ARMS

    assert set(ARMS) == set(pl.ARM_COLOURS)
    assert len(set(pl.ARM_COLOURS.values())) == len(ARMS)
    assert pl.arm_colour("mine") not in pl.ARM_COLOURS.values()


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "SVG"])
def test_saved_files_repeat(suffix, tmp_path):
    for name in ("first", "second"):
        pl.save(pl.leakage(audit_document("random", "corr")), tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert len(first) > 1000


def test_figures_that_cannot_be_saved(tmp_path):
    ax = pl.group_sizes(audit_document("corr"))
    pl.save(ax, tmp_path / "a.jpg")
    for path, message in (
        (tmp_path / "a.xyz", r"must end in \..*, \.png, "),
        (tmp_path / "no" / "a.png", "create it first"),
    ):
        with pytest.raises(InputError, match=message):
            pl.save(ax, path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.jpg"]


def test_pyplot_stays_out():
    """No global state: without pyplot there are no figures to leave open and no backend to choose."""
    code = (
        "import sys, io; from corrmask import pl;"
        "ax = pl.loss_curves({'corr': [{'step': 1, 'validation_loss': 2}]});"
        "ax.figure.savefig(io.BytesIO()); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
