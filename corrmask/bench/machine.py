"""The machine that a benchmark runs on, and how fast it copies and multiplies."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from corrmask.config import show_config

PACKAGES = ("corrmask", "torch", "numpy", "scipy", "anndata", "transformers", "scikit-learn", "sparse-dot-mkl", "mkl")


def cpu_model() -> str:
    """Name of the processor as the system gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def caches() -> dict[str, int]:
    """Bytes of each cache that the first core sees, such as {"L1d": 32768, "L2": 524288}; empty where unknown."""
    sizes: dict[str, int] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        amount = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and amount:
            name = f"L{level}d" if kind == "Data" else f"L{level}"
            sizes[name] = int(amount[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[amount[2]]
    return sizes


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are timed; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _least(run: Callable[[], object], seconds: float) -> float:
    """Least time of `run` over three calls or more, in about so many seconds, after one that is not counted."""
    run()
    least, count, started = float("inf"), 0, time.perf_counter()
    while count < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        least, count = min(least, time.perf_counter() - before), count + 1
    return least


def copy_bandwidth(seconds: float = 0.3, megabytes: int = 256) -> float:
    """Bytes per second read and written when a block larger than the caches is copied, by torch's threads."""
    source = torch.ones(megabytes * 2**18)
    target = torch.zeros_like(source)
    return 2 * 4 * source.numel() / _least(lambda: target.copy_(source), seconds)


def sgemm_flops(seconds: float = 0.5, n: int = 2048) -> float:
    """Floating-point operations per second of a float32 product [n, n] @ [n, n], by torch's threads."""
    a, b = torch.ones(n, n), torch.ones(n, n)
    out = torch.empty(n, n)
    return 2 * n**3 / _least(lambda: torch.mm(a, b, out=out), seconds)


def peak_memory(run: Callable[[], object]) -> int | None:
    """Bytes by which this process's memory rose at most while `run` ran; None where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(field: str) -> int:
        found = re.search(rf"^{field}:\s*(\d+) kB", status.read_text(), flags=re.MULTILINE)
        assert found is not None
        return 1024 * int(found[1])

    try:
        reset.write_text("5")  # the high-water mark starts anew
        before = read("VmRSS")
    except OSError:
        run()
        return None
    run()
    return max(0, read("VmHWM") - before)


def describe() -> dict[str, Any]:
    """What does not depend on the number of threads: processor, cores, caches, memory, system, instruction sets."""
    config = show_config()
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "caches": caches(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "instruction_set": config["instruction_set_in_use"],
        "compiler": config["cxx_compiler"],
        "versions": versions(),
    }
