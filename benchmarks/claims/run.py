"""Do the runs of PROTOCOL.md that are not in results.csv yet: ``python benchmarks/claims/run.py --data FOLDER``.

Each run is one model trained and scored at four marks, or the baselines of a corpus and seed; its rows appear in
results.csv together or not at all. A run that was killed goes on from its last checkpoint. Several processes may work
at once: a run is taken by one of them. Times are CPU times, so that a process may be stopped and go on.

    --list                         what there is, done or not, and stop
    --confirm                      the fresh seeds on blood that confirm or refute what the first ones suggested
    --only 'blood-*-0' 'kang-*'    runs by name, as the shell matches file names; those of the first pattern first
    --dry-run                      say what would be done
    --rehearse                     seconds a run, to try the machinery; keep its results apart (--results)
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from claim_cells import LABELS, read_cells
from claim_finetuning import tuned_scores
from claim_scores import score, score_baselines
from study import BASELINES, DECISIVE, FURTHER, PROTOCOL, REHEARSAL, Budget, Run, confirming, runs

from corrmask import correlation_graph
from corrmask.audit import audit
from corrmask.bench.machine import cpu_model
from corrmask.corpus import Corpus, split_cells
from corrmask.devices import choose_device
from corrmask.errors import InputError
from corrmask.files import replacing, write_h5ad
from corrmask.gene_graph import GeneGraph
from corrmask.model import build_model, save_model
from corrmask.tokenization import tokenize
from corrmask.training import Settings, pretrain
from corrmask.training.checkpoint import checkpoints
from corrmask.training.log import read_metrics
from corrmask.training.output import versions
from corrmask.training.settings import graph_hash

HERE = Path(__file__).resolve().parent
LEAKAGE = (0.1, 0.3)
COLUMNS = (
    *("run", "corpus", "arm", "seed", "fraction", "factor", "step"),
    *("macro_f1", "rare_f1", "accuracy", "pbmc3k_macro_f1", "pbmc3k_rare_f1", "pbmc3k_accuracy", "f1"),
    *("tuned_macro_f1", "tuned_rare_f1", "pbmc3k_tuned_macro_f1", "pbmc3k_tuned_rare_f1", "tuned_f1"),
    *("auroc", "auroc_low", "auroc_high", "auroc_static", "genes", "val_loss", "val_accuracy"),
    *(f"leak_{threshold}{how}" for threshold in LEAKAGE for how in ("", "_alike")),
    *("train_cpu_seconds", "cpu_seconds", "training_cells", "parameters", "settings", "graph", "inputs"),
    *("commit", "versions", "machine", "finished"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, do what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CORRMASK_DATA"), help="folder of real cells")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--confirm", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="cells and checkpoints of runs at work")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; they change rounding")
    parser.add_argument("--limit", type=int, help="stop after so many runs")
    options = parser.parse_args(arguments)
    apart = options.results.resolve() != (HERE / "results.csv").resolve()
    on_cpu = choose_device(options.device).type == "cpu"
    if options.rehearse and not apart:
        parser.error("a rehearsal shows nothing: give a file of its own (--results)")
    if options.confirm and not (on_cpu and apart):
        parser.error("fresh seeds are a CPU's, apart: give --device cpu --results benchmarks/claims/results-cpu.csv")
    seeds = range(3 if on_cpu else 5)
    there = list(confirming() if options.confirm else runs(seeds))
    matching = [run for pattern in options.only for run in there if fnmatch(run.name, pattern)]
    chosen = list(dict.fromkeys(matching))
    if not chosen:
        parser.error(f"no run is named {' or '.join(options.only)}; --list shows them")
    done = finished(options.results)
    if options.list:
        for run in chosen:
            print(f"{'done' if run.name in done else '    '}  {run.name}")
        return
    left = [run for run in chosen if run.name not in done][: options.limit]
    if options.data is None and any(run.corpus != "simulated" for run in left):
        parser.error("give the folder of real cells: --data, or CORRMASK_DATA")
    print(f"{len(chosen)} runs, {len(chosen) - len(left)} done or left for later, {len(left)} to do", flush=True)
    if options.dry_run:
        for run in left:
            print(f"{run.name}: {json.dumps(run.settings(PROTOCOL).to_dict())} graph {json.dumps(run.graph)}")
        return
    options.work.mkdir(parents=True, exist_ok=True)
    code = commit()
    for number, run in enumerate(left):
        with taken(options.work / f"{run.name}.lock") as free:
            if free and run.name not in finished(options.results):
                if elsewhere := on_another_device(run, options):
                    print(f"{run.name}: left out, for its seed was trained on {elsewhere}; give other --results")
                    continue
                rest = remaining(left[number + 1 :], options.results)
                Work(run, options, f"[{number + 1}/{len(left)}] {run.name}", rest, code).do()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of results.csv, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def finished(path: Path) -> dict[str, float]:
    """Names of the runs in results.csv, and their CPU seconds."""
    return {row["run"]: float(row["cpu_seconds"]) for row in read_rows(path)}


def on_another_device(run: Run, options: argparse.Namespace) -> str | None:
    """Where other arms of a run's corpus and seed were trained, if on a GPU and this is none, or the reverse."""
    is_gpu = choose_device(options.device).type == "cuda"
    for row in read_rows(options.results):
        same = (row["corpus"], int(row["seed"])) == (run.corpus, run.seed) and row["arm"] in (*DECISIVE, *FURTHER)
        if same and row["machine"].startswith("NVIDIA") != is_gpu:
            return row["machine"].split(",")[0]
    return None


