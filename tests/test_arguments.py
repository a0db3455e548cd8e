"""Arguments of another type are refused in one line, and those of any that serves are taken."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from test_docs import documented, resolve

from corrmask import Vocabulary
from corrmask.arguments import checked
from corrmask.errors import InputError

if TYPE_CHECKING:
    from fractions import Fraction


@checked
def takes(
    number: int = 1,
    share: float | None = None,
    name: str | Path = "",
    kind: Literal["a", "b"] = "a",
    on: bool = False,
    rows: np.ndarray | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    pair: tuple[int, int] = (0, 1),
    names: tuple[str, ...] = (),
    curves: Sequence[Mapping[str, int]] = (),
    levels: Sequence[float] = (),
    call: Callable[[], None] | None = None,
    late: Fraction | None = None,
    anything: Any = None,
    bare=None,
    members: Mapping[str, Collection[str]] | None = None,
    shares: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One argument of each kind."""
    return locals()


def test_what_serves_is_taken() -> None:
    from fractions import Fraction

    for given in (
        {"number": np.int16(3), "share": 1, "name": Path("a"), "rows": [1, 2]},
        {"share": np.float32(0.5), "on": np.bool_(True), "rows": np.zeros(2), "pair": [1, 2], "late": Fraction(1, 2)},
        {"groups": {"a": ("x",), "b": pd.Index(["y"])}, "call": print, "anything": 1j, "bare": 1j},
        {"rows": pd.Series([1.0]), "members": {"a": {"x"}, "b": ["y"], "c": frozenset()}, "shares": {"a": 0.5}},
        {"rows": torch.zeros(3), "names": ["a", "b", "c"]},
    ):
        taken = takes(**given)
        assert all(taken[name] is one or isinstance(one, (np.generic, dict)) for name, one in given.items())
        assert all(taken[name] == one for name, one in given.items() if isinstance(one, dict))
    assert takes(7, 0.5)["number"] == 7
    plain = takes(np.int16(3), np.float32(0.5), np.str_("a"), on=np.bool_(True), pair=(np.int64(1), 2))
    assert [type(plain[name]) for name in ("number", "share", "name", "on")] == [int, float, str, bool]
    assert [type(one) for one in plain["pair"]] == [int, int]
    assert plain["pair"] == (1, 2)
    for levels in ((0.1, 1), [np.float32(0.5)], np.array([0.5]), ()):
        assert takes(levels=levels)["levels"] is not None
    assert takes(names=("a", np.str_("b")))["names"] == ("a", "b")
    assert [type(one) for one in takes(shares={"a": np.float32(0.5), "b": np.longdouble(1)})["shares"].values()] == [
        float,
        float,
    ]
    assert inspect.signature(takes).parameters["number"].default == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("number", 1.0, "takes: 'number' must be a whole number, got 1.0"),
        ("number", True, "'number' must be a whole number, got True"),
        ("number", "1", "'number' must be a whole number, got '1'"),
        ("share", [0.5], "'share' must be a number or None, got list"),
        ("share", torch.tensor(0.5), "'share' must be a number or None, got Tensor"),
        ("name", b"x", "'name' must be a string or a path, got b'x'"),
        ("kind", "c", "'kind' must be 'a' or 'b', got 'c'"),
        ("kind", ["a"], "'kind' must be 'a' or 'b', got list"),
        ("on", 1, "'on' must be True or False, got 1"),
        ("rows", "abc", "'rows' must be an array or None, got 'abc'"),
        ("rows", np.array(1), "'rows' must be an array or None, got ndarray []"),
        ("groups", {"a": "CD3D"}, "'groups' must be a mapping to sequences or None, got 'CD3D' for 'a'"),
        ("pair", (1, 2, 3), "'pair' must be 2 values, got tuple"),
        ("names", ("a", 1), "'names' must be strings, got tuple"),
        ("names", "ab", "'names' must be strings, got 'ab'"),
        ("curves", {"a": {}}, "'curves' must be a sequence, got dict"),
        ("curves", pd.DataFrame({"a": [1]}), "'curves' must be a sequence, got DataFrame [1, 1]"),
        ("levels", (0.1, "x"), "'levels' must be a sequence of numbers, got tuple"),
        ("levels", "0.1", "'levels' must be a sequence of numbers, got '0.1'"),
        ("members", {"a": "xy"}, "'members' must be a mapping to collections or None, got 'xy' for 'a'"),
        ("call", 1, "'call' must be a function or None, got 1"),
        ("late", 1.5, "'late' must be a Fraction or None, got 1.5"),
    ],
)
def test_what_is_of_another_type_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        takes(**{name: value})
    assert message in str(error.value)
    with pytest.raises(TypeError, match=r"takes\(\) got an unexpected keyword"):
        takes(nothing=1)


