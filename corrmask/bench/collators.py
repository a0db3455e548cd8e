"""Collators side by side on the same cells: how fast, how exact, and whether their masks can be replayed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import numpy as np
import torch

from corrmask.arguments import checked
from corrmask.bench import machine, packages
from corrmask.bench.cells import SPECIAL_TOKENS, Batch, draw_batch
from corrmask.bench.masking import IGNORED, MASK, MASK_TOKEN, RANDOM, RATE, budgets
from corrmask.bench.timing import Case, Contestant, compare
from corrmask.errors import InputError
from corrmask.hf import CorrMaskCollator
from corrmask.progress import Progress, silent
from corrmask.vocabulary import Vocabulary

Collator = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
OURS, PEER = "corrmask CorrMaskCollator", "transformers DataCollatorForLanguageModeling"
_EPOCHS = 8  # over which rate and 80 / 10 / 10 are counted


@checked
def load_collator(path: str) -> Collator:
    """What ``module:attribute`` names; modules in the current folder are found.

    Raises
    ------
    InputError
        Of another form, not importable, not there, or not callable.
    """
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise InputError(f"collator {path!r}: give module:attribute, such as my_code.collators:collator")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # a user's module may raise anything
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"collator {path!r} cannot be imported ({words}); give module:attribute") from error
    if not callable(found) or isinstance(found, type):
        raise InputError(f"collator {path!r} must be a collator that takes a list of examples, not a {type(found)}")
    return found


@checked
def bench_collators(
    collator: Collator | None = None,
    *,
    name: str = "yours",
    seconds: float = 20.0,
    n_cells: int = 64,
    max_len: int = 2048,
    step_cells_per_second: float | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare a collator with ours and with transformers' (random masking), on the same examples. One thread.

    Examples are as Geneformer's, ``input_ids`` and ``length``, and a ``cell_id``: drawn cells with the skew of real
    ones over a vocabulary of 20,004 tokens (<pad> 0, <mask> 1, <cls> 2, <eos> 3, genes from 4), 16 partners a gene. A
    collator returns ``input_ids`` and ``labels`` (-100 where nothing is masked); where it has ``set_epoch`` it is told.

    Parameters
    ----------
    collator
        Any callable on a list of examples; None compares ours and transformers' alone.
    name
        What it is called in the result.
    seconds
        About how long the timing takes.
    n_cells, max_len
        Cells of a batch, and most tokens of a cell.
    step_cells_per_second
        At which your model trains; what masking takes of a step is told by it.
    progress
        Called as progress("bench masking", collators looked at, collators).

    Returns
    -------
    dict
        JSON-safe: ``machine``, ``settings``, ``cells``, ``tokens``, and in ``rows`` for each collator ``name``,
        ``median_seconds``, ``cells_per_second``, ``tokens_per_second``, ``step_share`` (of masking and step one after
        the other, or None), ``rate``, ``shown``, ``labels_wrong``, ``special_masked``, ``replayable`` (the same cells
        and epoch give the same masks again), ``batch_independent`` (cut and ordered otherwise as well) and
        ``epochs_differ``.

    Raises
    ------
    InputError
        An argument is out of range, or the collator raises or returns something else.
    """
    if not 0 < seconds < 1e6 or n_cells < 2 or max_len < 8:
        raise InputError(
            f"bench masking: 'seconds' must be above 0, 'n_cells' at least 2 and 'max_len' at least 8, got {seconds}, "
            f"{n_cells} and {max_len}"
        )
    if step_cells_per_second is not None and not 0 < step_cells_per_second < float("inf"):
        raise InputError(f"bench masking: 'step_cells_per_second' must be positive, got {step_cells_per_second}")
    batch = draw_batch(n_cells, max_len, min(1480, max_len * 3 // 4))
    examples = [
        {"input_ids": ids[:length].tolist(), "length": length, "cell_id": cell}
        for cell, (ids, length) in enumerate(zip(batch.input_ids, batch.lengths.tolist(), strict=True))
    ]
    contestants: dict[str, Collator] = {OURS: _ours(batch)}
    if (peer := _transformers(batch)) is not None:
        contestants[PEER] = peer
    if collator is not None:
        contestants[name] = collator
    rows: dict[str, dict[str, Any]] = {}
    for done, (label, one) in enumerate(contestants.items()):
        progress("bench masking", done, len(contestants))
        rows[label] = {"name": label, **_look_at(one, label, examples, batch)}
    case = Case(
        kernel="collator",
        size=f"{n_cells} x {max_len}",
        dtype="int64",
        n_cells=n_cells,
        contestants=[
            Contestant(label, lambda one=one: one(examples), lambda _: None, ours=label == OURS)  # type: ignore[misc]
            for label, one in contestants.items()
        ],
        bytes_moved=0,
    )
    times = compare(case, seconds)
    n_tokens = int(batch.lengths.sum())
    for label, found in rows.items():
        taken = times.median(label)
        step = None if step_cells_per_second is None else n_cells / step_cells_per_second
        found |= {
            "median_seconds": taken,
            "rounds": len(times.rounds[label]),
            "cells_per_second": n_cells / taken,
            "tokens_per_second": n_tokens / taken,
            "step_share": None if step is None else taken / (taken + step),
        }
    progress("bench masking", len(contestants), len(contestants))
    return {
        "kind": "bench masking",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "threads": torch.get_num_threads(),
        "settings": {
            "seconds": seconds,
            "max_len": max_len,
            "rate": RATE,
            "step_cells_per_second": step_cells_per_second,
            "epochs": _EPOCHS,
        },
        "cells": n_cells,
        "tokens": n_tokens,
        "rows": list(rows.values()),
    }


def _ours(batch: Batch) -> CorrMaskCollator:
    genes = np.array([f"gene{i}" for i in range(batch.groups.vocabulary_size - SPECIAL_TOKENS)], dtype=object)
    return CorrMaskCollator(Vocabulary(genes), groups=batch.groups, mlm_probability=RATE)


def _transformers(batch: Batch) -> Collator | None:
    """Transformers' collator with a tokenizer of its own kind, or None where the packages are missing."""
    collator_class = packages.collator_class()
    if collator_class is None or not packages.has("tokenizers"):
        return None
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "mask_token": "<mask>", "cls_token": "<cls>", "eos_token": "<eos>"}
    names = [*special.values(), *(f"gene{i}" for i in range(batch.groups.vocabulary_size - SPECIAL_TOKENS))]
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(names)}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True  # it is asked to by the collator itself
    collator = collator_class(tokenizer, mlm_probability=RATE)
    # As Geneformer's pre-training calls it: tokens alone. Giving special_tokens_mask too does not make it faster.
    return lambda examples: collator([{"input_ids": example["input_ids"]} for example in examples])


