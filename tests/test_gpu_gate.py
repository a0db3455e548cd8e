"""The gate for machines with a GPU: it refuses here, its report is written whole or not at all, and its cases run.

Times are those of this machine's CPU on a few cells: that they can be taken is what counts.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
GATE = FOLDER / "gpu_gate.py"
sys.path.append(str(FOLDER))

import gpu_cases  # noqa: E402
import gpu_covariance  # noqa: E402
import gpu_gate  # noqa: E402
from gpu_timing import Rates, Scale  # noqa: E402


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    output = tmp_path / "out.md"
    done = subprocess.run([sys.executable, str(GATE), "-o", str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "no NVIDIA GPU here" in done.stderr
    assert not output.exists()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The gate with steps that say that they were run; returns which were."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_gate, "build", lambda: done.append("build"))
    monkeypatch.setattr(gpu_gate, "heading", lambda started: ["# Results on a GPU"])
    for name in ("tests", "sanitizer", "benchmarks"):

        def step(name: str = name) -> list[str]:
            done.append(name)
            return [f"## {name}"]

        step.__name__ = name
        monkeypatch.setattr(gpu_gate, name, step)
    monkeypatch.setattr(gpu_gate, "failed", [])
    return done


def test_the_report_is_written_in_order(steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.md"
    monkeypatch.setattr(sys, "argv", ["gpu_gate.py", "-o", str(output)])
    gpu_gate.main()
    assert sorted(steps) == ["benchmarks", "build", "sanitizer", "tests"]
    assert (steps[0], steps[-1]) == ("build", "benchmarks")
    assert output.read_text() == "# Results on a GPU\n## tests\n## sanitizer\n## benchmarks\n"


@pytest.mark.parametrize("only", ["tests", "sanitizer", "benchmarks"])
def test_one_step_writes_nothing(only: str, steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_gate.py", "--only", only, "-o", str(tmp_path / "out.md")])
    gpu_gate.main()
    assert steps == [only]
    assert not any(tmp_path.iterdir())


def test_of_a_step_that_fails_nothing_is_written(
    steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_gate.py", "--no-build", "-o", str(tmp_path / "out.md")])

    def tests() -> list[str]:
        return [gpu_gate.run("tests", [sys.executable, "-c", "raise SystemExit(5)"])]

    monkeypatch.setattr(gpu_gate, "tests", tests)
    with pytest.raises(SystemExit) as ended:
        gpu_gate.main()
    assert ended.value.code == 1
    assert steps == ["sanitizer", "benchmarks"]
    assert not any(tmp_path.iterdir())


SMALL = {"device": "cpu", "n_genes": 300, "nonzeros": 60, "width": 64, "batches": (8, 70), "encoded_cells": 100}
SMALL |= {"covariance_cells": 400, "chunk": 200, "peer_cells": 100, "step_cells": 4, "layers": 1}
SMALL |= {"trained_cells": 100, "trained_batches": (2, 4), "trained_steps": 2}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_the_cases_run() -> None:
    """Each is checked against the CPU's results or float64 before it is timed; peers that need CUDA say so."""
    lines = list(gpu_cases.report(Scale(**SMALL)))  # type: ignore[arg-type]
    text = "\n".join(lines)
    titles = [line[3:] for line in lines if line.startswith("## ")]
    assert titles == [
        "Targets (H200)",
        "Group sampling",
        "Masking 80 / 10 / 10",
        "Gathering",
        "Rank encoding",
        "Binning",
        "Covariance",
        "Share of a training step",
        "Training",
    ]
    for peer in (
        "transformers' collator",
        "random masks in torch",
        "(gemm)",
        "(syrk)",
        "torch sparse",
        "float atomics",
    ):
        assert peer in text, peer
    assert "syrk): OSError" in text
    assert text.count("| met |") + text.count("| **missed** |") == len(gpu_cases.TARGETS)
    for line in lines:
        if line.startswith("|"):
            assert line.count("|") in (5, 6, 7), line


def test_a_missed_target_is_said() -> None:
    scale = Scale(
        reached={**gpu_cases.TARGETS, "covariance, million cells/s": 1.9, "masking, % of a training step": 0.6}
    )
    lines = list(gpu_cases.targets(scale))
    assert [line.split("|")[1].strip() for line in lines if "missed" in line] == [
        "covariance, million cells/s",
        "masking, % of a training step",
    ]


def test_what_the_tiles_print() -> None:
    rates = Rates(bandwidth=1e12, bus=1e10, bf16=5e14)
    lines: list[Any] = list(
        gpu_covariance.tile_lines("bf16x3 1.5000 250.0 3.10e-07\ntf32x2 2.0000 200.0 5.00e-07", rates)
    )
    assert lines[-2:] == ["| bf16x3 | 1.50 | 250 | 50% | 3.10e-07 |", "| tf32x2 | 2.00 | 200 | 40% | 5.00e-07 |"]
