"""Group sampling: the twin, the known answers, and what must hold for every input."""

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
from torch import Tensor

from corrmask.ops import sample_groups


def owners_of(case: MaskingCase, dtype: torch.dtype = torch.int64) -> np.ndarray:
    owner = sample_groups(*case.tensors(dtype), **case.tensor_options)
    assert owner.dtype == torch.int32
    assert owner.shape == case.input_ids.shape
    return owner.numpy()


def rows(case: MaskingCase, order: np.ndarray) -> MaskingCase:
    return replace(case, input_ids=case.input_ids[order], lengths=case.lengths[order], cell_ids=case.cell_ids[order])


def test_known_answers(vectors: Callable[[str], Any]) -> None:
    tables = vectors("groups")
    assert len(tables) == 9
    for table in tables:
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
        width = max(len(cell["tokens"]) for cell in table["cells"])
        ids = torch.tensor([cell["tokens"] + [0] * (width - len(cell["tokens"])) for cell in table["cells"]])
        lengths = torch.tensor([len(cell["tokens"]) for cell in table["cells"]])
        cell_ids = torch.tensor([cell["cell_id"] for cell in table["cells"]])
        owner = sample_groups(ids, lengths, cell_ids, *groups, **options)
        expected = [cell["owner"] + [-1] * (width - len(cell["owner"])) for cell in table["cells"]]
        assert owner.tolist() == expected
        twin_options = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in options.items()}
        twin = reference.sample_groups(
            ids.numpy(), lengths.numpy(), cell_ids.numpy(), *(g.numpy() for g in groups), **twin_options
        )
        assert twin.tolist() == expected


@settings(max_examples=250)
@given(masking_cases())
def test_equals_the_reference(case: MaskingCase) -> None:
    np.testing.assert_array_equal(owners_of(case), case.owners())


def test_long_cells_equal_the_reference() -> None:
    rng = np.random.default_rng(1)
    for options in ({}, {"rotate": True, "max_group": 4}, {"expand": 0}):
        case = random_case(rng, n_cells=2, width=2048, vocabulary=20_000, repeats=False, seed=5, **options)
        np.testing.assert_array_equal(owners_of(case), case.owners())


@settings(max_examples=15)
@given(masking_cases())
def test_opcheck(case: MaskingCase) -> None:
    torch.library.opcheck(torch.ops.corrmask.sample_groups.default, case.tensors(), case.raw_options)


