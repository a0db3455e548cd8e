"""Corruption of masked positions: the twin, the known answers, and what must hold for every input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from cases import ALWAYS, MaskingCase, masking_cases, random_case
from hypothesis import given, settings
from hypothesis import strategies as st

from corrmask.ops import mask_tokens, sample_groups

EIGHTY, TEN = round(0.8 * 2**32), round(0.1 * 2**32)


def corruption_of(vocabulary: int, **others: Any) -> dict[str, Any]:
    return {
        "mask_token_id": 1,
        "gene_token_range": (4, vocabulary),
        "mask_threshold": EIGHTY,
        "random_threshold": TEN,
        "unit": "token",
        **others,
    }


def masked(case: MaskingCase, dtype: torch.dtype = torch.int64, **corruption: Any) -> tuple[np.ndarray, np.ndarray]:
    tensors = case.tensors(dtype)
    before = tensors[0].clone()
    ids, labels = mask_tokens(*tensors, **case.tensor_options, **corruption)
    np.testing.assert_array_equal(tensors[0].numpy(), before.numpy(), "the input is left alone")
    assert ids.dtype == dtype
    assert labels.dtype == torch.int64
    assert ids.shape == labels.shape == case.input_ids.shape
    return ids.numpy(), labels.numpy()


@st.composite
def corruptions(draw: st.DrawFn, vocabulary: int) -> dict[str, Any]:
    mask = draw(st.sampled_from([0, EIGHTY, ALWAYS]) | st.integers(0, ALWAYS))
    hi = draw(st.integers(1, vocabulary))
    return {
        "mask_token_id": draw(st.integers(0, vocabulary - 1)),
        "gene_token_range": (draw(st.integers(0, hi - 1)), hi),
        "mask_threshold": mask,
        "random_threshold": draw(st.sampled_from([0, ALWAYS - mask]) | st.integers(0, ALWAYS - mask)),
        "unit": draw(st.sampled_from(["token", "group"])),
    }


def test_known_answers(vectors: Callable[[str], Any]) -> None:
    for table in vectors("groups"):
        groups = [
            torch.tensor(table[name], dtype=dtype)
            for name, dtype in (
                ("token_group", torch.int32),
                ("group_indptr", torch.int64),
                ("group_tokens", torch.int32),
            )
        ]
        options = {name: table[name] for name in ("rate_ppm", "seed", "epoch", "expand", "max_group", "rotate")}
        for name in ("accept", "take"):
            options[name] = None if table[name] is None else torch.tensor(table[name])
        corruption = {name: table[name] for name in ("mask_token_id", "mask_threshold", "random_threshold", "unit")} | {
            "gene_token_range": tuple(table["gene_token_range"])
        }
        for cell in table["cells"]:
            ids = torch.tensor([cell["tokens"]], dtype=torch.int64)
            cell_ids = torch.tensor([cell["cell_id"]])
            corrupted, labels = mask_tokens(
                ids, torch.tensor([ids.shape[1]]), cell_ids, *groups, **options, **corruption
            )
            assert corrupted.tolist() == [cell["corrupted"]]
            assert labels.tolist() == [cell["labels"]]
            twin = reference.mask_tokens(
                ids.numpy(),
                np.array([cell["owner"]], dtype=np.int32).reshape(ids.shape),
                cell_ids.numpy(),
                seed=table["seed"],
                epoch=table["epoch"],
                **corruption,
            )
            assert [array.tolist() for array in twin] == [[cell["corrupted"]], [cell["labels"]]]


@settings(max_examples=200)
@given(st.data(), masking_cases())
def test_equals_the_reference(data: st.DataObject, case: MaskingCase) -> None:
    corruption = data.draw(corruptions(len(case.token_group)))
    ids, labels = masked(case, **corruption)
    expected = reference.mask_tokens(
        case.input_ids,
        case.owners(),
        case.cell_ids,
        seed=case.options["seed"],
        epoch=case.options["epoch"],
        **corruption,
    )
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


@settings(max_examples=15)
@given(masking_cases())
def test_opcheck(case: MaskingCase) -> None:
    corruption = corruption_of(len(case.token_group))
    corruption["gene_lo"], corruption["gene_hi"] = corruption.pop("gene_token_range")
    corruption["unit_is_group"] = corruption.pop("unit") == "group"
    for dtype in (torch.int32, torch.int64):
        torch.library.opcheck(
            torch.ops.corrmask.mask_tokens.default,
            case.valid_padding().tensors(dtype),
            {**case.raw_options, **corruption},
        )


@given(st.data(), masking_cases())
def test_labels_and_owners_agree(data: st.DataObject, case: MaskingCase) -> None:
    corruption = data.draw(corruptions(len(case.token_group)))
    ids, labels = masked(case, **corruption)
    owner = sample_groups(*case.tensors(), **case.tensor_options).numpy()
    hidden = owner != -1
    np.testing.assert_array_equal(labels != -100, hidden)
    np.testing.assert_array_equal(labels[hidden], case.input_ids[hidden])
    np.testing.assert_array_equal(ids[~hidden], case.input_ids[~hidden])
    lo, hi = corruption["gene_token_range"]
    shown = ids[hidden]
    assert ((shown == corruption["mask_token_id"]) | ((lo <= shown) & (shown < hi)) | (shown == labels[hidden])).all()


@given(masking_cases(), st.randoms(use_true_random=False), st.sampled_from(["token", "group"]))
def test_neither_batch_nor_padding_matter(case: MaskingCase, random: Any, unit: str) -> None:
    corruption = corruption_of(len(case.token_group), unit=unit)
    ids, labels = masked(case, **corruption)
    n_cells, width = case.input_ids.shape
    order = np.array(random.sample(range(n_cells), n_cells), dtype=np.int64)[: n_cells // 2]
    part = replace(
        case,
        input_ids=np.pad(case.input_ids[order], ((0, 0), (0, 3)), constant_values=7),
        lengths=case.lengths[order],
        cell_ids=case.cell_ids[order],
    )
    part_ids, part_labels = masked(part, **corruption)
    np.testing.assert_array_equal(part_ids[:, :width], ids[order])
    np.testing.assert_array_equal(part_labels[:, :width], labels[order])
    assert (part_ids[:, width:] == 7).all()
    assert (part_labels[:, width:] == -100).all()


@given(masking_cases())
def test_token_widths_agree(case: MaskingCase) -> None:
    case = case.valid_padding()
    corruption = corruption_of(len(case.token_group))
    ids, labels = masked(case, torch.int64, **corruption)
    for dtype in (torch.int32, torch.uint16):
        other_ids, other_labels = masked(case, dtype, **corruption)
        np.testing.assert_array_equal(other_ids.astype(np.int64), ids)
        np.testing.assert_array_equal(other_labels, labels)


def large_case() -> MaskingCase:
    rng = np.random.default_rng(0)
    case = random_case(rng, n_cells=800, width=400, vocabulary=1000, repeats=False, rate_ppm=500_000, seed=9)
    case.lengths[:] = 400
    for row in case.input_ids:
        row[:] = rng.choice(1000, 400, replace=False)
    return case


@pytest.mark.parametrize("unit", ["token", "group"])
def test_realised_shares_are_80_10_10(unit: str) -> None:
    """Within 6 standard deviations of a binomial: a share that is off by 0.02 fails (0.06 with groups).

    Where a group shares its decision the deviation is larger by at most the root of its size, here up to 9 tokens.
    """
    ids, labels = masked(large_case(), **corruption_of(1000, unit=unit))
    hidden = labels != -100
    n = int(hidden.sum())
    assert n > 100_000
    inflation = 1 if unit == "token" else 3
    n_random = (hidden & (ids != 1) & (ids != labels)).sum()
    same_by_chance = 1 / 996  # a random gene that is the gene itself counts as unchanged
    for count, p in (
        ((hidden & (ids == 1)).sum(), 0.8),
        (n_random, 0.1 * (1 - same_by_chance)),
        ((hidden & (ids == labels)).sum(), 0.1 * (1 + same_by_chance)),
    ):
        assert abs(count - n * p) <= 6 * inflation * np.sqrt(n * p * (1 - p)) <= 0.01 * n * inflation


def test_random_genes_are_uniform() -> None:
    """Each of 20 tokens is drawn as often as any other, within 6 standard deviations."""
    corruption = corruption_of(1000, mask_threshold=0, random_threshold=ALWAYS, gene_token_range=(100, 120))
    ids, labels = masked(large_case(), **corruption)
    drawn = ids[labels != -100]
    counts = np.bincount(drawn, minlength=1000)
    assert counts[100:120].sum() == len(drawn)
    assert (np.abs(counts[100:120] - len(drawn) / 20) <= 6 * np.sqrt(len(drawn) / 20 * 19 / 20)).all()


def test_a_group_shares_its_decision() -> None:
    case = large_case()
    case = replace(case, input_ids=case.input_ids[:40], lengths=case.lengths[:40], cell_ids=case.cell_ids[:40])
    owner = case.owners()
    kind = {}
    for unit in ("token", "group"):
        ids, labels = masked(case, **corruption_of(1000, unit=unit, gene_token_range=(0, 1), mask_token_id=2))
        kind[unit] = np.where(ids == 2, 0, np.where(ids == labels, 1, 2))  # no token 0 or 2 is ever masked
    mixed = {"token": 0, "group": 0}
    for b in range(40):
        for who in np.unique(owner[b][owner[b] != -1]):
            for unit, kinds in kind.items():
                mixed[unit] += len(set(kinds[b][owner[b] == who].tolist())) > 1
    assert mixed["group"] == 0
    assert mixed["token"] > 100


@pytest.mark.parametrize("unit", ["token", "group"])
def test_thresholds_at_the_ends(unit: str) -> None:
    case = random_case(np.random.default_rng(5), n_cells=20, width=40, vocabulary=60, rate_ppm=10**6)
    always, labels = masked(case, **corruption_of(60, unit=unit, mask_threshold=ALWAYS, random_threshold=0))
    hidden = labels != -100
    assert (always[hidden] == 1).all()
    never, _ = masked(case, **corruption_of(60, unit=unit, mask_threshold=0, random_threshold=0))
    np.testing.assert_array_equal(never, case.input_ids)
    one_gene = corruption_of(60, unit=unit, mask_threshold=0, random_threshold=ALWAYS, gene_token_range=(9, 10))
    assert (masked(case, **one_gene)[0][hidden] == 9).all()


def test_threads_change_nothing(set_threads: Callable[[int], None]) -> None:
    case, corruption = large_case(), corruption_of(1000)
    set_threads(1)
    one = masked(case, **corruption)
    set_threads(2)
    for _ in range(2):
        for a, b in zip(masked(case, **corruption), one):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (3, 5)])
def test_nothing_to_mask(shape: tuple[int, int]) -> None:
    case = random_case(np.random.default_rng(7), n_cells=shape[0], width=shape[1], vocabulary=9)
    case.lengths[:] = 0
    ids, labels = masked(case, **corruption_of(9))
    np.testing.assert_array_equal(ids, case.input_ids)
    assert (labels == -100).all()


GOOD: dict[str, Any] = {
    "input_ids": torch.tensor([[4, 5, 6], [5, 0, 0]]),
    "lengths": torch.tensor([3, 1]),
    "cell_ids": torch.tensor([0, 1]),
    "token_group": torch.tensor([-2, -2, -2, -2, 0, 0, -1], dtype=torch.int32),
    "group_indptr": torch.tensor([0, 2]),
    "group_tokens": torch.tensor([4, 5], dtype=torch.int32),
    "rate_ppm": 150_000,
    "seed": 0,
    **corruption_of(7),
}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("input_ids", torch.zeros(2, 3), ValueError),
        ("input_ids", torch.tensor([[4, 5, 7], [5, 0, 0]]), ValueError),
        ("lengths", torch.tensor([4, 1]), ValueError),
        ("lengths", [3, 1], TypeError),
        ("rate_ppm", 0, ValueError),
        ("epoch", 2**28, ValueError),
        ("mask_token_id", -1, ValueError),
        ("mask_token_id", 2**31, ValueError),
        ("mask_token_id", None, TypeError),
        ("gene_token_range", (4, 4), ValueError),
        ("gene_token_range", (5, 4), ValueError),
        ("gene_token_range", (-1, 4), ValueError),
        ("gene_token_range", (0, 2**31 + 1), ValueError),
        ("gene_token_range", (0.0, 4), TypeError),
        ("gene_token_range", None, TypeError),
        ("gene_token_range", 7, TypeError),
        ("gene_token_range", (1, 2, 3), TypeError),
        ("mask_threshold", -1, ValueError),
        ("mask_threshold", ALWAYS + 1, ValueError),
        ("mask_threshold", 0.8, TypeError),
        ("random_threshold", ALWAYS, ValueError),
        ("random_threshold", 0.1, TypeError),
        ("unit", "cell", ValueError),
    ],
)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"^corrmask\.mask_tokens: .*'{name}"):
        mask_tokens(**{**GOOD, name: value})


@pytest.mark.parametrize(("name", "value"), [("mask_token_id", 2**16), ("gene_token_range", (4, 2**16 + 1))])
def test_tokens_that_uint16_cannot_hold(name: str, value: Any) -> None:
    arguments = {**GOOD, "input_ids": GOOD["input_ids"].to(torch.uint16)}
    mask_tokens(**arguments)
    with pytest.raises(ValueError, match=rf"^corrmask\.mask_tokens: '{name}"):
        mask_tokens(**{**arguments, name: value})
