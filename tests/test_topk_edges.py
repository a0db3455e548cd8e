"""The strongest partners: the twin, ties, thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corrmask.covariance import Covariance
from corrmask.ops import topk_edges as update_edges
from corrmask.ops.covariance_update import panel_start, panels_within


def topk_edges(*moments: torch.Tensor, top_k: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Partners and weights from a whole matrix."""
    n_genes = len(moments[3])
    partners = torch.full((n_genes, top_k), -1, dtype=torch.int32)
    weights = torch.zeros((n_genes, top_k))
    update_edges(partners, weights, *moments, **options)
    return partners, weights


def moments(y: np.ndarray, levels: np.ndarray | None = None, min_cells: int = 0) -> tuple[torch.Tensor, ...]:
    covariance = Covariance(y.shape[1], target_sum=None)
    covariance.update(sp.csr_array(y), levels)
    (moments,) = covariance.moments.values()
    return covariance.gram, covariance.ranks, moments.mean_factors(), moments.inverse_sd(min_cells)


def given_gram(gram: list[list[float]]) -> tuple[torch.Tensor, ...]:
    """A Gram matrix as it stands: means 0, scales 1, genes in reversed order."""
    n_genes = len(gram)
    ranks = np.arange(n_genes, dtype=np.int32)[::-1].copy()
    return (
        torch.from_numpy(reference.pack(np.array(gram).reshape(n_genes, n_genes), ranks)),
        torch.from_numpy(ranks),
        torch.zeros(1, n_genes, dtype=torch.float64),
        torch.ones(n_genes, dtype=torch.float64),
    )


def random_y(rng: np.random.Generator, n_cells: int, n_genes: int) -> np.ndarray:
    """Few values, repeated genes and constant ones: ties are common."""
    y = rng.choice([0, 0, 0, 1.5, 2, 3], (n_cells, n_genes)).astype(np.float64)
    for gene in np.flatnonzero(rng.random(n_genes) < 0.3):
        y[:, gene] = y[:, rng.integers(0, n_genes)]
    y[:, rng.random(n_genes) < 0.1] = 1.1
    return y


def expected(arguments: tuple[torch.Tensor, ...], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    gram, ranks, factors, scale = (argument.numpy() for argument in arguments)
    factors, scale = factors[:, ranks], scale[ranks]
    r = reference.correlation_from_gram(reference.unpack(gram, ranks), factors, scale)
    return reference.topk_edges(r, scale != 0, **options)


@settings(max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 45),
    st.sampled_from([0, 0.1, 0.5, 1]),
    st.booleans(),
    st.integers(1, 3),
)
def test_equals_the_reference(
    seed: int, n_genes: int, top_k: int, min_corr: float, positive: bool, n_levels: int
) -> None:
    rng = np.random.default_rng(seed)
    y = random_y(rng, 25, n_genes)
    arguments = moments(y, rng.integers(0, n_levels, 25))
    options = {"top_k": top_k, "min_corr": min_corr, "positive": positive}
    partners, weights = topk_edges(*arguments, **options)
    assert partners.dtype == torch.int32
    assert weights.dtype == torch.float32
    expected_partners, expected_weights = expected(arguments, **options)
    np.testing.assert_array_equal(partners.numpy(), expected_partners)
    np.testing.assert_array_equal(weights.numpy(), expected_weights)


