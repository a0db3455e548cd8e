"""All cells into a covariance and its edges: in passes where memory is short, shared by processes, taken up again."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from corrmask.covariance import Covariance
from corrmask.distributed import Ranks
from corrmask.errors import InputError
from corrmask.moments import Moments
from corrmask.parts import Part
from corrmask.progress import Progress
from corrmask.sources import Chunk, Source
from corrmask.sources.device import DeviceRows
from corrmask.staging import column_counts

_FIRST_CELLS = 2048  # of each set of genes, to see how frequent they are


@dataclass
class Done:
    """What has been read of all cells, and what was seen of them."""

    passes: int = 0
    source: int = 0
    cell: int = 0
    n_empty: int = 0
    chunks: list[tuple[int, int, str]] = field(default_factory=list)  # source, first cell and hash of each

    def add(self, source: int, chunk: Chunk) -> None:
        if isinstance(chunk.counts, DeviceRows):
            self.n_empty += chunk.counts.n_empty()
            self.chunks.append((source, chunk.start, chunk.counts.digest().hex()))
            return
        self.n_empty += int((np.asarray(chunk.counts.sum(axis=1)) == 0).sum())
        digest = hashlib.blake2b(digest_size=16)
        for part in (np.diff(chunk.counts.indptr), chunk.counts.indices, chunk.counts.data):
            digest.update(np.ascontiguousarray(part).data)
        self.chunks.append((source, chunk.start, digest.hexdigest()))

    @property
    def digest(self) -> str:
        """Hash of all cells: the same for any number of processes."""
        ordered = sorted(map(tuple, self.chunks))
        return hashlib.blake2b(json.dumps(ordered).encode(), digest_size=16).hexdigest()


def accumulate(
    sources: list[Source],
    genes: np.ndarray,
    accumulated: Covariance,
    edges: tuple[torch.Tensor, torch.Tensor],
    passes: Sequence[tuple[int, int]],
    *,
    within: str | Sequence[Any] | None,
    part: Part | None,
    seconds: float,
    ranks: Ranks,
    progress: Progress,
    **thresholds: Any,
) -> Done:
    """Add all cells and update the edges, in place.

    Parameters
    ----------
    sources, genes
        The cells, and str [G]: all their genes, in the order of the accumulators.
    accumulated, edges
        Empty ones, and what `corrmask.covariance.no_edges` gives.
    passes
        The panels of each pass over the cells; `accumulated` has the first ones.
    within
        As `corrmask.correlation_graph` takes it.
    part, seconds
        Where the sums are kept, each time so many seconds have passed, and taken up from; None keeps none.
    ranks
        The processes that share the cells: chunk i of source s is read by rank (s + i) modulo their number, and the
        sums of all are added up before the edges are found. With several, `part` is None.
    progress
        Called as progress("correlate", cells done, cells).
    thresholds
        Of `Covariance.update_edges`.
    """
    done = Done()
    if part is not None and part.state is not None:
        done = Done(**part.state["done"])
        _read(part, accumulated, edges)
    elif ranks.world > 1 or len({frozenset(source.genes) for source in sources}) > 1:
        accumulated.rank(ranks.together(partial(_frequency, sources, genes)))
    written = time.monotonic()

    def read(number: int) -> None:
        nonlocal written
        stage = "correlate" if len(passes) == 1 else f"correlate, pass {number + 1} of {len(passes)}"
        chunks = _chunks(sources, genes, within, ranks, partial(progress, stage), done)
        for chunk, gene_of_column, levels, source in chunks:
            accumulated.update(chunk.counts, levels, gene_of_column)
            if number == 0:
                done.add(source, chunk)
            done.source, done.cell = source, chunk.start + chunk.counts.shape[0]
            if part is not None and time.monotonic() - written >= seconds:
                _write(part, accumulated, edges, done)
                written = time.monotonic()

    for number in range(done.passes, len(passes)):
        if number and done.cell == 0:
            accumulated.select(*passes[number])
        ranks.together(partial(read, number))
        if ranks.world > 1:
            if number == 0:
                _add_up_moments(accumulated, ranks)
                seen = ranks.gather((done.n_empty, done.chunks))
                done.n_empty, done.chunks = sum(one[0] for one in seen), [chunk for one in seen for chunk in one[1]]
            ranks.add_up(accumulated.gram)
        accumulated.update_edges(*edges, **thresholds)
        done.passes, done.source, done.cell = number + 1, 0, 0
    return done


def _add_up_moments(accumulated: Covariance, ranks: Ranks) -> None:
    """Sum the moments of all ranks, in place: each may have seen other sets of genes and other levels."""
    cells: dict[bytes, dict[str, int]] = {}
    for seen in ranks.gather({measured: moments.level_cells for measured, moments in accumulated.moments.items()}):
        for measured, level_cells in seen.items():
            known = cells.setdefault(measured, {})
            for level, count in level_cells.items():
                known[level] = known.get(level, 0) + count
    own, accumulated.moments = accumulated.moments, {}
    for measured, level_cells in cells.items():
        moments = own.get(measured) or Moments(accumulated.n_genes, accumulated.device)
        rows = moments.rows_of_levels(list(level_cells))
        moments.sums, moments.level_cells = moments.sums[rows], level_cells
        for tensor in (moments.sums, moments.squares, moments.expressed):
            ranks.add_up(tensor)
        accumulated.moments[measured] = moments


def _write(part: Part, accumulated: Covariance, edges: tuple[torch.Tensor, torch.Tensor], done: Done) -> None:
    """Keep the sums: in a new file, which counts once it is whole."""
    before = [] if part.state is None else [part.state["file"]]
    name = f"sums-{done.passes}-{done.source}-{done.cell}.npz"
    arrays = accumulated.arrays() | {"partners": edges[0].cpu().numpy(), "weights": edges[1].cpu().numpy()}
    np.savez(part.folder / name, **arrays)  # type: ignore[arg-type]  # its stubs mistake them for options
    part.save({"file": name, "done": asdict(done)})
    for old in before:
        (part.folder / old).unlink(missing_ok=True)


def _read(part: Part, accumulated: Covariance, edges: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Take up what `_write` kept."""
    assert part.state is not None
    path = part.folder / part.state["file"]
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged; begin anew without --resume (resume=False)") from error
    for tensor, name in zip(edges, ("partners", "weights"), strict=True):
        tensor.copy_(torch.from_numpy(arrays.pop(name)))
    accumulated.restore(arrays)


