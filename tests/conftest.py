"""What the tests share: settings of hypothesis, the known answers, real cells, the number of threads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# An example is never a timing: machines that run tests are shared.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real cells, or skip."""
    folder = os.environ.get("CORRMASK_DATA")
    if not folder:
        pytest.skip("CORRMASK_DATA is not set: no real cells")
    path = Path(folder)
    assert path.is_dir(), f"CORRMASK_DATA={folder} is no folder"
    return path


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Any]:
    """Known answers by name, from ``tests/vectors``."""
    folder = Path(__file__).parent / "vectors"
    return lambda name: json.loads((folder / f"{name}.json").read_text())


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests were left to a machine with a GPU."""
    skipped = terminalreporter.stats.get("skipped", [])
    n = sum("GPU" in str(report.longrepr) or "CUDA" in str(report.longrepr) for report in skipped)
    if n and not torch.cuda.is_available():
        terminalreporter.write_line(f"{n} tests need a GPU; `python benchmarks/gpu_gate.py` runs them")
