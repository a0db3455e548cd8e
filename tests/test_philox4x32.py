"""Random words: the known answers, and the twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from corrmask.ops import philox4x32

WORD = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1])


def test_known_answers(vectors: Callable[[str], Any]) -> None:
    answers = vectors("philox4x32")
    assert len(answers) == 3
    for answer in answers:
        key, counter = torch.tensor(answer["key"]), torch.tensor([answer["counter"]])
        assert philox4x32(key, counter).tolist() == [answer["words"]]
        assert reference.philox4x32(key.numpy(), counter.numpy()).tolist() == [answer["words"]]


@given(st.tuples(WORD, WORD), st.lists(st.tuples(WORD, WORD, WORD, WORD), max_size=20))
def test_equals_the_reference(key: tuple[int, int], counters: list[tuple[int, int, int, int]]) -> None:
    counter = torch.tensor(counters, dtype=torch.int64).reshape(-1, 4)
    words = philox4x32(torch.tensor(key), counter)
    assert words.dtype == torch.int64
    assert words.shape == counter.shape
    np.testing.assert_array_equal(words.numpy(), reference.philox4x32(np.array(key), counter.numpy()).astype(np.int64))


def test_threads_and_strides_change_nothing(set_threads: Callable[[int], None]) -> None:
    counter = torch.randint(0, 2**32, (10_007, 8), generator=torch.Generator().manual_seed(0))
    key = torch.tensor([7, 0, 2**32 - 1, 0])[::2]
    set_threads(1)
    one = philox4x32(key, counter[:, ::2])
    set_threads(2)
    assert torch.equal(one, philox4x32(key, counter[:, ::2]))
    assert torch.equal(one, philox4x32(key.clone(), counter[:, ::2].clone()))
    expected = reference.philox4x32(key.numpy(), counter[:, ::2].numpy())
    np.testing.assert_array_equal(one.numpy(), expected.astype(np.int64))


def test_opcheck() -> None:
    for n in (0, 3):
        torch.library.opcheck(
            torch.ops.corrmask.philox4x32.default, (torch.tensor([1, 2]), torch.arange(4 * n).reshape(n, 4))
        )


@pytest.mark.parametrize(
    ("key", "counter", "kind", "named"),
    [
        ([1, 2], torch.zeros(1, 4, dtype=torch.int64), TypeError, "'key'"),
        (torch.zeros(2, dtype=torch.int64), None, TypeError, "'counter'"),
        (torch.zeros(3, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64), ValueError, r"'key'.*int64 \[3\]"),
        (torch.zeros(2), torch.zeros(1, 4, dtype=torch.int64), ValueError, r"'key'.*float32 \[2\]"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), ValueError, r"'counter'.*int64 \[4\]"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int32), ValueError, "'counter'.*int32"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64), ValueError, "'counter'"),
    ],
)
def test_bad_input(key: Any, counter: Any, kind: type[Exception], named: str) -> None:
    with pytest.raises(kind, match=r"^corrmask\.philox4x32: " + named):
        philox4x32(key, counter)