# What needs no wrapper: it takes tensors inside a compiled step, checks for itself, is only ever made by us (reports,
# batches), or is no call at all.
OTHERS = ("corrmask.ops.", "corrmask.values.mask_values", "corrmask.hf.content_id", "corrmask.hf.Passes")
OTHERS += ("corrmask.InputError", "corrmask.errors.", "corrmask.show_config", "corrmask.masking.threshold")
OTHERS += ("corrmask.pl.save", "corrmask.pl.arm_colour")
RESULTS = ("Report", "Audit", "Batch", "Embeddings", "Enrichment")


@pytest.mark.parametrize(
    "name", [name for name in documented() if not name.startswith(OTHERS) and not name.endswith(RESULTS)]
)
def test_no_odd_value_gets_past_a_public_name(name: str) -> None:
    """Whatever the other arguments are: each parameter in turn refuses an object of no kind, in one line."""
    found = resolve(name)
    for parameter, one in inspect.signature(found).parameters.items():
        if one.annotation == "Any" or one.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        given = {
            key: None for key, other in inspect.signature(found).parameters.items() if other.default is other.empty
        }
        with pytest.raises(InputError) as error:
            found(**{**given, parameter: object()})
        assert "\n" not in str(error.value)


def test_settings_take_numbers_of_numpy() -> None:
    from corrmask.demo import DemoSettings
    from corrmask.training import Settings

    settings = Settings("corr", steps=np.int64(5), rate=np.float32(0.5), seed=np.uint8(3))
    settings.check()
    assert Settings("random", device=torch.device("cpu")).to_dict() == Settings("random", device="cpu").to_dict()
    assert json.loads(json.dumps(settings.to_dict())) == Settings("corr", steps=5, rate=0.5, seed=3).to_dict()
    assert DemoSettings(arms=("random", "corr"), top_k=np.int32(4)).top_k == 4
    for wrong, message in (({"steps": 5.0}, "'steps'"), ({"rate": "half"}, "'rate'"), ({"shard": "no"}, "'shard'")):
        with pytest.raises(InputError, match=f"Settings: {message} must be"):
            Settings("corr", **wrong)


def test_numbers_out_of_range_are_named() -> None:
    from corrmask import CorrMasker, GeneGraph, GroupTable, correlation_graph, pl
    from corrmask.corpus import split_cells
    from corrmask.covariance import Covariance
    from corrmask.modules import find_modules
    from corrmask.rewiring import rewire

    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, 6)).astype(np.float32))
    graph = correlation_graph(counts, min_corr=0.0)
    groups = GroupTable.from_graph(graph, Vocabulary(graph.var_names))
    assert repr(graph) == f"GeneGraph of 6 genes, {graph.n_edges} edges"
    assert repr(groups).startswith("GroupTable of 10 tokens, ")
    for call, words in (
        (lambda: rewire(graph, -1), "rewire: 'seed' must be 0 or more, got -1"),
        (lambda: find_modules(graph, resolution=float("nan")), "'resolution' must be positive and finite, got nan"),
        (lambda: correlation_graph(counts, device="gpu"), "device 'gpu' is not available here; use --device cpu"),
        (lambda: Covariance(6, device="gpu"), "device 'gpu' is not available here"),
        (lambda: correlation_graph(counts, min_cells=10**30), "'min_cells' must be in 0"),
        (lambda: CorrMasker(groups, gene_token_range=(-1, 5)), "'gene_token_range' must be within 0 .. 10"),
        (lambda: split_cells(10, 1.5, 0), "'held_out' in 0 .. 1, got 10, 0 and 1.5"),
        (
            lambda: GeneGraph(np.array([0, 1]), np.array([1]), np.ones(1), graph.var_names[:1]),
            "'indices' must be genes",
        ),
        (lambda: GeneGraph(np.array([0, 2]), np.array([0]), np.ones(1), graph.var_names[:1]), "'indptr' must have 2"),
        (lambda: GeneGraph(np.array([0, 1]), np.array([0]), np.ones(2), graph.var_names[:1]), "'weights' must have 1"),
        (
            lambda: GeneGraph(np.array([0, 2, 1, 2], np.uint64), np.array([0, 1]), np.ones(2), graph.var_names[:3]),
            "'indptr' must have 4 values",
        ),
        (lambda: GeneGraph([0, 1], [0.5], [1.0], ["a"]), "'indices' must be of one dimension"),
        (lambda: GeneGraph([[0, 1]], [0], [1.0], ["a"]), "'indptr' must be of one dimension"),
        (lambda: graph.hubs(-1), "hubs: 'n' must be 0 or more, got -1"),
        (lambda: find_modules(graph, seed=-1), "'seed' must be 0 or more, got -1"),
        (lambda: GroupTable.from_graph(graph, Vocabulary(graph.var_names), min_overlap=-1.0), "'min_overlap' must be"),
        (lambda: pl.loss_curves({"corr": [{"step": 1, "kind": "train", "loss": 2.0}]}), "no row of 'corr' is a"),
        (lambda: pl.leakage({}), "the figure needs the report of an audit"),
        (lambda: pl.f1_by_abundance({}), "the report has no scores"),
        (lambda: pl.collator_speed({}), "the report has no rows"),
    ):
        with pytest.raises(InputError, match=words):
            call()
