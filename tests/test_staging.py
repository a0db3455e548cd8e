"""Chunks on their way to a device: what is packed, and in which buffer; the copies themselves need a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from corrmask.staging import Staging, column_counts, on_host, unpack


def arrays(n: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(n)
    return (
        rng.integers(0, 9, n + 1),
        rng.integers(0, 9, 3 * n).astype(np.int32),
        rng.random(3 * n, dtype=np.float32),
        rng.random((2, n)),
        np.empty(0, dtype=np.int64),
    )


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_what_is_packed_is_unpacked(n: int) -> None:
    given = arrays(n)
    packed = Staging("meta")._pack(given)
    assert packed.dtype == torch.uint8
    for part, array in zip(unpack(packed.clone(), given), given):
        np.testing.assert_array_equal(part.numpy(), array)
        assert part.numpy().dtype == array.dtype


def test_two_buffers_take_turns_and_grow() -> None:
    staging = Staging("meta")
    packed = [staging._pack(arrays(n)) for n in (1000, 500, 900, 2000)]
    places = [part.data_ptr() for part in packed]
    assert places[0] != places[1]
    assert places[2] == places[0]
    assert places[3] != places[1], "a larger one"
    for part, array in zip(unpack(packed[2], arrays(900)), arrays(900)):
        np.testing.assert_array_equal(part.numpy(), array)


def test_on_the_cpu_arrays_are_taken_as_they_are() -> None:
    matrix = sp.csr_array(np.eye(3, dtype=np.float32))
    levels = np.zeros(3, dtype=np.int64)
    indptr, indices, values, last = Staging("cpu").rows(matrix, levels)
    assert indptr.dtype == torch.int64
    assert indices.data_ptr() == matrix.indices.ctypes.data
    assert values.data_ptr() == matrix.data.ctypes.data
    assert last.data_ptr() == levels.ctypes.data
    matrix.data.flags.writeable = False
    assert Staging("cpu").rows(matrix)[2].tolist() == [1, 1, 1]


def test_what_speaks_dlpack_is_taken_where_it_is() -> None:
    class Csr:
        """As cupyx.scipy.sparse.csr_matrix looks."""

        indptr, indices, data = np.array([0, 1, 2], np.int32), np.array([1, 0], np.int32), np.array([2.0, 3.0])

    indptr, indices, values, levels = Staging("cpu").rows(Csr, np.array([0, 0]))
    assert indptr.tolist() == [0, 1, 2]
    assert indptr.dtype == torch.int64
    assert indices.data_ptr() == Csr.indices.ctypes.data
    assert values.data_ptr() == Csr.data.ctypes.data
    assert levels.tolist() == [0, 0]
    assert column_counts(Csr, 3).tolist() == [1, 1, 0]
    assert column_counts(sp.csr_array(np.eye(2)), 3).tolist() == [1, 1, 0]


def on_a_gpu(value: Any) -> Any:
    """As an array or a sparse matrix of cupy: not to be read on the host unless fetched."""

    class Array:
        def get(self) -> Any:
            return value

        def __len__(self) -> int:
            return len(value)

        def __getitem__(self, at: Any) -> Any:
            return on_a_gpu(value[at])

        def __array__(self, *_: Any, **__: Any) -> None:
            raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    Array.__module__ = "cupy"
    return Array()


def test_what_is_on_a_gpu_is_fetched_wherever_it_is_given() -> None:
    from corrmask import GeneGraph, GroupTable, Vocabulary
    from corrmask.hf import CorrMaskCollator
    from corrmask.values import CorrMaskValueCollator

    assert on_host(on_a_gpu(5)) == 5
    kept = {"get": 1}
    assert on_host(kept) is kept
    weights = sp.csr_matrix(np.array([[0, 0.5], [0.5, 0]], dtype=np.float32))

    class AnnData:  # which itself would not hold the stand-in
        varp, uns, n_vars, var_names = {"correlation": on_a_gpu(weights)}, {}, 2, pd.Index(["a", "b"])

    assert GeneGraph.from_anndata(AnnData()).indices.tolist() == [1, 0]

    groups = GroupTable.without_groups(vocabulary := Vocabulary(np.array(["a", "b", "c"], dtype=object)))
    tokens, values = np.array([4, 5, 6]), np.array([1.0, 2.0, 3.0])
    collator = CorrMaskCollator(vocabulary, groups=groups)
    collator.set_epoch(0)
    for name, wanted in collator([{"input_ids": tokens}]).items():
        assert torch.equal(collator([{"input_ids": on_a_gpu(tokens)}])[name], wanted)
    collator = CorrMaskValueCollator(groups)
    collator.set_epoch(0)
    for name, wanted in collator([{"genes": tokens, "expressions": values}]).items():
        given = {"genes": on_a_gpu(tokens), "expressions": on_a_gpu(values)}
        assert torch.equal(collator([given])[name], wanted)


def test_an_embedding_on_a_gpu_is_drawn() -> None:
    pytest.importorskip("matplotlib")
    from corrmask import pl

    assert pl.embedding(on_a_gpu(np.zeros((2, 2))), ["a", "b"]).get_xlabel() == "UMAP 1"
