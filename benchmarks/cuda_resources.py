"""Registers, spills and shared memory of every CUDA kernel: ``python benchmarks/cuda_resources.py [-a 80,90,100]``.

Compiles csrc/cuda with nvcc, as the build does, and reads what ptxas says; needs no GPU. Exits with 1 where nvcc warns
or a kernel spills.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++20", "-O3", "--fmad=false", "-Werror=all-warnings", "-DUSE_CUDA", "-Xcompiler", "-fPIC"]
FLAGS += ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-Xptxas", "-v"]
ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<arch>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    flags=re.DOTALL,
)


def main() -> None:
    """Compile each file and print a row for each kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-a", "--architectures", default="80,90,100", help="such as 80,90,100")
    parser.add_argument("--nvcc", default="/usr/local/cuda/bin/nvcc", help="the compiler")
    parser.add_argument("files", nargs="*", type=Path, help="all that nvcc compiles by default")
    options = parser.parse_args()
    print("| file | kernel | sm | registers | stack | spill stores, loads | shared bytes |")
    print("|---|---|---|---|---|---|---|")
    every = [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), *sorted((ROOT / "benchmarks").glob("*.cu"))]
    spilling = []
    for file in options.files or every:
        for found in sorted(compiled(file, options), key=lambda one: (one["kernel"], int(one["arch"]))):
            spills = f"{found['stores']}, {found['loads']}"
            shared = found["shared"] or "0"
            row = (file.name, found["kernel"], found["arch"], found["registers"], found["stack"], spills, shared)
            print(f"| {' | '.join(row)} |", flush=True)
            if spills != "0, 0":
                spilling.append(f"{found['kernel']} on sm_{found['arch']}")
    if spilling:
        print(f"spills: {', '.join(spilling)}", file=sys.stderr)
        raise SystemExit(1)


def compiled(file: Path, options: argparse.Namespace) -> list[dict[str, str]]:
    """What ptxas says of the kernels of one file."""
    (torch,) = find_spec("torch").submodule_search_locations  # type: ignore[union-attr, misc]
    include = [f"-isystem={torch}/include", f"-isystem={torch}/include/torch/csrc/api/include"]
    targets = [f"-gencode=arch=compute_{one},code=sm_{one}" for one in options.architectures.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        command = [options.nvcc, *FLAGS, *include, *targets, "-c", str(file), "-o", f"{folder}/out.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise SystemExit(1)
    names = subprocess.run(["c++filt"], input=done.stderr + done.stdout, capture_output=True, text=True, check=True)
    mangled = [one.groupdict() for one in ENTRY.finditer(done.stderr + done.stdout)]
    readable = re.findall(r"Compiling entry function '(.+?)' for", names.stdout)
    for one, name in zip(mangled, readable, strict=True):
        one["kernel"] = re.sub(r"corrmask::(\(anonymous namespace\)::)?|^void |\(.*", "", name)
    return mangled


if __name__ == "__main__":
    main()
