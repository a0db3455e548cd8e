"""One update of the weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from corrmask.distributed import ALONE, Ranks
from corrmask.errors import InputError
from corrmask.packing import Packed, loss_sum, masked_logits, pack
from corrmask.training.schedule import dropout_seed, learning_rate
from corrmask.training.settings import Settings
from corrmask.training.sharding import shard, whole
from corrmask.training.utilisation import operations

_BACKEND = "inductor"


def build_optimizer(model: Any, settings: Settings) -> torch.optim.AdamW:
    """AdamW; biases and LayerNorm, which are the parameters of one dimension, do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].is_cuda or None  # a launch in place of a dozen; on the CPU as torch has it by default
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, fused=fused)


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast where the settings say so."""
    if settings.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


class Objective(torch.nn.Module):
    """What is asked of a model, as a module: DistributedDataParallel and FSDP2 take hold where modules are called."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Packed) -> Tensor:
        """Cross entropy (nats) at the masked genes, summed."""
        return loss_sum(self.model, batch)

    def logits(self, batch: Packed) -> Tensor:
        """Logits at the masked genes: [M, V]."""
        return masked_logits(self.model, batch)


def fuse(model: Any) -> None:
    """Let `torch.compile` fuse what is done token by token; one graph holds for any number of tokens."""
    for layer in model.bert.encoder.layer:
        for part in (layer.attention.output, layer.intermediate, layer.output):
            part.compile(dynamic=True, backend=_BACKEND)


def shared(objective: Objective, settings: Settings, ranks: Ranks) -> torch.nn.Module:
    """The objective on this rank's device, its gradients averaged over all ranks."""
    if settings.compile:
        fuse(objective.model)
    if settings.shard and ranks.world > 1:
        shard(objective, ranks)
        return objective
    objective.to(ranks.device)
    return objective if ranks.world == 1 else torch.nn.parallel.DistributedDataParallel(objective)


def update(
    objective: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    input_ids: Tensor,
    labels: Tensor,
    lengths: Tensor,
    settings: Settings,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Update the weights once, as a pure function of them, the optimizer's state and the arguments.

    Of several ranks each gives its cells of the batch, and the loss is the mean over the masked genes of all: the same
    update as of one process, to rounding, where there is no dropout (whose draws differ from rank to rank).

    Parameters
    ----------
    objective, optimizer
        What `shared` gave; changed in place.
    step
        0 .. steps - 1.
    input_ids, labels
        int64, masked, on the CPU, as `corrmask.packing.pack` takes them.
    lengths
        int64 [B], on the CPU.
    settings
        Resolved.
    ranks
        Who takes part.

    Returns
    -------
    dict
        loss (nats per masked gene), lr, grad_norm (before clipping), masked (genes), cells, tokens, and tflop: the
        products that the model needs, in 1e12 operations.

    Raises
    ------
    InputError
        The loss or the gradient is no number any more; the weights are as they were.
    """
    assert settings.steps is not None
    assert settings.warmup is not None
    device = next(objective.parameters()).device
    rate = learning_rate(step, peak=settings.lr, warmup=settings.warmup, steps=settings.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed(dropout_seed(step, seed=settings.seed, rank=ranks.rank))
    batch = pack(input_ids, labels, lengths, device)
    counts = [len(batch.targets), len(lengths), len(batch.input_ids), int((lengths**2).sum())]
    n_masked, n_cells, n_tokens, squares = map(round, ranks.sum(counts))
    n = max(1, n_masked)  # a batch may hold nothing but special tokens
    with autocast(settings, device):
        total = objective(batch)
    loss = total * (ranks.world / n)  # times world, for gradients are averaged over the ranks
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    clip = settings.clip if settings.clip > 0 else math.inf
    norm = whole(torch.nn.utils.clip_grad_norm_(objective.parameters(), clip))
    own_total, grad_norm = torch.stack([total.detach(), norm]).tolist()  # the device is waited for once
    values = {"loss": ranks.sum([own_total])[0] / n, "lr": rate, "grad_norm": grad_norm}
    values |= {"masked": n_masked, "cells": n_cells, "tokens": n_tokens}
    own: Any = getattr(objective, "module", objective)  # within DistributedDataParallel
    values["tflop"] = operations(own.model.config, n_tokens, squares, n_masked) / 1e12
    check_finite(f"step {step + 1}", loss=values["loss"], grad_norm=values["grad_norm"])
    optimizer.step()
    return values


def check_finite(when: str, **values: float) -> None:
    """Raise InputError where a value is no number any more."""
    if not all(math.isfinite(value) for value in values.values()):
        found = ", ".join(f"{name} {value}" for name, value in values.items())
        raise InputError(
            f"training diverged at {when} ({found}); start anew with a smaller --lr, a longer --warmup or "
            "--precision fp32"
        )
