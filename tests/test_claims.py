"""The study of the claims: its plan, a rehearsal on simulated cells that is interrupted, its statistics, its page."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("datasets")
pytest.importorskip("sklearn")

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "claims"
NAMES = (
    *("study", "claim_cells", "claim_scores", "claim_finetuning", "claim_statistics", "claim_rows", "claim_figures"),
    *("claim_tables", "claim_verdicts", "claim_factors", "claim_penalty", "run", "penalty", "page"),
)
CHANGING = ("cpu_seconds", "train_cpu_seconds", "finished")  # of a run that is done again


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The modules of the study by name; they are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        for name in NAMES:
            patch.delitem(importlib.import_module("sys").modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in NAMES}


def rehearse(scripts: dict[str, ModuleType], folder: Path, *names: str) -> list[dict[str, str]]:
    """Do runs of the rehearsal; the rows that there are then."""
    folder.mkdir(exist_ok=True)
    options = [
        "--rehearse",
        "--results",
        str(folder / "results.csv"),
        "--work",
        str(folder / "work"),
        "--device",
        "cpu",
    ]
    scripts["run"].main([*options, "--only", *names])
    return scripts["run"].read_rows(folder / "results.csv")


def test_the_plan_pairs_its_arms(scripts: dict[str, ModuleType]) -> None:
    study = scripts["study"]
    planned = list(study.runs(range(3)))
    assert len({run.name for run in planned}) == len(planned)
    assert [run.name for run in planned[:6]] == [
        f"blood-{arm}-0" for arm in ("baselines", "random", "corr", "weighted", "rewired", "levelled")
    ]
    kinds: dict[Any, list[Any]] = {}
    for run in planned:
        if run.arm != study.BASELINES:
            run.settings(study.PROTOCOL).check()
            kinds.setdefault((run.corpus, run.seed, run.fraction, run.factor), []).append(run)
    for runs in kinds.values():
        shared = [
            {**run.settings(study.PROTOCOL).to_dict(), "mask": None, "rate": None} | {"graph": run.graph}
            for run in runs
        ]
        assert all(one == shared[0] for one in shared), "arms differ by their mask and rate alone"
    for factor in study.FACTORS:
        changed, usual = study.Run("blood", "corr", 0, factor=factor), study.Run("blood", "corr", 0)
        same = changed.settings(study.PROTOCOL) == usual.settings(study.PROTOCOL) and changed.graph == usual.graph
        assert not same, factor


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "simulated-corr-0"
    whole = rehearse(scripts, tmp_path / "whole", "simulated-random-0", name)
    assert [(row["run"], row["step"]) for row in whole] == [
        (f"simulated-{arm}-0", step) for arm in ("random", "corr") for step in "2468"
    ]
    random, corr = whole[:4], whole[4:]
    assert float(corr[-1]["leak_0.1_alike"]) < float(random[-1]["leak_0.1_alike"]) - 0.1
    assert float(corr[-1]["val_loss"]) < float(corr[0]["val_loss"]) < math.log(1004) + 0.1
    assert all(0 < float(row["macro_f1"]) < 1 and row["auroc"] == "" for row in whole)
    assert len({row["macro_f1"] for row in whole}) > 2
    tuned = [row["tuned_macro_f1"] for row in whole]
    assert [one != "" for one in tuned] == [False, False, False, True] * 2, "of the last mark alone"
    assert all(0 < float(one) < 1 for one in tuned if one)

    folder = tmp_path / "stopped"
    real = scripts["run"].Work.progress

    def stop(self: Any, stage: str, done: int, total: int) -> None:
        real(self, stage, done, total)
        if (stage, done) == ("pretrain", 5):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scripts["run"].Work, "progress", stop)
        with pytest.raises(KeyboardInterrupt):
            rehearse(scripts, folder, name)
    assert scripts["run"].read_rows(folder / "results.csv") == []
    kept = [step for step, _ in scripts["run"].checkpoints(folder / "work" / name / "model")]
    assert kept == [2, 4]
    resumed = []

    def note(self: Any, stage: str, done: int, total: int) -> None:
        real(self, stage, done, total)
        if stage == "pretrain":
            resumed.append(done)

    with monkeypatch.context() as patch:
        patch.setattr(scripts["run"].Work, "progress", note)
        again = rehearse(scripts, folder, name)
    assert resumed == [4, 5, 6, 7, 8]
    assert [{**row, **dict.fromkeys(CHANGING)} for row in again] == [{**row, **dict.fromkeys(CHANGING)} for row in corr]
    assert not (folder / "work" / name).exists()
    before = (folder / "results.csv").read_bytes()
    rehearse(scripts, folder, name)
    assert (folder / "results.csv").read_bytes() == before, "what is done is left"


def test_fine_tuning_learns_what_the_labels_say(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    import anndata
    import torch

    from corrmask.model import build_model, save_model
    from corrmask.vocabulary import Vocabulary

    tuning, study = scripts["claim_finetuning"], scripts["study"]
    rng = np.random.default_rng(3)
    types = np.arange(240) % 3
    counts = rng.poisson(2.0, (240, 30)).astype(np.float32)
    for one in range(3):  # each type has ten genes of its own
        counts[types == one, 10 * one : 10 * one + 10] += 30
    genes = [f"g{i}" for i in range(30)]
    cells = anndata.AnnData(scipy.sparse.csr_array(counts))
    cells.var_names = genes
    cells.obs["cell_type"] = np.array(["rare_0", "rare_1", "rare_2"])[types]
    vocabulary = Vocabulary(np.array(genes, dtype=object), medians=np.ones(30))
    model = build_model(vocabulary, layers=1, hidden=16, heads=2, intermediate=16, max_len=30, dropout=0.0, seed=1)
    save_model(model, vocabulary, tmp_path)
    tokens = tuning._Tokens(tmp_path, cells)
    train, test = np.arange(120), np.arange(120, 240)
    how = study.Tuning(steps=60, lr=3e-3)
    first, again = (
        tuning.tune(tokens, train, types[train], 3, how, seed=0, device="cpu", progress=lambda *_: None)
        for _ in range(2)
    )
    predicted = tuning.predict(first, tokens, test)
    assert (predicted == types[test]).mean() > 0.9
    assert all(torch.equal(one, other) for one, other in zip(first.state_dict().values(), again.state_dict().values()))
    before = model.bert.state_dict()
    still = [name for name, one in first.bert.state_dict().items() if torch.equal(one, before[name])]
    assert not [name for name in still if name.endswith("weight")], "every weight learns"

    cells.obs["level"], cells.obs["role"] = "simulated", np.where(np.arange(240) < 120, "train", "test")
    options = {"seed": 0, "device": "cpu", "progress": lambda *_: None}
    right = tuning.tuned_scores(tmp_path, cells, how, **options)
    assert right["tuned_macro_f1"] == right["tuned_rare_f1"] > 0.9
    labels = np.asarray(cells.obs["cell_type"]).copy()
    for wrong in (train, test):  # what trains and what is tested both count
        mixed = labels.copy()
        mixed[wrong] = rng.permutation(mixed[wrong])
        cells.obs["cell_type"] = mixed
        assert tuning.tuned_scores(tmp_path, cells, how, **options)["tuned_macro_f1"] < 0.6
    mixed = labels.copy()
    mixed[test] = np.roll(mixed[test], 1)  # every tested label is wrong, every one that trains is right
    cells.obs["cell_type"] = mixed
    assert tuning.tuned_scores(tmp_path, cells, how, **options)["tuned_macro_f1"] < 0.1

    batches = tuning._batches(100, 0, study.Tuning(steps=8, batch_size=25))
    for epoch in (batches[:4], batches[4:]):
        assert sorted(epoch.ravel()) == list(range(100)), "every cell once an epoch"
    found = tuning._f1(np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2]), np.array(["a", "b", "c"]))
    assert found == pytest.approx({"a": 2 / 3, "c": 1.0}), "types without tested cells have no F1"


def test_the_page_says_what_there_is_and_what_is_missing(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    rows = rehearse(scripts, tmp_path, "simulated-baselines-0", "simulated-weighted-0", "simulated-random-0")
    assert {row["arm"] for row in rows} == {"untrained", "PCA", "HVG", "random", "weighted"}
    output = tmp_path / "claims.md"
    scripts["page"].main(["--results", str(tmp_path / "results.csv"), "-o", str(output)])
    text = output.read_text()
    assert "**2 of the 204 models of the plan" in text
    assert "open: 0 of 3 seeds" in text
    last = {row["arm"]: float(row["rare_f1"]) for row in rows if row["step"] in ("0", "8")}
    tuned = {row["arm"]: float(row["tuned_rare_f1"]) for row in rows if row["tuned_rare_f1"]}
    assert set(tuned) == {"untrained", "random", "weighted"}
    assert f"| weighted - random | {last['weighted'] - last['random']:+.3f} (n = 1) |" in text
    assert "- blood, all cells: all 21 runs" in text
    assert f"| weighted - random | {tuned['weighted'] - tuned['random']:+.3f} (n = 1) |" in text
    assert "- end points by fine-tuning: 202 of 204 runs" in text
    assert "- simulated, all cells: 19 runs: random 1, 2; corr 0, 1, 2; weighted 1, 2;" in text
    drawn = {path.name for path in (tmp_path / "images").iterdir()}
    assert "claims-curves-others.svg" in drawn
    assert all((f"images/{name}" in text) for name in drawn)
    assert "claims-data.svg" not in drawn, "no fraction has runs"
    assert "for want of runs: curves, curves-longer, differences, joint, data" in text


def test_what_trains_is_rare_and_what_is_tested_is_unseen(scripts: dict[str, ModuleType], data_dir: Path) -> None:
    read, budget = scripts["claim_cells"].read_cells, scripts["study"].REHEARSAL
    for corpus, level in (("blood", "purified"), ("kang", "kang")):
        obs = read(corpus, 1, data_dir, budget).obs
        mine = obs[obs["level"] == level]
        assert not mine.loc[mine["role"] == "test", "corpus"].any()
        train = mine.loc[mine["role"] == "train", "cell_type"].value_counts(normalize=True)
        test = mine.loc[mine["role"] == "test", "cell_type"].value_counts()
        for name, share in scripts["claim_cells"].THINNED[level].items():
            assert train[name] == pytest.approx(share, rel=0.1)
            assert test[name] > 20
        rare = scripts["claim_cells"].RARE[level]
        assert set(rare) < set(train.index)
    assert obs.loc[obs["role"] == "test", "source"].nunique() == 1, "one donor is left out"


def test_a_control_that_hides_nothing_is_named(scripts: dict[str, ModuleType]) -> None:
    import pandas as pd

    def said(**leaks: float) -> str:
        return "\n".join(scripts["claim_tables"].hidden(pd.Series(leaks)))

    assert "weighted takes 25%, levelled takes 5%" in said(random=0.5, corr=0.1, weighted=0.4, levelled=0.48)
    assert "says little of joint masking" in said(random=0.5, corr=0.1, weighted=0.4, levelled=0.48)
    assert "says little of joint masking" not in said(random=0.5, corr=0.1, weighted=0.4, levelled=0.2)
    assert said(random=0.5, corr=0.5, levelled=0.5) == said(random=0.5) == ""


def test_fine_tuned_blood_is_that_of_a_cpu(scripts: dict[str, ModuleType]) -> None:
    import pandas as pd

    blood, kang = (
        table({"corr": [0.5]}, corpus=corpus, machine="one", tuned_macro_f1=0.5) for corpus in ("blood", "kang")
    )
    both = pd.concat([blood, kang], ignore_index=True)
    found = scripts["claim_rows"].with_tuned(both, blood.assign(machine="cpu"))
    assert list(zip(found["corpus"], found["machine"])) == [("kang", "one")] * 2 + [("blood", "cpu")] * 2
    anew = scripts["claim_rows"].with_tuned(both, None)
    assert list(anew["corpus"]) == ["blood"] * 2 + ["kang"] * 2, "of one file, all of it"


def test_the_readme_gives_the_figures_of_the_page() -> None:
    root = FOLDER.parent.parent
    section = " ".join((root / "README.md").read_text().split("## The claims")[1].split("\n## ")[0].split())
    page = (root / "docs" / "claims.md").read_text()
    figures = re.findall(r"[+-]?\d\.\d{3}\b(?: \[[^]]*\])?", section)  # with their intervals, where they have one
    assert len(figures) > 50
    assert sum("[" in figure for figure in figures) > 10
    assert not [figure for figure in figures if figure not in page]
    named = re.findall(r"\b([a-z]+) - ([a-z]+) (?:is )?([+-]\d\.\d{3})", section)
    assert len(named) > 5
    assert not [one for one in named if not re.search(rf"{one[0]} - {one[1]} \|? ?{re.escape(one[2])}", page)]
    counts = re.findall(r"(frozen|fine-tuned) in (\d+) settings", section.lower())
    assert [how for how, _ in counts] == ["frozen", "fine-tuned"]
    assert all(f"- {how}, {number} settings:" in page for how, number in counts)


def test_other_penalties_are_read_and_judged_each_by_itself(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    import pandas as pd

    scores = {
        "corr": (0.5, 0.9),
        "random": (0.4, 0.7),
        "weighted": (0.6, 0.7),
        "rewired": (0.5, 0.6),
        "PCA": (0.3, 1.0),
    }
    rows = [
        {"run": arm, "arm": arm, "seed": seed, "c": c, "rare_f1": score + seed / 1000, "pbmc3k_rare_f1": float("nan")}
        | {"macro_f1": 0.5, "pbmc3k_macro_f1": 0.7, "machine": "two" if (arm, seed) == ("corr", 1) else "one, 3.11"}
        for arm, both in scores.items()
        for c, score in zip((1.0, 1000.0), both, strict=True)
        for seed in range(3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "penalty.csv", index=False)
    read = scripts["claim_penalty"].read_penalties(tmp_path / "penalty.csv")
    assert read["mean_macro_f1"].unique() == pytest.approx([0.6])
    text = "\n".join(scripts["claim_penalty"].penalties(read))
    assert "Arms are of CPUs of two makers in seed 1.\n" in text
    assert "| rare macro-F1, purified | C = 1 | C = 1,000 |" in text
    assert "| corr | 0.501 | 0.901 |" in text
    assert "C = 1: against the claim: below 0 lies corr - weighted; the gain over random is one of frequency" in text
    assert "corr - random +0.100 [+0.100, +0.100] (n = 3), corr - weighted -0.100" in text
    assert "pbmc3k" not in text, "what has no scores is left out"
    assert "the best arm, weighted, less the best baseline, PCA: +0.300 [+0.300, +0.300] (n = 3)." in text
    assert "C = 1,000: supported: corr lies above random, weighted and rewired." in text
    assert "the best arm, corr, less the best baseline, PCA: -0.100" in text


def test_a_run_is_read_under_each_penalty(scripts: dict[str, ModuleType], data_dir: Path, tmp_path: Path) -> None:
    options = ["--rehearse", "--data", str(data_dir), "--work", str(tmp_path / "work")]
    options += ["--results", str(tmp_path / "results.csv"), "--only", "blood-corr-0"]
    scripts["penalty"].main(options)
    rows = scripts["run"].read_rows(tmp_path / "results.csv")
    assert [float(row["c"]) for row in rows] == list(scripts["penalty"].PENALTIES)
    assert {row["arm"] for row in rows} == {"corr"}
    assert all(0 < float(row["rare_f1"]) < 1 for row in rows)
    scripts["penalty"].main(options)
    assert scripts["run"].read_rows(tmp_path / "results.csv") == rows, "it is not done again"


def test_joint_masking_is_counted_over_all_settings(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    import pandas as pd

    factors = scripts["claim_factors"]
    kang = table({"corr": [0.6, 0.62, 0.61], "weighted": [0.5, 0.5, 0.5], "random": [0.1, 0.1, 0.1]}, corpus="kang")
    kang = kang.assign(rare_f1=kang["score"], machine="one", tuned_rare_f1=float("nan"))
    levelled = kang["arm"].replace("corr", "levelled")
    kang["leak_0.1_alike"] = kang["arm"].map({"corr": 0.2, "weighted": 0.3, "random": 0.4})
    less = kang.assign(factor="power=2", rare_f1=1 - kang["score"], arm=levelled)
    less["leak_0.1_alike"] = 0.3
    evenly = kang[kang["arm"] == "corr"].assign(arm="levelled", run="even-" + kang["seed"].astype(str), rare_f1=0.11)
    one_seed = kang[kang["seed"] == 0].assign(factor="power=0.5", arm=levelled)
    rows = pd.concat([kang, less, evenly, one_seed], ignore_index=True)
    rows = rows.assign(pbmc3k_rare_f1=float("nan"), pbmc3k_tuned_rare_f1=float("nan"))
    fresh = kang.assign(seed=kang["seed"] + 5, rare_f1=-kang["score"], pbmc3k_rare_f1=float("nan"), corpus="blood")
    half = fresh.assign(seed=kang["seed"], fraction="1/2", run="half-" + fresh["run"], rare_f1=kang["score"] / 2)
    on_cpu = pd.concat([fresh, half], ignore_index=True)
    gains = factors.joint_gains(rows, rows, on_cpu.assign(pbmc3k_tuned_rare_f1=float("nan")))
    found = {name: (one.score.n, round(one.score.mean, 6)) for name, one in gains["frozen"].items()}
    assert found == {
        "purified, fresh seeds": (3, -0.11),
        "purified, 1/2 of the cells": (3, 0.055),
        "kang": (3, 0.11),
        "kang, evenly": (3, 0.01),
        "kang, power=2": (3, -0.11),
    }
    said = "\n".join(factors.joint_masking(gains))
    assert "- frozen, 5 settings: the mean lies above 0 in 3 (median of the means +0.010)" in said
    assert "the interval above 0 in 3, below 0 in 2. It excludes a gain of 0.03 in 3, and is narrow enough to" in said
    taken_away = {name: round(one.hidden, 6) for name, one in gains["frozen"].items()}
    assert taken_away.pop("kang, power=2") == 0
    assert taken_away.pop("kang, evenly") == 0.2
    assert set(taken_away.values()) == {0.1}
    assert "takes away 0.0 to 20.0 points (median 10.0); rank correlation of what it takes away with the gain" in said
    assert "seen, not tested: kang +0.50 (3 settings)." in said, "of what has three"
    assert "fine-tuned" not in said
    for draw in (scripts["claim_figures"].joint, scripts["claim_figures"].hidden):
        assert draw(gains, tmp_path / "some.svg")
        assert not draw({"frozen": {}}, tmp_path / "none.svg")


def test_a_factor_is_shown_for_each_of_its_arms(scripts: dict[str, ModuleType]) -> None:
    import pandas as pd

    usual = table({"corr": [0.6, 0.6], "weighted": [0.5, 0.5], "random": [0.1, 0.1]}, corpus="kang", machine="one")
    longer = table({"corr": [0.9, 0.9], "weighted": [0.7, 0.7], "random": [0.2]}, corpus="kang", machine="one")
    longer = longer.assign(factor="steps=4000", run=longer["run"] + "-steps=4000")
    rows = pd.concat([usual, longer], ignore_index=True).rename(columns={"score": "rare_f1"})
    no_scores = ("tuned_rare_f1", "pbmc3k_rare_f1", "pbmc3k_tuned_rare_f1", "mean_macro_f1", "mean_tuned_macro_f1")
    blank = dict.fromkeys(no_scores, float("nan"))
    again = usual.rename(columns={"score": "rare_f1"}).replace(0.6, 0.8)
    lines = list(scripts["claim_factors"].factors(rows.assign(**blank), None, again))
    (row,) = [line.split("|") for line in lines if line.startswith("| rare")]
    assert row[1].strip() == "rare macro-F1, kang: steps=4000, corr"
    assert [cell.split()[0] for cell in row[2:6]] == ["+0.300", "+0.200", "+0.100", "+0.200"]
    assert (
        "- rare macro-F1, kang: steps=4000: random with it - without +0.100 (n = 1); corr - random +0.700 (n = 1); "
        "weighted - random +0.500 (n = 1); random with it - corr without -0.400 (n = 1); random with it - weighted "
        "without -0.300 (n = 1)." in lines
    )
    assert any(line.startswith("Of the 2 intervals") and "0 lie below 0 and 2 above" in line for line in lines)
    assert not any("CPUs of two makers" in line for line in lines)


def test_simulated_tissues_are_judged_on_a_cpu(scripts: dict[str, ModuleType]) -> None:
    import pandas as pd

    simulated, blood = (table({"corr": [0.5]}, corpus=corpus, machine="one") for corpus in ("simulated", "blood"))
    both, judged = pd.concat([simulated, blood], ignore_index=True), scripts["claim_rows"].judged
    found = judged(both, simulated.assign(machine="cpu"))
    assert list(zip(found["corpus"], found["machine"])) == [("blood", "one")] * 2 + [("simulated", "cpu")] * 2
    assert judged(both, None) is both
    assert judged(both, blood) is both, "until there are runs"


def test_fresh_seeds_decide_what_the_first_ones_suggested(scripts: dict[str, ModuleType]) -> None:
    rows_of, verdicts, names = scripts["claim_rows"], scripts["claim_verdicts"], ("mean_macro_f1", "rare_f1", "auroc")
    scores = {"random": [0.5] * 10, "weighted": [0.6] * 10, "rewired": [0.6] * 10, "corr": [0.9] * 3 + [0.5] * 7}
    rows = table(scores, corpus="blood")
    rows = rows.assign(**dict.fromkeys((*names, "pbmc3k_rare_f1", "pbmc3k_tuned_rare_f1"), rows["score"]))
    rows = rows[~rows["seed"].isin([3, 4])].rename(columns={"score": "tuned_rare_f1"})

    def said(found: Any) -> str:
        return "\n".join(verdicts.confirmed(found, rows_of.TUNED["purified"]))

    assert "which suggested it: **supported" in said(rows)
    assert "which decide it: **against the claim: below 0 lies corr - weighted and corr - rewired" in said(rows)
    assert "| corr - weighted | +0.050 " in said(rows), "(3 x 0.3 - 5 x 0.1) / 8"
    assert "which decide it: **open: 4 of 5 seeds" in said(rows[rows["run"] != "rewired-9"])
    assert "fresh" not in said(rows[rows["seed"] < 3])


def test_the_arms_of_a_seed_are_of_one_device(
    scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scripts["run"]
    rows = rehearse(scripts, tmp_path, "simulated-random-0")
    on_gpu = {"run": "simulated-weighted-1", "corpus": "simulated", "arm": "weighted", "seed": 1, "cpu_seconds": 1}
    run.append(tmp_path / "results.csv", [{**on_gpu, "machine": "NVIDIA H200, 3.12"}])
    rehearse(scripts, tmp_path, "simulated-random-1")
    assert len(run.read_rows(tmp_path / "results.csv")) == len(rows) + 1
    assert "its seed was trained on NVIDIA H200" in capsys.readouterr().out


def table(scores: dict[str, list[float]], **columns: Any) -> Any:
    """Rows of results, a seed for each score, at the last of two marks."""
    import pandas as pd

    rows = [
        {"run": f"{arm}-{seed}", "arm": arm, "seed": seed, "step": step, "score": one if step == 8 else -9.0}
        for arm, values in scores.items()
        for seed, one in enumerate(values)
        for step in (4, 8)
    ]
    return pd.DataFrame(rows).assign(fraction="1", factor="", **columns)


CASES = {
    "supported": {"random": 0.5, "weighted": 0.6, "rewired": 0.6, "corr": 0.8},
    "not supported: the gain over random is one of frequency": {
        "random": 0.5,
        "weighted": 0.8,
        "rewired": 0.6,
        "corr": 0.8,
    },
    "not supported: it needs no biology": {"random": 0.5, "weighted": 0.5, "rewired": 0.8, "corr": 0.8},
    "against the claim: below 0 lies corr - weighted": {"random": 0.5, "weighted": 0.9, "rewired": 0.6, "corr": 0.8},
    "not supported: corr lies above random and rewired, and is not shown to lie above weighted": {
        "random": 0.5,
        "weighted": (0.4, 0.6, 0.8),
        "rewired": 0.55,
        "corr": 0.8,
    },
    "not supported: no difference is shown": {"random": 0.5, "weighted": 0.5, "rewired": 0.5, "corr": 0.5},
}


@pytest.mark.parametrize("expected", CASES)
def test_verdicts(scripts: dict[str, ModuleType], expected: str) -> None:
    noise = {arm: np.array([-1, 0, 1]) * 0.01 * k for k, arm in enumerate(("random", "weighted", "rewired", "corr"), 1)}
    rows = table({arm: list(np.asarray(mean) + noise[arm]) for arm, mean in CASES[expected].items()})
    said, _ = scripts["claim_statistics"].verdict(rows, "score")
    assert said.startswith(expected)
    said, _ = scripts["claim_statistics"].verdict(rows[rows["run"] != "weighted-1"], "score")
    assert said.startswith("open: 2 of 3 seeds")


def test_of_dosage_the_level_of_expression_is_to_be_beaten(scripts: dict[str, ModuleType]) -> None:
    def said(**scores: float) -> str:
        rows = table({arm: [mean - 0.01, mean, mean + 0.02] for arm, mean in scores.items()})
        return scripts["claim_statistics"].verdict(rows, "score", to_beat="expression")[0]

    equal = {"random": 0.5, "weighted": 0.5, "rewired": 0.5}
    assert said(**equal, corr=0.8, expression=0.6).startswith("supported")
    assert said(**equal, corr=0.8, expression=0.9).startswith("against the claim: corr is no better than expression")
    assert said(**equal, corr=0.5, expression=0.9).endswith("between corr and the other arms no difference is shown")
    assert said(**equal, corr=0.5, expression=0.4) == "not supported: no difference is shown"


def test_shares_are_of_a_gain_that_is_shown(scripts: dict[str, ModuleType]) -> None:
    verdicts, paired = scripts["claim_verdicts"], scripts["claim_statistics"].paired
    none = dict.fromkeys(range(3), 0.0)
    half = {"corr - random": {0: 0.2, 1: 0.2, 2: 0.21}, "weighted - random": {0: 0.1, 1: 0.1, 2: 0.105}}
    found = {name: paired(values, none) for name, values in half.items()}
    found |= {f"{arm} - random": paired({}, none) for arm in ("rewired", "levelled")}
    assert "the same 3 seeds have: weighted 50%" in "\n".join(verdicts.shared(found))
    wide = found | {"corr - random": paired({0: 0.9, 1: 0.1, 2: -0.2}, none)}
    assert not list(verdicts.shared(wide))


def test_what_has_nothing_to_tune_stands_beside_what_was_tuned(scripts: dict[str, ModuleType]) -> None:
    rows = table({"PCA": [0.7, 0.8], "corr": [0.6, 0.7]}, corpus="kang", tuned_macro_f1=float("nan"))
    rows = rows.rename(columns={"score": "rare_f1"}).assign(tuned_rare_f1=0.9)
    rows_of = scripts["claim_rows"]
    assert rows_of.last_mark(rows, "PCA", rows_of.TUNED["kang"]) == {0: 0.7, 1: 0.8}
    assert rows_of.last_mark(rows, "corr", rows_of.TUNED["kang"]) == {0: 0.9, 1: 0.9}
    assert set(rows_of.with_tuned(rows, None)["arm"]) == {"PCA"}


def test_intervals_are_of_paired_seeds(scripts: dict[str, ModuleType]) -> None:
    found = scripts["claim_statistics"].paired({0: 1.5, 1: 2.5, 2: 3.5, 7: 0.0}, {0: 0.5, 1: 0.5, 2: 0.5, 3: 9.0})
    assert (found.n, found.mean) == (3, 2.0)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    alone = scripts["claim_statistics"].paired({0: 1.0}, {0: 0.0})
    assert (alone.low, alone.above, alone.below) == (-np.inf, False, False)


@pytest.mark.parametrize(
    ("third", "expected"),
    [
        ({"random": 0.79, "weighted": 0.79, "corr": 0.85}, "cannot be tested"),
        ({"random": 0.6, "weighted": 0.7, "corr": 0.7}, "not supported"),
        ({"random": 0.6, "weighted": 0.9, "corr": 0.9}, "supported, and not of joint masking"),
        ({"random": 0.6, "weighted": 0.7, "corr": 0.9}, "supported, and of joint masking"),
    ],
)
def test_verdicts_on_less_data(scripts: dict[str, ModuleType], third: dict[str, float], expected: str) -> None:
    import pandas as pd

    spread = np.array([-0.01, 0.0, 0.012])
    whole = table({"random": list(0.8 + spread)})
    part = table({arm: list(mean - spread) for arm, mean in third.items()}).assign(fraction="1/3")
    part["run"] += "-1of3"
    half = part.assign(fraction="1/2", run=part["run"] + "2", score=0.1)
    rows = pd.concat([whole, part, half], ignore_index=True)
    said, found = scripts["claim_statistics"].data_verdict(rows, "score")
    assert said.startswith(expected), "whatever half the cells give"
    one = found["corr on 1/3 - random on all"]
    assert (one.n, one.mean) == (3, pytest.approx(third["corr"] - 0.8 - 2 * spread.mean()))
    rows["fraction"] = rows["fraction"].replace({"1/3": "1/9", "1": "1/3"})
    again, found = scripts["claim_statistics"].data_verdict(rows, "score", "1/9", "1/3")
    assert again.startswith(expected)
    assert found["weighted on 1/9 - random on 1/3"].mean == pytest.approx(third["weighted"] - 0.8 - 2 * spread.mean())


def test_the_fraction_at_which_an_arm_reaches_random_on_all(scripts: dict[str, ModuleType]) -> None:
    import pandas as pd

    def on(fraction: str, **scores: float) -> Any:
        rows = table({arm: [score] * 3 for arm, score in scores.items()}).assign(fraction=fraction)
        return rows.assign(run=rows["run"] + fraction)

    ninth = on("1/9", random=0.4, weighted=0.5, corr=0.595)
    rows = [on("1", random=0.6, weighted=0.8, corr=0.9), on("1/3", random=0.5, weighted=0.7, corr=0.9), ninth]
    (line,) = [
        one
        for one in scripts["claim_verdicts"].less_data("F1", pd.concat(rows, ignore_index=True), "score")
        if "smallest" in one
    ]
    assert line.startswith("F1: the smallest of the fractions 1/9, 1/3, 1 at which an arm reaches random on all cells")
    assert "random none but all, weighted 1/3 (+0.100 [" in line
    assert "corr 1/9 (-0.005 [" in line, "no more than a hundredth below"


def test_a_curve_against_data_has_a_panel_for_each_file(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    import pandas as pd

    with_fractions = scripts["claim_rows"].with_fractions
    whole = table({"random": [0.5, 0.6], "corr": [0.7, 0.8], "weighted": [0.8, 0.9]}, corpus="blood")
    whole = whole.rename(columns={"score": "mean_macro_f1"})
    whole = whole.assign(mean_tuned_macro_f1=float("nan"))
    third = whole.assign(fraction="1/3", run=whole["run"] + "-1of3")
    rows, on_cpu = whole, pd.concat([whole, third], ignore_index=True)
    assert [title for title, *_ in with_fractions(rows, whole)] == ["macro-F1, mean of both"]
    assert not scripts["claim_figures"].data_curves(with_fractions(rows, whole), tmp_path / "none.svg")
    some = on_cpu[(on_cpu["fraction"] == "1") | (on_cpu["arm"] == "random")]
    assert not scripts["claim_figures"].data_curves(with_fractions(rows, some), tmp_path / "none.svg"), "of one arm"
    shown = with_fractions(rows, on_cpu)
    assert [title.partition(", on a")[1] for title, *_ in shown] == ["", ", on a", ", on a"]
    assert scripts["claim_figures"].data_curves(shown, tmp_path / "data.svg")
    text = (tmp_path / "data.svg").read_text()
    assert "on a CPU" in text
    assert "fine-tuned" not in text, "what has no second point is not drawn"