def test_more_genes_than_a_strip(set_threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(0)
    arguments = moments(random_y(rng, 60, 300))
    options = {"top_k": 7, "min_corr": 0.2, "positive": False}
    set_threads(1)
    one = topk_edges(*arguments, **options)
    for got, wanted in zip(one, expected(arguments, **options)):
        np.testing.assert_array_equal(got.numpy(), wanted)
    set_threads(3)
    for a, b in zip(topk_edges(*arguments, **options), one):
        assert torch.equal(a, b)


def test_panels_in_any_order_give_the_same() -> None:
    rng = np.random.default_rng(6)
    gram, *rest = moments(random_y(rng, 60, 700))
    whole = topk_edges(gram, *rest, top_k=9, min_corr=0.1)
    runs = panels_within(700, 8 * 128 * 900)
    assert len(runs) > 2
    partners, weights = torch.full((700, 9), -1, dtype=torch.int32), torch.zeros((700, 9))
    for a, b in runs[::-1]:
        part = gram[panel_start(a, 700) : panel_start(b, 700)]
        update_edges(partners, weights, part, *rest, min_corr=0.1, first_panel=a)
    assert torch.equal(partners, whole[0])
    assert torch.equal(weights, whole[1])


def test_equal_partners_stand_by_ascending_gene() -> None:
    rng = np.random.default_rng(1)
    y = rng.random((40, 200))
    y[:, [150, 3, 199, 77, 20]] = y[:, [60]]  # six genes alike, on both sides of gene 60 and in two strips
    partners, weights = topk_edges(*moments(y), top_k=4, min_corr=0.9)
    alike = [3, 20, 60, 77, 150, 199]
    for gene in alike:
        assert partners[gene].tolist() == [other for other in alike if other != gene][:4]
        assert (weights[gene] > 0.999999).all()
        assert (weights[gene] <= 1).all()


def test_a_gene_is_not_its_own_partner_and_negative_edges_count() -> None:
    rng = np.random.default_rng(2)
    y = rng.random((50, 3))
    y[:, 1] = 1 - y[:, 0]
    y[:, 2] = y[:, 0] + 0.8 * rng.random(50)
    partners, weights = topk_edges(*moments(y), top_k=5, min_corr=0.1)
    assert partners[:, :2].tolist() == [[1, 2], [0, 2], [0, 1]]
    assert (partners[:, 2:] == -1).all()
    assert (weights[:, 2:] == 0).all()
    assert weights[0, 0] == -1
    partners, weights = topk_edges(*moments(y), top_k=5, min_corr=0.1, positive=True)
    assert partners[:, 0].tolist() == [2, -1, 0]
    assert (weights >= 0).all()


def test_genes_without_scale_have_no_edges() -> None:
    y = np.random.default_rng(3).random((30, 4))
    gram, ranks, factors, scale = moments(y)
    scale[ranks[2]] = 0
    partners, _ = topk_edges(gram, ranks, factors, scale, top_k=3, min_corr=0)
    assert (partners[2] == -1).all()
    assert not (partners == 2).any()
    assert [set(partners[g].tolist()) - {-1} for g in (0, 1, 3)] == [{1, 3}, {0, 3}, {0, 1}]


def test_the_threshold_is_met_by_what_equals_it() -> None:
    arguments = given_gram([[1, 0.5, 0.25], [0.5, 1, 0], [0.25, 0, 1]])
    assert topk_edges(*arguments, top_k=2, min_corr=0.5)[0].tolist() == [[1, -1], [0, -1], [-1, -1]]
    assert topk_edges(*arguments, top_k=2, min_corr=0.25)[0].tolist() == [[1, 2], [0, -1], [0, -1]]
    assert topk_edges(*arguments, top_k=2, min_corr=0)[0].tolist() == [[1, 2], [0, 2], [0, 1]]


def test_r_is_held_to_one_and_nan_is_no_edge() -> None:
    arguments = given_gram([[1, 1.0000001, np.nan], [1.0000001, 1, -1.0000001], [np.nan, -1.0000001, 1]])
    partners, weights = topk_edges(*arguments, top_k=2, min_corr=0)
    assert partners.tolist() == [[1, -1], [0, 2], [1, -1]]
    assert weights.tolist() == [[1, 0], [1, -1], [-1, 0]]


@pytest.mark.parametrize("n_genes", [0, 1])
def test_too_few_genes(n_genes: int) -> None:
    arguments = given_gram([[1.0]] * n_genes)
    partners, weights = topk_edges(*arguments, top_k=2, min_corr=0)
    assert partners.tolist() == [[-1, -1]] * n_genes
    assert weights.shape == (n_genes, 2)


def test_opcheck() -> None:
    lists = (torch.full((6, 3), -1, dtype=torch.int32), torch.zeros(6, 3))
    arguments = (*lists, *moments(random_y(np.random.default_rng(4), 20, 6)))
    options = {"first_panel": 0, "min_corr": 0.1, "positive": False}
    torch.library.opcheck(torch.ops.corrmask.topk_edges.default, arguments, options)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("gram", torch.zeros(5, dtype=torch.float64), ValueError),
        ("gram", torch.zeros(3 * 128), ValueError),
        ("ranks", torch.tensor([0, 1, 1], dtype=torch.int32), ValueError),
        ("ranks", torch.tensor([0, 1, 3], dtype=torch.int32), ValueError),
        ("ranks", torch.tensor([0, 1, 2]), ValueError),
        ("gram", None, TypeError),
        ("mean_factors", torch.zeros(3, dtype=torch.float64), ValueError),
        ("mean_factors", torch.zeros(1, 4, dtype=torch.float64), ValueError),
        ("inverse_sd", torch.ones(3, 1, dtype=torch.float64), ValueError),
        ("inverse_sd", torch.ones(3), ValueError),
        ("partners", torch.zeros(3, 2), ValueError),
        ("partners", torch.zeros(4, 2, dtype=torch.int32), ValueError),
        ("partners", torch.zeros(2, 3, dtype=torch.int32).T, ValueError),
        ("weights", torch.zeros(3, 3), ValueError),
        ("weights", torch.zeros(2, 3).T, ValueError),
        ("first_panel", 2, ValueError),
        ("min_corr", -0.1, ValueError),
        ("min_corr", 1.1, ValueError),
        ("min_corr", float("nan"), ValueError),
        ("min_corr", "0.1", TypeError),
        ("min_corr", None, TypeError),
    ],
)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    names = ("partners", "weights", "gram", "ranks", "mean_factors", "inverse_sd")
    lists = (torch.full((3, 2), -1, dtype=torch.int32), torch.zeros(3, 2))
    good = dict(zip(names, (*lists, *moments(np.random.default_rng(5).random((9, 3))))))
    update_edges(**good, min_corr=0.1)
    with pytest.raises(kind, match=rf"^corrmask\.topk_edges: '{name}'"):
        update_edges(**{**good, "min_corr": 0.1, name: value})
