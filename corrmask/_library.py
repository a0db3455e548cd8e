"""Loads the native operators into ``torch.ops.corrmask``: the CPU library, and the CUDA one where torch has CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent
CPU_LIBRARY = _FOLDER / "_C_cpu.so"
CUDA_LIBRARY = _FOLDER / "_C_cuda.so"


def _load() -> str | None:
    """Load the libraries; returns why the CUDA operators are not there, or None if they are."""
    if not CPU_LIBRARY.exists():
        raise ImportError(
            f"corrmask was not built: {CPU_LIBRARY} is missing; run `pip install .` or `make build` in its folder"
        )
    torch.ops.load_library(CPU_LIBRARY)
    # On a torch without CUDA the second library cannot be loaded: it asks for symbols that this torch lacks.
    if torch.version.cuda is None:
        return "this torch has no CUDA; install one that has"
    if not CUDA_LIBRARY.exists():
        return "this build has no CUDA operators; rebuild where nvcc is found (CORRMASK_CUDA=1 pip install .)"
    try:
        torch.ops.load_library(CUDA_LIBRARY)
    except OSError as error:  # the CPU operators work all the same
        return f"the CUDA operators cannot be loaded ({error.__cause__ or error})"
    return None


_without_cuda = _load()
cuda_is_loaded = _without_cuda is None


def call(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Call an operator; what only the data could show to be wrong arrives as ValueError.

    Kernels cannot raise anything but RuntimeError through the stable ABI, and mark their own with "corrmask.".
    """
    if torch.compiler.is_compiling():
        return op(*args, **kwargs)
    try:
        return op(*args, **kwargs)
    except RuntimeError as error:
        message = str(error)
        if "corrmask." not in message:
            raise
        raise ValueError(message[message.index("corrmask.") :].splitlines()[0]) from None


def require_device(op: str, tensor: torch.Tensor) -> None:
    """Raise where the operator does not run on the device of `tensor`."""
    device = tensor.device.type
    if device in ("cpu", "meta") or (device == "cuda" and cuda_is_loaded):  # no call: torch.compile traces this
        return
    if device == "cuda":
        raise ValueError(f"corrmask.{op}: {_without_cuda}; or pass tensors on the CPU")
    raise ValueError(f"corrmask.{op}: no operators for device {str(tensor.device)!r}; pass tensors on the CPU or CUDA")
