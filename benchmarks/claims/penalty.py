"""Frozen scores on blood under other penalties of the classifier: ``python benchmarks/claims/penalty.py --data DIR``.

The study reads every representation by logistic regression with C = 1, which shrinks some more than others. Here the
decisive arms are trained once more and read, with the baselines beside them, at each of `PENALTIES`; rows go to
results-penalty.csv. A run that was killed goes on from its last checkpoint, and several processes may work at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from claim_scores import BASELINES as FITTED
from claim_scores import MODEL, annotate, annotation_columns
from run import HERE, Work, commit, finished, in_one_line, taken
from study import BASELINES, CONTROLS, Run

from corrmask.corpus import Corpus, split_cells
from corrmask.embedding import CELL_KEY, embed
from corrmask.gene_graph import GeneGraph
from corrmask.training import pretrain
from corrmask.training.checkpoint import checkpoints

PENALTIES = (1.0, 10.0, 100.0, 1000.0)  # C: the inverse strength of the penalty
SCORES = ("macro_f1", "rare_f1", "accuracy", "pbmc3k_macro_f1", "pbmc3k_rare_f1", "pbmc3k_accuracy")
COLUMNS = ("run", "corpus", "arm", "seed", "c", *SCORES, "cpu_seconds", "commit", "versions", "machine", "finished")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, do what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CORRMASK_DATA"), help="folder of real cells")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--rehearse", action="store_true", help="seconds a run, to try the machinery")
    parser.add_argument("--results", type=Path, default=HERE / "results-penalty.csv")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="as of run.py")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    chosen = [run for run in runs() if any(fnmatch(run.name, pattern) for pattern in options.only)]
    if options.data is None:
        parser.error("give the folder of real cells: --data, or CORRMASK_DATA")
    options.work.mkdir(parents=True, exist_ok=True)
    code = commit()
    for number, run in enumerate(chosen, start=1):
        with taken(options.work / f"{run.name}.lock") as free:
            if free and run.name not in finished(options.results):
                Reading(run, options, f"[{number}/{len(chosen)}] {run.name}", None, code).do()


def runs() -> Iterator[Run]:
    """Seed by seed."""
    for seed in range(3):
        for arm in (BASELINES, "corr", *CONTROLS):
            yield Run("blood", arm, seed)


class Reading(Work):
    """A run that is trained as in the study, and read under each penalty."""

    def do(self) -> None:
        """Train, embed once, read, write the rows, clear up."""
        cells = self.cells()
        corpus = Corpus.open(self.cells_folder / "corpus")
        is_baseline = self.run.arm == BASELINES
        model = self.untrained(corpus) if is_baseline else self.trained(cells, corpus)
        embedded = embed(model, data=cells, batch_size=64, device=self.device, progress=self.progress)
        vectors = np.asarray(embedded.cells.obsm[CELL_KEY])
        named = {"untrained": MODEL, **FITTED} if is_baseline else {self.run.arm: MODEL}
        rows = []
        for c in PENALTIES:
            reports = annotate(cells, vectors, seed=self.run.seed, baselines=is_baseline, c=c)
            for arm, representation in named.items():
                found = annotation_columns(reports, representation)
                rows.append({"arm": arm, "c": c} | {name: found[name] for name in SCORES})
        self.finish(rows, COLUMNS)

    def trained(self, cells: object, corpus: Corpus) -> Path:
        """The last checkpoint."""
        training, _ = split_cells(corpus.n_cells, self.settings.held_out, self.settings.seed)
        graph = GeneGraph.read(self.graph(cells, training))
        pretrain(corpus, self.folder / "model", self.settings, graph=graph, resume=True, progress=self.progress)
        return checkpoints(self.folder / "model")[-1][1]


if __name__ == "__main__":
    in_one_line(main)
