"""Budgets of memory as a user writes them."""

from __future__ import annotations

import pytest

from corrmask.errors import InputError
from corrmask.memory import memory_budget


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        ("1.5G", 1_500_000_000),
        ("500MB", 5 * 10**8),
        ("2GiB", 2 * 2**30),
        ("123", 123),
        (10**7, 10**7),
        (2e9, 2 * 10**9),
    ],
)
def test_amounts(text: str | float, expected: int) -> None:
    assert memory_budget(text, "tokenize") == expected


def test_none_is_most_of_what_is_free() -> None:
    assert 10**8 < memory_budget(None, "tokenize") < 2**63


@pytest.mark.parametrize("text", ["", "GB", "4 potatoes", "-1GB", "0", -1, "nan", "1e", "4GBB"])
def test_what_is_no_amount(text: str | float) -> None:
    with pytest.raises(
        InputError, match="tokenize: 'memory' must be an amount such as '4GB' or a number of bytes, got"
    ):
        memory_budget(text, "tokenize")
