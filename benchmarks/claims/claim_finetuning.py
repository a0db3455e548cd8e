"""Annotation by fine-tuning: a layer of types over the mean of a model's last layer, every weight learning from labels.

As sequences are classified (Devlin et al. 2019), but for the mean, for cells have no token that stands for the whole.
The same for every arm; PROTOCOL.md says how its settings were chosen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claim_scores import column_start, rare_f1
from study import Tuning
from torch import Tensor, nn
from transformers import PreTrainedModel

from corrmask.devices import choose_device
from corrmask.evaluation.splits import make_splits
from corrmask.model import attention_mask, load_model
from corrmask.progress import Progress
from corrmask.tokenization import encode_chunk

ORDER = 0xF17E  # the stream of the order of cells


class Annotator(nn.Module):
    """Logits of types [B, n_types] from tokens [B, L] and lengths [B]."""

    def __init__(self, bert: PreTrainedModel, n_types: int) -> None:
        super().__init__()
        self.bert = bert
        self.types = nn.Linear(bert.config.hidden_size, n_types)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Mean of the last layer over a cell's genes, then a linear layer."""
        attended = attention_mask(lengths, input_ids.shape[1])
        states = self.bert(input_ids=input_ids, attention_mask=attended).last_hidden_state
        mean = (states * attended[..., None]).sum(1) / lengths.clamp(min=1)[:, None]
        return self.types(mean)


def tuned_scores(
    model: Path, cells: Any, tuning: Tuning, *, seed: int, device: str, progress: Progress
) -> dict[str, Any]:
    """Columns of results.csv: each level of the cells by a copy of the model that its training cells have tuned.

    Where training and test cells are drawn, these are those of the first draw of `claim_scores.annotate`.
    """
    tokens = _Tokens(model, cells)
    columns: dict[str, Any] = {}
    by_type: dict[str, Any] = {}
    for level in sorted(set(cells.obs["level"]) - {""}):
        rows = np.flatnonzero(cells.obs["level"] == level)
        names, codes = np.unique(np.asarray(cells.obs["cell_type"].astype(str))[rows], return_inverse=True)
        role = np.asarray(cells.obs["role"].astype(str))[rows]
        held_out = None if (role == "halves").all() else role == "test"
        split = make_splits(codes, seed=seed, held_out=held_out)[0]
        annotator = tune(
            tokens,
            rows[split.train],
            codes[split.train],
            len(names),
            tuning,
            seed=seed,
            device=device,
            progress=progress,
        )
        f1 = _f1(codes[split.test], predict(annotator, tokens, rows[split.test]), names)
        by_type[level] = {name: round(value, 6) for name, value in f1.items()}
        columns[f"{column_start(level)}tuned_macro_f1"] = float(np.mean(list(f1.values())))
        columns[f"{column_start(level)}tuned_rare_f1"] = rare_f1(level, f1)
    return columns | {"tuned_f1": json.dumps(by_type)}


class _Tokens:
    """The cells as a model reads them."""

    def __init__(self, model: Path, cells: Any) -> None:
        self.model = model
        network, vocabulary = load_model(model)
        self.input_ids, self.lengths = encode_chunk(
            cells.X, np.asarray(cells.var_names), vocabulary, max_len=network.config.max_position_embeddings
        )

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens int64 [B, L], padded to the longest, and lengths int64 [B]."""
        lengths = self.lengths[rows]
        width = max(1, int(lengths.max()))
        return self.input_ids[rows, :width].long().to(device), lengths.to(device)


def tune(
    tokens: _Tokens,
    rows: np.ndarray,
    codes: np.ndarray,
    n_types: int,
    tuning: Tuning,
    *,
    seed: int,
    device: str,
    progress: Progress,
) -> Annotator:
    """Train a copy of the model on these cells; the initial layer and the order of cells are those of the seed."""
    place = choose_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        annotator = Annotator(load_model(tokens.model)[0].bert, n_types).to(place).train()
    optimizer = torch.optim.AdamW(annotator.parameters(), lr=tuning.lr, weight_decay=tuning.weight_decay)
    warm_up = max(1, tuning.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (tuning.steps - step) / max(1, tuning.steps - warm_up))
    )
    targets = torch.from_numpy(codes.astype(np.int64))
    for step, chosen in enumerate(_batches(len(rows), seed, tuning)):
        logits = annotator(*tokens.batch(rows[chosen], place))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, targets[chosen].to(place)).backward()
        nn.utils.clip_grad_norm_(annotator.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress("fine-tune", step + 1, tuning.steps)
    return annotator.eval()


def _batches(n: int, seed: int, tuning: Tuning) -> np.ndarray:
    """Cells of each step, int64 [steps, batch]: one shuffled epoch after the other."""
    rng, asked = np.random.default_rng([seed, ORDER]), tuning.steps * tuning.batch_size
    epochs = [rng.permutation(n) for _ in range(-(-asked // n))]
    return np.concatenate(epochs)[:asked].reshape(tuning.steps, tuning.batch_size)


@torch.no_grad()
def predict(annotator: Annotator, tokens: _Tokens, rows: np.ndarray) -> np.ndarray:
    """The likeliest type of each cell, int64 [n]."""
    place = annotator.types.weight.device
    parts = np.array_split(rows, max(1, -(-len(rows) // 256)))
    return torch.cat([annotator(*tokens.batch(part, place)).argmax(1).cpu() for part in parts]).numpy()


def _f1(true: np.ndarray, predicted: np.ndarray, names: np.ndarray) -> dict[str, float]:
    """F1 of each type that has tested cells."""
    from sklearn.metrics import f1_score

    tested = np.unique(true)
    found = f1_score(true, predicted, labels=tested, average=None, zero_division=0.0)
    return {str(names[code]): float(value) for code, value in zip(tested, found)}
