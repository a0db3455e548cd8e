"""All cells into a covariance and its edges: in passes where memory is short, taken up where it ended."""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from corrmask.covariance import Covariance
from corrmask.errors import InputError
from corrmask.parts import Part
from corrmask.progress import Progress
from corrmask.sources import Chunk, Source

_FIRST_CELLS = 2048  # of each set of genes, to see how frequent they are


@dataclass
class Done:
    """What has been read of all cells, and what was seen of them."""

    passes: int = 0
    source: int = 0
    cell: int = 0
    n_empty: int = 0
    digest: str = ""

    def add(self, counts: sp.csr_array) -> None:
        self.n_empty += int((np.asarray(counts.sum(axis=1)) == 0).sum())
        digest = hashlib.blake2b(self.digest.encode(), digest_size=16)  # a chain: it can be taken up
        for part in (np.diff(counts.indptr), counts.indices, counts.data):
            digest.update(np.ascontiguousarray(part).data)
        self.digest = digest.hexdigest()


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
    progress
        Called as progress("correlate", cells done, cells).
    thresholds
        Of `Covariance.update_edges`.
    """
    done = Done()
    if part is not None and part.state is not None:
        done = Done(**part.state["done"])
        _read(part, accumulated, edges)
    elif len({frozenset(source.genes) for source in sources}) > 1:
        accumulated.rank(_frequency(sources, genes))
    written = time.monotonic()
    for number in range(done.passes, len(passes)):
        stage = "correlate" if len(passes) == 1 else f"correlate, pass {number + 1} of {len(passes)}"
        if number and done.cell == 0:
            accumulated.select(*passes[number])
        for chunk, gene_of_column, levels, source in _chunks(sources, genes, within, partial(progress, stage), done):
            accumulated.update(chunk.counts, levels, gene_of_column)
            if number == 0:
                done.add(chunk.counts)
            done.source, done.cell = source, chunk.start + chunk.counts.shape[0]
            if part is not None and time.monotonic() - written >= seconds:
                _write(part, accumulated, edges, done)
                written = time.monotonic()
        accumulated.update_edges(*edges, **thresholds)
        done.passes, done.source, done.cell = number + 1, 0, 0
    return done


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


def check_levels(sources: list[Source], within: str) -> None:
    """Refuse cells whose level is missing: as a level of their own they would pass for one population."""
    for source in sources:
        missing = int(source.read_obs([within])[within].isna().sum())
        if missing:
            raise InputError(
                f"{source.name}: obs column {within!r} has no value for {missing:,} of {source.n_cells:,} cells; give "
                "them one (such as 'unknown') or leave these cells out"
            )


def _chunks(
    sources: list[Source],
    genes: np.ndarray,
    within: str | Sequence[Any] | None,
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
    first, first_cell, before = done.source, done.cell, 0
    for number, source in enumerate(sources):
        gene_of_column = _places(source, genes)
        obs = [within] if isinstance(within, str) else []
        for chunk in source.chunks(obs, first_cell=first_cell if number == first else 0) if number >= first else ():
            at = before + chunk.start
            levels = None
            if isinstance(within, str):
                levels = chunk.obs[within].astype(str).to_numpy()
            elif given is not None:
                levels = given[at : at + chunk.counts.shape[0]]
            yield chunk, gene_of_column, levels, number
            progress(at + chunk.counts.shape[0], total)
        before += source.n_cells


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
        total[places] += np.bincount(counts.indices, minlength=len(places)) / counts.shape[0]
        n_sets[places] += 1
    return total / n_sets
