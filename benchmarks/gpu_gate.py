"""Everything that only a GPU can show, in one run: ``python benchmarks/gpu_gate.py``.

Builds the operators (or takes those that are built), runs the tests that need a GPU and, beside them, a short set under
compute-sanitizer; then, alone, the kernels beside their peers; writes RESULTS-gpu.md from what it measured. Without an
NVIDIA GPU it says so and exits with 3; with 1 where a step failed, after all of them, and then nothing is written.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
TESTS = [f"tests/test_{name}.py" for name in ("cuda", "packing", "loader", "training_resume")]
# Other versions of other packages warn of other things.
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
# A few of each kernel: the sanitizer makes them about a hundred times as slow.
SANITIZED = ["opcheck", "what_cannot_be_raised_for", "ranks_equal_the_cpu and 500", "bins_equal_the_cpu and 500"]
SANITIZED += ["a_small_gram and 900", "gathered"]
MOST_SECONDS = 480
LIMIT = 200  # seconds of a step that may hang
failed: list[str] = []  # titles of steps


def main() -> None:
    """Run the steps: those without a clock side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER / "RESULTS-gpu.md")
    parser.add_argument("--no-build", action="store_true", help="take the libraries that are there")
    parser.add_argument("--only", choices=["tests", "sanitizer", "benchmarks"], help="one step; nothing is written")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no NVIDIA GPU here, or a torch without CUDA: nothing was run, nothing is written", file=sys.stderr)
        raise SystemExit(3)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(ROOT))
    started = time.perf_counter()
    if not options.no_build and options.only is None:
        build()
    checks = [step for step in (tests, sanitizer) if options.only in (None, step.__name__)]
    with ThreadPoolExecutor() as pool:
        lines = [line for part in pool.map(lambda step: step(), checks) for line in part]
    if options.only in (None, "benchmarks"):
        lines += benchmarks()
    if failed:
        print("\n".join([*lines, f"failed: {', '.join(failed)}; nothing is written"]))
        raise SystemExit(1)
    if options.only is None:
        options.output.write_text("\n".join([*heading(time.perf_counter() - started), *lines]) + "\n")
        print(f"written: {options.output}")


def run(title: str, command: list[str], **environment: str) -> str:
    """Run one step; print what it prints, and its time; note it where it fails."""
    print(f"== {title}: {' '.join(command)}", flush=True)
    started = time.perf_counter()
    done = subprocess.run(
        ["timeout", "--kill-after=5", str(LIMIT), *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},  # several at a time
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    tail = "\n".join(done.stdout.splitlines()[-60 if done.returncode else -5 :])
    print(f"{tail}\n== {title}: {time.perf_counter() - started:.0f} s, exit status {done.returncode}", flush=True)
    if done.returncode:
        failed.append(title)
    return (done.stdout.strip().splitlines() or [""])[-1]


def build() -> None:
    """Build with CUDA for this GPU alone, which takes a third of the time."""
    major, minor = torch.cuda.get_device_capability()
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    run("build", command, CORRMASK_CUDA="1", CUDAARCHS=f"{major}{minor}-real")


def tests() -> list[str]:
    """The CUDA operators against the CPU's."""
    command = [*PYTEST, *TESTS, "-k", "cuda", *["-n", "8"] * (find_spec("xdist") is not None)]
    return ["", "## Tests", "", f"`pytest {' '.join(TESTS)} -k cuda`: {run('tests', command).strip('= ')}"]


def sanitizer() -> list[str]:
    """A short set under memcheck and racecheck, where the tool is there."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    lines = ["", "## compute-sanitizer", ""]
    if not Path(tool).exists():
        return [*lines, "Not found on this machine: not run."]
    # Our kernels alone. Calls that fail while torch looks around are no fault; ours are checked where they stand.
    options = ["--error-exitcode", "9", "--report-api-errors", "no", "--kernel-regex", "kns=corrmask"]

    def checked(kind: str) -> str:
        command = [tool, "--tool", kind, *options, *PYTEST, TESTS[0], "-k", " or ".join(SANITIZED)]
        return f"- {kind}: {run(kind, command, PYTORCH_NO_CUDA_MEMORY_CACHING='1').strip('= ')}"

    with ThreadPoolExecutor() as pool:
        return [*lines, *pool.map(checked, ("memcheck", "racecheck"))]


def benchmarks() -> list[str]:
    """The kernels beside their peers."""
    import gpu_cases

    lines = list(gpu_cases.report())
    failed.extend(line for line in lines if line.startswith(gpu_cases.FAILED))
    return lines


def said(*command: str) -> str:
    """The first line that a command prints, or "unknown"."""
    try:
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    except OSError:
        lines = []
    return lines[0] if lines else "unknown"


def heading(seconds: float) -> list[str]:
    """Date, device, driver, versions, and how long it took."""
    from corrmask.bench.machine import versions

    device = torch.cuda.get_device_properties(0)
    commit = os.environ.get("CORRMASK_COMMIT") or said("git", "rev-parse", "--short=12", "HEAD")
    driver = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    found = {**versions(), "cuda": torch.version.cuda, "driver": driver}
    return [
        "# Results on a GPU",
        "",
        "Written by `python benchmarks/gpu_gate.py`; medians of CUDA events, every result checked before it was timed.",
        "",
        f"- {datetime.date.today()}, commit {commit}",
        f"- {device.name}, {device.multi_processor_count} multiprocessors, {device.total_memory / 1e9:.0f} GB",
        "- " + ", ".join(f"{name} {number}" for name, number in found.items()),
        f"- {seconds:.0f} s in all; aimed for: at most {MOST_SECONDS}",
    ]


if __name__ == "__main__":
    main()
