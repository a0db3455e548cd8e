"""The short benchmark: its layout, its checks and its measures of the machine. No time is asserted."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corrmask.bench import Case, Contestant, compare, machine, row, run
from corrmask.bench.binning import binning_case
from corrmask.bench.cells import Batch, draw_batch, draw_counts, partners_present
from corrmask.bench.covariance import Products, covariance_case, edges_case, graph_case
from corrmask.bench.encoding import encoding_case
from corrmask.bench.loading import Cells, loading_case
from corrmask.bench.masking import check_owners, masking_case, sampling_case
from corrmask.bench.timing import Times, threads
from corrmask.cli.app import main
from corrmask.errors import InputError

ROW = {
    "kernel": str,
    "size": str,
    "dtype": str,
    "threads": int,
    "cells": int,
    "rounds": int,
    "median_seconds": float,
    "cells_per_second": float,
    "peers": list,
    "best_peer": str | None,
    "ratio": float | None,
    "left_out": list,
    "roofline": dict,
}


@pytest.fixture(scope="module")
def batch() -> Batch:
    return draw_batch(8, 96, 80, n_genes=300)


@pytest.fixture(scope="module")
def products() -> Products:
    return Products(draw_counts(400, 150, 40))


def test_the_command_gives_the_documented_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--seconds", "2", "--threads", "1", "--json", "-o", str(path)])
    assert stopped.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(path.read_text())
    assert set(document) == {"date", "seconds", "settings", "machine", "speed", "missing", "rows"}
    assert document["settings"] == {"seconds": 2, "threads": [1]}
    assert set(document["speed"]) == {"1"}
    assert set(document["machine"]["versions"]) >= {"python", "corrmask", "torch", "numpy", "scipy"}
    kernels = {one["kernel"] for one in document["rows"]}
    assert kernels >= {"sample_groups", "mask_tokens", "rank_encode", "covariance_update", "topk_edges"}
    assert kernels >= {"mask_tokens expand=0", "bin_values", "correlation_graph", "Loader", "Loader, masked"}
    for one in document["rows"]:
        assert set(one) == set(ROW)
        for name, kind in ROW.items():
            assert isinstance(one[name], kind), name
        assert one["threads"] == 1
        assert one["rounds"] >= 3
        assert one["cells_per_second"] == pytest.approx(one["cells"] / one["median_seconds"])
        assert set(one["roofline"]) == {"bound", "seconds", "share"}
        assert one["roofline"]["bound"] in ("memory", "arithmetic")
        assert one["roofline"]["share"] > 0
        if one["peers"]:
            assert one["best_peer"] == min(one["peers"], key=lambda peer: peer["median_seconds"])["name"]
            assert one["ratio"] == min(peer["ratio"] for peer in one["peers"])


def test_the_table_names_a_peer_that_wins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case("kernel", "3 x 3", "float32", 3, _two(), bytes_moved=1.0)
    times = Times(rounds={"ours": [2.0, 4.0, 9.0], "peer": [1.0, 1.0, 1.0]})
    speed = {"copy_bytes_per_second": 1.0, "sgemm_flops": 1.0}
    document = {
        "machine": machine.describe(),
        "speed": {"1": speed},
        "missing": {"absent": "not installed"},
        "rows": [row(case, times, 1, speed, ["another"])],
    }
    monkeypatch.setattr("corrmask.bench.run", lambda *_, **__: document)
    with pytest.raises(SystemExit) as stopped:
        main(["bench"])
    assert stopped.value.code == 0
    shown = capsys.readouterr()
    assert "peer is faster than kernel at 3 x 3 on 1 thread: 4.0 times" in shown.out
    assert "peer*" in shown.out
    assert "without absent (not installed)" in shown.err
    assert "no time at 3 x 3 (1 threads) for: another" in shown.err


@pytest.mark.parametrize("masked", [False, True])
def test_loaders_read_the_cells_of_the_corpus(batch: Batch, masked: bool) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("transformers")
    cells = Cells(batch, 100)
    case = loading_case(cells, 16, masked=masked, batches=2, workers=(0,))
    assert case.n_cells == 32
    assert len(case.contestants) >= 3
    for one in case.contestants:
        for _ in range(4):  # into the next epoch
            one.check(one.run())
    input_ids, labels = case.contestants[0].run()
    wrong = input_ids.clone()
    wrong[3, 0] += 1
    with pytest.raises(AssertionError):
        case.contestants[0].check((wrong, None if labels is None else torch.full_like(labels, -100)))
    assert cells.folder.exists()
    folder = cells.folder
    del case, cells, one
    gc.collect()
    assert not folder.exists()


def test_bad_arguments_are_one_line() -> None:
    with pytest.raises(InputError, match="'seconds' must be above 0"):
        run(0)
    with pytest.raises(InputError, match="'threads' must be in 1"):
        run(1, 0)


def test_an_existing_output_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    path.write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "-o", str(path)])
    assert stopped.value.code == 2
    assert "bench.json" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_the_machine_is_measured() -> None:
    assert machine.cpu_model()
    assert machine.cores() >= 1
    assert machine.memory_bytes() > 0
    assert all(size > 0 for size in machine.caches().values())
    assert machine.copy_bandwidth(0.01, megabytes=8) > 0
    assert machine.sgemm_flops(0.01, n=64) > 0
    json.dumps(machine.describe())


def test_peak_memory_is_that_of_the_call() -> None:
    held = []
    peak = machine.peak_memory(lambda: held.append(np.ones(8_000_000)))
    assert peak is None or peak >= 60_000_000


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_cells_are_drawn_alike_and_as_asked_for() -> None:
    counts = draw_counts(500, 400, 60)
    assert np.array_equal(counts.toarray(), draw_counts(500, 400, 60).toarray())
    assert counts.data.min() >= 1
    assert np.all(counts.data == np.floor(counts.data))
    assert counts.has_sorted_indices
    assert abs(counts.nnz / 500 - 60) < 10
    frequency = np.sort(np.bincount(counts.indices, minlength=400))[::-1]
    assert frequency[:40].sum() > 0.2 * counts.nnz  # a tenth of the genes holds much more than a tenth


def test_partners_are_different_genes(batch: Batch) -> None:
    members = batch.groups.group_tokens.numpy().reshape(300, 16)
    assert all(len(set(row)) == 16 for row in members)
    assert not np.any(members == np.arange(4, 304)[:, None])
    assert 0 < partners_present(batch) < 1


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
def test_every_way_of_masking_passes_its_check(batch: Batch, dtype: str) -> None:
    for case in (sampling_case(batch, dtype), masking_case(batch, dtype), masking_case(batch, dtype, expand=0.0)):
        assert set(compare(case, 0, least_rounds=1).rounds) == {one.name for one in case.contestants}


def test_groups_may_differ_in_size(batch: Batch) -> None:
    sizes = torch.arange(300) % 17  # some have none, as in a real graph
    members = batch.groups.group_tokens.view(300, 16)[torch.arange(16) < sizes[:, None]]
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    groups = replace(batch.groups, group_indptr=indptr, group_tokens=members)
    for make in (sampling_case, masking_case):
        compare(make(replace(batch, groups=groups)), 0, least_rounds=1)


def test_every_way_of_encoding_passes_its_check() -> None:
    case = encoding_case(draw_counts(40, 300, 80), max_len=64)
    assert len(compare(case, 0, least_rounds=1).rounds) == 3


def test_every_way_of_binning_passes_its_check() -> None:
    case = binning_case(draw_counts(40, 300, 80))
    assert len(compare(case, 0, least_rounds=1).rounds) == 2
    bins = case.contestants[0].run()
    with pytest.raises(AssertionError, match="out of range"):
        case.contestants[0].check(bins + 50)


@pytest.mark.parametrize("make", [covariance_case, edges_case, graph_case])
def test_every_product_passes_its_check(products: Products, make: Callable[[Products], Case]) -> None:
    times = compare(make(products), 0, least_rounds=1)
    assert all(len(rounds) == 1 for rounds in times.rounds.values())


def test_the_checks_refuse_what_is_wrong(batch: Batch, products: Products) -> None:
    masked = masking_case(batch)
    ids, labels = masked.contestants[0].run()
    labels[0, int((labels[0] >= 0).nonzero()[0])] += 1
    with pytest.raises(AssertionError, match="a label is not the token"):
        masked.contestants[0].check((ids, labels))

    owner = sampling_case(batch).contestants[0].run()
    with pytest.raises(AssertionError, match="misses its budget"):
        check_owners(batch, torch.full_like(owner, -1))
    alone = batch.groups.token_group.clone()
    alone[4:] = -1  # no gene brings another: then none may have come along
    with pytest.raises(AssertionError):
        check_owners(replace(batch, groups=replace(batch.groups, token_group=alone)), owner)

    encoded = encoding_case(draw_counts(40, 300, 80), max_len=64)
    tokens, lengths = encoded.contestants[0].run()
    tokens[3, [0, 1]] = tokens[3, [1, 0]]
    with pytest.raises(AssertionError, match="tokens differ"):
        encoded.contestants[0].check((tokens, lengths))

    gram = products.dense_numpy()
    gram[products.sample[0], -1] = -1
    with pytest.raises(AssertionError, match="products differ"):
        products.check_gram(gram)
    partners, weights = products.edges(products.ours())
    gene = next(int(g) for g in products.sample if partners[g, 0] >= 0)
    with pytest.raises(AssertionError, match="a correlation is off"):
        products.check_edges((partners, weights + 1e-3 * (torch.arange(len(weights)) == gene)[:, None]))
    partners[gene, 0] = -1
    with pytest.raises(AssertionError):
        products.check_edges((partners, weights))


def test_the_nearer_limit_is_the_bound() -> None:
    case = Case("kernel", "", "", 1, _two(), bytes_moved=100.0, multiply_adds=50.0)
    assert case.bound(10.0, 1.0) == ("arithmetic", 100.0)
    assert case.bound(0.5, 1.0) == ("memory", 200.0)


def test_contestants_run_in_turns() -> None:
    order: list[str] = []
    one = Contestant("ours", lambda: order.append("ours"), lambda _: None, ours=True)
    other = Contestant("peer", lambda: order.append("peer"), lambda _: None)
    compare(Case("kernel", "", "", 1, [one, other], 1.0), 0, least_rounds=3)
    assert order == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]


def _two() -> list[Contestant]:
    ours = Contestant("ours", lambda: None, lambda _: None, ours=True)
    return [ours, Contestant("peer", lambda: None, lambda _: None, restated=True)]
