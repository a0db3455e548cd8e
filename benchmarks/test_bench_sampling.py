"""Group sampling and corruption: which positions are masked, and what they show."""

from __future__ import annotations

from collections.abc import Callable

import data
import numpy as np
import pytest
import reference
from conftest import THREADS

from corrmask.bench.masking import DTYPES, MASK, RANDOM, RATE, masking_case, sampling_case
from corrmask.groups import threshold
from corrmask.masking import CorrMasker

COLLATOR = "transformers DataCollatorForLanguageModeling"
# The batches of equal groups, and 64 real cells with the neighbourhoods of their graph.
ALL = [*data.BATCHES, "real"]


@pytest.mark.parametrize("name", ["ours", "groups in numpy"])
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", ALL)
def test_sample_groups(measure: Callable[..., None], batch: str, dtype: str, n_threads: int, name: str) -> None:
    measure(sampling_case(data.batch(batch), dtype), name, n_threads)


@pytest.mark.parametrize("name", ["ours", COLLATOR, "random in torch", "groups in numpy"])
@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("batch", ALL)
def test_mask_tokens(measure: Callable[..., None], batch: str, n_threads: int, name: str) -> None:
    measure(masking_case(data.batch(batch)), name, n_threads)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
@pytest.mark.parametrize("n_threads", THREADS)
def test_mask_narrow_tokens(measure: Callable[..., None], dtype: str, n_threads: int) -> None:
    measure(masking_case(data.batch("64x2048"), dtype), "ours", n_threads)


@pytest.mark.parametrize("name", ["ours", COLLATOR, "random in torch"])
@pytest.mark.parametrize("n_threads", THREADS)
def test_mask_at_random(measure: Callable[..., None], n_threads: int, name: str) -> None:
    measure(masking_case(data.batch("64x2048"), expand=0.0), name, n_threads)


@pytest.mark.parametrize("batch", ALL)
def test_what_is_timed_is_what_the_reference_gives(batch: str) -> None:
    """Bit for bit, on the first cells."""
    given = data.batch(batch)
    masker, first = CorrMasker(given.groups, RATE, seed=7), slice(0, 3)
    ids, lengths, cell_ids = given.input_ids[first], given.lengths[first], given.cell_ids[first]
    groups = [part.numpy() for part in (masker.token_group, masker.group_indptr, masker.group_tokens)]
    owner = reference.sample_groups(
        ids.numpy(), lengths.numpy(), cell_ids.numpy(), *groups, rate_ppm=150_000, seed=7, epoch=2
    )
    assert np.array_equal(masker.owners(ids, lengths, cell_ids, 2).numpy(), owner)
    shown, labels = reference.mask_tokens(
        ids.numpy(),
        owner,
        cell_ids.numpy(),
        seed=7,
        epoch=2,
        mask_token_id=1,
        gene_token_range=masker.gene_token_range,
        mask_threshold=threshold(MASK),
        random_threshold=threshold(RANDOM),
    )
    result = masker(ids, lengths, cell_ids, 2)
    assert np.array_equal(result[0].numpy(), shown)
    assert np.array_equal(result[1].numpy(), labels)
