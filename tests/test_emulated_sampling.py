"""The CUDA kernel of sampling and corruption, thread by thread on a CPU: the same masks as the operators'.

What this cannot show is what only a GPU has (its scheduler, its memory): tests/test_cuda.py runs there.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from cases import ALWAYS, MaskingCase, masking_cases, random_case
from emulated import library, pointer
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from corrmask.ops import mask_tokens, sample_groups

WORD = ctypes.c_int64
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # a case takes long, thread by thread
CORRUPTION = {
    "mask_token_id": 1,
    "gene_token_range": (4, 50),
    "mask_threshold": round(0.8 * 2**32),
    "random_threshold": round(0.1 * 2**32),
}


def emulated(
    case: MaskingCase,
    *,
    memory: str = "shared",
    dtype: torch.dtype = torch.int64,
    corruption: dict[str, Any] | None = None,
    unit: str = "token",
    n_warps: int = 2,
    knows_special: bool = True,
    n_blocks: int = 2,
    schedule: int = 1,
) -> tuple[Tensor, ...]:
    """Owners as the kernel gives them, or, where there is a corruption, ids and labels."""
    ids, lengths, cells, *groups = case.tensors(dtype)
    options = case.raw_options
    if corruption is None:
        results: tuple[Tensor | None, ...] = (torch.full(ids.shape, 77, dtype=torch.int32), None, None)
        corruption = CORRUPTION
    else:
        results = (None, torch.full_like(ids, 77), torch.full(ids.shape, 77))
    function = getattr(library("sampling"), f"{memory}_{str(dtype).removeprefix('torch.')}")
    function.restype = None
    function(
        *(pointer(tensor) for tensor in (ids, lengths, cells)),
        WORD(ids.shape[0]),
        WORD(ids.shape[1]),
        *(pointer(tensor) for tensor in (*results, *groups, options["accept"], options["take"])),
        *(WORD(n) for n in (groups[0].shape[0], groups[1].shape[0] - 1, groups[2].shape[0])),
        pointer(options["seed"]),
        *(WORD(int(options[name])) for name in ("epoch", "rate_ppm", "expand", "max_group")),
        ctypes.c_int(options["rotate"]),
        WORD(corruption["mask_token_id"]),
        *(WORD(end) for end in corruption["gene_token_range"]),
        WORD(corruption["mask_threshold"]),
        WORD(corruption["random_threshold"]),
        ctypes.c_int(unit == "group"),
        ctypes.c_int(n_warps),
        ctypes.c_int(knows_special),
        ctypes.c_uint(n_blocks),
        ctypes.c_uint64(schedule),
    )
    return tuple(result for result in results if result is not None)


@settings(max_examples=100, phases=NO_SHRINKING)
@given(
    masking_cases(),
    st.sampled_from([torch.int32, torch.int64]),
    st.sampled_from(["shared", "global"]),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.integers(1, 2**63),
)
def test_owners_equal_the_operators(
    case: MaskingCase, dtype: torch.dtype, memory: str, n_warps: int, knows_special: bool, schedule: int
) -> None:
    (owners,) = emulated(
        case, dtype=dtype, memory=memory, n_warps=n_warps, knows_special=knows_special, schedule=schedule
    )
    assert torch.equal(owners, sample_groups(*case.tensors(dtype), **case.tensor_options))


@settings(max_examples=60, phases=NO_SHRINKING)
@given(masking_cases(), st.sampled_from([torch.int32, torch.int64]), st.sampled_from(["token", "group"]))
def test_corruption_equals_the_operators(case: MaskingCase, dtype: torch.dtype, unit: Any) -> None:
    vocabulary = len(case.token_group)
    corruption = {**CORRUPTION, "gene_token_range": (0, vocabulary), "mask_token_id": vocabulary - 1}
    ids, labels = emulated(case, dtype=dtype, corruption=corruption, unit=unit)
    expected = mask_tokens(*case.tensors(dtype), **case.tensor_options, **corruption, unit=unit)
    assert torch.equal(ids, expected[0])
    assert torch.equal(labels, expected[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate_ppm": 10**6},
        {"expand": 0},
        {"max_group": 3},
        {"rotate": True},
        {"accept": True, "take": True},
        {"accept": False},  # nobody is accepted: the budget is met from the lowest positions on
    ],
    ids=str,
)
def test_long_cells_and_large_groups(options: dict[str, Any]) -> None:
    """Several batches of draws, groups past those that are looked for ahead, members listed twice."""
    rng = np.random.default_rng(5)
    vocabulary, width, n_groups = 2000, 700, 60
    sizes = rng.integers(0, 120, n_groups)
    token_group = rng.integers(-1, n_groups, vocabulary).astype(np.int32)
    token_group[:4] = -2
    rows = np.stack([rng.permutation(vocabulary)[:width] for _ in range(4)])
    rows[1, 300:600] = rows[1, :300]
    thresholds = rng.integers(0, ALWAYS + 1, vocabulary)
    changed = {
        name: np.zeros(vocabulary, np.int64) if value is False else thresholds if value is True else value
        for name, value in options.items()
        if name in ("accept", "take")
    }
    case = MaskingCase(
        rows,
        np.array([700, 650, 33, 1]),
        np.array([0, 5, 2**40, 7]),
        token_group,
        np.concatenate([[0], np.cumsum(sizes)]),
        rng.integers(0, vocabulary, sizes.sum()).astype(np.int32),
        {"rate_ppm": 150_000, "seed": 2**62 + 1, "epoch": 3, "expand": ALWAYS, "accept": None, "take": None}
        | {"max_group": None, "rotate": False, **options, **changed},
    )
    for memory, n_warps, knows_special in (("shared", 2, True), ("shared", 8, False), ("global", 1, True)):
        (owners,) = emulated(case, memory=memory, n_warps=n_warps, knows_special=knows_special, n_blocks=3)
        assert torch.equal(owners, sample_groups(*case.tensors(), **case.tensor_options))


@pytest.mark.parametrize(("width", "vocabulary"), [(1027, 5000), (1028, 5000), (16_384, 2**18)])
def test_rows_that_begin_anywhere(width: int, vocabulary: int) -> None:
    """Rows are read 16 bytes at a time where all of them begin at such a place."""
    case = random_case(np.random.default_rng(2), n_cells=2, width=width, vocabulary=vocabulary, repeats=False)
    case = case.valid_padding()
    case.lengths[:] = width, width - 3
    case.input_ids[0, -1] = vocabulary - 1
    for dtype in (torch.uint16, torch.int32, torch.int64)[vocabulary > 2**16 :]:
        (owners,) = emulated(case, dtype=dtype)
        assert torch.equal(owners, sample_groups(*case.tensors(dtype), **case.tensor_options))


def test_cells_between_special_tokens() -> None:
    """Whole rows of genes once each, then with a special token at either end, then with a gene twice."""
    case = random_case(np.random.default_rng(7), n_cells=4, width=300, vocabulary=900, repeats=False)
    case.token_group[:4], case.token_group[4:] = -2, np.maximum(case.token_group[4:], -1)
    case.lengths[:] = 300
    for row in range(4):
        case.input_ids[row] = np.random.default_rng(row).permutation(np.arange(4, 900))[:300]
    case.input_ids[1:, 0], case.input_ids[1:, -1] = 2, 3
    case.input_ids[2, 250] = case.input_ids[2, 10]
    case.input_ids[3, 100:120] = case.input_ids[3, 77]
    for knows_special in (False, True):
        (owners,) = emulated(case, knows_special=knows_special)
        assert torch.equal(owners, sample_groups(*case.tensors(), **case.tensor_options))


def test_what_a_kernel_cannot_raise_for() -> None:
    """Tokens out of range are ineligible, lengths are cut, groups out of range bring nobody."""
    case = random_case(np.random.default_rng(0), width=40, vocabulary=50)
    case.lengths[:] = [40, 99, -3, 40]
    case.input_ids[0, ::3] = -5
    case.input_ids[1, ::4] = 50
    broken = case.but()
    broken.token_group[broken.token_group >= 0] = 10**6
    (owners,) = emulated(broken)
    assert (owners[2] == -1).all()
    masked = owners >= 0
    ids = torch.from_numpy(broken.input_ids)
    assert ((ids[masked] >= 0) & (ids[masked] < 50)).all()
    assert torch.equal(owners[masked].long(), ids[masked]), "each masks itself alone"
    assert masked[0].sum() > 0
    assert masked[1].sum() > 0
