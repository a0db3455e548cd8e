"""AUROC over genes: against scikit-learn's, on data with a known answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.metrics import roc_auc_score

from corrmask.errors import InputError
from corrmask.evaluation import evaluate_genes
from corrmask.evaluation.bootstrap import auroc_draws, resampled_weights


def labelled(n_positive: int = 30, n_negative: int = 90, *, signal: float = 1.0, d: int = 8, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(["sensitive", "insensitive"], [n_positive, n_negative]))
    x = rng.normal(size=(len(labels), d))
    x[:, 0] += signal * (labels == "sensitive")
    return x, labels


def test_auroc_equals_scikit_learn_on_the_same_scores():
    x, labels = labelled()
    report = evaluate_genes({"e": x}, labels, n_resamples=10)
    positive = labels == "sensitive"
    expected = [
        [roc_auc_score(positive[fold == k], values[fold == k]) for k in range(5)]
        for values, fold in zip(report.out_of_fold["e"], report.folds)
    ]
    score = report.get("e")
    np.testing.assert_allclose(score.folds, expected, rtol=1e-12)
    assert score.auroc.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert score.sd_folds == pytest.approx(np.std(expected, ddof=1), rel=1e-12)
    assert score.sd_repeats == pytest.approx(np.std(np.mean(expected, axis=1), ddof=1), rel=1e-12)


def test_draws_equal_scikit_learn_on_drawn_genes_with_ties():
    rng = np.random.default_rng(0)
    positive = np.repeat([True, False], [20, 50])
    scores = rng.integers(0, 6, size=(2, 70)).astype(float)
    folds = np.stack([rng.permutation(np.arange(70) % 2) for _ in range(2)])
    _, draws = auroc_draws(positive, scores, folds, n_resamples=15, rng=np.random.default_rng(3))
    weights = np.concatenate(list(resampled_weights(positive, 15, np.random.default_rng(3))), axis=1)
    for b in range(16):
        expected = np.mean(
            [
                roc_auc_score(
                    positive[folds[r] == k], scores[r][folds[r] == k], sample_weight=weights[folds[r] == k, b]
                )
                for r in range(2)
                for k in range(2)
            ]
        )
        assert draws[b] == pytest.approx(expected, rel=1e-12)


def test_separable_genes_score_one_and_shuffled_ones_one_half():
    x, labels = labelled(signal=40.0)
    assert evaluate_genes({"e": x}, labels, n_resamples=20).get("e").auroc.value == 1.0
    x, labels = labelled(150, 150, signal=0.0)
    chance = evaluate_genes({"e": x}, labels, n_resamples=0).get("e").auroc
    # 300 genes once: the standard error is sqrt((150 + 150 + 1) / (12 * 150 * 150)) = 0.033
    assert abs(chance.value - 0.5) < 4 * 0.0335
    assert chance.low is None


def test_interval_holds_the_mean_and_shrinks_with_genes():
    widths = []
    for n in (20, 320):
        x, labels = labelled(n, 2 * n)
        interval = evaluate_genes({"e": x}, labels, n_resamples=300, repeats=2).get("e").auroc
        assert interval.low < interval.value < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] > 2 * widths[1]


def test_expression_alone_is_scored_beside():
    x, labels = labelled(signal=0.0)
    level = (labels == "sensitive") * 3.0 + np.random.default_rng(1).normal(size=len(labels))
    report = evaluate_genes({"e": x}, labels, expression=np.stack([level, -level], axis=1), n_resamples=20)
    baseline = report.get("expression level")
    assert (baseline.kind, baseline.n_features) == ("baseline", 2)
    assert baseline.auroc.value > 0.95 > 0.7 > report.get("e").auroc.value


def test_a_gene_is_scored_by_models_that_did_not_see_it():
    x, labels = labelled()
    before = evaluate_genes({"e": x}, labels, repeats=1, n_resamples=0)
    fold = before.folds[0]
    gene = int(np.flatnonzero(fold == 2)[0])
    x[gene] = 1e3
    after = evaluate_genes({"e": x}, labels, repeats=1, n_resamples=0)
    same = (fold == 2) & (np.arange(len(x)) != gene)
    np.testing.assert_array_equal(before.out_of_fold["e"][0, same], after.out_of_fold["e"][0, same])
    assert (before.out_of_fold["e"][0, fold != 2] != after.out_of_fold["e"][0, fold != 2]).all()


def test_the_same_seed_gives_the_same_report():
    x, labels = labelled()
    one, two, other = (
        json.dumps(evaluate_genes({"e": x}, labels, seed=seed, n_resamples=20).to_dict(), allow_nan=False)
        for seed in (0, 0, 1)
    )
    assert one == two != other


def test_the_positive_class_turns_the_scale():
    x, labels = labelled()
    up = evaluate_genes({"e": x}, labels, n_resamples=0)
    rarer = evaluate_genes({"e": x}, labels, positive=None, n_resamples=0)
    assert rarer.genes["positive"] == "sensitive"
    assert rarer.to_dict() == up.to_dict()
    assert evaluate_genes({"e": x}, labels, positive="insensitive", n_resamples=0).genes["negative"] == "sensitive"


def test_sets_and_numbers_serve():
    x, labels = labelled()
    ones = (np.asarray(labels) == "sensitive").astype(int)
    report = evaluate_genes({"e": x}, ones, positive=1, n_resamples=0, ambiguous={"b", "a"}, missed={"1": {"d", "c"}})
    assert report.genes["positive"] == "1"
    assert report.genes["ambiguous"] == ["a", "b"]
    assert report.genes["missed"]["1"] == ["c", "d"]
    named = evaluate_genes({"e": x}, labels, n_resamples=0)
    assert report.get("e").auroc == named.get("e").auroc


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["sensitive"] * 120}, "two classes are needed"),
        ({"labels": ["a", "b", "c"] * 40}, r"two classes .* 'c' \(40\)"),
        ({"labels": ["sensitive"] * 4 + ["no"] * 116}, "5 folds need as many"),
        ({"positive": "nothing"}, "no gene with the label 'nothing'"),
        ({"expression": np.full((120, 1), np.nan)}, "NaN or infinite values in 120 of 120 genes"),
        ({"expression": np.ones((3, 1))}, r"shape \[120, d\]"),
        ({"folds": 1}, "'folds' must be at least 2"),
        ({"seed": -1}, r"--seed \(seed=\) must be 0 or more, got -1"),
        ({"n_resamples": -1}, r"--bootstrap \(n_resamples=\) must be 0 or more"),
        ({"c": 0.0}, r"--penalty-c \(c=\) must be above 0"),
        ({"labels": ["sensitive", None] * 60}, "60 genes have no value; fill them in, or leave these genes out"),
        ({"labels": ["sensitive", ""] * 60}, "60 genes have no value"),
        ({"labels": [["sensitive"]] * 120}, r"one value per gene is needed, got shape \[120, 1\]"),
        ({"labels": None}, "one value per gene is needed"),
        ({"expression": np.full((120, 2), "high")}, "must hold numbers"),
        ({"expression": np.ones((120, 1))}, "1 columns and 'expression_features' 2 names"),
    ],
)
def test_bad_input_is_one_line(change, message):
    x, labels = labelled()
    with pytest.raises(InputError, match=message):
        evaluate_genes({"e": x}, **{"labels": labels, **change})
