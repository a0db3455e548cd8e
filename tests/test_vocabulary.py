"""Vocabularies: tokens, dictionaries, what is saved and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corrmask.errors import InputError
from corrmask.vocabulary import SPECIAL_TOKENS, Vocabulary


def test_the_default_tokens() -> None:
    vocabulary = Vocabulary(np.array(["A", "B", "C"]))
    assert SPECIAL_TOKENS == {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}
    assert vocabulary.gene_token_range == (4, 7)
    assert (vocabulary.size, vocabulary.n_genes) == (7, 3)
    assert (vocabulary.pad_token_id, vocabulary.mask_token_id) == (0, 1)
    tokens = vocabulary.tokens_of(["C", "unknown", "A", "<pad>"])
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [6, -1, 4, -1]


def test_special_tokens_may_stand_behind_the_genes() -> None:
    vocabulary = Vocabulary.from_dictionary({"A": 1, "B": 0, "<pad>": 5, "<mask>": 2})
    assert vocabulary.genes.tolist() == ["B", "A"]
    assert vocabulary.gene_token_range == (0, 2)
    assert vocabulary.size == 6
    assert (vocabulary.pad_token_id, vocabulary.mask_token_id) == (5, 2)


def test_medians_of_a_dictionary() -> None:
    vocabulary = Vocabulary.from_dictionary(
        {"<pad>": 0, "<mask>": 1, "B": 3, "A": 2}, {"A": 0.5, "C": 9.0}, origin="m.pkl"
    )
    assert vocabulary.medians is not None
    np.testing.assert_array_equal(vocabulary.medians, [0.5, np.nan])
    assert vocabulary.medians_origin == {"kind": "table", "source": "m.pkl"}


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({"<pad>": 0, "<mask>": 1}, "no genes"),
        ({}, "no genes"),
        ({"<pad>": 0, "<mask>": 1, "A": 2, "B": 4}, "gaps"),
        ({"<pad>": 0, "<mask>": 1, "A": 2, "B": 2}, "repeat"),
        ({"<pad>": 0, "<mask>": 1, "A": 2, "B": 2, "C": 4}, "gaps"),
        ({"<pad>": 0, "A": 1}, "<mask>"),
        ({"<mask>": 0, "A": 1}, "<pad>"),
        ({"<pad>": 0, "<mask>": 3, "A": 2, "B": 3}, "<mask>.*3"),
        ({"<pad>": 0, "<mask>": 0, "A": 2, "B": 3}, "<mask>.*0"),
        ({"<pad>": -1, "<mask>": 0, "A": 2, "B": 3}, "-1"),
        ({"<pad>": 0, "<mask>": 1, "A": -3, "B": -2}, "-3"),
        ({"<pad>": 0, "<mask>": 1, "A": 2.5}, "2.5"),
        ({"<pad>": 0, "<mask>": 1, "A": float("nan")}, "nan"),
        ({"<pad>": 0, "<mask>": 1.7, "A": 2}, "1.7"),
        ({"<pad>": 0, "<mask>": 1, "A": 2**31}, "2147483648"),
        ({"<pad>": 0, "<mask>": 1, "A": 10**400}, "1000"),
        ({"<pad>": 0, "<mask>": 1, "A": "2"}, "'A' has token '2'"),
        ({"<pad>": 0, "<mask>": 1, "A": None}, "'A' has token None"),
        ({"<pad>": 0, "<mask>": 1, 3: 2}, "3 names token 2"),
    ],
)
def test_dictionaries_that_are_none(tokens: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Vocabulary.from_dictionary(tokens)
    assert "\n" not in str(caught.value)


def test_whole_numbers_of_another_type_are_tokens() -> None:
    vocabulary = Vocabulary.from_dictionary({"<pad>": 0.0, "<mask>": np.int64(1), "A": 2.0})  # type: ignore[dict-item]
    assert vocabulary.tokens_of(["A"]).tolist() == [2]


def test_genes_that_stand_twice_and_medians_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="unique"):
        Vocabulary(np.array(["A", "A"]))
    with pytest.raises(InputError, match="'<pad>' is both a gene and a special token"):
        Vocabulary(np.array(["A", "<pad>"]))
    for genes in (["A", None], [3, "A"], [["A"]]):
        with pytest.raises(InputError, match="gene names must be text"):
            Vocabulary(genes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'medians' must be \[2\].*\[3\]"):
        Vocabulary(np.array(["A", "B"]), medians=np.ones(3))
    for median in (np.inf, 0, -1):
        with pytest.raises(InputError, match=rf"the median of B is {float(median)}; give one above 0"):
            Vocabulary(np.array(["A", "B"]), medians=np.array([1, median]))
    with pytest.raises(InputError, match="'medians' must be numbers"):
        Vocabulary(np.array(["A", "B"]), medians=["1", "many"])
    assert Vocabulary(np.array(["A", "B"]), medians=[1, 2]).medians.tolist() == [1.0, 2.0]


def test_saved_and_loaded(tmp_path: Path) -> None:
    medians = np.array([0.1, np.nan, 1 / 3])
    origin = {"kind": "sketch", "relative_error": 1e-3}
    vocabulary = Vocabulary(np.array(["A", "é", "C"]), 7, {"<pad>": 3, "<mask>": 5}, medians, origin)
    vocabulary.save(tmp_path / "vocabulary.json")
    for path in (tmp_path, tmp_path / "vocabulary.json", str(tmp_path)):
        read = Vocabulary.load(path)
        assert read.genes.tolist() == ["A", "é", "C"]
        assert read.special_tokens == {"<pad>": 3, "<mask>": 5}
        assert read.first_gene_token == 7
        np.testing.assert_array_equal(read.medians, medians)  # every bit of them
        assert read.medians_origin == origin
        assert read.hash == vocabulary.hash
    Vocabulary(np.array(["A"])).save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path).medians is None


def test_the_hash_is_of_genes_and_tokens() -> None:
    genes = np.array(["A", "B"])
    vocabulary = Vocabulary(genes)
    assert vocabulary.hash == Vocabulary(genes.copy(), medians=np.ones(2)).hash
    others = [
        Vocabulary(genes[::-1]),
        Vocabulary(genes, 5),
        Vocabulary(genes, special_tokens={"<pad>": 0, "<mask>": 2}),
        Vocabulary(np.array(["AB", ""])),
    ]
    assert len({vocabulary.hash, *(other.hash for other in others)}) == 5


GOOD: dict[str, Any] = {
    "format": 1,
    "special_tokens": SPECIAL_TOKENS,
    "first_gene_token": 4,
    "genes": ["A", "B"],
    "medians": [1.0, None],
    "medians_origin": {},
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "3",
        "\ufeff{}",
        json.dumps({**GOOD, "format": 2}),
        json.dumps({**GOOD, "genes": 5}),
        json.dumps({**GOOD, "genes": [["A", "B"], ["C", "D"]]}),
        json.dumps({**GOOD, "first_gene_token": "four"}),
        json.dumps({**GOOD, "first_gene_token": None}),
        json.dumps({**GOOD, "special_tokens": ["<pad>"]}),
        json.dumps({**GOOD, "special_tokens": {"<pad>": "x", "<mask>": 1}}),
        json.dumps({**GOOD, "special_tokens": {"<pad>": 0, "<mask>": 4}}),
        json.dumps({**GOOD, "special_tokens": {"<pad>": 0}}),
        json.dumps({**GOOD, "medians": ["one", 2]}),
        json.dumps({**GOOD, "medians": [1.0]}),
        json.dumps({**GOOD, "medians": 1.0}),
        json.dumps({name: value for name, value in GOOD.items() if name != "genes"}),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(GOOD))
    Vocabulary.load(path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="vocabulary") as caught:
        Vocabulary.load(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "other.json"):
        with pytest.raises(InputError, match="does not exist"):
            Vocabulary.load(path)
    (tmp_path / "vocabulary.json").write_bytes(b"\x80\x04\xff")
    with pytest.raises(InputError, match="not a vocabulary"):
        Vocabulary.load(tmp_path)
