"""Scores of cell types: against scikit-learn's, on data with a known answer, and without leakage."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

pytest.importorskip("sklearn")

from sklearn.metrics import accuracy_score, f1_score

from corrmask.errors import InputError
from corrmask.evaluation import baselines, evaluate_annotation
from corrmask.evaluation.bootstrap import Interval, classification_draws, resampled_weights
from corrmask.evaluation.splits import make_splits, stratified_folds, stratified_halves, thin_types

SIZES = {"B": 60, "NK": 45, "T": 90, "rare": 8}


def blobs(sizes: dict[str, int] = SIZES, *, spread: float = 1.0, d: int = 6, seed: int = 0):
    """Embeddings around one centre per type, in mixed order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    centres = {name: rng.normal(size=d) * 4 for name in sorted(sizes)}
    x = np.stack([centres[name] for name in labels]) + spread * rng.normal(size=(len(labels), d))
    return x.astype(np.float32), labels


def poisson_counts(labels: np.ndarray, *, genes: int = 80, seed: int = 1) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    rates = {name: rng.gamma(0.5, 2.0, genes) for name in sorted(set(labels))}
    return sparse.csr_matrix(rng.poisson(np.stack([rates[name] for name in labels])).astype(np.float32))


# splits


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_halves_are_stratified_and_leave_no_type_out(fraction):
    codes = np.repeat([0, 1, 2, 3], [1, 2, 11, 100])
    test = stratified_halves(codes, test_fraction=fraction, rng=np.random.default_rng(0))
    tested = np.bincount(codes[test], minlength=4)
    assert tested.tolist() == [1, 1, min(round(11 * fraction), 10), round(100 * fraction)]


def test_folds_test_each_cell_once_and_evenly():
    codes = np.repeat([0, 1, 2], [3, 7, 40])
    fold = stratified_folds(codes, folds=5, rng=np.random.default_rng(0))
    for code, n in enumerate([3, 7, 40]):
        per_fold = np.bincount(fold[codes == code], minlength=5)
        assert set(per_fold) <= {n // 5, -(-n // 5)}
    assert np.bincount(fold, minlength=5).tolist() == [10] * 5


def test_splits_repeat_by_seed_and_differ_between_repeats():
    codes = np.repeat([0, 1], [30, 30])
    a, b = (make_splits(codes, seed=3, repeats=2) for _ in range(2))
    assert all(np.array_equal(one.test, other.test) for one, other in zip(a, b))
    assert not np.array_equal(a[0].test, a[1].test)
    assert not np.array_equal(a[0].test, make_splits(codes, seed=4)[0].test)
    for split in a:
        assert sorted([*split.train, *split.test]) == list(range(60))


@pytest.mark.parametrize("fractions", [{"a": 0.02}, {"a": 0.01, "b": 0.05}, {"a": 0.1, "c": 0.001}])
def test_thin_gives_the_stated_fraction(fractions):
    labels = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c"], [500, 800, 2000]))
    keep = thin_types(labels, fractions, seed=0)
    for name in ("a", "b", "c"):
        left = int((labels[keep] == name).sum())
        if name in fractions:  # the nearest whole number of cells
            others = sum(int((labels == one).sum()) for one in ("a", "b", "c") if one not in fractions)
            assert left == max(1, round(fractions[name] * others / (1 - sum(fractions.values()))))
            assert abs(left / keep.sum() - fractions[name]) <= len(fractions) / keep.sum()
        else:
            assert left == (labels == name).sum()
    assert np.array_equal(keep, thin_types(labels, fractions, seed=0))
    assert not np.array_equal(keep, thin_types(labels, fractions, seed=1))


def test_thin_leaves_a_type_that_is_rarer_already():
    labels = np.repeat(["a", "b", "c"], [5, 500, 500])
    keep = thin_types(labels, {"a": 0.1, "b": 0.1}, seed=0)
    assert (labels[keep] == "a").sum() == 5
    assert (labels[keep] == "b").sum() == round(0.1 * 505 / 0.9)


# bootstrap


def test_resamples_keep_the_support_of_each_stratum():
    strata = np.repeat([0, 1, 2], [1, 4, 30])
    weights = np.concatenate(list(resampled_weights(strata, 300, np.random.default_rng(0), chunk=128)), axis=1)
    assert weights.shape == (35, 301)
    assert (weights[:, 0] == 1).all()
    for stratum, n in enumerate([1, 4, 30]):
        assert (weights[strata == stratum].sum(axis=0) == n).all()
    assert weights[5:, 1:].std() > 0.5


def test_draws_equal_scikit_learn_on_drawn_cells():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [2, 20, 60])
    predicted = np.where(rng.random((2, 1, 82)) < 0.6, truth, rng.integers(3, size=(2, 1, 82)))
    accuracy, f1 = classification_draws(truth, predicted, 3, n_resamples=20, rng=np.random.default_rng(5))
    weights = np.concatenate(list(resampled_weights(truth, 20, np.random.default_rng(5))), axis=1)
    for p in range(2):
        for b in range(21):
            cells = np.repeat(np.arange(82), weights[:, b].astype(int))
            assert accuracy[p, b] == pytest.approx(accuracy_score(truth[cells], predicted[p, 0, cells]), rel=1e-12)
            expected = f1_score(truth[cells], predicted[p, 0, cells], labels=[0, 1, 2], average=None, zero_division=0)
            np.testing.assert_allclose(f1[p, :, b], expected, rtol=1e-12)


