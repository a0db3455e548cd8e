"""Run the benchmarks and write RESULTS.md: ``python benchmarks/run.py [pytest's arguments, such as -k encode]``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Run, or read a run, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write from this output of pytest --benchmark-json, without a run")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER / "RESULTS.md")
    options, arguments = parser.parse_known_args()
    if options.json is not None:
        document = json.loads(options.json.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "benchmarks.json"
            command = [sys.executable, "-m", "pytest", str(FOLDER), "--benchmark-enable", "--benchmark-quiet"]
            status = subprocess.run([*command, f"--benchmark-json={path}", *arguments], check=False, cwd=FOLDER.parent)
            if status.returncode:
                raise SystemExit(f"pytest gave {status.returncode}: nothing is written")
            document = json.loads(path.read_text())
    options.output.write_text("\n".join(report(document)) + "\n")
    print(f"written: {options.output}")


def report(document: dict[str, Any]) -> Iterator[str]:
    """The lines of RESULTS.md, from what pytest-benchmark writes."""
    machine, runs = document["machine_info"]["corrmask"], [one["extra_info"] | one for one in document["benchmarks"]]
    commit = document["commit_info"]
    cache = ", ".join(f"{name} {size >> 10:,} kB" for name, size in machine["caches"].items())
    yield "# Results"
    yield ""
    yield "Written by `python benchmarks/run.py`; medians of one run, every result checked before it was timed."
    yield "What was tried, and what did not help, stands in [NOTES.md](NOTES.md)."
    yield ""
    yield f"- {document['datetime'][:10]}, commit {commit['id'][:12]}{' (with changes)' if commit['dirty'] else ''}"
    yield f"- {machine['cpu']}, {machine['cores']} cores, {cache}, {machine['memory_bytes'] / 1e9:.0f} GB of memory"
    yield f"- {machine['system']}, {machine['instruction_set']}, {machine['compiler']}"
    yield "- " + ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    for n in sorted({one["threads"] for one in runs}):
        speed = next(one for one in runs if one["threads"] == n)
        yield (
            f"- {n} thread{'s' * (n != 1)}: memory copied at {speed['copy_bytes_per_second'] / 1e9:.0f} GB/s, float32 "
            f"product at {speed['sgemm_flops'] / 1e9:.0f} GFLOP/s"
        )
    yield ""
    yield "Sizes: cells x tokens (mean length), or cells x genes (nonzeros of a cell)."
    yield "Ratio: its time over ours; below 1 it wins."
    yield "Roof: the least time that memory or arithmetic allows, over the time taken. Peak: rise of resident memory."
    yield "Restated: written for these benchmarks after what is published or usual, not the package itself."
    for kernel in dict.fromkeys(one["kernel"] for one in runs):
        yield ""
        yield f"## {kernel}"
        yield ""
        yield "| size | dtype | threads | | median | rounds | cells/s | ratio | roof | peak MB |"
        yield "|---|---|---|---|---|---|---|---|---|---|"
        yield from rows([one for one in runs if one["kernel"] == kernel])


def rows(runs: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of one kernel, ours first, then the others by time."""
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in runs:
        cases.setdefault((one["size"], one["dtype"], one["threads"]), []).append(one)
    for (size, dtype, threads), contestants in cases.items():
        contestants.sort(key=lambda one: (not one["ours"], one["stats"]["median"]))
        ours = contestants[0]["stats"]["median"] if contestants[0]["ours"] else None
        for one in contestants:
            name = one["extra_info"]["name"]
            name = f"**{name}**" if one["ours"] else f"{name} (restated)" if one["restated"] else name
            seconds = one["stats"]["median"]
            ratio = "" if one["ours"] or ours is None else f"{seconds / ours:.1f}"
            roof = f"{one['bound_seconds'] / seconds:.0%} {one['bound']}" if one["ours"] else ""
            peak = "" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e6:,.0f}"
            figures = f"{seconds:.4g} s | {one['stats']['rounds']} | {one['cells'] / seconds:,.0f}"
            yield f"| {size} | {dtype} | {threads} | {name} | {figures} | {ratio} | {roof} | {peak} |"


if __name__ == "__main__":
    main()
