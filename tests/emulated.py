"""CUDA kernels on emulated threads (tests/emulation), compiled once for all tests and called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas", "-Werror"]
FLAGS += ["-ffp-contract=off", "-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-fvisibility=hidden"]
FLAGS += ["-fPIC", "-shared"]


@cache
def library(name: str) -> ctypes.CDLL:
    """The driver tests/emulation/NAME.cpp as a library, built where its sources have changed."""
    source = ROOT / "tests" / "emulation" / f"{name}.cpp"
    parts = [source, *sorted(source.parent.glob("*.h")), *sorted((ROOT / "csrc" / "cuda").glob("*.cuh"))]
    parts += sorted((ROOT / "csrc" / "portable").glob("*.h"))
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts) + " ".join(FLAGS).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "corrmask-emulated"
    folder.mkdir(exist_ok=True)
    built = folder / f"{name}-{digest}.so"
    if not built.exists():
        part = folder / f"{name}-{digest}.{os.getpid()}.part"
        done = subprocess.run(
            ["g++", *FLAGS, str(source), "-o", str(part)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.fail(f"{source.name} does not compile:\n{done.stderr}")
        part.rename(built)
    return ctypes.CDLL(str(built))


def pointer(array: Tensor | np.ndarray | None) -> ctypes.c_void_p:
    """Where the data of an array begins; null for None."""
    if array is None:
        return ctypes.c_void_p(None)
    return ctypes.c_void_p(array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data)