def _tell(collator: Collator, name: str, epoch: int) -> None:
    """Tell a collator the epoch, where it can be told."""
    try:
        getattr(collator, "set_epoch", lambda _: None)(epoch)
    except Exception as error:  # as below
        raise InputError(f"{name}: its set_epoch failed ({type(error).__name__}: {error})") from error


def _arrays(collator: Collator, name: str, examples: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """What a collator gives for a batch: input_ids and labels, [B, L]."""
    try:
        found = collator(examples)
        ids, labels = (np.asarray(found[field]) for field in ("input_ids", "labels"))
    except Exception as error:  # a user's collator may raise anything
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{name}: the collator failed on {len(examples)} examples ({words})") from error
    width = max(example["length"] for example in examples)
    if ids.dtype.kind not in "iu" or labels.dtype.kind not in "iu":
        raise InputError(f"{name}: 'input_ids' and 'labels' must be integers, got {ids.dtype} and {labels.dtype}")
    if ids.shape != labels.shape or ids.ndim != 2 or len(ids) != len(examples) or ids.shape[1] < width:
        raise InputError(
            f"{name}: 'input_ids' and 'labels' must be [{len(examples)}, {width} or more], got {list(ids.shape)} and "
            f"{list(labels.shape)}; pad on the right"
        )
    return ids, labels


def _look_at(collator: Collator, name: str, examples: Sequence[Mapping[str, Any]], batch: Batch) -> dict[str, Any]:
    """Exactness over epochs, and replays."""
    lengths, plain = batch.lengths.numpy(), batch.input_ids.numpy()
    wanted = budgets(batch)
    off_budget = n_masked = n_genes = wrong = special = 0
    shown = np.zeros(3, dtype=np.int64)  # mask token, another gene, itself

    def masks(epoch: int, order: np.ndarray | None = None) -> list[bytes]:
        """Shown tokens and labels of each cell, cut in two batches where an order is given."""
        _tell(collator, name, epoch)
        parts = [np.arange(len(examples))] if order is None else np.array_split(order, 2)
        found: dict[int, bytes] = {}
        for part in parts:
            ids, labels = _arrays(collator, name, [examples[int(i)] for i in part])
            for i, row, label in zip(part, ids, labels, strict=True):
                n = lengths[i]
                found[int(i)] = row[:n].astype(np.int64).tobytes() + label[:n].astype(np.int64).tobytes()
        return [found[i] for i in range(len(examples))]

    real = np.arange(plain.shape[1]) < lengths[:, None]
    for epoch in range(_EPOCHS):
        _tell(collator, name, epoch)
        ids, labels = (array[:, : plain.shape[1]] for array in _arrays(collator, name, examples))
        tokens, behind = plain[:, : ids.shape[1]], ~real[:, : ids.shape[1]]
        masked = labels != IGNORED
        off_budget += int((masked.sum(axis=1) != wanted).sum())
        n_masked, n_genes = n_masked + int(masked.sum()), n_genes + int(lengths.sum())
        special += int((masked & (behind | (tokens < SPECIAL_TOKENS))).sum())
        wrong += int((labels[masked] != tokens[masked]).sum() + (ids != tokens)[~masked & ~behind].sum())
        to_mask, same = ids[masked] == MASK_TOKEN, ids[masked] == tokens[masked]
        shown += [to_mask.sum(), (~to_mask & ~same).sum(), same.sum()]
    first, again = masks(0), masks(0)
    other = masks(1)
    back = masks(0, np.random.default_rng(0).permutation(len(examples)))
    expected = np.array([MASK, RANDOM, 1 - MASK - RANDOM])
    total = max(n_masked, 1)
    error = np.sqrt(expected * (1 - expected) / total)
    return {
        "rate": {
            "wanted": RATE,
            "realised": n_masked / n_genes,
            "cells_off_budget": off_budget / (_EPOCHS * len(examples)),
        },
        "shown": {
            **dict(zip(("mask_token", "another_gene", "unchanged"), (shown / total).tolist(), strict=True)),
            "worst_standard_errors": float((np.abs(shown / total - expected) / error).max()),
        },
        "labels_wrong": wrong,
        "special_masked": special,
        "replayable": first == again,
        "batch_independent": first == back,
        "epochs_differ": first != other,
    }
