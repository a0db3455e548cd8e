"""The training loop."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corrmask.arguments import checked
from corrmask.arms import make_masker
from corrmask.corpus import Corpus, split_cells
from corrmask.devices import choose_device
from corrmask.distributed import Ranks, joined
from corrmask.errors import InputError, InputWarning
from corrmask.files import check_apart
from corrmask.gene_graph import GeneGraph
from corrmask.loader import Loader
from corrmask.model import build_model, load_weights
from corrmask.order import batches_per_epoch, shuffled
from corrmask.progress import Progress, silent
from corrmask.threads import torch_threads
from corrmask.training import output as run_folder
from corrmask.training.checkpoint import (
    checkpoints,
    newest_checkpoint,
    read_optimizer,
    remove_leftovers,
    write_checkpoint,
)
from corrmask.training.log import Log, read_metrics, share_of_time
from corrmask.training.schedule import expand_share
from corrmask.training.settings import Settings, graph_hash, labels_hash, plain
from corrmask.training.step import Objective, build_optimizer, shared, update
from corrmask.training.validation import Validation
from corrmask.vocabulary import Vocabulary


@checked
def pretrain(
    corpus: Corpus | str | Path,
    output: str | Path,
    settings: Settings,
    *,
    graph: GeneGraph | str | Path | None = None,
    vocabulary: Vocabulary | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a BERT on masked genes.

    The weights are a pure function of settings, corpus and graph, on the CPU with the same number of threads (and the
    same versions): a run killed at any step and resumed ends with the same bytes as one never killed. Cells without
    tokens are left out.

    Under `torchrun` each process takes its share of every batch, which holds the same cells with the same masks for any
    number of processes; without dropout the weights are those of one process to rounding. Started with `resume`, a run
    goes on from its newest checkpoint whenever `torchrun` starts its processes again, with as many as there are then.

    Parameters
    ----------
    corpus
        Tokenised cells, or their folder.
    output
        Folder to write; `transformers.BertForMaskedLM.from_pretrained` opens it once the run has finished.
    settings
        The mask, and what else differs from the defaults.
    graph
        Dependency graph, or its file; every mask but "random" needs one.
    vocabulary
        For a corpus without ``vocabulary.json``.
    resume
        Go on from the newest whole checkpoint, if there is one, else start. A finished run is left as it is.
    overwrite
        Replace an earlier run.
    progress
        Called as progress("pretrain", updates done, updates) and progress("validate", cells done, cells).

    Returns
    -------
    dict
        What ``training.json`` holds, JSON-safe.

    Raises
    ------
    InputError
        A setting out of range, an input that cannot be read, an output that exists, a run that cannot be resumed with
        these settings, or a loss that is no number any more.
    """
    settings.check()
    if graph is None and settings.mask != "random":
        raise InputError(
            f"mask {settings.mask!r} needs a graph; write one with `corrmask graph` and give it (--graph, graph=)"
        )
    with joined(choose_device(settings.device)) as ranks, ExitStack() as stack:
        if overwrite:
            check_apart(Path(output).resolve(), [corpus.name if isinstance(corpus, Corpus) else corpus, graph])
        opened = run_folder.opened(output, resume=resume, overwrite=overwrite)
        folder = ranks.first(lambda: stack.enter_context(opened))
        shown = progress if ranks.rank == 0 else silent
        return _Run(corpus, folder, settings, graph, vocabulary, resume, ranks, shown).train(shown)


