"""The page: all of it there, nothing from elsewhere, no text taken as markup, and a browser that has no complaint."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("datasets")
pytest.importorskip("igraph")

from corrmask import correlation_graph
from corrmask.audit import audit
from corrmask.corpus import Corpus
from corrmask.evaluation import evaluate_annotation, evaluate_genes
from corrmask.modules import find_modules
from corrmask.report import Content, render_page
from corrmask.report.projection import project
from corrmask.report.summary import compare, findings, listed
from corrmask.simulation import simulate
from corrmask.tokenization import tokenize

EVIL = "<script>document.body.remove()</script>"
ARMS = ("random", "corr", "weighted")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A page's content from simulated cells; names of a type and of a gene are markup, and hold dollar signs."""
    cells = simulate(160, 80, 3, 1, n_modules=4, module_size=8, n_markers=4, depth=600, seed=3)
    names = list(cells.var_names)
    graph = correlation_graph(cells, top_k=6)
    hub = graph.hubs(1)[0][0]
    names[names.index(hub)] = f"{EVIL} $hub$"
    cells.var_names = names
    graph = replace(graph, var_names=np.array(names, dtype=object))
    folder = tmp_path_factory.mktemp("report")
    tokenize(cells, folder / "corpus")
    labels = np.array([f"{EVIL} & $b_{{$" if one == "type_0" else one for one in cells.obs["cell_type"]], dtype=object)
    rng = np.random.default_rng(0)
    signal_of = np.stack([labels == one for one in sorted(set(labels))], axis=1)
    embeddings = {arm: rng.normal(size=(160, 5)) for arm in (*ARMS, "untrained")}
    for i, arm in enumerate(ARMS):
        embeddings[arm][:, :3] += i * signal_of[:, :3]
    annotation = evaluate_annotation(embeddings, labels, counts=cells.X, n_resamples=50).to_dict()
    kinds = np.array(["sensitive", "insensitive"] * 20)
    genes = evaluate_genes({"corr": rng.normal(size=(40, 3))}, kinds, expression=rng.random((40, 2)), n_resamples=20)
    return Content(
        title="A run & its page",
        steps=["Some cells were read.", "Models were trained.", "They were asked."],
        graph=graph,
        modules=find_modules(graph),
        corpus={"cells": "160", "genes": 80},
        audit=audit(Corpus.open(folder / "corpus"), graph, cells=100, held_out=0.5, min_cells=5).to_dict(),
        curves={
            arm: [{"step": step, "validation_loss": 5 - 0.01 * step - 0.1 * i} for step in (0, 5, 10)]
            for i, arm in enumerate(ARMS)
        },
        annotation=annotation,
        genes=genes.to_dict(),
        projections={arm: embeddings[arm][:, :2] for arm in ARMS},
        method="PCA",
        labels=[None, *labels[1:]],
        limits=["It shows little.", EVIL],
        settings={"label": EVIL, "thin": {"rare_0": 0.01}, "arms": ARMS, "normalized": True, "threads": None},
        environment={"python": "3"},
        hashes={"corpus": "abcdef"},
        seconds={"graph": 1.25, "evaluate": 2.5},
        command="corrmask demo --label '" + EVIL + "' -o out",
    )


@pytest.fixture(scope="module")
def page(content):
    return render_page(content)


