"""What a run of everything is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from corrmask.arguments import checked
from corrmask.errors import InputError

if TYPE_CHECKING:
    from corrmask.training import Settings

HELD_OUT = 0.1


@checked
@dataclass(frozen=True)
class DemoSettings:
    """What a run is made from; None is filled in as said.

    Attributes
    ----------
    data
        .h5ad, .zarr, 10x .h5 or folder with matrix.mtx; None takes the cells that come with scanpy.
    label, unlabelled, within
        Columns of obs with the types and with the levels (data sets, donors) inside which genes are correlated and
        cells are scored; and the label that is no type.
    matrix, normalized, gene_column
        As `corrmask.tokenization.tokenize` takes them.
    gene_labels, positive
        Table of two classes of genes, and the class that high scores mean.
    thin
        Type -> share of the labelled cells at which the evaluation keeps it.
    arms
        Masks that are trained with; "random" and "corr" are among them. All five are audited.
    steps
        Updates of each model; None: 300 for the cells of scanpy, 600 for others.
    layers, hidden, heads, max_len, batch_size, lr, rate
        As `corrmask.training.Settings` takes them; the same for every arm.
    top_k, min_corr
        As `corrmask.correlation_graph` takes them.
    seed, threads
        Of everything that is drawn; threads of torch.
    """

    data: str | None = None
    label: str | None = None
    unlabelled: str | None = None
    within: str | None = None
    matrix: str = "X"
    normalized: bool = False
    gene_column: str | None = None
    gene_labels: str | None = None
    positive: str = "sensitive"
    thin: Mapping[str, float] = field(default_factory=dict)
    arms: tuple[str, ...] = ("random", "corr", "weighted", "rewired")
    steps: int | None = None
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    max_len: int = 128
    batch_size: int = 32
    lr: float = 3e-3
    rate: float = 0.15
    top_k: int = 16
    min_corr: float = 0.1
    seed: int = 0
    threads: int | None = None

    def resolve(self) -> DemoSettings:
        """Fill in what depends on the data, and check what can be checked without them."""
        settings = self
        if self.data is None:
            settings = replace(settings, label=self.label or "bulk_labels", matrix="raw", normalized=True)
        if settings.label is None:
            raise InputError("demo: --data needs --label, the column of obs with the cell types")
        if settings.steps is None:
            settings = replace(settings, steps=300 if self.data is None else 600)
        for arm in settings.arms:
            settings.training(arm).check()
        for arm in ("random", "corr"):
            if arm not in settings.arms:
                raise InputError(f"demo: {arm!r} must be among --arms (what is compared), got {','.join(self.arms)}")
        if len(set(settings.arms)) < len(settings.arms):
            raise InputError(f"demo: --arms names one twice, got {','.join(self.arms)}")
        if self.top_k < 1 or not 0 <= self.min_corr <= 1:
            raise InputError(
                f"demo: --top-k must be at least 1 and --min-corr in 0 .. 1, got {self.top_k} and {self.min_corr}"
            )
        return settings

    def training(self, arm: str) -> Settings:
        """Settings of pre-training: the same for every arm but for the mask."""
        from corrmask.training import Settings

        return Settings(
            mask=arm,
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            intermediate=2 * self.hidden,
            max_len=self.max_len,
            dropout=0.0,  # nothing is seen often enough to be learnt by heart
            rate=self.rate,
            held_out=HELD_OUT,
            validate_cells=512,
            seed=self.seed,
            device="cpu",
            threads=self.threads,
        )
