"""The audit counts what a slow reading of the same masks counts; the command refuses bad input in one line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("datasets")
pytest.importorskip("igraph")
pytest.importorskip("typer")

from corrmask.arms import ARMS, make_masker
from corrmask.audit import AuditReport, audit
from corrmask.corpus import Corpus, split_cells
from corrmask.corpus_writer import CorpusWriter
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.vocabulary import Vocabulary

N_GENES, N_CELLS, MAX_LEN = 40, 120, 25
OPTIONS = {"max_len": MAX_LEN, "held_out": 0.5, "cells": 50, "epochs": 3, "min_cells": 8, "rate": 0.3, "seed": 5}


def make_graph(genes: np.ndarray, n_edges: int, seed: int) -> GeneGraph:
    """Random directed edges of random strength; r is the same in both directions."""
    rng = np.random.default_rng(seed)
    n = len(genes)
    r = np.triu(rng.uniform(-1, 1, (n, n)).astype(np.float32), 1)
    r = r + r.T
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    kept = sorted(rng.permutation(len(pairs))[:n_edges])
    edges = sorted((pairs[k] for k in kept), key=lambda edge: (edge[0], -abs(r[edge])))
    owner, partner = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n))])
    return GeneGraph(indptr, partner.astype(np.int32), r[owner, partner], genes, {"n_cells": np.int64(3)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of random cells, some empty, and a graph over most of its genes and some others."""
    path = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary(np.array([f"g{i}" for i in range(N_GENES)], dtype=object))
    lengths = rng.integers(0, 36, N_CELLS)
    lengths[::17] = 0
    tokens = np.zeros((N_CELLS, 36), dtype=np.int32)
    for cell, length in enumerate(lengths):
        tokens[cell, :length] = 4 + rng.permutation(N_GENES)[:length]
    writer = CorpusWriter(path / "corpus", vocabulary)
    writer.append(torch.from_numpy(tokens), torch.from_numpy(lengths), pd.DataFrame(index=range(N_CELLS)))
    writer.close()
    genes = np.array([*(f"g{i}" for i in range(35)), "other1", "other2"], dtype=object)
    make_graph(genes, 90, seed=1).write(path / "graph.h5ad")
    make_graph(np.array(["x", "y", "z"], dtype=object), 3, seed=1).write(path / "foreign.h5ad")
    return path


@pytest.fixture(scope="module")
def corpus(folder) -> Corpus:
    return Corpus.open(folder / "corpus")


@pytest.fixture
def graph(folder) -> GeneGraph:
    return GeneGraph.read(folder / "graph.h5ad")


@pytest.fixture(scope="module")
def report(folder, corpus) -> AuditReport:
    return audit(corpus, GeneGraph.read(folder / "graph.h5ad"), thresholds=(0.3, 0.1), **OPTIONS)


def slow(arm: str, corpus: Corpus, graph: GeneGraph, thresholds: tuple[float, ...]) -> dict:
    """Every figure of `ArmAudit`, position by position; independent of the counting code."""
    train, held = split_cells(corpus.n_cells, 0.5, 5)
    rows = np.sort(np.random.default_rng([5, 0xA0D1]).choice(held, 50, replace=False))
    names = [None] * 4 + list(corpus.vocabulary.genes)
    strength = {}
    for i, gene in enumerate(graph.var_names):
        for edge in range(graph.indptr[i], graph.indptr[i + 1]):
            strength[frozenset((gene, graph.var_names[graph.indices[edge]]))] = abs(graph.weights[edge])
    masker = make_masker(arm, graph=graph, corpus=corpus, rows=train, max_len=MAX_LEN, rate=0.3, seed=5)
    out: dict = {
        "present": np.zeros(N_GENES, int),
        "masked": np.zeros(N_GENES, int),
        "leaking": {t: np.zeros(N_GENES, int) for t in thresholds},
        "with_partner": {t: np.zeros(N_GENES, int) for t in thresholds},
        "shown": {"mask_token": 0, "another_gene": 0, "unchanged": 0},
        "sizes": [],
        "groups": [],
    }
    for epoch in range(3):
        for row in rows:
            batch = corpus.batch(np.array([row]), MAX_LEN)
            ids, labels = masker(*batch, epoch=epoch)
            owners = masker.owners(*batch, epoch=epoch)[0].tolist()
            tokens, shown, labels = batch.input_ids[0].tolist(), ids[0].tolist(), labels[0].tolist()
            visible = {names[t] for t, label in zip(tokens, labels) if label == -100}
            per_owner: dict[int, int] = {}
            for token, show, label, owner in zip(tokens, shown, labels, owners):
                out["present"][token - 4] += 1
                if label == -100:
                    continue
                out["masked"][token - 4] += 1
                out["shown"]["mask_token" if show == 1 else "unchanged" if show == token else "another_gene"] += 1
                per_owner[owner] = per_owner.get(owner, 0) + 1
                for t in thresholds:
                    partners = {u for u in names[4:] if strength.get(frozenset((names[token], u)), 0) >= np.float32(t)}
                    out["leaking"][t][token - 4] += bool(partners & visible)
                    out["with_partner"][t][token - 4] += bool(partners & {names[u] for u in tokens})
            out["sizes"] += per_owner.values()
            out["groups"].append(len(per_owner))
    return out


