"""What a trained model says of cells and genes: means of a hidden layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from corrmask.arguments import checked
from corrmask.corpus import Corpus
from corrmask.covariance import log_normalize
from corrmask.devices import choose_device
from corrmask.errors import InputError, InputWarning
from corrmask.genes import Renaming, read_gene_map, rename
from corrmask.model import attention_mask, load_model
from corrmask.progress import Progress, silent
from corrmask.sources import Source, open_sources
from corrmask.tokenization import Encoder
from corrmask.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

CELL_KEY = "X_corrmask"
SETTINGS_KEY = "corrmask_embedding"  # of uns, where "corrmask" is a graph's


class _Tokens(NamedTuple):
    """Cells to embed, in any order."""

    input_ids: Tensor  # int64 [B, L]
    lengths: Tensor  # int64 [B]
    rows: np.ndarray  # int64 [B], where they stand in the result


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What `embed` returns.

    Attributes
    ----------
    cells
        ``obsm["X_corrmask"]`` float32 [n_cells, d]; ``obs["corrmask_n_tokens"]``; settings in
        ``uns["corrmask_embedding"]``.
    genes
        obs: genes seen in a cell at least, in token order, with ``n_cells`` (cells that hold it among their first
        `max_len` tokens), ``detection`` (share of all cells that count it; of a corpus: that hold it, wherever) and,
        where counts were given, ``mean_expression`` (mean over all cells of log1p(count * 1e4 / total)). X float32
        [n_genes, d]: contextual means. ``obsm["X_static"]`` float32 [n_genes, d]: input embeddings.
    """

    cells: AnnData
    genes: AnnData


@checked
def embed(
    model: str | Path,
    *,
    corpus: Corpus | str | Path | None = None,
    data: Any = None,
    matrix: str = "X",
    gene_column: str | None = None,
    gene_map: str | Path | None = None,
    normalized: bool = False,
    layer: int = -1,
    pooling: Literal["mean"] = "mean",
    batch_size: int = 32,
    max_len: int | None = None,
    device: str | torch.device = "auto",
    progress: Progress = silent,
) -> Embeddings:
    """Embed cells and genes with a trained model, in fp32 and without dropout.

    A cell is the mean of a hidden layer over its gene tokens (no special tokens); a cell without any is all zeros. A
    gene is the mean of the same layer over all cells that hold it among their first `max_len` tokens, each cell
    counting alike. Neither depends on the order of cells or on `batch_size` beyond the rounding of float32.

    Parameters
    ----------
    model
        Folder that `corrmask.training.pretrain` wrote, or one of its checkpoints.
    corpus
        Tokenised cells, with the model's vocabulary; or
    data
        one file or AnnData of counts, tokenised here with the model's own vocabulary. The cells come back with all that
        their .h5ad or .zarr holds.
    matrix, gene_column, gene_map, normalized
        Of `data`, as `corrmask.tokenization.tokenize` takes them.
    layer
        Hidden layer: 0 is the input of the first encoder layer, -1 the output of the last.
    pooling
        "mean".
    batch_size
        Cells at a time.
    max_len
        Most tokens of a cell; by default, and at most, what the model was trained with.
    device
        "auto" is CUDA where there is one.
    progress
        Called as progress("embed", cells done, cells).

    Raises
    ------
    InputError
        Both or neither of `corpus` and `data`, a model that has not finished, another vocabulary, an argument out of
        range: one line.
    """
    if (corpus is None) == (data is None):
        raise InputError("embed: give the cells by --corpus or by --data (corpus=, data=), one of them")
    if corpus is not None and (matrix != "X" or gene_column is not None or gene_map is not None or normalized):
        raise InputError(
            "embed: --matrix, --gene-column, --gene-map and --normalized (matrix=, ...) are of --data; leave them out "
            "with --corpus"
        )
    if batch_size < 1:
        raise InputError(f"embed: 'batch_size' must be at least 1, got {batch_size}")
    network, vocabulary = load_model(model)
    n_layers, positions = network.config.num_hidden_layers, network.config.max_position_embeddings
    if not -(n_layers + 1) <= layer <= n_layers:
        raise InputError(f"embed: 'layer' must be in {-(n_layers + 1)} .. {n_layers} for this model, got {layer}")
    max_len = positions if max_len is None else max_len
    if not 1 <= max_len <= positions:
        raise InputError(f"embed: 'max_len' must be in 1 .. {positions}, which the model has, got {max_len}")
    place = choose_device(device)
    renaming: Renaming | None = None
    if corpus is not None:
        corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus, _vocabulary_of(corpus, vocabulary))
        if corpus.vocabulary.hash != vocabulary.hash:
            raise InputError(
                f"corpus {corpus.name!r} has another vocabulary ({corpus.vocabulary.n_genes:,} genes) than the model "
                f"({vocabulary.n_genes:,}); tokenise with --tokens {Path(model) / 'vocabulary.json'}"
            )
        _check_medians(corpus, vocabulary)
        sums = _Sums(network, vocabulary, layer, place, corpus.n_cells)
        levels = _Levels(vocabulary.size)
        for tokens in _from_corpus(corpus, max_len, batch_size, levels):
            sums.add(tokens)
            progress("embed", sums.n_done, corpus.n_cells)
        cells = _cells_of_corpus(corpus)
    else:
        source = _one_source(data, matrix, gene_column, normalized)
        names = source.genes
        if gene_map is not None:
            names, renaming = rename(source.genes, read_gene_map(gene_map), vocabulary.genes)
        if not (vocabulary.tokens_of(names) >= 0).any():
            raise InputError(
                f"{source.name}: none of its {len(names):,} genes ({', '.join(map(str, names[:3]))}) is among the "
                f"{vocabulary.n_genes:,} of the model ({', '.join(vocabulary.genes[:3])}); map names with --gene-map "
                "or choose --gene-column"
            )
        cells = _cells_of_data(data, source)
        sums = _Sums(network, vocabulary, layer, place, source.n_cells)
        levels = _Levels(vocabulary.size, counted=True)
        for tokens in _from_source(source, names, vocabulary, max_len, batch_size, levels):
            sums.add(tokens)
            progress("embed", sums.n_done, source.n_cells)
    provenance = {
        "model": str(model),
        "layer": layer,
        "pooling": pooling,
        "max_len": max_len,
        "renaming": {} if renaming is None else renaming._asdict(),
        "vocabulary_hash": vocabulary.hash,
        "versions": {name: version(name) for name in ("corrmask", "torch", "transformers")},
    }
    cells.obsm[CELL_KEY] = sums.cells
    cells.obs["corrmask_n_tokens"] = sums.n_tokens
    cells.uns[SETTINGS_KEY] = provenance
    return Embeddings(cells, _genes(sums, network, vocabulary, levels, provenance))


