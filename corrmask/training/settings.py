"""What a run is asked to do, checked before any work."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from corrmask.arguments import checked
from corrmask.arms import check_arm
from corrmask.devices import choose_device
from corrmask.errors import InputError
from corrmask.gene_graph import GeneGraph
from corrmask.training.utilisation import peak_tflops

if TYPE_CHECKING:
    from corrmask.corpus import Corpus

# These decide what is written beside the weights, and when, or where all of it lies; a run may be resumed with others.
_WITHOUT_EFFECT = ("validate_every", "validate_cells", "checkpoint_every", "keep", "shard", "peak")
_WHOLE = {
    "steps": 1,
    "epochs": 1,
    "batch_size": 1,
    "warmup": 0,
    "layers": 1,
    "hidden": 1,
    "heads": 1,
    "intermediate": 1,
    "max_len": 1,
    "expand_steps": 1,
    "max_group": 1,
    "validate_every": 1,
    "validate_cells": 0,
    "checkpoint_every": 1,
    "keep": 1,
    "threads": 1,
}


@checked
@dataclass(frozen=True)
class Settings:
    """Settings of a pre-training run. The default shape is Geneformer's of 10 M parameters.

    Attributes
    ----------
    mask
        "random", "weighted", "corr", "levelled", "module" or "rewired"; all but "random" need a graph. There is no
        default, for it decides what is learnt (``docs/claims.md``).
    steps, epochs
        Updates, or passes over the training cells; one of both, 3 epochs by default.
    batch_size
        Cells of an update.
    lr
        Largest learning rate.
    warmup
        Updates of the linear warm-up, a tenth of all by default; a linear decay follows.
    weight_decay
        Of AdamW (betas 0.9 and 0.999, eps 1e-8); biases and LayerNorm have none.
    clip
        Largest norm of the gradient; 0 does not clip.
    layers, hidden, heads, intermediate, max_len
        Shape of the model; `max_len` is the most tokens of a cell.
    dropout, attention_dropout
        Of hidden states, and of attention: the fast kernels have none of attention, so that above 0 it costs time.
    rate, expand, max_group
        Of `corrmask.CorrMasker`.
    expand_from, expand_steps
        `expand` rises linearly from `expand_from` and stands at its own value from update `expand_steps` on (by default
        the last).
    frequency_power
        Of masks "weighted" and "levelled": genes are masked as often as in "corr", to this power, 0 .. 2
        (`corrmask.arms.make_masker`); by default 1 for "weighted" and 0 for "levelled".
    balance
        A column of `obs`, each of whose labels is trained on equally often (`corrmask.order.BalancedOrder`): cells are
        drawn with replacement, those without a label never. None reads each cell once an epoch.
    held_out
        Share of the cells that are held out for validation.
    validate_every, validate_cells
        Validation at step 0, after every so many updates (a tenth of all by default) and at the end; on so many
        held-out cells, the first of a shuffle by `seed` (`corrmask.order.shuffled`, epoch 0), 0 for all of them. Their
        masks are random ones of seed 0 and epoch 0: the same for every arm, run and step.
    checkpoint_every, keep
        A checkpoint after every so many updates (by default a tenth of all, at most 1,000), of which the last `keep`
        stay; and one at the end.
    seed
        Of split, weights, order, masks and dropout: 0 .. 2**63 - 1.
    device, precision, threads
        "auto" is CUDA where there is one, and bf16 autocast where CUDA has it, else fp32. `threads` of torch.
    peak
        TFLOP/s that a device can reach, of which the log gives the share that the model used; by default what is
        published for it, none where it is not known.
    shard
        Spread weights, gradients and moments over the processes that `torchrun` started (FSDP2), for a model that one
        device does not hold. Without it each process holds all (DDP), which is faster.
    compile
        Let `torch.compile` fuse what the layers do token by token. It takes half a minute and gains nothing on a CPU.
    """

    mask: str
    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 32
    lr: float = 5e-4
    warmup: int | None = None
    weight_decay: float = 0.01
    clip: float = 1.0
    layers: int = 6
    hidden: int = 256
    heads: int = 4
    intermediate: int = 512
    max_len: int = 2048
    dropout: float = 0.02
    attention_dropout: float = 0.0
    rate: float = 0.15
    expand: float = 1.0
    expand_from: float | None = None
    expand_steps: int | None = None
    max_group: int | None = None
    frequency_power: float | None = None
    balance: str | None = None
    held_out: float = 0.05
    validate_every: int | None = None
    validate_cells: int = 4096
    checkpoint_every: int | None = None
    keep: int = 2
    seed: int = 0
    device: str | torch.device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    peak: float | None = None
    shard: bool = False
    compile: bool = False

    def check(self) -> None:
        """Raise InputError, one line, for a setting out of range or two that exclude each other."""
        check_arm(self.mask, self.frequency_power)
        if self.steps is not None and self.epochs is not None:
            raise InputError("'steps' and 'epochs' exclude each other; give one of them")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name!r} must be a whole number of at least {least}, got {value!r}")
        for name, low, high in (("rate", 1e-6, 1), ("expand", 0, 1), ("expand_from", 0, 1)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name!r} must be in {low} .. {high}, got {value}")
        for name in ("dropout", "attention_dropout", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name!r} must be at least 0 and below 1, got {getattr(self, name)}")
        for name in ("lr", "peak"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name!r} must be positive, got {value}")
        for name in ("weight_decay", "clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name!r} must be at least 0, got {getattr(self, name)}")
        if self.hidden % self.heads:
            raise InputError(f"'hidden' must be a multiple of 'heads', got {self.hidden} and {self.heads}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"'seed' must be in 0 .. 2**63 - 1, got {self.seed}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"'precision' must be auto, fp32 or bf16, got {self.precision!r}")
        if self.shard and self.compile:
            raise InputError("'shard' and 'compile' exclude each other; give one of them")
        if self.expand_from is None and self.expand_steps is not None:
            raise InputError("'expand_steps' needs 'expand_from', from which the schedule starts")
        if self.expand_from is not None and self.mask in ("random", "weighted", "levelled"):
            why = "is fitted for one 'expand'" if self.mask == "levelled" else "brings no groups"
            raise InputError(f"'expand_from' has no meaning for mask {self.mask!r}, which {why}; leave it out")

    def resolve(self, per_epoch: int) -> Settings:
        """All that was left open filled in: `epochs` became `steps`, given the batches of an epoch."""
        steps = self.steps if self.steps is not None else per_epoch * (3 if self.epochs is None else self.epochs)
        tenth = max(1, steps // 10)
        warmup = steps // 10 if self.warmup is None else self.warmup
        if warmup >= steps:
            raise InputError(f"'warmup' must be less than the {steps} steps, got {warmup}")
        device = choose_device(self.device)
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        return replace(
            self,
            steps=steps,
            epochs=None,
            warmup=warmup,
            expand_steps=steps if self.expand_from is not None and self.expand_steps is None else self.expand_steps,
            validate_every=tenth if self.validate_every is None else self.validate_every,
            checkpoint_every=min(1000, tenth) if self.checkpoint_every is None else self.checkpoint_every,
            device=device.type if device.index is None else str(device),
            precision=precision,
            peak=peak_tflops(device, precision) if self.peak is None else self.peak,
            threads=torch.get_num_threads() if self.threads is None else self.threads,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, in the order of the attributes."""
        return asdict(self) | {"device": str(self.device)}