@pytest.mark.parametrize("arm", ARMS)
def test_counts_equal_a_slow_reading(arm, report, corpus, graph):
    found, expected = report.arms[arm], slow(arm, corpus, graph, (0.1, 0.3))
    assert found.present.tolist() == expected["present"].tolist()
    assert found.masked.tolist() == expected["masked"].tolist()
    assert found.shown == expected["shown"]
    for t in (0.1, 0.3):
        assert found.leaking[t].tolist() == expected["leaking"][t].tolist()
        assert found.with_partner[t].tolist() == expected["with_partner"][t].tolist()
        assert 0 < expected["leaking"][t].sum() < expected["masked"].sum()
    assert found.group_sizes.tolist() == np.bincount(expected["sizes"]).tolist()
    assert np.trim_zeros(found.groups_per_cell, "b").tolist() == np.bincount(expected["groups"]).tolist()
    assert found.n_off_budget == 0

    document = found.to_dict()
    cells = expected["present"] // 3
    frequency = (expected["masked"] / np.maximum(expected["present"], 1))[cells >= 8]
    assert document["mask_frequency"]["genes"] == len(frequency) > 10
    assert document["mask_frequency"]["near_rate"] == np.mean((frequency >= 0.225) & (frequency <= 0.375))
    assert document["mask_frequency"]["q50"] == np.quantile(frequency, 0.5)
    assert document["mask_frequency"]["percentiles"] == np.quantile(frequency, np.linspace(0, 1, 101)).tolist()
    assert document["mask_frequency"]["most_masked"][0]["frequency"] == frequency.max()
    assert document["mask_frequency"]["least_masked"][0]["frequency"] == frequency.min()
    assert document["groups"]["size"]["mean"] == np.mean(expected["sizes"])
    assert document["groups"]["per_cell"]["q95"] == np.quantile(expected["groups"], 0.95)
    assert document["groups"]["masked_alone"] == expected["sizes"].count(1) / sum(expected["sizes"])
    share = expected["leaking"][0.1].sum() / expected["masked"].sum()
    assert document["leakage"][0]["share"] == share
    weighted = [
        (p, leaks / masked) for p, leaks, masked in zip(cells, expected["leaking"][0.1], expected["masked"]) if masked
    ]
    standardised = sum(p * leak for p, leak in weighted) / sum(p for p, _ in weighted)
    assert document["leakage"][0]["standardised"] == pytest.approx(standardised, rel=1e-12)  # order of 40 additions


def test_rate_is_the_exact_budget(report, corpus):
    """Of n genes min(n, max(1, round half up of n * rate)), in integers; empty cells count as cells."""
    _, held = split_cells(corpus.n_cells, 0.5, 5)
    rows = np.sort(np.random.default_rng([5, 0xA0D1]).choice(held, 50, replace=False))
    n = np.minimum(corpus.lengths[rows], MAX_LEN)
    budget = np.minimum(n, np.maximum(1, (n * 300_000 + 500_000) // 10**6)).sum()
    for arm in report.arms.values():
        assert (arm.n_masked, arm.n_genes) == (3 * budget, 3 * n.sum())
    assert report.cells["without_genes"] == (n == 0).sum() > 0
    assert report.cells["audited"] == 50


def test_all_masked_leaks_nothing(corpus, graph):
    found = audit(corpus, graph, arms=["random"], **{**OPTIONS, "rate": 1.0}).arms["random"]
    assert found.leakage(0.1)["share"] == 0 == found.leakage(0.1)["standardised"]
    assert found.leakage(0.1)["partner_in_cell"] > 0
    assert found.n_masked == found.n_genes


def test_a_graph_without_edges_is_refused(corpus, graph):
    empty = GeneGraph(np.zeros_like(graph.indptr), graph.indices[:0], graph.weights[:0], graph.var_names)
    with pytest.raises(InputError, match="none joins two genes"):
        audit(corpus, empty, arms=["random"], **OPTIONS)


def test_json_round_trip_and_repeatable(report, corpus, graph):
    document = report.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["settings"]["thresholds"] == [0.1, 0.3]
    assert document["graph"]["provenance"]["n_cells"] == 3
    again = audit(corpus, graph, thresholds=(0.1, 0.3), **OPTIONS).to_dict()
    for one in (document, again):
        for arm in one["arms"].values():
            assert arm.pop("cells_per_second") > 0
    assert document == again


def test_genes_in_too_few_cells_have_no_frequency(corpus, graph):
    document = audit(corpus, graph, arms=["random"], **{**OPTIONS, "min_cells": 51}).to_dict()
    frequency = document["arms"]["random"]["mask_frequency"]
    assert (frequency["genes"], frequency["q50"], frequency["max"], frequency["percentiles"]) == (0, None, None, [])
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"arms": []}, "no arm"),
        ({"arms": ["corr", "best"]}, "'best' is unknown"),
        ({"thresholds": ()}, "'thresholds'"),
        ({"thresholds": (0.0,)}, "'thresholds'"),
        ({"thresholds": (float("nan"),)}, "'thresholds'"),
        ({"held_out": 0.0}, "'held_out'"),
        ({"held_out": 1.0}, "'held_out'"),
        ({"held_out": 1e-9}, "raise 'held_out'"),
        ({"cells": 0}, "'cells'"),
        ({"epochs": 0}, "'epochs'"),
        ({"max_len": 0}, "'max_len'"),
        ({"max_group": -1}, "'max_group'"),
        ({"frequency_power": 5.0}, "'frequency_power' must be in 0 .. 2"),
        ({"arms": ["corr"], "frequency_power": 1.0}, "no meaning for mask 'corr'"),
        ({"seed": -1}, "'seed'"),
        ({"rate": 0.0}, "'rate'"),
        ({"expand": 1.5}, "'expand'"),
    ],
)
def test_bad_values_are_named(options, part, corpus, graph):
    with pytest.raises(InputError, match=part):
        audit(corpus, graph, **options)


