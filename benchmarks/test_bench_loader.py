"""Shuffled cells from the page cache to padded batches, masked or not."""

from __future__ import annotations

from collections.abc import Callable

import data
import pytest
from conftest import THREADS

from corrmask.bench.loading import loading_case
from corrmask.bench.timing import threads

COLLATORS = {False: "DataCollatorWithPadding", True: "DataCollatorForLanguageModeling"}
PEERS = [f"datasets, {way}, {n} workers" for way in ("collator", "arrays padded by torch") for n in (0, 2)]


@pytest.mark.parametrize("name", ["ours", *PEERS, "scDataset, arrays padded by torch"])
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch_size", data.LOADED)
def test_loader(measure: Callable[..., None], batch_size: int, masked: bool, n_threads: int, name: str) -> None:
    with threads(n_threads):
        case = loading_case(data.corpus(), batch_size, masked=masked, batches=data.LOADED[batch_size])
    measure(case, name.replace("collator", COLLATORS[masked]), n_threads)
