"""Gene sets among groups: the tests as exact fractions, the correction step by step, files that are refused."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest

from corrmask.enrichment import enrich, enrich_graph, neighbourhoods, read_gene_sets
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph

GENES = [f"g{i}" for i in range(40)]


def tail(shared: int, group: int, of_set: int, n: int) -> Fraction:
    """P(at least `shared` of a group drawn from n are in the set)."""
    ways = sum(comb(of_set, k) * comb(n - of_set, group - k) for k in range(shared, min(group, of_set) + 1))
    return Fraction(ways, comb(n, group))


def test_it_is_the_hypergeometric_tail_and_its_correction() -> None:
    rng = np.random.default_rng(0)
    groups = {str(i): list(rng.choice(GENES, rng.integers(1, 9), replace=False)) for i in range(12)}
    groups["0"] = [*groups["0"], "foreign", "g1", "g1"]
    sets = {f"s{i}": list(rng.choice(GENES, rng.integers(2, 15), replace=False)) for i in range(9)}
    found = enrich(groups, sets, GENES, min_genes=3)
    kept = {name: set(genes) & set(GENES) for name, genes in groups.items() if len(set(genes) & set(GENES)) > 1}
    tested = {name: set(genes) for name, genes in sets.items() if len(set(genes)) >= 3}
    p = {
        (group, name): float(tail(len(genes & others), len(genes), len(others), 40))
        for group, genes in kept.items()
        for name, others in tested.items()
    }
    assert (found.n_groups, found.n_tests, found.background) == (len(kept), len(p), 40)
    ordered = sorted(p.values())
    q = {value: min(ordered[j] * len(p) / (j + 1) for j in range(i, len(p))) for i, value in enumerate(ordered)}
    sharing = {pair for pair in p if kept[pair[0]] & tested[pair[1]]}
    assert {(row.group, row.set) for row in found.table.itertuples()} == sharing
    assert found.table["p"].is_monotonic_increasing
    for row in found.table.itertuples():
        assert row.p == pytest.approx(p[row.group, row.set], rel=1e-9)
        nearest = min(q, key=lambda value: abs(value - row.p))
        assert row.q == pytest.approx(min(q[nearest], 1), rel=1e-9)
        assert row.fold == pytest.approx(row.shared * 40 / (row.group_genes * row.set_genes))
    low = float(np.median(found.table["q"]))
    assert found.enriched(low) == len(set(found.table["group"][found.table["q"] <= low])) / len(kept)


def blocks() -> GeneGraph:
    """Eight blocks of five genes, each with all others of its block."""
    partners = [[other for other in range(5 * (g // 5), 5 * (g // 5) + 5) if other != g] for g in range(40)]
    weights = np.full(160, 0.5, dtype=np.float32)
    names = np.array(GENES, dtype=object)
    return GeneGraph(np.arange(41) * 4, np.array(partners, dtype=np.int32).ravel(), weights, names)


@pytest.mark.parametrize("by", ["neighbourhoods", "modules"])
def test_a_graph_of_known_sets_and_its_null(by: str) -> None:
    pytest.importorskip("igraph")
    sets = {f"block {first}": GENES[first : first + 5] for first in range(0, 40, 5)}
    real, null = enrich_graph(blocks(), sets, by=by)
    assert real.enriched(1e-4) == 1
    assert real.n_groups == (40 if by == "neighbourhoods" else 8)
    assert null.enriched(1e-4) < 0.1
    assert neighbourhoods(blocks())["g6"] == ["g6", "g5", "g7", "g8", "g9"]
    with pytest.raises(InputError, match="'by'"):
        enrich_graph(blocks(), sets, by="genes")
    with pytest.raises(InputError, match="have enough genes"):
        enrich_graph(blocks(), {"other": ["x", "y", "z", "u", "v"]})


def test_a_background_that_names_a_gene_twice_counts_it_once() -> None:
    groups, sets = {"a": GENES[:5]}, {"s": GENES[:5]}
    once, twice = enrich(groups, sets, GENES), enrich(groups, sets, GENES + GENES[:10])
    assert once.table.equals(twice.table)


def test_files_of_gene_sets(tmp_path: Path) -> None:
    wanted = {"one": ["a", "b"], "two": ["c"]}
    gmt, table = "one\tlink\ta\tb\ta\ntwo\t\tc\n", "set\tgene\tid\none\ta\t1\ntwo\tc\t2\none\tb\t3\n"
    (tmp_path / "sets.gmt").write_text(gmt)
    (tmp_path / "sets.gmt.gz").write_bytes(gzip.compress(gmt.encode()))
    (tmp_path / "sets.tsv").write_text(table)
    (tmp_path / "sets.csv").write_text(table.replace("\t", ","))
    (tmp_path / "SETS.GMT").write_text("\ufeff" + gmt.replace("\n", "\n\n").replace("b", " b "), encoding="utf-8")
    (tmp_path / "feeds.gmt").write_text(gmt.replace("link", "a\x0clink\u2028here"), encoding="utf-8")
    (tmp_path / "returns.gmt").write_bytes(gmt.replace("\n", "\r\n").encode())
    (tmp_path / "of.gmt.tsv").write_text(table)
    for path in tmp_path.iterdir():
        assert read_gene_sets(path) == wanted, path
    by_id = {"one": ["1", "3"], "two": ["2"]}
    assert all(read_gene_sets(tmp_path / f"sets.{kind}", "id") == by_id for kind in ("tsv", "csv"))
    for column in ("nothing", "set"):
        with pytest.raises(InputError, match=f"no column '{column}' of genes among set, gene, id"):
            read_gene_sets(tmp_path / "sets.tsv", column)
    for name, text in (("bad.gmt", "one\n"), ("empty.gmt", ""), ("one.csv", "set\na\n"), ("none.tsv", "set\tgene\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}.*give a .gmt"):
            read_gene_sets(tmp_path / name)
    (tmp_path / "cut.gmt.gz").write_bytes(gzip.compress(gmt.encode())[:-12])
    (tmp_path / "twice.gmt").write_text(gmt + gmt)
    (tmp_path / "lines.json").write_text('["one"]\n')
    one_column = ("lines.json", r"cannot be read \(it has one column\); give a .gmt")
    for name, words in (one_column, ("cut.gmt.gz", "cannot be read"), ("twice.gmt", "line 3: set 'one' stands twice")):
        with pytest.raises(InputError, match=words):
            read_gene_sets(tmp_path / name)
    with pytest.raises(InputError, match="do not exist"):
        read_gene_sets(tmp_path / "missing.gmt")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    from corrmask.cli.app import main

    blocks().write(tmp_path / "graph.h5ad")
    (tmp_path / "sets.gmt").write_text("\n".join(f"s{i}\t\t" + "\t".join(GENES[i : i + 5]) for i in (0, 5, 10)))
    command = ["enrich", str(tmp_path / "graph.h5ad"), "--gene-sets", str(tmp_path / "sets.gmt"), "--top", "4"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert len(document["pairs"]) == 4
    assert document["enriched_share"]["graph"] > document["enriched_share"]["rewired"]
    with pytest.raises(SystemExit):
        main(command)
    assert "in the rewired graph" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*command, "--by", "genes"])
    assert ended.value.code == 2
    assert "'by' must be" in capsys.readouterr().err


def test_blood(data_dir: Path, tmp_path: Path) -> None:
    """The groups of blood cells hold known sets, those of the rewired graph far fewer."""
    from corrmask import correlation_graph

    graph = correlation_graph(data_dir / "pbmc_kang_5donors.h5ad", within="donor")
    import anndata

    cells = anndata.read_h5ad(data_dir / "pbmc_kang_5donors.h5ad", backed="r")
    symbol = np.asarray(cells.var["symbol"].astype(str), dtype=object)
    sets = read_gene_sets(data_dir / "genes" / "genesets_hallmark_v7.0.tsv.gz")
    assert len(sets) == 50
    named = GeneGraph(graph.indptr, graph.indices, graph.weights, symbol)
    real, null = enrich_graph(named, sets)
    assert real.enriched() > 3 * null.enriched()
    assert real.enriched() > 0.1
