"""Value binning: counts to 51 bins."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import data
import pytest
from conftest import THREADS

from corrmask.bench.binning import binning_case
from corrmask.bench.timing import Case


@lru_cache(maxsize=1)
def case(cells: int | str) -> Case:
    return binning_case(data.real_counts() if cells == "real" else data.drawn_counts(int(cells), 20_000, 1_500))


@pytest.mark.parametrize("name", ["ours", "scGPT's binning"])
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("cells", [200, 2_000, "real"])
def test_bin_values(measure: Callable[..., None], cells: int | str, n_threads: int, name: str) -> None:
    measure(case(cells), name, n_threads)
