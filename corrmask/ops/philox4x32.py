"""Philox4x32-10 as an operator."""

from __future__ import annotations

import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import check_devices, check_tensor


def philox4x32(key: Tensor, counter: Tensor) -> Tensor:
    """Random words as a pure function of key and counter: Philox4x32-10. Exact.

    Parameters
    ----------
    key
        int64 [2], each holding a uint32 value.
    counter
        int64 [N, 4], each holding a uint32 value.

    Returns
    -------
    Tensor
        int64 [N, 4], each holding a uint32 value.

    References
    ----------
    Salmon, Moraes, Dror, Shaw. Parallel random numbers: as easy as 1, 2, 3. SC'11.
    """
    check_tensor("philox4x32", "key", key, (torch.int64,), (2,), "[2]")
    check_tensor("philox4x32", "counter", counter, (torch.int64,), (None, 4), "[N, 4]")
    check_devices("philox4x32", counter, key=key)
    require_device("philox4x32", counter)
    return call(torch.ops.corrmask.philox4x32, key.contiguous(), counter.contiguous())


@torch.library.register_fake("corrmask::philox4x32")
def _(key: Tensor, counter: Tensor) -> Tensor:
    return torch.empty_like(counter)
