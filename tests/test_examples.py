"""Each example runs on the default demo's cells, and does what it says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

for package in ("datasets", "transformers", "accelerate", "igraph", "matplotlib", "scanpy"):
    pytest.importorskip(package)

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def falls(losses: list[float]) -> bool:
    return losses[-1] < losses[0]


def levels(frequency: dict[str, np.ndarray]) -> bool:
    spread = {arm: np.nanstd(values) for arm, values in frequency.items()}
    return spread["levelled"] < 0.5 * spread["corr"]


CHECKS: dict[str, Any] = {
    "hf_trainer": lambda loss: 0 < loss < 6.6,  # ln of 769 tokens is 6.65
    "plain_torch": falls,
    "on_device": falls,
    "scgpt_values": falls,
    "dataset_transform": lambda masked: masked > 350 * 5,
    "levelled_masks": levels,
    "scverse": lambda adata: adata.varp["correlation"].nnz > 100 and adata.var["community"].nunique() > 2,
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*CHECKS, "cells"}


@pytest.mark.parametrize("name", CHECKS)
def test_example(name: str, monkeypatch: pytest.MonkeyPatch, set_threads: Any) -> None:
    set_threads(1)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert CHECKS[name](runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]())
    torch._dynamo.reset()