def _vocabulary_of(corpus: str | Path, vocabulary: Vocabulary) -> Vocabulary | None:
    """The model's vocabulary for a corpus that has none of its own."""
    return None if (Path(corpus) / "vocabulary.json").exists() else vocabulary


def _check_medians(corpus: Corpus, vocabulary: Vocabulary) -> None:
    """Warn where genes were ranked by other medians than the model has seen."""
    theirs, ours = corpus.vocabulary.medians, vocabulary.medians
    if theirs is not None and ours is not None and not np.array_equal(theirs, ours, equal_nan=True):
        warnings.warn(
            f"corpus {corpus.name!r} was ranked by other medians than the model's corpus; give the counts (--data, "
            "data=), or tokenise with --tokens vocabulary.json of the model",
            InputWarning,
            stacklevel=4,
        )


class _Sums:
    """Runs the model and adds up, per cell and per gene."""

    def __init__(self, model: Any, vocabulary: Vocabulary, layer: int, device: torch.device, n_cells: int) -> None:
        self._model = model.to(device)
        self._layer = layer
        self._device = device
        self._gene_lo, self._gene_hi = vocabulary.gene_token_range
        width = model.config.hidden_size
        self.cells = np.zeros((n_cells, width), dtype=np.float32)
        self.n_tokens = np.zeros(n_cells, dtype=np.int64)
        self.n_cells = n_cells
        self.n_done = 0
        # float64: a gene may be in millions of cells
        self.gene_sums = torch.zeros((vocabulary.size, width), dtype=torch.float64, device=device)
        self.gene_cells = np.zeros(vocabulary.size, dtype=np.int64)

    @torch.no_grad()
    def add(self, tokens: _Tokens) -> None:
        """Embed a batch."""
        self.n_done += len(tokens.rows)
        input_ids, lengths = tokens.input_ids.to(self._device), tokens.lengths.to(self._device)
        if input_ids.shape[1] == 0:
            return
        attended = attention_mask(lengths, input_ids.shape[1])
        hidden = self._model.bert(input_ids=input_ids, attention_mask=attended, output_hidden_states=True)
        states = hidden.hidden_states[self._layer]
        is_gene = attended.bool() & (input_ids >= self._gene_lo) & (input_ids < self._gene_hi)
        n = is_gene.sum(1)
        summed = (states * is_gene[..., None]).sum(1)
        self.cells[tokens.rows] = (summed / n.clamp(min=1)[:, None]).cpu().numpy()
        self.n_tokens[tokens.rows] = n.cpu().numpy()
        seen = input_ids[is_gene]
        self.gene_sums.index_add_(0, seen, states[is_gene].double())
        self.gene_cells += np.bincount(seen.cpu().numpy(), minlength=len(self.gene_cells))


