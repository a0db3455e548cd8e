"""The device that is meant, or one line why it cannot be used."""

from __future__ import annotations

from collections.abc import Collection

import torch

from corrmask.errors import InputError


def choose_device(name: str | torch.device, types: Collection[str] | None = ("cpu", "cuda")) -> torch.device:
    """The device of that name, or that device; "auto" is CUDA where there is one, else the CPU.

    `types` are those that will do; None where any will.

    Raises
    ------
    InputError
        No such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if types is not None and device.type not in types:
            raise NotImplementedError
    except Exception as error:  # torch raises RuntimeError, AssertionError and others
        raise InputError(f"device {str(name)!r} is not available here; use --device cpu (device='cpu')") from error
    return device
