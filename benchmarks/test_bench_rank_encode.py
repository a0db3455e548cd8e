"""Rank-value encoding: counts to tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import data
import numpy as np
import pytest
import reference
from conftest import THREADS

from corrmask.bench.encoding import Encoding, encoding_case
from corrmask.bench.timing import Case

ALL = [*data.ENCODED, "real"]


@lru_cache(maxsize=1)
def case(cells: int | str) -> Case:
    return encoding_case(data.real_counts() if cells == "real" else data.drawn_counts(int(cells), 20_000, 1_500))


@pytest.mark.parametrize("name", ["ours", "numpy, stable argsort", "Geneformer's loop"])
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("cells", ALL)
def test_rank_encode(measure: Callable[..., None], cells: int | str, n_threads: int, name: str) -> None:
    measure(case(cells), name, n_threads)


def test_what_is_timed_is_what_the_reference_gives() -> None:
    counts = data.drawn_counts(200, 20_000, 1_500)
    encoding = Encoding(counts)
    arrays = (counts.indptr, counts.indices, counts.data, encoding.medians, encoding.tokens)
    ids, lengths = reference.rank_encode(*arrays, max_len=encoding.max_len)
    assert np.array_equal(encoding.ours()[0].numpy(), ids)
    assert np.array_equal(encoding.ours()[1].numpy(), lengths)