class Reader(HTMLParser):
    """Elements, attributes, text, and whether every element is closed."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_is_one_whole_document(page):
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert reader.open == []
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = {attributes[name][1:] for _, attributes in reader.elements for name in attributes if "href" in name
              and attributes[name].startswith("#")}  # fmt: skip
    inside |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert inside <= set(ids)


def test_loads_nothing(page):
    for tag, attributes in Reader(page).elements:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "data", "poster") or (name.endswith("href") and tag != "a"):
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
    assert not re.search(r"@import|url\((?!#)", page)
    assert "http://" not in page
    assert "https://" not in page


def test_holds_every_figure(page, content):
    figures = [attributes for tag, attributes in Reader(page).elements if tag == "svg"]
    assert len(figures) == 7 + len(ARMS)
    assert all(figure["role"] == "img" and len(figure["aria-label"]) > 20 for figure in figures)
    prefixes = [figure["id"] for figure in figures if "id" in figure]
    assert len(prefixes) == len(set(prefixes))
    for arm in ARMS:
        assert any(f"trained with {arm} masks" in figure["aria-label"] for figure in figures)
    without = render_page(replace(content, modules={}, genes=None))
    assert len([tag for tag, _ in Reader(without).elements if tag == "svg"]) == 6 + len(ARMS)
    assert 'id="genes"' not in without


def test_holds_every_number(page, content):
    text = Reader(page).text
    for score in content.annotation["scores"]:
        for name in ("macro_f1", "rare_macro_f1") if score["classifier"] == "logistic_regression" else ("macro_f1",):
            if score[name] is not None:
                one = score[name]
                assert f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" in text
        for one in score["types"]:
            assert one["type"] in text
            assert f"{one['f1']['value']:.3f}" in text or score["classifier"] == "knn"
    for arm in content.audit["arms"].values():
        assert all(f"{100 * leak['share']:.1f} %" in text for leak in arm["leakage"])
        assert f"{100 * arm['rate']['realised']:.2f} %" in text
    for gene, partners in content.graph.hubs(10):
        assert gene in text
        assert str(partners) in text
    for score in content.genes["scores"]:
        assert f"{score['auroc']['value']:.3f} [{score['auroc']['low']:.3f}" in text
    for words in ("1.2", "3.8", "abcdef", content.command, "It shows little.", "rare_0 = 0.01", *content.steps):
        assert words in text


def test_text_is_never_markup(page):
    assert EVIL in Reader(page).text
    assert "<script" not in page
    assert "alert" not in [tag for tag, _ in Reader(page).elements]


def test_sentences_follow_the_numbers(content):
    """The same report with other numbers says otherwise."""

    def told(**values):
        scores = [
            {**score, name: {"value": v, "low": v - 0.01, "high": v + 0.01}}
            for score in content.annotation["scores"]
            if score["classifier"] == "logistic_regression"
            for name, v in [("macro_f1", values.get(score["representation"], 0.5))]
        ]
        return " ".join(findings(content.audit, {**content.annotation, "scores": scores}))

    for arm in ("random", "corr"):
        for leak in content.audit["arms"][arm]["leakage"]:
            assert f"{100 * leak['share']:.1f} %" in told()
            assert f"{100 * leak['standardised']:.1f} %" in told()
    assert "which is less" in told()
    assert "gives no support" in told(random=0.8, corr=0.8)
    assert "gives no support" in told(random=0.9, corr=0.8)
    assert "lies below random (0.900)" in told(random=0.9, corr=0.8)
    assert "without rewired in the comparison" in told(random=0.4, corr=0.8)
    assert "lies below: these models do not reach" in told(random=0.4, corr=0.8, HVG=0.95)
    assert "lies above." in told(random=0.4, corr=0.8, HVG=0.3, **{"PCA of log-counts": 0.3})
    assert "every arm lies above it" in told(random=0.4, corr=0.8, weighted=0.6, untrained=0.1)
    assert "random does not lie above it" in told(random=0.1, corr=0.8, weighted=0.6, untrained=0.1)
    scores = content.annotation["scores"]
    annotation = {
        **content.annotation,
        "scores": scores + [{**one, "representation": "rewired"} for one in scores if one["representation"] == "corr"],
    }
    content = replace(content, annotation=annotation)
    assert "above both controls" in told(corr=0.8)
    assert "not above weighted or rewired" in told(corr=0.8, weighted=0.8, rewired=0.85)
    assert "not above rewired," in told(corr=0.8, rewired=0.8)


def test_compare_needs_intervals_apart():
    def interval(low, high):
        return {"value": (low + high) / 2, "low": low, "high": high}

    assert compare(interval(0.5, 0.6), interval(0.3, 0.49)) == "above"
    assert compare(interval(0.3, 0.49), interval(0.5, 0.6)) == "below"
    assert compare(interval(0.5, 0.6), interval(0.3, 0.5)) == "level"
    assert compare({"value": 0.5, "low": None, "high": None}, {"value": 0.4, "low": None, "high": None}) == "above"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"], "or") == "a, b or c"


def test_projection_of_few_cells_is_pca():
    x = np.random.default_rng(0).normal(size=(20, 4)) * [9, 3, 1, 1]
    coordinates, method = project(x)
    assert method == "PCA"
    assert coordinates.shape == (20, 2)
    centred = x - x.mean(axis=0)
    variance = np.linalg.eigvalsh(centred.T @ centred)[::-1][:2]
    np.testing.assert_allclose((coordinates.astype(float) ** 2).sum(axis=0), variance, rtol=1e-5)
    assert project(np.ones((3, 1)))[0].shape == (3, 2)


def console_errors(path, folder) -> list[str]:
    """What the page at `path` says on the console of a headless browser; raises where its body was not rendered."""
    process = subprocess.Popen(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder}", "--enable-logging=stderr", "--v=0", "--dump-dom", f"file://{path}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        dom, log = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert "</body>" in dom, log[-2000:]
    return [line for line in log.splitlines() if "CONSOLE" in line]


@needs_browser
def test_opens_in_a_browser_without_complaint(page, tmp_path):
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    assert console_errors(tmp_path / "index.html", tmp_path / "profile") == []


@needs_browser
@pytest.mark.parametrize(
    "fault",
    ["<script>undefined_function()</script>", '<img src="missing.png">', "<style>@import url('missing.css')</style>"],
)
def test_a_fault_would_be_seen(page, tmp_path, fault):
    broken = re.sub(r"<meta http-equiv[^>]*>", "", page) if fault.startswith("<script") else page
    (tmp_path / "index.html").write_text(broken.replace("</body>", fault + "</body>"), encoding="utf-8")
    assert console_errors(tmp_path / "index.html", tmp_path / "profile") != []
