"""Group tables from graphs and modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from corrmask.errors import InputError, InputWarning
from corrmask.gene_graph import GeneGraph
from corrmask.groups import GroupTable
from corrmask.ops import sample_groups
from corrmask.vocabulary import Vocabulary


def make_graph(edges: dict[str, list[str]], genes: Sequence[str]) -> GeneGraph:
    """Partners of each gene, strongest first."""
    place = {gene: i for i, gene in enumerate(genes)}
    lists = [[place[partner] for partner in edges.get(gene, [])] for gene in genes]
    return GeneGraph(
        np.cumsum([0, *map(len, lists)]),
        np.array([partner for partners in lists for partner in partners], dtype=np.int32),
        np.concatenate([np.linspace(0.9, 0.2, len(partners)) for partners in lists]).astype(np.float32),
        np.array(list(genes), dtype=object),
    )


def partners_of(groups: GroupTable, vocabulary: Vocabulary) -> dict[str, list[str]]:
    lo, hi = vocabulary.gene_token_range
    found = {}
    for token in range(lo, hi):
        group = int(groups.token_group[token])
        if group >= 0:
            members = groups.group_tokens[groups.group_indptr[group] : groups.group_indptr[group + 1]]
            found[str(vocabulary.genes[token - lo])] = [str(vocabulary.genes[int(m) - lo]) for m in members]
    return found


def test_neighbourhoods_keep_the_order_of_strength() -> None:
    graph = make_graph({"A": ["D", "B"], "C": ["B", "A", "D"], "D": ["A"]}, "ABCD")
    vocabulary = Vocabulary(np.array(list("DCBA")))  # tokens in another order than the graph's genes
    groups = GroupTable.from_graph(graph, vocabulary)
    assert partners_of(groups, vocabulary) == {"A": ["D", "B"], "C": ["B", "A", "D"], "D": ["A"]}
    assert groups.token_group[:4].tolist() == [-2] * 4
    assert groups.token_group[vocabulary.tokens_of(["B"])].tolist() == [-1]
    assert (groups.token_group.dtype, groups.group_indptr.dtype, groups.group_tokens.dtype) == (
        torch.int32,
        torch.int64,
        torch.int32,
    )
    assert (groups.vocabulary_size, groups.n_groups) == (8, 3)
    assert groups.group_sizes().tolist() == [1, 3, 2]


def test_genes_without_a_token_are_left_out() -> None:
    graph = make_graph({"A": ["x", "B"], "x": ["A"], "B": ["x"]}, "ABxC")
    vocabulary = Vocabulary(np.array(list("ABCD")), 1, {"<pad>": 0, "<mask>": 6})
    groups = GroupTable.from_graph(graph, vocabulary)
    assert partners_of(groups, vocabulary) == {"A": ["B"]}
    assert groups.token_group.tolist() == [-2, 0, -1, -1, -1, -2, -2]


def test_graphs_that_do_not_fit() -> None:
    graph = make_graph({"A": ["B"]}, "ABCDEF")
    with pytest.raises(InputError, match=r"6 genes.*3 do not fit: 0 genes in common"):
        GroupTable.from_graph(graph, Vocabulary(np.array(["x", "y", "z"])))
    with pytest.raises(InputError, match=r"6 genes.*4 do not fit: 1 genes in common"):
        GroupTable.from_graph(graph, Vocabulary(np.array(["A", "y", "z", "w"])))
    half = Vocabulary(np.array(["A", "B", "z", "w"]))
    assert partners_of(GroupTable.from_graph(graph, half), half) == {"A": ["B"]}
    assert GroupTable.from_graph(graph, Vocabulary(np.array(list("ABzwvu"))), min_overlap=0).n_groups == 1


def test_modules_share_a_group() -> None:
    vocabulary = Vocabulary(np.array(list("ABCDE")))
    groups = GroupTable.from_modules({"one": ["C", "A", "unknown"], "none": ["q"], "two": ["B"]}, vocabulary)
    assert partners_of(groups, vocabulary) == {"A": ["C", "A"], "C": ["C", "A"], "B": ["B"]}
    assert groups.token_group[4:].tolist() == [0, 1, 0, -1, -1]
    with pytest.raises(InputError, match=r"'two'.*another module"):
        GroupTable.from_modules({"one": ["A"], "two": ["B", "A"]}, vocabulary)
    with pytest.raises(InputError, match="listed twice"):
        GroupTable.from_modules({"one": ["A", "A"]}, vocabulary)
    for nothing in ({}, {"one": ["q"]}, {"one": []}):
        with pytest.raises(InputError, match="none of their genes"):
            GroupTable.from_modules(nothing, vocabulary)


def test_without_groups() -> None:
    groups = GroupTable.without_groups(Vocabulary(np.array(list("AB"))))
    assert groups.token_group.tolist() == [-2, -2, -2, -2, -1, -1]
    assert groups.n_groups == 0
    owner = sample_groups(
        torch.tensor([[4, 5]]), torch.tensor([2]), torch.tensor([0]), *tensors(groups), rate_ppm=10**6, seed=0
    )
    assert owner.tolist() == [[4, 5]]


def tensors(groups: GroupTable) -> tuple[torch.Tensor, ...]:
    return groups.token_group, groups.group_indptr, groups.group_tokens


def make_table(**others: Any) -> GroupTable:
    parts = {
        "token_group": torch.tensor([-2, 0, -1], dtype=torch.int32),
        "group_indptr": torch.tensor([0, 2]),
        "group_tokens": torch.tensor([1, 2], dtype=torch.int32),
    }
    return GroupTable(**{**parts, **others})


def test_thresholds_and_devices() -> None:
    accept = torch.tensor([0, 2**32, 5])
    groups = make_table().with_thresholds(accept=accept)
    assert torch.equal(groups.accept, accept)
    assert groups.take is None
    moved = groups.to("cpu")
    assert torch.equal(moved.accept, accept)
    assert moved.take is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group_indptr", torch.tensor([0, 3])),
        ("group_indptr", torch.tensor([1, 2])),
        ("group_indptr", torch.tensor([0, 3, 2])),
        ("group_indptr", torch.zeros(0, dtype=torch.int64)),
        ("group_indptr", torch.tensor([0, 2], dtype=torch.int32)),
        ("group_tokens", torch.tensor([1, 3], dtype=torch.int32)),
        ("group_tokens", torch.tensor([-1, 1], dtype=torch.int32)),
        ("group_tokens", torch.tensor([1, 2])),
        ("token_group", torch.tensor([-2, 1, -1], dtype=torch.int32)),
        ("token_group", torch.tensor([-3, 0, -1], dtype=torch.int32)),
        ("token_group", torch.tensor([-2, 0, -1])),
        ("accept", torch.tensor([0, 1])),
        ("accept", torch.tensor([0, 1, -1])),
        ("take", torch.tensor([0, 1, 2**32 + 1])),
        ("take", torch.tensor([0.0, 1.0, 1.0])),
    ],
)
def test_tables_that_do_not_fit(name: str, value: torch.Tensor) -> None:
    with pytest.raises(InputError, match=f"GroupTable: '{name}'"):
        make_table(**{name: value})


def test_a_graph_that_joins_no_genes_is_refused() -> None:
    vocabulary = Vocabulary(np.array(list("AB")))
    for graph in (make_graph({}, "AB"), make_graph({"A": ["x"], "x": ["A"]}, "ABx")):
        with pytest.raises(InputError, match="none joins two genes of the vocabulary"):
            GroupTable.from_graph(graph, vocabulary)


def test_a_graph_that_joins_few_genes_is_remarked() -> None:
    vocabulary = Vocabulary(np.array([f"g{i}" for i in range(21)]))
    graph = make_graph({"g0": ["g1"], "g1": ["g0"]}, ["g0", "g1"])
    with pytest.warns(InputWarning, match="2 of the 21 genes of the vocabulary have partners"):
        groups = GroupTable.from_graph(graph, vocabulary)
    assert groups.n_groups == 2
