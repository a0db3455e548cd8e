"""Which runs there are, in the order of what they decide: PROTOCOL.md in code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from corrmask.training import Settings

CORPORA = ("blood", "simulated", "kang")
BASELINES = "baselines"  # the run that trains nothing: principal components, variable genes, untrained, expression
DECISIVE = ("random", "corr", "weighted", "rewired", "levelled")
FURTHER = ("module", "random30")
ARMS = (*DECISIVE, *FURTHER)
CONTROLS = ("random", "weighted", "rewired")  # above all of which corr has to lie
CONFIRMING = range(5, 10)  # seeds kept for what the first three suggested of fine-tuning, on blood and a CPU
FRACTIONS = {Fraction(1, 3): 5, Fraction(1, 2): 3, Fraction(1, 9): 3}  # of the training cells: seeds at most
ON_FRACTIONS = ("random", "weighted", "corr")
MARKS = 4  # checkpoints at which a run is scored, evenly spaced

# One factor at a time, on blood and, where `ON_KANG` has it, on kang: its changes to training and to the graph, and the
# arms that it has meaning for.
FACTORS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "steps=4000": ({"steps": 4000}, {}, ("random", "corr", "weighted", "rewired")),
    "top_k=4": ({}, {"top_k": 4}, ("corr", "weighted")),
    "top_k=64": ({}, {"top_k": 64}, ("corr", "weighted")),
    "min_corr=0.05": ({}, {"min_corr": 0.05}, ("corr", "weighted")),
    "min_corr=0.2": ({}, {"min_corr": 0.2}, ("corr", "weighted")),
    "within=types": ({}, {"within": "cell_type"}, ("corr", "weighted")),
    "within=nothing": ({}, {"within": None}, ("corr", "weighted")),
    "expand=0.5": ({"expand": 0.5}, {}, ("corr", "weighted")),
    "expand_from=0": ({"expand_from": 0.0}, {}, ("corr",)),
    "power=0.5": ({"frequency_power": 0.5}, {}, ("weighted", "levelled")),
    "power=2": ({"frequency_power": 2.0}, {}, ("weighted", "levelled")),
    "rate=0.1": ({"rate": 0.1}, {}, ("random", "corr", "weighted")),
    "rate=0.3": ({"rate": 0.3}, {}, ("corr", "weighted")),
    "max_group=4": ({"max_group": 4}, {}, ("corr", "weighted")),
}
ON_KANG = ("power=0.5", "power=2", "steps=4000")
FACTOR_SEEDS = 3  # the first of the seeds that there are


@dataclass(frozen=True)
class Tuning:
    """Of fine-tuning: AdamW, linear warm-up over a tenth of the steps and decay to 0, gradients clipped at 1."""

    steps: int = 200
    batch_size: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Budget:
    """Model, steps and cells: the protocol's, or those of a rehearsal, which takes seconds and shows nothing.

    Attributes
    ----------
    simulated
        Cells of a simulated tissue to pre-train on, and to test.
    training
        Of `corrmask.training.Settings`; the same for every arm.
    tuning
        Of the last mark's model, on labels.
    """

    simulated: tuple[int, int] = (5000, 3000)
    simulated_genes: int = 2000
    training: Mapping[str, Any] = field(
        default_factory=lambda: {
            "steps": 1000,
            "batch_size": 32,
            "lr": 2e-3,
            "layers": 2,
            "hidden": 96,
            "heads": 4,
            "intermediate": 192,
            "max_len": 256,
            "dropout": 0.0,
            "validate_cells": 512,
        }
    )
    tuning: Tuning = Tuning()


PROTOCOL = Budget()
REHEARSAL = Budget(
    simulated=(600, 300),
    simulated_genes=1000,
    training={**PROTOCOL.training, "steps": 8, "batch_size": 16, "layers": 1, "hidden": 16, "intermediate": 32}
    | {"heads": 2, "max_len": 64, "validate_cells": 32},
    tuning=Tuning(steps=20),
)


@dataclass(frozen=True)
class Run:
    """One model trained and scored, or the baselines of a corpus and seed.

    Attributes
    ----------
    arm
        Of `DECISIVE`, `FURTHER`, or `BASELINES`.
    fraction
        Of the training cells.
    factor
        Of `FACTORS`; empty: all as the protocol has it.
    """

    corpus: str
    arm: str
    seed: int
    fraction: Fraction = Fraction(1)
    factor: str = ""

    @property
    def name(self) -> str:
        """Such as ``blood-corr-0``, ``blood-corr-0-1of3``, ``blood-corr-0-top_k=4``."""
        part = "" if self.fraction == 1 else f"{self.fraction.numerator}of{self.fraction.denominator}"
        return "-".join(filter(None, (self.corpus, self.arm, str(self.seed), part, self.factor)))

    @property
    def mask(self) -> str:
        """Of `corrmask.arms.ARMS`."""
        return "random" if self.arm in ("random30", BASELINES) else self.arm

    @property
    def graph(self) -> dict[str, Any]:
        """What `corrmask.correlation_graph` is asked for; `within` names a column of the cells."""
        asked = {"top_k": 16, "min_corr": 0.1, "within": None if self.corpus == "simulated" else "source"}
        return asked | (FACTORS[self.factor][1] if self.factor else {})

    def settings(self, budget: Budget, *, device: str = "auto", threads: int | None = None) -> Settings:
        """Settings of pre-training."""
        settings = Settings(
            mask=self.mask,
            rate=0.3 if self.arm == "random30" else 0.15,
            held_out=float(1 - Fraction(19, 20) * self.fraction),
            keep=MARKS,
            seed=self.seed,
            device=device,
            threads=threads,
            **budget.training,
        )
        settings = replace(settings, **(FACTORS[self.factor][0] if self.factor else {}))
        assert settings.steps is not None
        every = settings.steps // MARKS
        return replace(settings, checkpoint_every=every, validate_every=every)


def runs(seeds: Sequence[int]) -> Iterator[Run]:
    """All runs in order; the baselines of a corpus and seed come before its first run."""
    begun: set[tuple[str, int]] = set()
    for run in _trained(seeds):
        if (run.corpus, run.seed) not in begun:
            begun.add((run.corpus, run.seed))
            yield Run(run.corpus, BASELINES, run.seed)
        yield run


def confirming() -> Iterator[Run]:
    """Runs of the fresh seeds, seed by seed, then their baselines."""
    yield from (Run("blood", arm, seed) for seed in CONFIRMING for arm in ("corr", *CONTROLS))
    yield from (Run("blood", BASELINES, seed) for seed in CONFIRMING)


def _trained(seeds: Sequence[int]) -> Iterator[Run]:
    for arms in (DECISIVE, FURTHER):
        yield from (Run("blood", arm, seed) for seed in seeds for arm in arms)
    for fraction, most in FRACTIONS.items():
        few = seeds[:most]
        yield from (Run("blood", arm, seed, fraction) for seed in few for arm in ON_FRACTIONS)
    for corpus in ("simulated", "kang"):
        for arms in (DECISIVE, FURTHER):
            yield from (Run(corpus, arm, seed) for seed in seeds for arm in arms)
    for factor, (_, _, chosen) in FACTORS.items():
        for corpus in ("blood", *("kang",) * (factor in ON_KANG)):
            yield from (Run(corpus, arm, seed, factor=factor) for seed in seeds[:FACTOR_SEEDS] for arm in chosen)