@settings(max_examples=200)
@given(masking_cases())
def test_the_budget_is_met_exactly_and_owners_hold(case: MaskingCase) -> None:
    owner = owners_of(case)
    groups = [set(case.group_tokens[a:b].tolist()) for a, b in zip(case.group_indptr[:-1], case.group_indptr[1:])]
    for tokens, length, owned in zip(case.input_ids, case.lengths, owner):
        tokens, beyond, owned = tokens[:length], owned[length:], owned[:length]
        assert (beyond == -1).all()
        eligible = case.token_group[tokens] != -2
        n, rate = int(eligible.sum()), case.options["rate_ppm"]
        masked = owned != -1
        assert masked.sum() == (0 if n == 0 else min(n, max(1, (n * rate + 500_000) // 1_000_000)))
        assert not (masked & ~eligible).any()
        seeds = set(tokens[masked & (owned == tokens)].tolist())
        for token, who in zip(tokens[masked], owned[masked]):
            assert who in seeds, "a seed masks itself first"
            assert token == who or token in groups[case.token_group[who]]


@given(masking_cases(), st.randoms(use_true_random=False))
def test_neither_batch_nor_padding_matter(case: MaskingCase, random: Any) -> None:
    owner = owners_of(case)
    n_cells, width = case.input_ids.shape
    order = np.array(random.sample(range(n_cells), n_cells), dtype=np.int64)
    np.testing.assert_array_equal(owners_of(rows(case, order)), owner[order])
    for b in range(n_cells):
        np.testing.assert_array_equal(owners_of(rows(case, np.array([b]))), owner[[b]])
    np.testing.assert_array_equal(owners_of(case.valid_padding()), owner)
    wider = replace(case, input_ids=np.pad(case.input_ids, ((0, 0), (0, 7)), constant_values=-5))
    np.testing.assert_array_equal(owners_of(wider)[:, :width], owner)
    assert (owners_of(wider)[:, width:] == -1).all()
    longest = int(case.lengths.max(initial=0))
    np.testing.assert_array_equal(owners_of(replace(case, input_ids=case.input_ids[:, :longest])), owner[:, :longest])


@given(masking_cases())
def test_token_widths_agree(case: MaskingCase) -> None:
    case = case.valid_padding()
    wide = owners_of(case, torch.int64)
    np.testing.assert_array_equal(owners_of(case, torch.int32), wide)
    np.testing.assert_array_equal(owners_of(case, torch.uint16), wide)


def test_the_whole_range_of_uint16() -> None:
    case = random_case(np.random.default_rng(2), n_cells=3, width=100, vocabulary=2**16).valid_padding()
    case.input_ids[0, :2] = 2**16 - 1, 2**15
    case.lengths[0] = 100
    np.testing.assert_array_equal(owners_of(case, torch.uint16), case.owners())


@given(masking_cases())
def test_seed_and_epoch_as_tensors(case: MaskingCase) -> None:
    owner = owners_of(case)
    for wrap in (torch.tensor, lambda value: torch.tensor([value])):
        options = case.tensor_options
        options["seed"], options["epoch"] = wrap(options["seed"]), wrap(options["epoch"])
        np.testing.assert_array_equal(sample_groups(*case.tensors(), **options).numpy(), owner)


def test_threads_change_nothing_and_masks_replay(set_threads: Callable[[int], None]) -> None:
    case = random_case(np.random.default_rng(3), n_cells=101, width=200, vocabulary=500)
    set_threads(1)
    one = owners_of(case)
    set_threads(2)
    np.testing.assert_array_equal(owners_of(case), one)
    np.testing.assert_array_equal(owners_of(case), one)


def test_seed_epoch_and_cell_each_change_the_mask() -> None:
    case = random_case(np.random.default_rng(4), n_cells=20, width=60, vocabulary=100, seed=1, epoch=1)
    owner = owners_of(case)
    for other in (
        case.but(seed=2),
        case.but(seed=1 + 2**32),
        case.but(epoch=2),
        replace(case, cell_ids=case.cell_ids ^ 1),
        replace(case, cell_ids=case.cell_ids ^ (1 << 40)),
    ):
        assert (owners_of(other) != owner).any()


@given(masking_cases())
def test_without_expansion_each_token_owns_itself(case: MaskingCase) -> None:
    case = case.but(expand=0)
    owner = owners_of(case)
    masked = owner != -1
    np.testing.assert_array_equal(owner[masked], case.input_ids[masked])


@given(masking_cases(repeats=False))
def test_max_group_bounds_what_a_seed_brings(case: MaskingCase) -> None:
    for most in (0, 1, 2):
        for owned in owners_of(case.but(max_group=most)):
            assert np.unique(owned[owned != -1], return_counts=True)[1].max(initial=0) <= most + 1
    unlimited = owners_of(case.but(max_group=None))
    np.testing.assert_array_equal(owners_of(case.but(max_group=2**31 - 1)), unlimited)


@given(masking_cases())
def test_thresholds_of_always_are_none(case: MaskingCase) -> None:
    always = np.full(len(case.token_group), ALWAYS)
    none = owners_of(case.but(accept=None, take=None))
    np.testing.assert_array_equal(owners_of(case.but(accept=always, take=always)), none)


@given(masking_cases())
def test_take_of_never_is_no_expansion(case: MaskingCase) -> None:
    never = np.zeros(len(case.token_group), dtype=np.int64)
    np.testing.assert_array_equal(owners_of(case.but(take=never)), owners_of(case.but(expand=0)))


@given(masking_cases())
def test_accept_of_never_masks_the_lowest_positions(case: MaskingCase) -> None:
    never = np.zeros(len(case.token_group), dtype=np.int64)
    owner = owners_of(case.but(accept=never))
    for tokens, length, owned in zip(case.input_ids, case.lengths, owner):
        eligible = np.flatnonzero(case.token_group[tokens[:length]] != -2)
        masked = np.flatnonzero(owned != -1)
        np.testing.assert_array_equal(masked, eligible[: len(masked)])
        np.testing.assert_array_equal(owned[masked], tokens[masked])


def simple(n_cells: int, width: int, groups: list[list[int]], token_group: list[int], **options: Any) -> MaskingCase:
    """Cells that all hold tokens 0 .. width - 1."""
    return MaskingCase(
        np.tile(np.arange(width), (n_cells, 1)),
        np.full(n_cells, width),
        np.arange(n_cells),
        np.array(token_group, dtype=np.int32),
        np.cumsum([0, *map(len, groups)]),
        np.array([token for group in groups for token in group], dtype=np.int32),
        {"rate_ppm": 150_000, "seed": 11, **options},
    )


def test_random_masking_is_uniform() -> None:
    """Each position of n_cells cells is masked m / n of the time, within 6 standard deviations of the binomial."""
    n_cells, width = 4000, 40
    masked = owners_of(simple(n_cells, width, [], [-1] * width)) != -1
    p = 6 / 40
    assert (np.abs(masked.sum(axis=0) - n_cells * p) <= 6 * np.sqrt(n_cells * p * (1 - p))).all()


def test_partners_come_first_of_their_group_or_from_a_random_start() -> None:
    """Budget 2 of 20 tokens, all in one group: the first seed brings one partner."""
    n_cells, group = 3000, [7, 3, 11, 19, 2]
    case = simple(n_cells, 20, [group], [0] * 20, rate_ppm=100_000)
    tokens = np.arange(20)
    for owned in owners_of(case):
        (partner,) = tokens[(owned != -1) & (owned != tokens)]
        seed = owned[partner]
        assert partner == (7 if seed != 7 else 3)
    counts = np.zeros(20)
    for owned in owners_of(case.but(rotate=True)):
        (partner,) = tokens[(owned != -1) & (owned != tokens)]
        if owned[partner] not in group:
            counts[partner] += 1
    n, p = counts.sum(), 1 / 5
    assert counts[group].sum() == n
    assert (np.abs(counts[group] - n * p) <= 6 * np.sqrt(n * p * (1 - p))).all()


def test_rotation_wraps_around() -> None:
    case = simple(200, 12, [[4, 5, 6, 7]], [0] * 12, rate_ppm=416_667, rotate=True)  # a budget of 5
    starts = set()
    for owned in owners_of(case):
        seeds = np.unique(owned[owned != -1])
        if len(seeds) == 1 and seeds[0] not in (4, 5, 6, 7):
            assert (owned[4:8] == seeds[0]).all()
            starts.add(int(seeds[0]))
    assert len(starts) > 4


def test_expansion_happens_as_often_as_asked() -> None:
    """The first seed of a cell brings its only partner with probability `expand`: within 6 standard deviations."""
    n_cells, pairs = 4000, [[1], [0], [3], [2]]
    case = simple(n_cells, 4, pairs, [0, 1, 2, 3], rate_ppm=500_000, expand=round(0.3 * 2**32))
    owner = owners_of(case)
    together = ((owner != -1) & (owner != np.arange(4))).any(axis=1).sum()
    assert abs(together - 0.3 * n_cells) <= 6 * np.sqrt(n_cells * 0.3 * 0.7)


def test_accept_levels_seeds() -> None:
    """A token that is accepted half as readily becomes the only seed half as often: within 6 standard deviations."""
    n_cells = 6000
    case = simple(n_cells, 3, [], [-1] * 3, rate_ppm=1, accept=np.array([2**31, ALWAYS, ALWAYS]))
    first = (owners_of(case)[:, 0] == 0).sum()
    assert abs(first - n_cells / 5) <= 6 * np.sqrt(n_cells * 0.2 * 0.8)


def test_rates_at_the_ends() -> None:
    case = random_case(np.random.default_rng(6), n_cells=30, width=50, vocabulary=80)
    eligible = (case.token_group[np.where(case.input_ids < 0, 0, case.input_ids) % 80] != -2) & (
        np.arange(50) < case.lengths[:, None]
    )
    np.testing.assert_array_equal(owners_of(case.but(rate_ppm=10**6)) != -1, eligible)
    np.testing.assert_array_equal((owners_of(case.but(rate_ppm=1)) != -1).sum(axis=1), eligible.any(axis=1))


def test_repeats_of_a_token() -> None:
    """A partner is masked at its lowest position alone; other places of it are masked as seeds only."""
    case = simple(300, 6, [[1], [0]], [0, 1, -2], rate_ppm=400_000)
    case.input_ids[:] = [2, 1, 0, 1, 0, 1]
    seen = set()
    for owned in owners_of(case):
        assert owned[0] == -1
        partner = [j for j in range(6) if owned[j] not in (-1, case.input_ids[0, j])]
        assert set(partner) <= {1, 2}
        seen.update(partner)
    assert seen == {1, 2}
    np.testing.assert_array_equal(owners_of(case), case.owners())


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (3, 5)])
def test_nothing_to_mask(shape: tuple[int, int]) -> None:
    case = random_case(np.random.default_rng(7), n_cells=shape[0], width=shape[1], vocabulary=9)
    case.lengths[:] = 0
    assert (owners_of(case) == -1).all()
    only_special = case.valid_padding()
    only_special.lengths[:] = shape[1]
    assert (owners_of(only_special) == -1).all()


def test_strides_change_nothing() -> None:
    case = random_case(np.random.default_rng(8), n_cells=6, width=20, vocabulary=40, accept=np.full(40, 2**31))
    expected = owners_of(case)
    strided = [torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in case.tensors()]
    assert not strided[0].is_contiguous()
    options = case.tensor_options
    options["accept"] = torch.stack([options["accept"]] * 2, dim=-1)[:, 0]
    np.testing.assert_array_equal(sample_groups(*strided, **options).numpy(), expected)


GOOD: dict[str, Any] = {
    "input_ids": torch.tensor([[4, 5, 6], [5, 0, 0]]),
    "lengths": torch.tensor([3, 1]),
    "cell_ids": torch.tensor([0, 1]),
    "token_group": torch.tensor([-2, -2, -2, -2, 0, 0, -1], dtype=torch.int32),
    "group_indptr": torch.tensor([0, 2]),
    "group_tokens": torch.tensor([4, 5], dtype=torch.int32),
    "rate_ppm": 150_000,
    "seed": 0,
}


def test_the_good_arguments_are_good() -> None:
    assert (sample_groups(**GOOD) != -1).sum() == 2


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("input_ids", [[4, 5, 6], [5, 0, 0]], TypeError),
        ("input_ids", torch.zeros(2, 3), ValueError),
        ("input_ids", torch.zeros(2, 3, dtype=torch.int16), ValueError),
        ("input_ids", torch.zeros(3, dtype=torch.int64), ValueError),
        ("input_ids", torch.tensor([[4, 5, 7], [5, 0, 0]]), ValueError),
        ("input_ids", torch.tensor([[4, -1, 6], [5, 0, 0]]), ValueError),
        ("input_ids", torch.tensor([[4, 2**32 + 4, 6], [5, 0, 0]]), ValueError),
        ("lengths", np.array([3, 1]), TypeError),
        ("lengths", torch.tensor([3, 1], dtype=torch.int32), ValueError),
        ("lengths", torch.tensor([3]), ValueError),
        ("lengths", torch.tensor([[3], [1]]), ValueError),
        ("lengths", torch.tensor([4, 1]), ValueError),
        ("lengths", torch.tensor([3, -1]), ValueError),
        ("cell_ids", torch.tensor([0]), ValueError),
        ("cell_ids", torch.tensor([0.0, 1.0]), ValueError),
        ("cell_ids", torch.tensor([0, -1]), ValueError),
        ("token_group", torch.zeros(7, dtype=torch.int64), ValueError),
        ("token_group", None, TypeError),
        ("token_group", torch.tensor([-2, -2, -2, -2, 1, 1, 1], dtype=torch.int32), ValueError),
        ("group_indptr", torch.tensor([0, 2], dtype=torch.int32), ValueError),
        ("group_indptr", torch.zeros(0, dtype=torch.int64), ValueError),
        ("group_indptr", torch.tensor([0, 3]), ValueError),
        ("group_indptr", torch.tensor([2, 0]), ValueError),
        ("group_indptr", torch.tensor([-1, 2]), ValueError),
        ("group_tokens", torch.tensor([4, 5]), ValueError),
        ("group_tokens", torch.tensor([7, 7], dtype=torch.int32), ValueError),
        ("group_tokens", torch.tensor([-1, -1], dtype=torch.int32), ValueError),
        ("rate_ppm", 0, ValueError),
        ("rate_ppm", 10**6 + 1, ValueError),
        ("rate_ppm", 0.15, TypeError),
        ("rate_ppm", True, TypeError),
        ("seed", -1, ValueError),
        ("seed", 2**63, ValueError),
        ("seed", 1.5, TypeError),
        ("seed", torch.tensor([1, 2]), ValueError),
        ("seed", torch.tensor(1.0), ValueError),
        ("epoch", 2**28, ValueError),
        ("epoch", -1, ValueError),
        ("epoch", "0", TypeError),
        ("epoch", torch.tensor(2**28), ValueError),
        ("epoch", torch.tensor(-1), ValueError),
        ("seed", torch.tensor(-1), ValueError),
        ("input_ids", torch.tensor([[4, 5, 6], [5, 0, 0]]).to_sparse(), ValueError),
        ("rotate", "yes", TypeError),
        ("rotate", None, TypeError),
        ("expand", ALWAYS + 1, ValueError),
        ("expand", -1, ValueError),
        ("expand", 1.0, TypeError),
        ("accept", torch.zeros(6, dtype=torch.int64), ValueError),
        ("accept", torch.zeros(7), ValueError),
        ("take", torch.zeros(7, dtype=torch.int32), ValueError),
        ("take", [1] * 7, TypeError),
        ("max_group", -1, ValueError),
        ("max_group", 2.0, TypeError),
    ],
)
def test_bad_input(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"^corrmask\.sample_groups: .*'{name}'"):
        sample_groups(**{**GOOD, "rate_ppm": 10**6, name: value})