class _Levels:
    """Level of expression of each token [V]: cells that hold it, and the sum over cells of its log1p counts."""

    def __init__(self, size: int, counted: bool = False) -> None:
        self.cells = np.zeros(size, dtype=np.int64)
        self.sums = np.zeros(size) if counted else None

    def add(self, tokens: np.ndarray, values: np.ndarray | None = None) -> None:
        """Add cells: a token for each gene that a cell holds, and its value."""
        self.cells += np.bincount(tokens, minlength=len(self.cells))
        if self.sums is not None:
            self.sums += np.bincount(tokens, weights=values, minlength=len(self.sums))


def _from_corpus(corpus: Corpus, max_len: int, batch_size: int, levels: _Levels) -> Iterator[_Tokens]:
    """Cells of like length together: less padding. All of their tokens are added to `levels`."""
    longest = max(1, int(corpus.lengths.max(initial=0)))
    order = np.argsort(np.minimum(corpus.lengths, max_len), kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        levels.add(corpus.packed_batch(rows, longest).input_ids.cpu().numpy())
        batch = corpus.batch(rows, max_len)
        yield _Tokens(batch.input_ids, batch.lengths, rows)


def _from_source(
    source: Source, names: np.ndarray, vocabulary: Vocabulary, max_len: int, batch_size: int, levels: _Levels
) -> Iterator[_Tokens]:
    """The same from counts, chunk by chunk."""
    tokens = vocabulary.tokens_of(names)
    encoder = Encoder(names, vocabulary, max_len=max_len, normalized=source.normalized)
    for chunk in source.chunks():
        counts = chunk.counts
        values = counts.data if source.normalized else log_normalize(counts, 1e4)
        counted = (tokens[counts.indices] >= 0) & (counts.data > 0)
        levels.add(tokens[counts.indices][counted], values[counted])
        input_ids, lengths = encoder.encode(counts, 0, counts.shape[0])
        order = torch.argsort(lengths, stable=True)
        for rows in order.split(batch_size):
            width = int(lengths[rows].max())
            yield _Tokens(input_ids[rows, :width].long(), lengths[rows], chunk.start + rows.numpy())


def _one_source(data: Any, matrix: str, gene_column: str | None, normalized: bool) -> Source:
    sources = open_sources(data, matrix=matrix, gene_column=gene_column, normalized=normalized)
    if len(sources) != 1:
        raise InputError(
            f"embed: {len(sources)} files given; embed them one by one, or tokenise them and give --corpus"
        )
    return sources[0]


def _cells_of_corpus(corpus: Corpus) -> AnnData:
    from anndata import AnnData

    return AnnData(obs=corpus.obs())


def _cells_of_data(data: Any, source: Source) -> AnnData:
    """All that the file holds: read by anndata where it can, else counts and names."""
    import anndata
    import pandas as pd

    data = data[0] if isinstance(data, (list, tuple)) else data
    if isinstance(data, anndata.AnnData):
        return data.to_memory() if data.isbacked else data.copy()
    path = Path(source.name)
    if path.suffix.lower() == ".h5ad":
        return anndata.read_h5ad(path)
    if path.suffix.lower() == ".zarr":
        return anndata.read_zarr(path)
    counts = [chunk.counts for chunk in source.chunks()]
    merged = sp.csr_matrix(sp.vstack(counts, format="csr")) if counts else sp.csr_matrix((0, len(source.genes)))
    obs = source.read_obs(source.obs_columns)
    return anndata.AnnData(merged, obs=obs, var=pd.DataFrame(index=pd.Index(source.genes.astype(str))))


def _genes(sums: _Sums, model: Any, vocabulary: Vocabulary, levels: _Levels, provenance: dict[str, Any]) -> AnnData:
    from anndata import AnnData
    from pandas import DataFrame, Index

    lo, hi = vocabulary.gene_token_range
    seen = lo + np.flatnonzero(sums.gene_cells[lo:hi])
    n_cells = sums.gene_cells[seen]
    obs = DataFrame(
        {"n_cells": n_cells, "detection": levels.cells[seen] / max(1, sums.n_cells)},
        index=Index(vocabulary.genes[seen - lo].astype(str)),
    )
    if levels.sums is not None:
        obs["mean_expression"] = levels.sums[seen] / max(1, sums.n_cells)
    means = sums.gene_sums.cpu().numpy()[seen] / np.maximum(n_cells, 1)[:, None]
    genes = AnnData(means.astype(np.float32), obs=obs)
    table = model.get_input_embeddings().weight.detach().float().cpu().numpy()
    genes.obsm["X_static"] = np.ascontiguousarray(table[seen])
    genes.uns[SETTINGS_KEY] = dict(provenance)
    return genes