class _Run:
    """One run: everything is prepared and checked here, before the folder is changed."""

    def __init__(
        self,
        corpus: Corpus | str | Path,
        folder: Path,
        settings: Settings,
        graph: GeneGraph | str | Path | None,
        vocabulary: Vocabulary | None,
        resume: bool,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self.folder = folder
        self.ranks = ranks
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus, vocabulary)
        if settings.mask == "random":
            graph = None
        elif not isinstance(graph, GeneGraph):
            assert graph is not None
            graph = GeneGraph.read(graph)
        n_cells = self.corpus.n_cells
        train, held_out = split_cells(n_cells, settings.held_out, settings.seed)
        self.train_rows, self.held_out = (rows[self.corpus.lengths[rows] > 0] for rows in (train, held_out))
        if len(self.train_rows) == 0:
            raise InputError(f"corpus of {n_cells:,} cells: none of those to train on has a token; give another corpus")
        if min(len(self.train_rows), settings.batch_size) < ranks.world:
            raise InputError(
                f"a batch of {min(len(self.train_rows), settings.batch_size)} cells cannot be shared by {ranks.world} "
                "processes; give a larger --batch-size or fewer processes"
            )
        self.per_epoch = batches_per_epoch(len(self.train_rows), settings.batch_size)

        earlier = run_folder.read_record(folder) if resume and run_folder.is_run(folder) else None
        newest = None if earlier is None else newest_checkpoint(folder)
        if earlier is not None and newest is None and (damaged := len(checkpoints(folder))):
            warnings.warn(
                f"output {str(folder)!r}: none of its {damaged} checkpoints is whole, so the run starts anew",
                InputWarning,
                stacklevel=4,
            )
        self.finished = earlier is not None and run_folder.is_finished(folder)
        # A run without a whole checkpoint starts anew, so there is nothing that other settings could spoil.
        goes_on = earlier if newest is not None or self.finished else None
        if goes_on is not None and settings.threads is None:
            settings = replace(settings, threads=goes_on["settings"].get("threads"))
        self.settings = settings = settings.resolve(self.per_epoch)
        assert settings.steps is not None
        self.steps: int = settings.steps
        self.device = ranks.device
        inputs = {
            "corpus": self.corpus.hash,
            "vocabulary": self.corpus.vocabulary.hash,
            "graph": graph_hash(graph),
            "graph_provenance": plain(graph.provenance) if graph is not None else None,
            "labels": labels_hash(self.corpus, settings.balance),
        }
        if goes_on is not None:
            run_folder.check_same(folder, goes_on, settings, inputs)
        self.start: int = 0 if newest is None else newest[0]
        self.checkpoint: Path | None = None if newest is None else newest[1]
        self.masker = make_masker(
            settings.mask,
            graph=graph,
            corpus=self.corpus,
            rows=self.train_rows,
            max_len=settings.max_len,
            rate=settings.rate,
            expand=settings.expand,
            max_group=settings.max_group,
            frequency_power=settings.frequency_power,
            seed=settings.seed,
            progress=progress,
        )
        self.loader = Loader(
            self.corpus,
            settings.batch_size,
            settings.max_len,
            rows=self.train_rows,
            seed=settings.seed,
            balance=settings.balance,
            packed=True,
            masker=self.masker,
            expand=self._expand,
            rank=ranks.rank,
            world_size=ranks.world,
        )
        validated = self.held_out
        if settings.validate_cells:
            drawn = shuffled(self.held_out, seed=settings.seed, epoch=0)[: settings.validate_cells]
            validated = np.sort(drawn)
        self.validation = Validation(self.corpus, validated, settings) if len(validated) else None
        sessions = [] if goes_on is None else goes_on["sessions"]
        self.record: dict[str, Any] = {
            "format": 1,
            "finished": False,
            "settings": settings.to_dict(),
            "inputs": inputs,
            "cells": {
                "corpus": n_cells,
                "train": len(self.train_rows),
                "held_out": len(self.held_out),
                "validated": len(validated),
                "without_tokens": int((self.corpus.lengths == 0).sum()),
                "without_label": 0 if settings.balance is None else self._without_label(settings.balance),
                "cut_to_max_len": int((self.corpus.lengths > settings.max_len).sum()),
            },
            "steps_per_epoch": self.per_epoch,
            "sessions": [
                *sessions,
                {"from_step": self.start, "processes": ranks.world, "versions": run_folder.versions()},
            ],
        }
        if self.finished and goes_on is not None:
            self.record = goes_on

    def train(self, progress: Progress) -> dict[str, Any]:
        """Go through the updates that are left."""
        if self.finished:
            return self.record
        # Dropout draws from torch's generator, which is seeded at each update and left as the caller had it.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch_threads(self.settings.threads), torch.random.fork_rng(devices=devices):
            return self._train(progress)

    def _train(self, progress: Progress) -> dict[str, Any]:
        settings, ranks = self.settings, self.ranks
        first = ranks.rank == 0
        ranks.barrier()  # all have read what an earlier run left
        model = build_model(
            self.corpus.vocabulary,
            layers=settings.layers,
            hidden=settings.hidden,
            heads=settings.heads,
            intermediate=settings.intermediate,
            max_len=settings.max_len,
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            seed=settings.seed,
        )
        self.record["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        if self.checkpoint is not None:
            load_weights(model, self.checkpoint)
        objective = Objective(model)
        trained = shared(objective, settings, ranks)
        optimizer = build_optimizer(model, settings)
        if self.checkpoint is not None:
            read_optimizer(self.checkpoint, model, optimizer, ranks)
        if first:
            if self.checkpoint is None:
                run_folder.clear(self.folder)
            else:
                remove_leftovers(self.folder, self.start)
            run_folder.write_record(self.folder, self.record)
        trained.train()
        validate_every = settings.validate_every or self.steps
        checkpoint_every = settings.checkpoint_every or self.steps
        loader = self.loader
        checkpoint = self.checkpoint
        batches = loader.batches(self.start, self.steps)
        opened = Log(self.folder, None if checkpoint is None else self.start) if first else nullcontext()
        with opened as log, closing(batches):
            if self.validation is not None and self.start == 0:
                values = self.validation(objective, self.device, progress, ranks)
                if log is not None:
                    log.write("validation", 0, values)
            progress("pretrain", self.start, self.steps)
            started, waited = time.perf_counter(), loader.waited
            for batch in batches:
                step = batch.step
                assert batch.labels is not None
                values = update(trained, optimizer, step, batch.input_ids, batch.labels, batch.lengths, settings, ranks)
                seconds = time.perf_counter() - started
                values |= {
                    "epoch": batch.epoch,
                    "expand": self._expand(step),
                    "seconds": seconds,
                    "cells_per_second": values["cells"] / seconds,
                    "tokens_per_second": values["tokens"] / seconds,
                    "wait_share": (loader.waited - waited) / seconds,
                    "tflops": values.pop("tflop") / seconds,
                }
                if settings.peak is not None:
                    values["mfu"] = values["tflops"] / (settings.peak * ranks.world)
                done = step + 1
                if log is not None:
                    log.write("train", done, values)
                progress("pretrain", done, self.steps)
                if self.validation is not None and (done % validate_every == 0 or done == self.steps):
                    values = self.validation(objective, self.device, progress, ranks)
                    if log is not None:
                        log.write("validation", done, values)
                if done % checkpoint_every == 0 or done == self.steps:
                    if log is not None:
                        log.sync()
                    checkpoint = write_checkpoint(
                        self.folder,
                        done,
                        model,
                        optimizer,
                        self.corpus.vocabulary,
                        keep=settings.keep,
                        ranks=ranks,
                    )
                started, waited = time.perf_counter(), loader.waited
        assert checkpoint is not None
        return ranks.first(partial(self._finish, checkpoint))

    def _finish(self, checkpoint: Path) -> dict[str, Any]:
        """Put the model in its place, and say how the run went."""
        lines = read_metrics(self.folder)
        validations = [line for line in lines if line["kind"] == "validation"]
        self.record |= {
            "finished": True,
            "validation": validations[-1] if validations else None,
            "waited": share_of_time(lines, "wait_share"),
            "mfu": share_of_time(lines, "mfu"),
        }
        run_folder.finish(self.folder, checkpoint, self.record)
        return self.record

    def _without_label(self, column: str) -> int:
        """Training cells that a balanced order leaves out."""
        return int(self.corpus.obs([column])[column].isna().to_numpy()[self.train_rows].sum())

    def _expand(self, step: int) -> float:
        """Share of seeds that bring their group at an update."""
        settings = self.settings
        if settings.expand_from is None:
            return self.masker.expand
        assert settings.expand_steps is not None
        return expand_share(step, first=settings.expand_from, last=settings.expand, steps=settings.expand_steps)