def test_interval_holds_the_estimate_and_shrinks_with_cells():
    widths = []
    for n in (40, 400, 4000):
        rng = np.random.default_rng(n)
        truth = np.repeat([0, 1], n // 2)
        predicted = np.where(np.arange(n) % 5 > 0, truth, 1 - truth)[None, None]  # 80 % right at every n
        accuracy, f1 = classification_draws(truth, predicted, 2, n_resamples=400, rng=rng)
        for draws in (accuracy[0], f1[0].mean(axis=0)):
            interval = Interval.of(draws)
            assert interval.low < interval.value < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_coverage_of_the_interval():
    """The truth is an accuracy of 0.8; of 200 intervals about 95 % hold it (binomial: 180 or more, p > 0.999)."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 150)
    held = 0
    for _ in range(200):
        predicted = np.where(rng.random(300) < 0.8, truth, 1 - truth)[None, None]
        interval = Interval.of(classification_draws(truth, predicted, 2, n_resamples=200, rng=rng)[0][0])
        held += interval.low <= 0.8 <= interval.high
    assert 180 <= held < 200


# the evaluation


def test_separable_types_score_one():
    x, labels = blobs(spread=0.05)
    report = evaluate_annotation({"e": x}, labels, n_resamples=50)
    for classifier in ("logistic_regression", "knn"):
        score = report.get("e", classifier)
        if classifier == "knn":  # 4 training cells of the rare type cannot win a vote of 15
            assert score.f1["T"].value > 0.95
            continue
        assert score.macro_f1 == Interval(1.0, 1.0, 1.0)
        assert score.accuracy.value == score.rare_macro_f1.value == 1.0
        assert score.not_converged == 0


def test_shuffled_labels_score_at_chance():
    x, labels = blobs({"a": 150, "b": 150, "c": 150})
    score = evaluate_annotation({"e": x}, np.random.default_rng(9).permutation(labels), n_resamples=0).get("e")
    assert abs(score.accuracy.value - 1 / 3) < 4 * np.sqrt(2 / 9 / 225)  # four standard errors of 225 tested cells
    assert score.accuracy.low is None
    assert score.accuracy.high is None


@pytest.mark.parametrize("options", [{}, {"folds": 4}, {"repeats": 3}, {"folds": 3, "repeats": 2}])
def test_scores_equal_scikit_learn_on_the_same_predictions(options):
    x, labels = blobs({**SIZES, "one": 1}, spread=4.0)
    report = evaluate_annotation({"e": x}, labels, counts=poisson_counts(labels), n_resamples=20, **options)
    types = sorted(set(labels))
    for key, predicted in report.predictions.items():
        score = report.get(*key)
        macro, per_type, accuracy = [], [], []
        for row in predicted:
            tested = row != ""
            arguments = labels[tested].astype(str), row[tested].astype(str)
            f1 = f1_score(*arguments, labels=types, average=None, zero_division=0)
            macro.append(f1_score(*arguments, labels=types, average="macro", zero_division=0))
            accuracy.append(accuracy_score(*arguments))
            per_type.append(f1)
        assert score.macro_f1.value == pytest.approx(np.mean(macro), rel=1e-12)
        assert score.accuracy.value == pytest.approx(np.mean(accuracy), rel=1e-12)
        rare = [types.index(one.type) for one in score.types if one.rare]
        assert len(rare) == 2
        assert score.rare_macro_f1.value == pytest.approx(np.mean(per_type, axis=0)[rare].mean(), rel=1e-12)
        for name, expected in zip(types, np.mean(per_type, axis=0)):
            assert score.f1[name].value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"folds": 5}])
def test_a_single_cell_keeps_its_support(options):
    x, labels = blobs({"a": 30, "b": 30, "one": 1})
    report = evaluate_annotation({"e": x}, labels, n_resamples=30, **options)
    score = report.get("e")
    (one,) = [kind for kind in score.types if kind.type == "one"]
    assert (one.n_cells, one.n_train, one.n_test, one.rare) == (1, 0, 1, True)
    assert score.f1["one"] == Interval(0.0, 0.0, 0.0)
    assert score.macro_f1.value == pytest.approx(np.mean([score.f1[name].value for name in ("a", "b", "one")]))
    assert score.macro_f1.value < 0.67


def test_types_of_single_cells_alone_do_not_crash():
    report = evaluate_annotation({"e": np.eye(3)}, ["a", "a", "b"], counts=np.eye(3), n_resamples=5)
    assert report.get("e").f1["b"].value == 0.0
    assert report.get("HVG").types[1].n_test == 1


def test_test_cells_never_reach_what_is_fitted():
    x, labels = blobs(spread=3.0)
    counts = poisson_counts(labels)
    clean = evaluate_annotation({"e": x}, labels, counts=counts, n_resamples=0)
    poisoned = np.flatnonzero(clean.predictions["e", "knn"][0] != "")[:20]
    bad_x, bad_counts = x.copy(), counts.toarray()
    bad_x[poisoned] = np.random.default_rng(0).normal(size=(20, x.shape[1])) * 1e4
    bad_counts[poisoned] = np.random.default_rng(0).integers(0, 5000, size=(20, counts.shape[1]))
    dirty = evaluate_annotation({"e": bad_x}, labels, counts=bad_counts, n_resamples=0)
    others = np.setdiff1d(np.arange(len(labels)), poisoned)
    for key, predicted in clean.predictions.items():
        assert np.array_equal(predicted[0, others], dirty.predictions[key][0, others]), key
    assert any((clean.predictions[key][0] != dirty.predictions[key][0]).any() for key in clean.predictions)


def test_baselines_are_fitted_on_training_cells():
    _, labels = blobs()
    counts = poisson_counts(labels, genes=3000).toarray()
    train, test = np.arange(0, 150), np.arange(150, len(labels))
    bad = counts.copy()
    bad[test] = np.random.default_rng(0).integers(0, 5000, size=bad[test].shape)
    clean_logs, bad_logs = (baselines.log_counts(sparse.csr_matrix(one, dtype=np.float64)) for one in (counts, bad))
    for make in (baselines.hvg_features, lambda *a: baselines.pca_features(*a, seed=0)):
        np.testing.assert_array_equal(make(clean_logs, train, test)[0], make(bad_logs, train, test)[0])
    genes = baselines.variable_genes(clean_logs[train])
    assert len(genes) == 2000
    assert not np.array_equal(genes, baselines.variable_genes(bad_logs))  # what a leak would have chosen


def test_variable_genes_finds_the_marker():
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.linspace(0.5, 5, 400), size=(300, 400)).astype(float)
    markers = [20, 150, 380]
    counts[:60, markers] *= 8
    logs = baselines.log_counts(sparse.csr_matrix(counts))
    assert set(markers) <= set(baselines.variable_genes(logs, n_genes=10))


def test_log_counts_are_what_they_say():
    counts = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 7.0, 1.0]])
    logs = baselines.log_counts(sparse.csr_matrix(counts)).toarray()
    np.testing.assert_allclose(logs[[0, 2]], np.log1p(counts[[0, 2]] * 1e4 / counts[[0, 2]].sum(1, keepdims=True)))
    assert (logs[1] == 0).all()


def test_normalized_counts_give_the_same_baselines():
    x, labels = blobs()
    counts = poisson_counts(labels)
    logs = baselines.log_counts(sparse.csr_matrix(counts, dtype=np.float64))
    raw = evaluate_annotation({"e": x}, labels, counts=counts, n_resamples=0)
    normalised = evaluate_annotation({"e": x}, labels, counts=logs, normalized=True, n_resamples=0)
    assert raw.get("PCA of log-counts").accuracy == normalised.get("PCA of log-counts").accuracy
    assert raw.get("HVG").accuracy.value == pytest.approx(normalised.get("HVG").accuracy.value)


def test_holdout_tests_its_level_alone():
    x, labels = blobs(spread=2.0)
    donor = np.where(np.arange(len(labels)) % 3 == 0, 1488, 1015)
    labels[donor == 1488] = np.where(labels[donor == 1488] == "NK", "T", labels[donor == 1488])
    report = evaluate_annotation({"e": x}, labels, holdout=donor, holdout_level="1488", n_resamples=10)
    predicted = report.predictions["e", "logistic_regression"][0]
    assert np.array_equal(predicted != "", donor == 1488)
    score = report.get("e")
    assert score.f1["NK"] is None  # never tested, listed all the same
    assert [one.n_test for one in score.types if one.type == "NK"] == [0]
    tested = sorted(set(labels[donor == 1488]))
    expected = f1_score(
        labels[donor == 1488].astype(str),
        predicted[donor == 1488].astype(str),
        labels=tested,
        average="macro",
        zero_division=0,
    )
    assert score.macro_f1.value == pytest.approx(expected, rel=1e-12)


def test_within_equals_each_level_by_itself():
    x, labels = blobs({"a": 80, "b": 60, "c": 12}, spread=4.0)
    level = np.where(np.arange(len(labels)) % 3 == 0, "p", "q").astype(object)
    level[:5], labels[:5] = "lonely", "a"
    counts = poisson_counts(labels)
    options = {"n_resamples": 10, "thin": {"b": 0.05}}
    report = evaluate_annotation({"e": x}, labels, counts=counts, within=level, **options)
    for name in ("p", "q"):
        cells = level == name
        alone = evaluate_annotation({"e": x[cells]}, labels[cells], counts=counts[cells], **options)
        for score in alone.scores:
            inside = report.get(score.representation, score.classifier, name)
            for one in ("accuracy", "macro_f1", "rare_macro_f1"):
                assert getattr(inside, one).value == getattr(score, one).value
            assert {kind: f1.value for kind, f1 in inside.f1.items()} == {k: f1.value for k, f1 in score.f1.items()}
            assert inside.types == score.types
    weights = {one.name: one.n_test for one in report.levels if one.reason is None}
    mean = np.average(
        [report.get("e", level=name).macro_f1.value for name in weights], weights=[weights[name] for name in weights]
    )
    assert report.get("e").macro_f1.value == pytest.approx(mean, rel=1e-12)
    (lonely,) = [one for one in report.levels if one.name == "lonely"]
    assert lonely.reason == "fewer than two types"
    assert lonely.n_cells == 5
    assert report.cells["not_scored"] == 5
    assert {(one["level"], one["type"]) for one in report.thinned} == {("p", "b"), ("q", "b")}


def test_unlabelled_and_missing_cells_are_left_out():
    x, labels = blobs()
    labels = labels.astype(object)
    labels[:10], labels[10:14] = "unknown", np.nan
    report = evaluate_annotation({"e": x}, labels, unlabelled="unknown", n_resamples=0)
    assert report.cells["unlabelled"] == 14
    assert "unknown" not in report.get("e").f1
    assert (report.predictions["e", "knn"][:, :14] == "").all()


def test_the_same_seed_gives_the_same_report():
    x, labels = blobs(spread=4.0)
    counts = poisson_counts(labels)

    def run(seed: int) -> str:
        report = evaluate_annotation({"e": x}, labels, counts=counts, seed=seed, thin={"T": 0.1}, n_resamples=20)
        return json.dumps(report.to_dict(), allow_nan=False)

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_non_convergence_is_reported(monkeypatch):
    monkeypatch.setattr("corrmask.evaluation.classifiers.MAX_ITER", 1)
    x, labels = blobs(spread=4.0)
    score = evaluate_annotation({"e": x}, labels, folds=3, n_resamples=0).get("e")
    assert (score.fits, score.not_converged) == (3, 3)


def test_progress_ends_at_its_total():
    seen = []
    x, labels = blobs()
    evaluate_annotation({"e": x}, labels, n_resamples=0, folds=3, progress=lambda *one: seen.append(one))
    assert seen[-1] == ("annotation", 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"] * 203}, "two types or more"),
        ({"labels": ["a", "b"]}, r"shape \[2, d\]"),
        ({"unlabelled": "nothing"}, "'nothing'; there are 'B', 'NK'"),
        ({"thin": {"X": 0.1}}, "no cells of type 'X'"),
        ({"thin": {"B": 1.5}}, "between 0 and 1"),
        ({"thin": {"B": 0.6, "T": 0.6}}, "less than 1"),
        ({"thin": {"B": 0.9}}, "leaves nothing to thin"),
        ({"holdout": ["x"] * 203, "holdout_level": "y"}, "no level 'y'; there are 'x'"),
        ({"holdout": ["x"] * 203, "holdout_level": "x"}, "no cells besides"),
        ({"holdout": ["x"] * 203, "holdout_level": "x", "folds": 3}, "leave out --folds"),
        ({"holdout_level": "x"}, r"--holdout \(holdout=, holdout_level=\): .* go together"),
        ({"holdout": ["x"] * 203}, "go together"),
        ({"seed": -1}, r"--seed \(seed=\)"),
        ({"counts": "cells.h5ad"}, "counts: must be a matrix of numbers, cells x genes, got str; give adata.X"),
        ({"within": [None] * 203}, "203 cells have no value"),
        ({"test_fraction": 1.0}, "--test-fraction"),
        ({"folds": 1}, "--folds"),
        ({"counts": np.full((203, 4), 0.5)}, "not whole numbers"),
        ({"counts": -np.ones((203, 4))}, "negative"),
        ({"counts": np.full((203, 4), np.nan)}, "NaN"),
        ({"counts": np.ones((7, 4))}, "7 rows for 203 cells"),
        ({"counts": np.full((203, 4), 50), "normalized": True}, "too large for log1p"),
    ],
)
def test_bad_input_is_one_line(change, message):
    x, labels = blobs()
    arguments = {"labels": labels, **change}
    with pytest.raises(InputError, match=message) as caught:
        evaluate_annotation({"e": x}, **arguments)
    assert "\n" not in str(caught.value)


def test_levels_and_labels_may_be_numbers(tmp_path):
    import anndata

    x, labels = blobs()
    numbers = {name: i for i, name in enumerate(sorted(set(labels)))}
    donors = np.arange(len(labels)) % 3
    counts = poisson_counts(labels)
    anndata.AnnData(counts).write_h5ad(tmp_path / "counts.h5ad")
    options = {"holdout": donors, "holdout_level": np.int64(2), "n_resamples": 0}
    report = evaluate_annotation(
        {"e": x}, [numbers[one] for one in labels], thin={0: np.float32(0.02)}, unlabelled=numbers["T"], **options
    )
    named = evaluate_annotation({"e": x}, labels, thin={sorted(numbers)[0]: 0.02}, unlabelled="T", **options)
    assert report.get("e").macro_f1 == named.get("e").macro_f1
    assert json.loads(json.dumps(report.to_dict()))["settings"]["thin"] == {"0": pytest.approx(0.02)}
    on_disk = anndata.read_h5ad(tmp_path / "counts.h5ad", backed="r").X
    scores = [evaluate_annotation({"e": x}, labels, counts=one, n_resamples=0) for one in (counts, on_disk)]
    assert scores[0].to_dict() == scores[1].to_dict()


def test_nan_embeddings_are_refused():
    x, labels = blobs()
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite values in 1 of 203 cells"):
        evaluate_annotation({"e": x}, labels)


@pytest.mark.skipif("CORRMASK_DATA" not in os.environ, reason="CORRMASK_DATA is not set")
def test_pca_on_blood_scores_as_known():
    """PCA + logistic regression within PBMC 3k: macro-F1 about 0.9, all eight types there."""
    import anndata

    adata = anndata.read_h5ad(Path(os.environ["CORRMASK_DATA"]) / "pbmc_corpus_core.h5ad")
    adata = adata[(adata.obs["dataset"] == "pbmc3k").to_numpy()]
    noise = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    report = evaluate_annotation({"noise": noise}, adata.obs["cell_type"], counts=adata.X, n_resamples=200)
    pca = report.get("PCA of log-counts")
    assert 0.85 < pca.macro_f1.value < 0.97
    assert pca.macro_f1.low < pca.macro_f1.value < pca.macro_f1.high
    assert {one.type for one in pca.types if one.rare} == {"DC", "Platelet"}
    assert report.get("HVG").macro_f1.value > 0.8
    assert report.get("noise").macro_f1.value < 0.2
    assert all(score.not_converged == 0 for score in report.scores)
