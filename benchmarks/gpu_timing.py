"""How gpu_gate.py times, and the lines of its tables."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Scale:
    """Where and on how much is timed. The CPU serves to see that all of it runs: tests/test_gpu_gate.py."""

    device: str = "cuda"
    n_genes: int = 20_000
    nonzeros: int = 1_500
    width: int = 2048
    batches: tuple[int, ...] = (64, 4096, 65_536)
    encoded_cells: int = 20_000
    covariance_cells: int = 200_000
    chunk: int = 20_000
    peer_cells: int = 4096  # of products that take long or much memory
    step_cells: int = 32
    layers: int = 6
    trained_cells: int = 4000
    trained_batches: tuple[int, ...] = (12, 64)
    trained_steps: int = 60
    reached: dict[str, float] = field(default_factory=dict)  # what the targets are compared with

    def milliseconds(self, run: Callable[[], Any], *, rounds: int = 20, warm_up: int = 3) -> float:
        """Median time of a call on the current stream; short ones in a row, or their way to the device is timed."""
        if self.device == "cpu":
            started = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - started)
        for _ in range(warm_up):
            run()

        def each_of(calls: int) -> float:
            before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            before.record()
            for _ in range(calls):
                run()
            after.record()
            after.synchronize()
            return before.elapsed_time(after) / calls

        calls = max(1, min(100, round(1 / max(each_of(1), 0.01))))
        return statistics.median(each_of(calls) for _ in range(rounds))

    def replayed(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """The same as replays of a CUDA graph."""
        if self.device == "cpu":
            return run
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Give the device the memory back that peers left in pools."""
        if self.device == "cpu":
            return
        torch.cuda.empty_cache()
        if "cupy" in sys.modules:
            sys.modules["cupy"].get_default_memory_pool().free_all_blocks()


@dataclass
class Rates:
    """What the machine does at best, by products and copies that are not ours."""

    bandwidth: float  # bytes/s of the device's memory, both ways counted
    bus: float  # bytes/s from pinned memory to the device
    bf16: float  # FLOP/s

    @classmethod
    def measured(cls, scale: Scale) -> Rates:
        """Copies of 2 GB, a copy of 1 GB from the host, a product of 8192 x 8192."""
        small = scale.device == "cpu"
        source = torch.ones(2**16 if small else 2**29, device=scale.device)
        target = torch.empty_like(source)
        bandwidth = 2 * 4 * source.numel() / scale.milliseconds(lambda: target.copy_(source)) * 1e3
        pinned = torch.ones(2**16 if small else 2**28, pin_memory=not small)
        there = target[: len(pinned)]
        bus = 4 * len(pinned) / scale.milliseconds(lambda: there.copy_(pinned, non_blocking=True)) * 1e3
        n = 64 if small else 8192
        a = torch.ones(n, n, dtype=torch.bfloat16, device=scale.device)
        out = torch.empty_like(a)
        return cls(bandwidth, bus, 2 * n**3 / scale.milliseconds(lambda: torch.mm(a, a, out=out)) * 1e3)

    def line(self) -> str:
        """All of it in words."""
        return (
            f"Memory copied at {self.bandwidth / 1e9:,.0f} GB/s (both ways), from pinned host memory at "
            f"{self.bus / 1e9:,.0f} GB/s, bf16 product at {self.bf16 / 1e12:,.0f} TFLOP/s."
        )


def table(title: str, note: str, share: str = "share of bandwidth") -> Iterator[str]:
    """The head of a table."""
    yield from ("", f"## {title}", "", note, "")
    yield f"| cells | what | ms | cells/s | time over ours | {share} |"
    yield "|---|---|---|---|---|---|"


def row(n_cells: int, what: str, ms: float, ours: float, share: float | None = None) -> str:
    """One line of it; `share` 0 to 1."""
    shown = "" if share is None else f"{share:.0%}"
    return f"| {n_cells:,} | {what} | {ms:.3f} | {n_cells / ms * 1e3:,.0f} | {ms / ours:.1f} | {shown} |"


def not_run(n_cells: int, what: str, error: BaseException) -> str:
    """The line of a peer that failed, and how."""
    why = (str(error).splitlines() or [""])[0][:80].replace("|", "/")
    return f"| {n_cells:,} | {what}: {type(error).__name__}: {why} | | | | |"