def append(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """Add the rows of a run, all or none: the file is replaced in one step, and by one process at a time."""
    with taken(path.with_name(f".{path.name}.lock"), wait=True):
        before = read_rows(path)
        with replacing(path, overwrite=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*before, *rows])


@contextmanager
def taken(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock that ends with the process; False if another has it and `wait` is not set."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def remaining(left: Sequence[Run], results: Path) -> float | None:
    """CPU seconds that runs will take, by those that are done on the same corpus; None where none is."""
    rows = [row for row in read_rows(results) if row["arm"] in DECISIVE]
    known = {row["run"]: (row["corpus"], float(row["cpu_seconds"])) for row in rows if not row["factor"]}
    by_corpus = {corpus: [s for other, s in known.values() if other == corpus] for corpus, _ in known.values()}
    if not known:
        return None
    overall = [seconds for _, seconds in known.values()]
    return sum(float(np.mean(by_corpus.get(run.corpus, overall))) for run in left)


class Work:
    """One run at work: its cells, its folder, and the CPU time that it has taken, over kills."""

    def __init__(self, run: Run, options: argparse.Namespace, title: str, rest: float | None, code: str) -> None:
        self.run, self.title, self.rest, self.code = run, title, rest, code
        self.budget: Budget = REHEARSAL if options.rehearse else PROTOCOL
        self.results, self.data, self.device = options.results, options.data, options.device
        self.folder = options.work / run.name
        self.cells_folder = options.work / f"cells-{run.corpus}-{run.seed}{'-rehearsal' * options.rehearse}"
        self.settings: Settings = run.settings(self.budget, device=options.device, threads=options.threads)
        self.folder.mkdir(exist_ok=True)
        self.clock = self.folder / "cpu_seconds"
        self.before = float(self.clock.read_text()) if self.clock.exists() else 0.0
        self.started = time.process_time()
        self.said = -1e9
        import torch

        torch.set_num_threads(options.threads)

    def do(self) -> None:
        """Train, score, write the rows, clear up."""
        cells = self.cells()
        corpus = Corpus.open(self.cells_folder / "corpus")
        training, _ = split_cells(corpus.n_cells, self.settings.held_out, self.settings.seed)
        rows = self.baselines(cells, corpus) if self.run.arm == BASELINES else self.train(cells, corpus, training)
        common = {"fraction": str(self.run.fraction), "factor": self.run.factor, "training_cells": len(training)}
        self.finish([common | row for row in rows])

    def finish(self, rows: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
        """Write the rows, with what all have in common, and clear up."""
        common = {
            "run": self.run.name,
            "corpus": self.run.corpus,
            "seed": self.run.seed,
            "cpu_seconds": round(self.cpu_seconds(), 1),
            "commit": self.code,
            "versions": json.dumps(versions()),
            "machine": f"{self.place()}, {platform.python_version()}",
            "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        }
        append(self.results, [common | rounded(row) for row in rows], columns)
        shutil.rmtree(self.folder)
        print(f"{self.title}: done, {common['cpu_seconds']:.0f} CPU s", flush=True)

    def place(self) -> str:
        """What it was trained on."""
        if choose_device(self.device).type == "cpu":
            return cpu_model()
        import torch

        return torch.cuda.get_device_name()

    def cells(self) -> Any:
        """The cells and their corpus, made once."""
        with taken(self.cells_folder.with_suffix(".lock"), wait=True):
            if not self.cells_folder.exists():
                cells = read_cells(self.run.corpus, self.run.seed, self.data, self.budget)
                with replacing(self.cells_folder) as folder:
                    folder.mkdir()
                    write_h5ad(cells, folder / "cells.h5ad")
                    tokenize(cells[cells.obs["corpus"].to_numpy()].copy(), folder / "corpus", progress=self.progress)
        return anndata.read_h5ad(self.cells_folder / "cells.h5ad")

    def graph(self, cells: Any, training: np.ndarray) -> Path:
        """The graph of the run's training cells, made once for all arms."""
        key = json.dumps([self.run.graph, str(self.run.fraction), self.settings.held_out])
        path = self.cells_folder / f"graph-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}.h5ad"
        with taken(path.with_suffix(".lock"), wait=True):
            if not path.exists():
                trained = cells[np.flatnonzero(cells.obs["corpus"])[training]].copy()
                correlation_graph(trained, **self.run.graph, progress=self.progress).write(path)
        return path

    def train(self, cells: Any, corpus: Corpus, training: np.ndarray) -> list[dict[str, Any]]:
        """A row for each mark."""
        graph = GeneGraph.read(self.graph(cells, training))
        model = self.folder / "model"
        record = pretrain(corpus, model, self.settings, graph=graph, resume=True, progress=self.progress)
        train_cpu_seconds = self.cpu_seconds()
        leaked = self.leakage(corpus, graph)
        validation = {line["step"]: line for line in read_metrics(model) if line["kind"] == "validation"}
        rows = []
        for step, checkpoint in checkpoints(model):
            found = score(
                checkpoint,
                cells,
                seed=self.run.seed,
                labels=self.labels(),
                device=self.device,
                progress=self.progress,
            )
            measured = {"val_loss": validation[step]["loss"], "val_accuracy": validation[step]["accuracy"]}
            rows.append({"arm": self.run.arm, "step": step} | found | measured | leaked)
        rows[-1] |= self.tuned(checkpoint, cells)
        about = {
            "train_cpu_seconds": round(train_cpu_seconds, 1),
            "parameters": record["parameters"],
            "settings": json.dumps(record["settings"]),
            "graph": json.dumps(self.run.graph),
            "inputs": json.dumps({"corpus": corpus.hash, "graph": graph_hash(graph), "edges": graph.n_edges}),
        }
        return [row | about for row in rows]

    def leakage(self, corpus: Corpus, graph: GeneGraph) -> dict[str, float]:
        """What the mask of this run leaks on held-out cells, judged by the true graph."""
        report = audit(
            corpus,
            graph,
            arms=[self.run.mask],
            rate=self.settings.rate,
            expand=self.settings.expand,
            max_group=self.settings.max_group,
            frequency_power=self.settings.frequency_power,
            max_len=self.settings.max_len,
            held_out=self.settings.held_out,
            cells=400,
            epochs=2,
            thresholds=LEAKAGE,
            seed=self.settings.seed,
            progress=self.progress,
        )
        found = {threshold: report.arms[self.run.mask].leakage(threshold) for threshold in LEAKAGE}
        return {
            f"leak_{threshold}{how}": one[key]
            for threshold, one in found.items()
            for how, key in (("", "share"), ("_alike", "standardised"))
        }

    def baselines(self, cells: Any, corpus: Corpus) -> list[dict[str, Any]]:
        """A row for each baseline, at step 0."""
        untrained = self.untrained(corpus)
        found = score_baselines(
            untrained,
            cells,
            seed=self.run.seed,
            labels=self.labels(),
            device=self.device,
            progress=self.progress,
        )
        found["untrained"] |= self.tuned(untrained, cells)
        return [{"arm": name, "step": 0} | row for name, row in found.items()]

    def untrained(self, corpus: Corpus) -> Path:
        """The model before any step."""
        shape = ("layers", "hidden", "heads", "intermediate", "max_len", "dropout", "seed")
        model = build_model(corpus.vocabulary, **{name: getattr(self.settings, name) for name in shape})
        folder = self.folder / "untrained"
        folder.mkdir(exist_ok=True)
        save_model(model, corpus.vocabulary, folder)
        return folder

    def tuned(self, model: Path, cells: Any) -> dict[str, Any]:
        """The end points by fine-tuning."""
        return tuned_scores(
            model, cells, self.budget.tuning, seed=self.run.seed, device=self.device, progress=self.progress
        )

    def labels(self) -> Path | None:
        """Labelled genes; none in a simulated tissue."""
        return None if self.run.corpus == "simulated" else self.data / LABELS

    def cpu_seconds(self) -> float:
        """CPU time of this run so far, with that of earlier processes."""
        return self.before + time.process_time() - self.started

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Keep the CPU time, and every half minute of it say where the run is and what is left."""
        spent = self.cpu_seconds()
        if spent - self.said < 30 and done != total:
            return
        self.clock.write_text(f"{spent:.1f}")
        if spent - self.said < 30:
            return
        self.said = spent
        of = "" if total is None else f"/{total:,}"
        later = "" if self.rest is None else f"; the other runs about {self.rest / 3600:.1f} CPU h"
        print(f"{self.title}: {stage} {done:,}{of}, {spent:.0f} CPU s so far{later}", flush=True)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Scores to six places."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def commit() -> str:
    """The commit of the code, with a "+" where what makes results differs from it."""
    scripts = ("run.py", "study.py", "penalty.py", "claim_cells.py", "claim_scores.py", "claim_finetuning.py")
    code = ["corrmask", "csrc", *(str(HERE / name) for name in scripts)]
    if told := os.environ.get("CORRMASK_COMMIT"):  # of a copy without its history
        return told

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE.parent.parent, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", *code) else "")


def in_one_line(main: Callable[[], None]) -> None:
    """Call a script's `main`; what ends it is said in one line."""
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from the last checkpoint")


if __name__ == "__main__":
    in_one_line(main)