def test_the_message_says_what_was_given() -> None:
    wrong = torch.zeros(4, 2, dtype=torch.int32)
    with pytest.raises(ValueError) as caught:
        sample_groups(**{**GOOD, "lengths": wrong})
    assert str(caught.value) == "corrmask.sample_groups: 'lengths' must be int64 of shape [B], got int32 [4, 2]"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", torch.tensor([[4, 5, 6], [9, 0, 0]]), r"'input_ids' must be in 0 \.\. 6 .*, got 9 in row 1"),
        (
            "token_group",
            torch.tensor([-2, -2, -2, -2, 0, 3, 0]).int(),
            r"'token_group' .* below 1 .*, got 3 for token 5",
        ),
        ("group_indptr", torch.tensor([0, 3]), r"'group_indptr' .* 0 \.\. 2 .*, got 0 \.\. 3 for group 0"),
        ("group_tokens", torch.tensor([4, 8]).int(), r"'group_tokens' must be in 0 \.\. 6 .*, got 8 in group 0"),
    ],
)
def test_what_only_the_kernel_sees_is_named(name: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_groups(**{**GOOD, "rate_ppm": 10**6, name: value})


def test_another_device_is_named() -> None:
    with pytest.raises(ValueError, match=r"^corrmask\.sample_groups: 'lengths' is on meta, the batch on cpu"):
        sample_groups(**{**GOOD, "lengths": GOOD["lengths"].to("meta")})
    with pytest.raises(ValueError, match=r"^corrmask\.sample_groups: 'epoch' is on meta, the batch on cpu"):
        sample_groups(**{**GOOD, "epoch": torch.tensor(1, device="meta")})