def run(*arguments: object) -> int:
    from corrmask.cli.app import main

    with pytest.raises(SystemExit) as caught:
        main(["audit", *map(str, arguments)])
    return caught.value.code


def test_command_prints_and_writes(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    common = ["--corpus", folder / "corpus", "--graph", folder / "graph.h5ad", "--held-out", 0.5, "--min-cells", 5]
    assert run(*common, "--arms", "random, corr", "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "corr" in printed
    assert "weighted" not in printed
    assert "…" not in printed, "at 80 columns nothing is cut"
    assert max(len(line) for line in printed.splitlines() if line[:1] in "┏│└") <= 80
    assert "corr: masked most g" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    plots = {"degree", "leakage", "leakage_standardised", "mask_frequency", "group_sizes"}
    assert names == {"audit.json"} | {f"{plot}.{kind}" for plot in plots for kind in ("png", "svg")}
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert list(written["arms"]) == ["random", "corr"]

    assert run(*common, "--arms", "random", "-o", tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == written
    assert run(*common, "--arms", "random", "-o", tmp_path / "out", "--overwrite", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "audit.json").read_text())


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"--graph": "foreign.h5ad"}, "do not fit: 0 genes in common"),
        ({"--graph": "missing.h5ad"}, "does not exist"),
        ({"--corpus": "missing"}, "does not exist"),
        ({"--arms": "random,best"}, "'best' is unknown"),
        ({"--thresholds": "0.1;0.3"}, "--thresholds"),
        ({"--vocabulary": "missing.json"}, "does not exist"),
        ({"-o": "missing/out"}, "create it first"),
    ],
)
def test_command_refuses_in_one_line(changed, part, folder, capsys):
    paths = {"--corpus", "--graph", "--vocabulary", "-o"}
    given = {"--corpus": "corpus", "--graph": "graph.h5ad", **changed}
    arguments = [item for name, value in given.items() for item in (name, folder / value if name in paths else value)]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_blood_cells(data_dir, tmp_path):
    """The figures known of blood at 256 tokens: `corr` masks the median gene in 8 % of its cells, the worst in 98 %."""
    from corrmask import correlation_graph
    from corrmask.tokenization import tokenize

    cells = data_dir / "pbmc_corpus_core.h5ad"
    tokenize(cells, tmp_path / "corpus", max_len=256)
    document = audit(
        Corpus.open(tmp_path / "corpus"), correlation_graph(cells), max_len=256, epochs=2, held_out=0.1
    ).to_dict()
    arms = document["arms"]
    frequency = arms["corr"]["mask_frequency"]
    assert 0.065 < frequency["q50"] < 0.095
    assert 0.55 < frequency["q95"] < 0.70
    assert frequency["max"] > 0.95
    level = arms["levelled"]["mask_frequency"]
    assert level["near_rate"] > 0.8 > 0.2 > arms["corr"]["mask_frequency"]["near_rate"]
    assert 0.135 < level["q50"] < 0.16
    assert level["max"] < 0.3
    at_once = {arm: figures["leakage"][0] for arm, figures in arms.items()}
    assert at_once["random"]["of_partnered"] > 0.95
    assert at_once["corr"]["share"] < at_once["weighted"]["share"]  # the same genes, each for itself
    assert all(at_once["corr"]["standardised"] < 0.7 * at_once[arm]["standardised"] for arm in ARMS if arm != "corr")
