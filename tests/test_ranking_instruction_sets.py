"""Ranks and bins are the reference's whatever instructions a machine has: each set in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch

from corrmask.ops import bin_values, rank_encode

SETS = {"plain": "fpu", "avx2": "avx2", "avx512": "avx512bw"}  # and what the machine needs for each
N_GENES = 70_001
SMALL = (0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 513, 1_000, 1_537, 2_049)
LARGE = (4_095, 4_096, 4_097, 16_385, 65_535, 65_536, 70_000)  # around what a place has bits for
EPSILON = np.finfo(np.float64).eps


def values(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    """Counts of one kind, float64 [n]."""
    if kind == "counts":
        return rng.geometric(0.3, n) - (rng.random(n) < 0.1) * 1.0
    if kind == "close":  # a few values in each of many places, distinct in their last bits
        return rng.integers(1, 60, n) * (1 + rng.integers(0, 4, n) * EPSILON)
    if kind == "an outlier":  # so that the leading bits of all others are alike
        return np.where(np.arange(n) == n // 2, 1e300, 1 + rng.permutation(n) * EPSILON)
    if kind == "far apart":
        return np.exp(rng.uniform(-745, 709, n)) * (rng.random(n) < 0.9)  # denormals, zeros
    return np.log1p(rng.geometric(0.3, n) * 1e4 / 3333.0)


def cases() -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """indptr, indices (ascending in one half of the cases, in any order in the other) and values of some cells."""
    rng = np.random.default_rng(5)
    for kind in ("counts", "close", "an outlier", "far apart", "log"):
        for sizes in (SMALL, LARGE if kind in ("counts", "close") else LARGE[:4]):
            for in_order in (True, False):
                columns = [rng.permutation(N_GENES)[:n] for n in sizes]
                indices = np.concatenate([np.sort(row) if in_order else row for row in columns])
                indptr = np.concatenate([[0], np.cumsum(sizes)])
                row_values = np.concatenate([values(rng, kind, n) for n in sizes])
                yield f"{kind}, {len(sizes)} cells, {in_order}", (indptr, indices.astype(np.int32), row_values)


def medians_and_tokens() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    medians = rng.choice([0.5, 1.0, 1.5, 1 + EPSILON], N_GENES)
    tokens = np.where(rng.random(N_GENES) < 0.1, -1, rng.permutation(N_GENES)).astype(np.int32)
    return np.where(tokens < 0, rng.choice([np.nan, np.inf, -1.0, 2.0], N_GENES), medians), tokens


def options(indptr: np.ndarray) -> dict[str, Any]:
    return {"cell_ids": np.arange(len(indptr) - 1) * 2**33 + 7}


def results() -> dict[str, np.ndarray]:
    """What the operators give, for each type of the columns."""
    found = {}
    genes = [torch.from_numpy(array) for array in medians_and_tokens()]
    for name, arrays in cases():
        indptr, indices, row_values = (torch.from_numpy(array) for array in arrays)
        cell_ids = torch.from_numpy(options(arrays[0])["cell_ids"])
        for dtype in (torch.int32, torch.int64):
            columns = indices.to(dtype)
            ids, lengths = rank_encode(indptr, columns, row_values, *genes, max_len=5_000, pad_id=9)
            bins = bin_values(indptr, columns, row_values, cell_ids, n_bins=51, seed=3, epoch=2)
            found[f"{name}, {dtype}"] = np.concatenate([ids.flatten(), lengths, bins])
    return found


@cache
def expected() -> dict[str, np.ndarray]:
    """What the reference says."""
    found = {}
    for name, arrays in cases():
        with np.errstate(invalid="ignore"):
            ids, lengths = reference.rank_encode(*arrays, *medians_and_tokens(), max_len=5_000, pad_id=9)
        bins = reference.bin_values(*arrays, options(arrays[0])["cell_ids"], n_bins=51, seed=3, epoch=2)
        found[name] = np.concatenate([ids.ravel(), lengths, bins])
    return found


@pytest.mark.parametrize("name", SETS)
def test_ranks_and_bins_are_the_reference(name: str, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo")
    if flags.exists() and SETS[name] not in flags.read_text().split():
        pytest.skip(f"this machine has no {name}")
    environment = {**os.environ, "CORRMASK_INSTRUCTIONS": name}
    command = [sys.executable, __file__, str(tmp_path / "results.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "results.npz") as found:
        for what, wanted in expected().items():
            for dtype in (torch.int32, torch.int64):
                np.testing.assert_array_equal(found[f"{what}, {dtype}"], wanted, err_msg=f"{what}, {dtype}")


if __name__ == "__main__":
    np.savez(sys.argv[1], **results())
