"""The CUDA kernel of topk_edges, thread by thread on a CPU: the operator's lists, byte for byte."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from emulated import library, pointer
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_topk_edges import given_gram, moments, random_y, topk_edges
from torch import Tensor

from corrmask.ops.covariance_update import panel_start, panels_within

WORD = ctypes.c_int64
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # a case takes long, thread by thread


def update(
    partners: Tensor,
    weights: Tensor,
    gram: Tensor,
    ranks: Tensor,
    mean_factors: Tensor,
    inverse_sd: Tensor,
    *,
    min_corr: float,
    positive: bool = False,
    panels: tuple[int, int] | None = None,
    schedule: int = 1,
) -> None:
    function = library("topk").topk_edges
    function.restype = None
    n_genes = len(inverse_sd)
    function(
        *(pointer(tensor) for tensor in (partners, weights, gram, ranks, mean_factors, inverse_sd)),
        *(WORD(n) for n in (n_genes, len(mean_factors), partners.shape[1], *(panels or (0, -(-n_genes // 128))))),
        ctypes.c_float(min_corr),
        ctypes.c_int(positive),
        ctypes.c_uint64(schedule),
    )


def emulated(*moments: Tensor, top_k: int, min_corr: float, positive: bool = False, schedule: int = 1):
    n_genes = len(moments[3])
    lists = torch.full((n_genes, top_k), -1, dtype=torch.int32), torch.zeros(n_genes, top_k)
    update(*lists, *moments, min_corr=min_corr, positive=positive, schedule=schedule)
    return lists


@settings(max_examples=40, phases=NO_SHRINKING)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 45),
    st.sampled_from([0, 0.1, 0.5, 1]),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 2**63),
)
def test_equals_the_operator(
    seed: int, n_genes: int, top_k: int, min_corr: float, positive: bool, n_levels: int, schedule: int
) -> None:
    rng = np.random.default_rng(seed)
    arguments = moments(random_y(rng, 25, n_genes), rng.integers(0, n_levels, 25))
    options = {"top_k": top_k, "min_corr": min_corr, "positive": positive}
    for got, wanted in zip(emulated(*arguments, **options, schedule=schedule), topk_edges(*arguments, **options)):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("n_genes", [128, 300])
def test_several_panels(n_genes: int) -> None:
    rng = np.random.default_rng(0)
    arguments = moments(random_y(rng, 60, n_genes), rng.integers(0, 2, 60))
    options = {"top_k": 7, "min_corr": 0.2}
    for got, wanted in zip(emulated(*arguments, **options), topk_edges(*arguments, **options)):
        assert torch.equal(got, wanted)


def test_panels_in_any_order_give_the_same() -> None:
    rng = np.random.default_rng(6)
    gram, *rest = moments(random_y(rng, 60, 400))
    whole = topk_edges(gram, *rest, top_k=9, min_corr=0.1)
    runs = panels_within(400, 8 * 128 * 700)
    assert len(runs) > 1
    lists = torch.full((400, 9), -1, dtype=torch.int32), torch.zeros((400, 9))
    for first, last in runs[::-1]:
        part = gram[panel_start(first, 400) : panel_start(last, 400)].clone()
        update(*lists, part, *rest, min_corr=0.1, panels=(first, last))
    assert torch.equal(lists[0], whole[0])
    assert torch.equal(lists[1], whole[1])


def test_nan_and_what_passes_one() -> None:
    arguments = given_gram([[1, 1.0000001, np.nan], [1.0000001, 1, -1.0000001], [np.nan, -1.0000001, 1]])
    partners, weights = emulated(*arguments, top_k=2, min_corr=0)
    assert partners.tolist() == [[1, -1], [0, 2], [1, -1]]
    assert weights.tolist() == [[1, 0], [1, -1], [-1, 0]]


def test_genes_whose_ranks_are_wrong_get_no_edges() -> None:
    """A rank out of range; one that two genes claim goes to the later of them."""
    gram, ranks, factors, scale = given_gram([[1.0] * 4] * 4)
    ranks = torch.tensor([3, 9, 3, 0], dtype=torch.int32)
    partners, _ = emulated(gram, ranks, factors, scale, top_k=3, min_corr=0)
    assert partners.tolist() == [[-1, -1, -1], [-1, -1, -1], [3, -1, -1], [2, -1, -1]]
