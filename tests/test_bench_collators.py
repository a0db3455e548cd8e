"""The benchmark of collators sees what is wrong with one, and times what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from corrmask import pl
from corrmask.bench.collators import OURS, PEER, bench_collators, load_collator
from corrmask.cli.app import main
from corrmask.errors import InputError

SMALL: dict[str, Any] = {"seconds": 0.2, "n_cells": 6, "max_len": 200}


def always_the_same(examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Masks the first fifth of each cell, shows the mask token always, and gets the first label wrong."""
    width = max(example["length"] for example in examples)
    ids, labels = np.zeros((len(examples), width), dtype=np.int64), np.full((len(examples), width), -100)
    for row, label, example in zip(ids, labels, examples):
        n = example["length"]
        row[:n] = example["input_ids"]
        label[: n // 5] = row[: n // 5]
        row[: n // 5] = 1
        label[0] += 1
    return {"input_ids": ids, "labels": labels}


def test_what_is_told_of_each() -> None:
    document = bench_collators(always_the_same, step_cells_per_second=100.0, **SMALL)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == [OURS, PEER, "yours"]
    for row in rows.values():
        assert row["cells_per_second"] == pytest.approx(6 / row["median_seconds"])
        assert row["tokens_per_second"] == pytest.approx(document["tokens"] / row["median_seconds"])
        assert row["step_share"] == pytest.approx(row["median_seconds"] / (row["median_seconds"] + 0.06))
        assert row["special_masked"] == 0
    for name in (OURS, PEER):
        assert rows[name]["labels_wrong"] == 0
        assert rows[name]["shown"]["worst_standard_errors"] < 6
        assert rows[name]["epochs_differ"]
    ours, peer, yours = rows.values()
    assert (ours["replayable"], ours["batch_independent"]) == (True, True)
    assert ours["rate"]["cells_off_budget"] == 0
    assert (peer["replayable"], peer["batch_independent"]) == (False, False)
    assert peer["rate"]["cells_off_budget"] > 0.5
    assert (yours["replayable"], yours["epochs_differ"]) == (True, False)
    assert yours["labels_wrong"] == 8 * 6
    assert yours["rate"]["cells_off_budget"] == 1
    assert yours["rate"]["realised"] == pytest.approx(0.2, abs=0.01)
    assert yours["shown"]["mask_token"] == 1
    assert yours["shown"]["worst_standard_errors"] > 5
    ax = pl.collator_speed(document)
    assert sorted(bar.get_width() for bar in ax.patches) == sorted(row["cells_per_second"] for row in rows.values())


def test_timing_has_one_thread_and_gives_the_others_back() -> None:
    seen: list[int] = []

    def asks(examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        seen.append(torch.get_num_threads())
        return always_the_same(examples)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert bench_collators(asks, **SMALL)["threads"] == 1
        assert seen[-1] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_collator_may_take_fields_out_of_its_examples() -> None:
    def takes_out(examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        found = always_the_same(examples)
        for example in examples:
            example.pop("input_ids")
            example["cell_id"] = None
        return found

    ours, *_, yours = bench_collators(takes_out, **SMALL)["rows"]
    assert ours["replayable"]
    assert yours["replayable"]

    def writes(examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        examples[0]["input_ids"][0] = 1
        return always_the_same(examples)

    with pytest.raises(InputError, match="writes into the tokens"):
        bench_collators(writes, **SMALL)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine_for_this_test.py").write_text("from test_bench_collators import always_the_same as mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    options = ["--seconds", "0.1", "--cells", "4", "--max-len", "100"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "masking", "mine_for_this_test:mine", *options, "-o", "out"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert "mine_for" in shown.out
    assert "other masks in" in shown.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"masking.json", "masking.png", "masking.svg"}
    with pytest.raises(SystemExit):
        main(["bench", "masking", *options, "--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == [OURS, PEER]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "masking", "nowhere:collator", *options])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script_that_ends.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for path, words in (
        ("script_that_ends:collator", "cannot be imported .SystemExit: 3."),
        ("json", "module:attribute"),
        ("json:missing", "cannot be imported"),
        ("json:JSONDecoder", "must be a collator"),
        ("json:__name__", "must be a collator"),
    ):
        with pytest.raises(InputError, match=words):
            load_collator(path)
    with pytest.raises(InputError, match=r"failed on 6 examples \(TypeError"):
        bench_collators(lambda: None, **SMALL)  # type: ignore[arg-type,misc]
    with pytest.raises(InputError, match="pad on the right"):
        bench_collators(lambda _: dict.fromkeys(("input_ids", "labels"), np.zeros((2, 2), int)), **SMALL)
    with pytest.raises(InputError, match="must be integers, got float64"):
        bench_collators(lambda _: dict.fromkeys(("input_ids", "labels"), np.full((6, 2048), np.nan)), **SMALL)
    for changed in ({"seconds": 0}, {"n_cells": 1}, {"max_len": 1}, {"step_cells_per_second": 0}):
        with pytest.raises(InputError, match="bench masking"):
            bench_collators(**{**SMALL, **changed})
