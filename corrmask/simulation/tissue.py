"""The truth that cells are drawn from: genes, modules, cell types and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from corrmask.arguments import checked
from corrmask.errors import InputError
from corrmask.simulation.like import LIBRARY_POINTS, RealCells, read_real_cells

if TYPE_CHECKING:
    from anndata import AnnData

DESIGN_STREAM, BLOCK_STREAM = 0, 1  # spawn keys under the seed: the tissue, and the cells of each block

SHARE_SIGMA = 2.0  # sd of log gene means; the top gene of 20,000 then takes 2 % of all counts, as in blood
DISPERSION_MEDIAN, DISPERSION_SIGMA = 0.25, 0.5  # log-normal
LOADING_SPREAD = 0.25  # loadings lie within strength * (1 -+ this)
ACTIVE_PART = 0.3  # part of the modules whose level is special to a type
RARE_SHARES = (0.02, 0.005)  # from the most to the least frequent rare type


@dataclass(frozen=True)
class Tissue:
    """The whole truth of a simulation; `corrmask.simulation.blocks.draw_block` draws cells from it.

    G genes, T types, K modules.

    Attributes
    ----------
    seed
        Of the design and of every cell.
    source
        The real cells that it was modelled on; empty without.
    gene_names
        [G] str.
    share
        float64 [G]: expected part of a cell's counts, over the mixture of types; sums to 1.
    dispersion
        float64 [G]: gamma-Poisson dispersion that is left when type and module activity are known.
    module
        int32 [G]: 0 .. K-1, or -1 for none.
    loading
        float64 [G]: change of the log mean per unit of module activity; 0 outside modules.
    marker_of
        int32 [G]: type that the gene marks, or -1.
    type_names
        [T] str; rare types last.
    proportions
        float64 [T]; sums to 1.
    parent
        int32 [T]: the common type that a rare one differs from by its markers alone, or -1.
    activity
        float64 [T, K]: mean activity of each module in each type; within a type it varies with sd 1.
    type_share
        float64 [T, G]: expected counts by type at library size 1; their mean over `proportions` is `share`.
    library_sizes
        float64 [LIBRARY_POINTS]: quantiles of the library size at evenly spaced levels; linear between.
    """

    seed: int
    source: str
    gene_names: np.ndarray
    share: np.ndarray
    dispersion: np.ndarray
    module: np.ndarray
    loading: np.ndarray
    marker_of: np.ndarray
    type_names: np.ndarray
    proportions: np.ndarray
    parent: np.ndarray
    activity: np.ndarray
    type_share: np.ndarray
    library_sizes: np.ndarray

    @property
    def n_genes(self) -> int:
        """Number of genes G."""
        return len(self.gene_names)


@checked
def design_tissue(
    *,
    n_genes: int | None = None,
    n_types: int = 8,
    n_rare: int = 2,
    proportions: Sequence[float] | None = None,
    n_modules: int = 40,
    module_size: int = 20,
    strength: float = 0.8,
    type_strength: float = 1.0,
    n_markers: int = 15,
    marker_fold: float = 6.0,
    rare_genes: int | None = None,
    depth: float | None = None,
    depth_sigma: float = 0.4,
    like: AnnData | str | Path | None = None,
    seed: int = 0,
) -> Tissue:
    """Decide on genes, modules, types and depth; the parameters are those of `corrmask.simulation.simulate`.

    Raises
    ------
    InputError
        A parameter out of range, more genes needed than there are, or real cells that are not raw counts.
    """
    _check(locals())
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DESIGN_STREAM,)))
    real = None if like is None else read_real_cells(like, n_genes, rng)
    if real is None:
        n_genes = 2000 if n_genes is None else n_genes
        level = (rng.permutation(n_genes) + 0.5) / n_genes  # evenly spread: no gene takes half the counts by bad luck
        share = np.exp(SHARE_SIGMA * ndtri(level))
        share /= share.sum()
        names = np.array([f"gene_{g:05d}" for g in range(n_genes)], dtype=object)
        library = _lognormal_quantiles(4000.0 if depth is None else depth, depth_sigma)
    else:
        names, share, library = real.gene_names, real.share, real.library_sizes
        if depth is not None:
            library = library * (depth / max(float(library[LIBRARY_POINTS // 2]), 1.0))
    n_genes = len(names)

    type_names = np.array(
        [f"type_{t}" for t in range(n_types - n_rare)] + [f"rare_{t}" for t in range(n_rare)], dtype=object
    )
    part = _proportions(n_types, n_rare, proportions)
    parent = np.full(n_types, -1, dtype=np.int32)
    markers = np.full(n_types, n_markers)
    if rare_genes is not None:
        parent[n_types - n_rare :] = np.arange(n_rare) % (n_types - n_rare)
        markers[n_types - n_rare :] = rare_genes

    module, marker_of = _choose_genes(rng, share, real, n_modules, module_size, markers, strength)
    in_module = module >= 0
    loading = np.where(in_module, strength * rng.uniform(1 - LOADING_SPREAD, 1 + LOADING_SPREAD, n_genes), 0.0)
    activity = rng.normal(0.0, type_strength, (n_types, n_modules)) * (rng.random((n_types, n_modules)) < ACTIVE_PART)

    effect = np.zeros((n_types, n_genes))  # log fold changes of each type
    marks = np.flatnonzero(marker_of >= 0)
    effect[marker_of[marks], marks] = np.log(marker_fold)
    for rare in np.flatnonzero(parent >= 0):
        activity[rare] = activity[parent[rare]]
        effect[rare] += effect[parent[rare]]
    effect[:, in_module] += activity[:, module[in_module]] * loading[in_module]

    dispersion = rng.lognormal(np.log(DISPERSION_MEDIAN), DISPERSION_SIGMA, n_genes)
    if real is not None:
        scale = _fit_effects(effect, loading, part, real.dispersion)
        effect, loading = effect * scale, loading * scale
        explained = _explained(effect, loading, part)
        dispersion = np.maximum((1.0 + real.dispersion) * np.exp(-explained) - 1.0, 0.0)
    fold = np.exp(effect)
    return Tissue(
        seed=seed,
        source="" if real is None else real.source,
        gene_names=names,
        share=share,
        dispersion=dispersion,
        module=module,
        loading=loading,
        marker_of=marker_of,
        type_names=type_names,
        proportions=part,
        parent=parent,
        activity=activity,
        type_share=share * fold / (part @ fold),
        library_sizes=library,
    )


def _check(given: dict) -> None:
    def at_least(name: str, low: int) -> None:
        if given[name] < low:
            raise InputError(f"{name} must be a whole number of at least {low}, got {given[name]}")

    for name in ("n_types", "module_size", *(n for n in ("n_genes", "rare_genes") if given[n] is not None)):
        at_least(name, 1)
    for name in ("n_rare", "n_modules", "n_markers", "seed"):
        at_least(name, 0)
    if given["seed"] >= 2**63:
        raise InputError(f"seed must be below 2**63, got {given['seed']}")
    if given["n_rare"] >= given["n_types"]:
        raise InputError(
            f"n_rare (--rare) is {given['n_rare']} of n_types (--types) {given['n_types']}: at least one type must be "
            "common; lower n_rare"
        )
    for name, low, high in (
        ("strength", 0.0, 3.0),
        ("type_strength", 0.0, 3.0),
        ("marker_fold", 1.0, 1e3),
        ("depth_sigma", 0.0, 3.0),
    ):
        if not low <= given[name] <= high:
            raise InputError(f"{name} must lie in {low:g} .. {high:g}, got {given[name]!r}")
    if given["depth"] is not None and not 0 < given["depth"] <= 1e8:
        raise InputError(f"depth must be a number of counts above 0 and at most 1e8, got {given['depth']!r}")


def _proportions(n_types: int, n_rare: int, given: Sequence[float] | None) -> np.ndarray:
    if given is not None:
        try:
            part = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):  # no numbers
            part = np.zeros(0)
        if part.shape != (n_types,) or not (part > 0).all() or abs(part.sum() - 1.0) > 1e-6:
            raise InputError(f"proportions must be {n_types} numbers above 0 that add up to 1, got {list(given)}")
        return part / part.sum()
    rare = np.full(1, 0.01) if n_rare == 1 else np.geomspace(*RARE_SHARES, n_rare)
    if rare.sum() > 0.5:
        raise InputError(f"n_rare is {n_rare}: types of 0.5 to 2 % would make up more than half; ask for fewer")
    common = 1.0 / np.sqrt(1.0 + np.arange(n_types - n_rare))
    return np.concatenate([common / common.sum() * (1.0 - rare.sum()), rare])


def _lognormal_quantiles(median: float, sigma: float) -> np.ndarray:
    level = np.linspace(0.0, 1.0, LIBRARY_POINTS)
    return median * np.exp(sigma * ndtri(np.clip(level, 2e-4, 1 - 2e-4)))  # the ends stand for the tails: 3.5 sd


def _choose_genes(
    rng: np.random.Generator,
    share: np.ndarray,
    real: RealCells | None,
    n_modules: int,
    module_size: int,
    markers: np.ndarray,
    strength: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Modules and markers [G]: genes of their own, well enough expressed to be seen.

    They are drawn from twice as many of the most expressed genes as are needed, leaving out the top 1 %: those move
    every other gene's normalised value and so would tie all genes together. Of real genes, those that vary too little
    to leave room for a module of this strength are taken only where the others do not suffice.
    """
    n_genes = len(share)
    needed = n_modules * module_size + int(markers.sum())
    left = n_genes - n_genes // 100
    if needed > left:
        raise InputError(
            f"{n_modules} modules of {module_size} genes and {int(markers.sum())} markers need {needed} genes, but "
            f"{left} are at hand ({n_genes} without the top 1 %); lower modules, module size or markers, or raise genes"
        )
    order = np.argsort(-share, kind="stable")[n_genes // 100 :]
    if real is not None:
        unseen = share[order] == 0
        tight = np.log1p(real.dispersion[order]) < strength**2
        order = order[np.lexsort((np.arange(left), tight, unseen))]
        left = int((~tight & ~unseen).sum())
    chosen = rng.permutation(order[: max(needed, min(2 * needed, left))])[:needed]
    module = np.full(n_genes, -1, dtype=np.int32)
    marker_of = np.full(n_genes, -1, dtype=np.int32)
    module[chosen[: n_modules * module_size]] = np.repeat(np.arange(n_modules, dtype=np.int32), module_size)
    marker_of[chosen[n_modules * module_size :]] = np.repeat(np.arange(len(markers), dtype=np.int32), markers)
    return module, marker_of


def _explained(effect: np.ndarray, loading: np.ndarray, part: np.ndarray) -> np.ndarray:
    """log(1 + dispersion) [G] that types and modules alone give a gene: log E[f^2] / E[f]^2 for f, its fold change."""
    return np.log(part @ np.exp(2 * effect)) - 2 * np.log(part @ np.exp(effect)) + loading**2


def _fit_effects(effect: np.ndarray, loading: np.ndarray, part: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Factor in 0 .. 1 [G] by which a gene's effects shrink so that they explain no more than its real dispersion."""
    room = np.log1p(dispersion)
    low, high = np.zeros(len(loading)), np.ones(len(loading))
    fits = _explained(effect, loading, part) <= room
    for _ in range(30):  # what is explained grows with the factor, so bisection finds it
        middle = (low + high) / 2
        ok = _explained(effect * middle, loading * middle, part) <= room
        low, high = np.where(ok, middle, low), np.where(ok, high, middle)
    return np.where(fits, 1.0, low)
