"""How this build was made and what it found here."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch


def show_config() -> dict[str, Any]:
    """How corrmask was built and what it runs on: versions, compilers, flags, CUDA, instruction sets, threads."""
    from corrmask import _build_info, _library

    return {
        "corrmask": _build_info.version,
        "torch": version("torch"),
        "torch_built_against": _build_info.torch_built_against,
        "torch_abi_target": _build_info.torch_abi_target,
        "cxx_compiler": _build_info.cxx_compiler,
        "cxx_flags": _build_info.cxx_flags,
        "build_type": _build_info.build_type,
        "instruction_sets_compiled": _build_info.instruction_sets_compiled(),
        "instruction_set_in_use": _build_info.instruction_set_in_use(),
        "cuda_compiler": _build_info.cuda_compiler or None,
        "cuda_architectures": _build_info.cuda_architectures or None,
        "cuda_operators_loaded": _library.cuda_is_loaded,
        "threads": torch.get_num_threads(),
    }