def check_order(sources: list[Source], within: pd.Series) -> None:
    """Raise InputError where levels are indexed by the names of the cells, but in another order than the cells."""
    cells = pd.Index(np.concatenate([source.read_obs([]).index for source in sources]).astype(str))
    names = within.index.astype(str)
    if len(names) == len(cells) and not names.equals(cells) and cells.is_unique and names.isin(cells).all():
        raise InputError(
            "correlation_graph: 'within' names the cells in another order than 'data'; give "
            "within.loc[adata.obs_names], or within.to_numpy() if the order of its values is that of the cells"
        )


def check_levels(sources: list[Source], within: str) -> None:
    """Refuse cells whose level is missing: as a level of their own they would pass for one population."""
    for source in sources:
        missing = int(source.read_obs([within])[within].isna().sum())
        if missing:
            raise _without_level(f"{source.name}: obs column {within!r}", missing, source.n_cells)


def _without_level(what: str, missing: int, total: int) -> InputError:
    return InputError(
        f"{what} has no value for {missing:,} of {total:,} cells; give them one (such as 'unknown') or leave these "
        "cells out"
    )


def _chunks(
    sources: list[Source],
    genes: np.ndarray,
    within: str | Sequence[Any] | None,
    ranks: Ranks,
    progress: Callable[[int, int], None],
    done: Done,
) -> Iterator[tuple[Chunk, np.ndarray, np.ndarray | None, int]]:
    """Chunks that are not done, the gene of each column, the level of each cell and the number of the source."""
    total = sum(source.n_cells for source in sources)
    given = None
    if within is not None and not isinstance(within, str):
        given = np.asarray(within)
        if given.shape != (total,):
            raise InputError(f"correlation_graph: 'within' must have one value per cell, {total}, got {given.shape}")
        # In an array of strings the NaN of a list would be one.
        listed = within if hasattr(within, "dtype") else np.fromiter(within, dtype=object, count=total)
        if missing := int(np.sum(pd.isna(listed))):
            raise _without_level("correlation_graph: 'within'", missing, total)
    first, first_cell, before = done.source, done.cell, 0
    for number, source in enumerate(sources):
        gene_of_column = _places(source, genes)
        obs = [within] if isinstance(within, str) else []
        if number < first:
            before += source.n_cells
            continue
        share = (ranks.rank - number) % ranks.world, ranks.world
        for chunk in source.chunks(obs, first_cell=first_cell if number == first else 0, share=share):
            at = before + chunk.start
            levels = None
            if isinstance(within, str):
                levels = _levels(chunk.obs[within])
            elif given is not None:
                levels = given[at : at + chunk.counts.shape[0]]
            yield chunk, gene_of_column, levels, number
            progress(at + chunk.counts.shape[0], total)
        before += source.n_cells


def _levels(column: pd.Series) -> np.ndarray:
    """Levels as text; 1.0 is 1, for a column may hold whole numbers in one file and floats in the next."""
    values = np.asarray(column)
    if values.dtype.kind != "f":
        return column.astype(str).to_numpy()
    codes, kinds = pd.factorize(values)
    return np.array([str(int(kind) if kind.is_integer() else kind) for kind in kinds.tolist()], dtype=object)[codes]


def _places(source: Source, genes: np.ndarray) -> np.ndarray:
    """The gene of each column: int64 [n_columns]."""
    position = {str(gene): i for i, gene in enumerate(genes)}
    return np.array([position[str(gene)] for gene in source.genes], dtype=np.int64)


def _frequency(sources: list[Source], genes: np.ndarray) -> np.ndarray:
    """How frequent each gene is in the first cells of files that measured it: float64 [G], a mean over sets of genes.

    The order of genes decides on how fast their products are formed: the first file may not know the frequent ones.
    """
    total, n_sets = np.zeros(len(genes)), np.zeros(len(genes))
    for source in {frozenset(source.genes): source for source in reversed(sources)}.values():
        places = _places(source, genes)
        counts = next(source.chunks(max_cells=_FIRST_CELLS, workers=0)).counts
        total[places] += column_counts(counts, len(places)) / counts.shape[0]
        n_sets[places] += 1
    return total / n_sets