def difference(recorded: dict[str, Any], settings: Settings) -> str | None:
    """The first setting that changes the result and differs from the recorded one, in words; None if none does."""
    for one in fields(settings):
        name, value = one.name, getattr(settings, one.name)
        before = recorded.get(name, one.default)  # a setting that came later was as it is by default
        if name not in _WITHOUT_EFFECT and before != value:
            return f"{name!r} was {before!r} and is now {value!r}"
    return None


def graph_hash(graph: GeneGraph | None) -> str | None:
    """Hash of a graph's genes and edges."""
    if graph is None:
        return None
    digest = hashlib.blake2b("\0".join(map(str, graph.var_names)).encode(), digest_size=16)
    for part in (graph.indptr.astype(np.int64), graph.indices.astype(np.int32), graph.weights.astype(np.float32)):
        digest.update(part.tobytes())
    return digest.hexdigest()


def labels_hash(corpus: Corpus, column: str | None) -> str | None:
    """Hash of each cell's label in a column of obs."""
    if column is None:
        return None
    import pandas as pd

    codes, kinds = pd.factorize(corpus.obs([column])[column].to_numpy())
    return hashlib.blake2b(repr(kinds.tolist()).encode() + codes.tobytes(), digest_size=16).hexdigest()


def plain(value: Any) -> Any:
    """What a graph's file gave back as provenance, as JSON takes it."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
