"""The masker: the operators behind it, compiled too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import ALWAYS, MaskingCase, masking_cases, random_case
from hypothesis import given, settings

from corrmask import CorrMasker, GroupTable, ops
from corrmask.errors import InputError
from corrmask.groups import threshold


def make_masker(case: MaskingCase, **options: Any) -> CorrMasker:
    _, _, _, *groups = case.tensors()
    thresholds = {
        name: None if case.options[name] is None else torch.from_numpy(case.options[name])
        for name in ("accept", "take")
    }
    return CorrMasker(
        GroupTable(*groups, **thresholds),
        rate=case.options["rate_ppm"] / 10**6,
        expand=case.options["expand"] / 2**32,
        max_group=case.options["max_group"],
        rotate=case.options["rotate"],
        seed=case.options["seed"],
        **{"gene_token_range": (0, len(case.token_group)), **options},
    )


@settings(max_examples=60)
@given(masking_cases())
def test_it_calls_the_operators(case: MaskingCase) -> None:
    for unit in ("token", "group"):
        masker = make_masker(case, mask_prob=0.6, random_prob=0.3, unit=unit, mask_token_id=2)
        batch, epoch = case.tensors()[:3], case.options["epoch"]
        expected = ops.mask_tokens(
            *case.tensors(),
            **case.tensor_options,
            mask_token_id=2,
            gene_token_range=(0, len(case.token_group)),
            mask_threshold=round(0.6 * 2**32),
            random_threshold=round(0.3 * 2**32),
            unit=unit,
        )
        for got, wanted in zip(masker(*batch, epoch=epoch), expected):
            assert torch.equal(got, wanted)
        owners = masker.owners(*batch, epoch=epoch)
        assert torch.equal(owners, ops.sample_groups(*case.tensors(), **case.tensor_options))
        assert torch.equal(owners != -1, expected[1] != -100)


def large_case(**options: Any) -> MaskingCase:
    return random_case(np.random.default_rng(0), n_cells=9, width=50, vocabulary=80, **options).valid_padding()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("thresholds", [False, True])
def test_compiled_whole_gives_the_same(backend: str, thresholds: bool) -> None:
    torch._dynamo.reset()
    case = large_case(**({"accept": np.full(80, 2**31), "take": np.full(80, 2**30)} if thresholds else {}))
    masker = make_masker(case)
    compiled = torch.compile(masker, fullgraph=True, backend=backend)
    for dtype in (torch.int64, torch.int32):
        ids, lengths, cell_ids, *_ = case.tensors(dtype)
        for epoch in (0, 3, torch.tensor(4)):
            for got, wanted in zip(
                compiled(ids, lengths, cell_ids, epoch=epoch), masker(ids, lengths, cell_ids, epoch)
            ):
                assert got.dtype == wanted.dtype
                assert torch.equal(got, wanted)
    # other shapes, and another share of seeds that expand
    masker.expand = 0.25
    ids, lengths, cell_ids, *_ = case.tensors()
    for got, wanted in zip(compiled(ids[:4], lengths[:4], cell_ids[:4]), masker(ids[:4], lengths[:4], cell_ids[:4])):
        assert torch.equal(got, wanted)


def test_epochs_differ_and_replay() -> None:
    case = large_case()
    masker, batch = make_masker(case), case.tensors()[:3]
    one, two = masker(*batch, epoch=1)[1], masker(*batch, epoch=2)[1]
    assert not torch.equal(one, two)
    assert torch.equal(masker(*batch, epoch=1)[1], one)
    assert torch.equal(masker(*batch, epoch=torch.tensor(1))[1], one)
    assert torch.equal(masker(*batch)[1], masker(*batch, epoch=0)[1])


def test_the_genes_are_those_that_are_not_special() -> None:
    _, _, _, *groups = large_case().tensors()
    groups[0] = torch.tensor([-2, -2, 0, -1, 1, -2], dtype=torch.int32)
    groups[1], groups[2] = torch.tensor([0, 1, 1]), torch.tensor([3], dtype=torch.int32)
    masker = CorrMasker(GroupTable(*groups))
    assert masker.gene_token_range == (2, 5)
    assert (masker.rate_ppm, masker.mask_token_id, masker.expand) == (150_000, 1, 1.0)
    assert (masker.mask_threshold, masker.random_threshold) == (round(0.8 * 2**32), round(0.1 * 2**32))
    for gap in ([-2, 0, -2, -1, -1, -2], [-2] * 6):
        groups[0] = torch.tensor(gap, dtype=torch.int32)
        with pytest.raises(InputError, match="gene_token_range"):
            CorrMasker(GroupTable(*groups))


def test_nothing_to_learn_and_nothing_to_save() -> None:
    masker = make_masker(large_case(accept=np.full(80, 5)))
    assert masker.state_dict() == {}
    assert list(masker.parameters()) == []
    assert {name for name, _ in masker.named_buffers()} == {"token_group", "group_indptr", "group_tokens", "accept"}
    half = masker.to(torch.float16)
    assert half.token_group.dtype == torch.int32
    assert masker.to("meta").group_indptr.device.type == "meta"


def test_expand_follows_a_schedule() -> None:
    case = large_case()
    masker, batch = make_masker(case), case.tensors()[:3]
    full = masker.owners(*batch)
    masker.expand = 0
    assert masker.expand == 0
    owners = masker.owners(*batch)
    assert torch.equal(owners[owners != -1].long(), batch[0][owners != -1])
    masker.expand = 1
    assert torch.equal(masker.owners(*batch), full)
    masker.expand = 0.3
    assert abs(masker.expand - 0.3) <= 2**-33


def test_numbers_of_numpy() -> None:
    case = large_case()
    groups, batch = GroupTable(*case.tensors()[3:]), case.tensors()[:3]
    plain = CorrMasker(groups, seed=3, max_group=2, rotate=True, mask_token_id=2, gene_token_range=(4, 80))
    options = {"seed": np.int64(3), "max_group": np.int32(2), "rotate": np.bool_(True), "mask_token_id": np.uint16(2)}
    masker = CorrMasker(groups, **options, gene_token_range=(np.int64(4), np.int64(80)))
    for got, expected in zip(masker(*batch, epoch=np.int64(5)), plain(*batch, epoch=5), strict=True):
        assert torch.equal(got, expected)
    options = {**case.tensor_options, "rate_ppm": np.int64(150_000), "seed": np.int64(3)}
    expected = ops.sample_groups(*case.tensors(), **{**options, "rate_ppm": 150_000, "seed": 3})
    assert torch.equal(ops.sample_groups(*case.tensors(), **options), expected)


def test_thresholds() -> None:
    assert [threshold(p) for p in (0, 0.5, 1)] == [0, 2**31, ALWAYS]
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"CorrMasker: 'mask_prob' must be in 0 .. 1"):
            threshold(p, "CorrMasker: 'mask_prob'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 0}, "'rate'"),
        ({"rate": 1.1}, "'rate'"),
        ({"rate": float("nan")}, "'rate'"),
        ({"expand": 1.5}, "CorrMasker: 'expand'"),
        ({"expand": -0.5}, "'expand'"),
        ({"mask_prob": 0.8, "random_prob": 0.3}, "mask_prob"),
        ({"mask_prob": 1.5, "random_prob": -0.5}, "mask_prob"),
        ({"random_prob": -0.5}, "random_prob"),
        ({"mask_prob": float("nan")}, "mask_prob"),
        ({"seed": -1}, "'seed'"),
        ({"seed": 2**63}, "'seed'"),
        ({"unit": "cell"}, "'unit'"),
        ({"max_group": -1}, "'max_group'"),
        ({"mask_token_id": 10**6}, "'mask_token_id'"),
    ],
)
def test_bad_input(options: dict[str, Any], words: str) -> None:
    _, _, _, *groups = large_case().tensors()
    good: dict[str, Any] = {"gene_token_range": (4, 80)}
    CorrMasker(GroupTable(*groups), **good)
    with pytest.raises(InputError, match=words):
        CorrMasker(GroupTable(*groups), **{**good, **options})
