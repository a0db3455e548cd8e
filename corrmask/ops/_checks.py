"""Argument checks of the operators: TypeError and ValueError that name the argument, before the kernel is called."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

TOKEN_DTYPES = (torch.int32, torch.int64, torch.uint16)
INDEX_DTYPES = (torch.int32, torch.int64)
COUNT_DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def describe(value: Any) -> str:
    """`int32 [4, 2]` for a tensor, with its layout where it is sparse; else its type."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    layout = "" if value.layout == torch.strided else f" of layout {value.layout}"
    return f"{_name(value.dtype)} {list(value.shape)}{layout}"


def check_tensor(
    op: str, name: str, value: Any, dtypes: tuple[torch.dtype, ...], shape: tuple[int | None, ...], shape_text: str
) -> None:
    """Check dtype and shape; None in `shape` stands for any size."""
    if (
        isinstance(value, Tensor)
        and value.dtype in dtypes
        and value.dim() == len(shape)
        and value.layout == torch.strided
    ):
        found = value.shape
        for i, n in enumerate(shape):
            if n is not None and n != found[i]:
                break
        else:
            return
    wanted = " or ".join(_name(dtype) for dtype in dtypes)
    if not isinstance(value, Tensor):
        raise TypeError(f"corrmask.{op}: {name!r} must be a tensor, {wanted} {shape_text}, got {describe(value)}")
    raise ValueError(f"corrmask.{op}: {name!r} must be {wanted} of shape {shape_text}, got {describe(value)}")


def check_csr(op: str, indptr: Any, indices: Any, values: Any, values_name: str) -> None:
    """Check the types and shapes of cells x genes in compressed rows; what only the data can show, the kernel sees."""
    check_tensor(op, "indptr", indptr, (torch.int64,), (None,), "[N + 1]")
    if indptr.shape[0] == 0:
        raise ValueError(f"corrmask.{op}: 'indptr' must be int64 of shape [N + 1], got none")
    check_tensor(op, "indices", indices, INDEX_DTYPES, (None,), "[nnz]")
    check_tensor(op, values_name, values, COUNT_DTYPES, (indices.shape[0],), "[nnz], as 'indices'")


def check_devices(op: str, first: Tensor, **others: Tensor | None) -> None:
    """Check that every tensor is on the device of `first`."""
    device = first.device
    for name, other in others.items():
        if other is not None and other.device != device:
            raise ValueError(
                f"corrmask.{op}: {name!r} is on {other.device}, the batch on {device}; move one with .to(...)"
            )


def check_integer(op: str, name: str, value: int, low: int, high: int) -> int:
    """Check that an integer is in low .. high, both included, and return it; one of numpy as Python's."""
    value = int(value) if isinstance(value, np.integer) else value
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"corrmask.{op}: {name!r} must be an int in {low} .. {high}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"corrmask.{op}: {name!r} must be in {low} .. {high}, got {value}")
    return value


def check_bool(op: str, name: str, value: Any) -> bool:
    """Check that a value is True or False, and return it; one of numpy as Python's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"corrmask.{op}: {name!r} must be True or False, got {value!r}")
    return bool(value)


def scalar_tensor(op: str, name: str, value: int | Tensor, high: int, batch: Tensor) -> Tensor:
    """An int or an int64 tensor of one element as the tensor that the kernels read: on the CPU or where the batch is.

    An int is checked; a tensor's value by the CPU kernels alone, since to look at it would wait for its device.
    """
    if isinstance(value, Tensor):
        if value.dtype != torch.int64 or value.numel() != 1 or value.layout != torch.strided:
            raise ValueError(
                f"corrmask.{op}: {name!r} must be an int or an int64 tensor of one element, got {describe(value)}"
            )
        if value.device.type != "cpu":  # a kernel for its device would be chosen, or read what is not its own
            check_devices(op, batch, **{name: value})
        return value
    value = check_integer(op, name, value, 0, high)
    return torch.scalar_tensor(value, dtype=torch.int64)  # in a third of the time of torch.tensor
