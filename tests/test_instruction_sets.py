"""Masks are the reference's by whatever instructions: each set in a process of its own, for it is read once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from cases import ALWAYS, MaskingCase, random_case

from corrmask.ops import mask_tokens, sample_groups

SETS = {"plain": "fpu", "avx2": "avx2", "avx512": "avx512bw"}  # and what the machine needs for each
GROUP_SIZES = (0, 1, 15, 16, 17, 33)
LENGTHS = (0, 1, 2, 15, 16, 17, 31, 32, 33, 80)
DTYPES = (torch.uint16, torch.int32, torch.int64)


def shown(vocabulary: int, unit: str) -> dict[str, Any]:
    thresholds = {"mask_threshold": round(0.8 * 2**32), "random_threshold": round(0.1 * 2**32)}
    return {"mask_token_id": 1, "gene_token_range": (4, vocabulary), "unit": unit, **thresholds}


def cases() -> Iterator[MaskingCase]:
    """Lengths and groups around the width of vectors, every option, rows so wide that places need more bits."""
    rng = np.random.default_rng(12)
    some = rng.integers(0, ALWAYS + 1, 301)
    for options in (
        {},
        {"rate_ppm": 10**6},
        {"rotate": True},
        {"max_group": 5},
        {"rotate": True, "max_group": 20, "expand": 2**31},
        {"take": some, "accept": some[::-1].copy()},
        {"expand": 0},
    ):
        case = random_case(
            rng, n_cells=len(LENGTHS), width=80, vocabulary=301, group_sizes=GROUP_SIZES, seed=2**40 + 3, **options
        )
        case.input_ids[:] = rng.integers(0, 301, case.input_ids.shape)
        case.lengths[:] = LENGTHS
        yield case
    for width, length, vocabulary in ((16_384, 16_384, 20_011), (16_385, 900, 2**16), (70_000, 900, 2**16)):
        case = random_case(
            rng, n_cells=2, width=width, vocabulary=vocabulary, group_sizes=GROUP_SIZES, rate_ppm=30_000, epoch=2
        )
        case.input_ids[:] = rng.integers(4, vocabulary, case.input_ids.shape)
        case.token_group[rng.random(vocabulary) < 0.9] = 0  # few special ones
        case.token_group[-1] = 0
        case.group_tokens[::3] = vocabulary - 1  # the last entry of the table of places
        case.lengths[:] = length, length // 2
        yield case.valid_padding()
    # Genes alone, and between special tokens; more cells than there are tags for so wide a row.
    case = random_case(rng, n_cells=9, width=9_000, vocabulary=5_003, group_sizes=(16,))
    case.token_group[:4], case.token_group[4:] = -2, rng.integers(0, len(case.group_indptr) - 1, 4_999)
    case.input_ids[:] = rng.integers(4, 5_003, case.input_ids.shape)
    case.lengths[:] = 200
    case.input_ids[:6, [0, 199]] = 2, 3
    case.input_ids[3, 100] = 0
    yield case


def results() -> dict[str, np.ndarray]:
    """What the operators give for all cases, and how they refuse a member that is no token."""
    found = {}
    for i, case in enumerate(cases()):
        for dtype in DTYPES:
            tensors, name = case.tensors(dtype), f"{i} {dtype}"
            found[f"{name} owner"] = sample_groups(*tensors, **case.tensor_options).numpy()
            for unit in ("token", "group"):
                ids, labels = mask_tokens(*tensors, **case.tensor_options, **shown(len(case.token_group), unit))
                found[f"{name} {unit}"], found[f"{name} {unit} labels"] = ids.numpy(), labels.numpy()
    case = random_case(np.random.default_rng(0), n_cells=3, width=80, group_sizes=(33,), rate_ppm=10**6)
    outside = replace(case, group_tokens=np.where(np.arange(len(case.group_tokens)) % 33 == 32, 60, case.group_tokens))
    try:
        sample_groups(*outside.tensors(), **outside.tensor_options)
    except ValueError as error:
        found["refused"] = np.array(str(error))
    return found


@cache
def expected() -> dict[str, np.ndarray]:
    """What the reference says."""
    found = {}
    for i, case in enumerate(cases()):
        owner = case.owners()
        for unit in ("token", "group"):
            found[f"{i} {unit}"], found[f"{i} {unit} labels"] = reference.mask_tokens(
                case.input_ids,
                owner,
                case.cell_ids,
                seed=case.options["seed"],
                epoch=case.options["epoch"],
                **shown(len(case.token_group), unit),
            )
        found[f"{i} owner"] = owner
    return found


def run(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CORRMASK_INSTRUCTIONS": name}
    command = [sys.executable, __file__, str(folder / "results.npz")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SETS)
def test_masks_are_the_reference(name: str, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo")
    if flags.exists() and SETS[name] not in flags.read_text().split():
        pytest.skip(f"this machine has no {name}")
    done = run(name, tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "results.npz") as found:
        assert "'group_tokens' must be in" in str(found["refused"])
        for what, wanted in expected().items():
            i, kind = what.split(" ", 1)
            for dtype in DTYPES:
                np.testing.assert_array_equal(found[f"{i} {dtype} {kind}"], wanted, err_msg=f"{what}, {dtype}")


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    done = run("sse9", tmp_path)
    assert done.returncode != 0
    assert "CORRMASK_INSTRUCTIONS must be plain, avx2 or avx512, got sse9" in done.stderr


if __name__ == "__main__":
    np.savez(sys.argv[1], **results())
