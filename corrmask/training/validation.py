"""The score by which arms compare: randomly masked genes of held-out cells."""

from __future__ import annotations

import numpy as np
import torch

from corrmask.arms import make_masker
from corrmask.corpus import Corpus
from corrmask.distributed import ALONE, Ranks
from corrmask.masking import CorrMasker
from corrmask.packing import pack
from corrmask.progress import Progress
from corrmask.training.settings import Settings
from corrmask.training.sharding import reshard
from corrmask.training.step import Objective, autocast, check_finite

_SEED = 0  # fixed: the same masks for every arm, every run and every step


class Validation:
    """Loss and accuracy on the same masked cells, however the model is trained.

    Parameters
    ----------
    corpus, rows
        Held-out cells, at least one.
    settings
        Mask rate, batch size and `max_len`.
    """

    def __init__(self, corpus: Corpus, rows: np.ndarray, settings: Settings) -> None:
        self._corpus = corpus
        self._settings = settings
        self._rows = rows[np.argsort(corpus.lengths[rows], kind="stable")]  # like lengths together: less padding
        self._masker: CorrMasker = make_masker(
            "random",
            graph=None,
            corpus=corpus,
            rows=rows,
            max_len=settings.max_len,
            rate=settings.rate,
            seed=_SEED,
        )

    @torch.no_grad()
    def __call__(
        self, objective: Objective, device: torch.device, progress: Progress, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        """Mean cross entropy (nats) and share of right guesses, over all masked genes of all cells and ranks."""
        total = torch.zeros((), dtype=torch.float64)
        right = n_masked = 0.0
        training = objective.training
        objective.eval()
        try:
            size = self._settings.batch_size
            for start in range(0, len(self._rows), ranks.world * size):
                mine = self._rows[start + ranks.rank * size :][:size]
                # A rank without cells computes all the same: the others may wait for its part of the weights.
                batch = self._corpus.batch(mine if len(mine) else self._rows[:1], self._settings.max_len)
                input_ids, labels = self._masker(*batch, epoch=0)
                packed = pack(input_ids, labels, batch.lengths, device)
                targets = packed.targets
                with autocast(self._settings, device):
                    logits = objective.logits(packed)
                if len(mine) == 0:
                    break
                losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
                total += losses.double().sum().cpu()
                right += int((logits.argmax(-1) == targets).sum())
                n_masked += len(targets)
                progress("validate", min(start + ranks.world * size, len(self._rows)), len(self._rows))
        finally:
            objective.train(training)
            reshard(objective)
        loss, right, n_masked = ranks.sum([float(total), right, n_masked])
        check_finite("validation", loss=loss)
        n = max(1, n_masked)
        return {"loss": loss / n, "accuracy": right / n, "cells": len(self._rows), "masked": round(n_masked)}
