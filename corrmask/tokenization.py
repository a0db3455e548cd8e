"""From counts to a corpus: rank-value encoding of every cell, streamed."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from corrmask import ops
from corrmask.arguments import checked
from corrmask.corpus_writer import CorpusWriter, check_obs_names, copy_tokens, token_dtype
from corrmask.errors import InputError
from corrmask.files import CORPUS, check_output, explaining, finish
from corrmask.genes import Renaming, name_by_id, united_genes
from corrmask.medians import MedianAccumulator
from corrmask.memory import memory_budget
from corrmask.parts import Part, kept_part, part_folder
from corrmask.progress import Progress, silent
from corrmask.sources import Chunk, Source, check_resumable, open_sources
from corrmask.sources.ahead import READERS
from corrmask.sources.checks import check_genes
from corrmask.sources.objects import ObjectReader, is_matrix
from corrmask.staging import writable
from corrmask.threads import torch_threads
from corrmask.vocabulary import FILE_NAME, Vocabulary

CHUNK_NONZEROS = 4_000_000  # arrays of 16 MB, whose memory is used again: larger ones come from the system each time
_CELLS = 256  # encoded together: their padded rows stay in the processor's cache


@dataclass(frozen=True)
class TokenizeReport:
    """What `tokenize` did.

    Attributes
    ----------
    n_cells, n_empty_cells, n_truncated_cells
        Cells; those without a token; those with more than `max_len` of them.
    n_tokens
        Tokens written.
    n_genes_in_files, n_genes_in_all_files, n_genes_with_token
        Genes of any file, of all files, and those of any file that have a token.
    renaming
        What a gene map did, or None.
    medians
        "exact", "sketch" or "table".
    token_dtype
        "uint16" or "int32".
    cells_per_second
        Over all passes.
    """

    n_cells: int
    n_empty_cells: int
    n_truncated_cells: int
    n_tokens: int
    n_genes_in_files: int
    n_genes_in_all_files: int
    n_genes_with_token: int
    renaming: Renaming | None
    medians: str
    token_dtype: str
    cells_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self) | {"renaming": None if self.renaming is None else self.renaming._asdict()}


@checked
def encode_chunk(
    counts: Any,
    genes: Sequence[str] | np.ndarray,
    vocabulary: Vocabulary,
    *,
    max_len: int,
    normalized: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rank-encode cells in memory with a vocabulary's medians.

    Parameters
    ----------
    counts
        [n, n_columns], a sparse matrix of scipy, a dense array, a CSR of torch or cupy: raw counts (log1p-normalised
        values where `normalized`: then count is expm1 of them).
    genes
        str [n_columns]: gene of each column, once each; those without a token are left out.
    vocabulary
        With medians.
    max_len
        Most tokens of a cell.
    normalized
        `counts` hold log1p-normalised values.

    Returns
    -------
    input_ids, lengths : Tensor
        int32 [n, max_len] and int64 [n], as `corrmask.ops.rank_encode`.

    Raises
    ------
    InputError
        The vocabulary has no medians, or none for a gene with a token; not one gene for each column; no raw counts.
    """
    _check_max_len(max_len, "encode_chunk")
    if not is_matrix(counts) or counts.ndim != 2:
        raise InputError(f"encode_chunk: 'counts' must be a matrix, cells x genes, got {type(counts).__name__}")
    if len(genes) != counts.shape[1]:
        raise InputError(f"encode_chunk: 'genes' must name the {counts.shape[1]:,} columns, got {len(genes):,}")
    names = check_genes(genes, name="encode_chunk: 'genes'", remedy="give each once")
    source = Source(ObjectReader(counts, names, None, "encode_chunk: 'counts'"), normalized=normalized)
    encoder = Encoder(names, vocabulary, max_len=max_len, normalized=normalized)
    input_ids = torch.empty((source.n_cells, max_len), dtype=torch.int32)
    lengths = torch.empty(source.n_cells, dtype=torch.int64)
    for chunk in source.chunks(workers=0):
        cells = slice(chunk.start, chunk.start + chunk.counts.shape[0])
        input_ids[cells], lengths[cells] = encoder.encode(chunk.counts, 0, chunk.counts.shape[0])
    return input_ids, lengths


class _EncodedCells(NamedTuple):
    """Cells of a chunk, without padding."""

    tokens: np.ndarray  # uint16 or int32 [sum of lengths]
    lengths: np.ndarray  # int64 [n]
    n_truncated: int
    obs: pd.DataFrame
    start: int  # row of the first cell in the source


class Encoder:
    """Rank-encodes cells of some genes, read and checked, with a vocabulary's medians: see `encode_chunk`."""

    def __init__(
        self, genes: Sequence[str] | np.ndarray, vocabulary: Vocabulary, *, max_len: int, normalized: bool
    ) -> None:
        if vocabulary.medians is None:
            raise InputError("vocabulary: it holds no medians, by which counts are divided; give a table of medians")
        self.genes = genes
        tokens = vocabulary.tokens_of(genes)
        medians = np.ones(len(tokens))
        self.has_token = tokens >= 0
        medians[self.has_token] = vocabulary.medians[tokens[self.has_token] - vocabulary.first_gene_token]
        # Medians taken from cells lack those of genes that none of them counted: refused once a cell counts one.
        self.is_uncounted = np.isnan(medians) & (vocabulary.medians_origin.get("kind") in ("exact", "sketch"))
        medians[self.is_uncounted] = 1
        missing = np.flatnonzero(np.isnan(medians))
        if len(missing):
            gene = vocabulary.genes[tokens[missing[0]] - vocabulary.first_gene_token]
            raise InputError(
                f"medians: {len(missing)} genes with a token have no median ({gene}, ...); complete the table or leave "
                "these genes out of the token dictionary"
            )
        self.tokens, self.medians = torch.from_numpy(tokens), torch.from_numpy(medians)
        self.pad_id, self.dtype = vocabulary.pad_token_id, token_dtype(vocabulary)
        self.max_len, self.normalized = max_len, normalized

    def encode(self, counts: sp.csr_array, start: int, stop: int, width: int | None = None) -> tuple[Tensor, Tensor]:
        """Cells start .. stop - 1: int32 [stop - start, width] and their lengths; by default `max_len` is the width."""
        indptr = counts.indptr[start : stop + 1].astype(np.int64)
        entries = slice(indptr[0], indptr[-1])
        data = counts.data[entries]
        if self.is_uncounted.any():
            counted = self.is_uncounted[counts.indices[entries]] & (data > 0)
            if counted.any():
                gene = self.genes[counts.indices[entries][counted.argmax()]]
                raise InputError(
                    f"medians: a cell counts {gene}, which has a token and no median, for none did of the cells that "
                    "medians were taken from; give a table of medians or leave the gene out"
                )
        chunk = (
            writable(indptr - indptr[0]),
            writable(counts.indices[entries]),
            writable(np.expm1(data.astype(np.float64)) if self.normalized else data),
        )
        return ops.rank_encode(*chunk, self.medians, self.tokens, max_len=width or self.max_len, pad_id=self.pad_id)

    def encode_read(self, chunk: Chunk) -> _EncodedCells:
        """Encode what was just read, some cells at a time."""
        counts = chunk.counts
        n_cells, sizes = counts.shape[0], np.diff(counts.indptr)
        tokens = np.empty(int(np.minimum(sizes, self.max_len).sum()), dtype=self.dtype)
        lengths = np.empty(n_cells, dtype=np.int64)
        n_tokens, width = 0, max(1, min(self.max_len, int(sizes.max(initial=0))))
        for start in range(0, n_cells, _CELLS):
            stop = min(start + _CELLS, n_cells)
            input_ids, own = self.encode(counts, start, stop, width)
            lengths[start:stop] = own.numpy()
            copy_tokens(input_ids, own, tokens[n_tokens:])
            n_tokens += int(own.sum())
        return _EncodedCells(tokens[:n_tokens], lengths, self._n_truncated(counts, lengths), chunk.obs, chunk.start)

    def _n_truncated(self, counts: sp.csr_array, lengths: np.ndarray) -> int:
        """How many cells have more tokens than are kept: some of those that have `max_len`."""
        full = np.flatnonzero((lengths == self.max_len) & (np.diff(counts.indptr) > self.max_len))
        if not len(full) or (self.has_token.all() and counts.data.min(initial=1) > 0):
            return len(full)
        long = counts[full]
        with_token = (long.data > 0) & self.has_token[long.indices]
        return int((np.add.reduceat(with_token, long.indptr[:-1], dtype=np.int64) > self.max_len).sum())


@checked
def tokenize(
    data: Any,
    output: str | Path,
    *,
    vocabulary: Vocabulary | None = None,
    obs: Sequence[str] = (),
    max_len: int = 2048,
    gene_map: str | Path | None = None,
    matrix: str = "X",
    gene_column: str | None = None,
    normalized: bool = False,
    memory: str | float = "2GB",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> TokenizeReport:
    """Tokenise cells into a corpus that `datasets.load_from_disk` opens.

    Parameters
    ----------
    data
        As `corrmask.correlation_graph` takes it. Of several files the genes are united.
    output
        Folder to write.
    vocabulary
        Tokens and medians to use (Geneformer's: `corrmask.geneformer.read_vocabulary`); without medians in it, or with
        None, medians are taken from these cells in a first pass. With None the genes counted anywhere get tokens, in
        the order of the files.
    obs
        Columns of obs to carry along: numbers and truth values, those that may be missing as floats with NaN; all else,
        categories and dates among it, as text.
    max_len
        Most tokens of a cell.
    gene_map
        Table of gene symbols and Ensembl ids; symbols become ids before tokens are looked up.
    matrix, gene_column, normalized
        As `corrmask.correlation_graph` takes them.
    memory
        Budget for exact medians, such as "2GB" or bytes; beyond it they are a sketch of relative error 1e-3.
    overwrite
        Replace an existing output.
    resume
        Go on where a run that was killed or interrupted ended: the cells that it wrote are kept (in a hidden folder
        beside the output), and medians once it had them. The corpus has the same bytes as without the interruption.
        Files and parameters must be the same; where nothing was interrupted, all is done.
    progress
        Called as progress("medians" | "tokenize", cells done, cells).

    Raises
    ------
    InputError
        Bad values, no gene with a token, a missing column, an existing output: one line, nothing written.
    """
    started = time.perf_counter()
    inputs = [*(data if isinstance(data, (list, tuple)) else [data]), gene_map]
    check_output(output, overwrite=overwrite, contents=CORPUS, inputs=inputs)
    _check_max_len(max_len, "tokenize")
    memory_bytes = memory_budget(memory, "tokenize")
    check_obs_names(obs)
    sources = open_sources(data, matrix=matrix, gene_column=gene_column, normalized=normalized)
    for source in sources:
        source.chunks(obs)  # a missing column is reported now, before the medians are gathered
    renaming = name_by_id(sources, gene_map, prefer=() if vocabulary is None else vocabulary.genes)
    union = united_genes(sources).tolist()
    n_common = len(set.intersection(*(set(source.genes) for source in sources)))
    identity: dict[str, Any] = {
        "sources": [source.identity() for source in sources],
        "obs": list(obs),
        "max_len": max_len,
        "vocabulary": None if vocabulary is None else [vocabulary.hash, _hash_of(vocabulary.medians)],
        "matrix": matrix,
        "gene_column": gene_column,
        "normalized": normalized,
        "memory": memory_bytes,
        "version": version("corrmask"),
    }
    if resume:
        check_resumable(sources)
    output = Path(output)
    folder = part_folder(output)
    resumable = all(source.resumable for source in sources)
    with explaining(output, folder), kept_part(folder, identity, resume=resume, resumable=resumable) as part:
        if part.state is not None:
            vocabulary = Vocabulary.load(folder)
        elif vocabulary is None or vocabulary.medians is None:
            vocabulary = _with_medians(sources, union, vocabulary, normalized, memory_bytes, progress)
        n_found = int((vocabulary.tokens_of(union) >= 0).sum())
        if n_found == 0:
            raise InputError(
                f"no gene in common: the files have {len(union):,} genes ({', '.join(union[:3])}), the vocabulary "
                f"{vocabulary.n_genes:,} ({', '.join(vocabulary.genes[:3])}); map symbols to ids with --gene-map or "
                "choose --gene-column"
            )
        if part.state is None:
            vocabulary.save(folder / FILE_NAME)
        n_kept = 0 if part.state is None else part.state["counts"]["n_cells"]
        counts = _write(part, sources, vocabulary, obs, max_len, normalized, progress)
        finish(folder / "corpus", check_output(output, overwrite=overwrite, contents=CORPUS))
    return TokenizeReport(
        **counts,
        n_genes_in_files=len(union),
        n_genes_in_all_files=n_common,
        n_genes_with_token=n_found,
        renaming=renaming,
        medians=str(vocabulary.medians_origin.get("kind")),
        token_dtype=str(token_dtype(vocabulary)),
        cells_per_second=(counts["n_cells"] - n_kept) / (time.perf_counter() - started),
    )


def _write(
    part: Part,
    sources: Sequence[Source],
    vocabulary: Vocabulary,
    obs: Sequence[str],
    max_len: int,
    normalized: bool,
    progress: Progress,
) -> dict[str, int]:
    """Write the corpus into the part's folder, from where it stopped: counts of cells and tokens."""
    folder = part.folder / "corpus"
    state = part.state
    if state is None:
        shutil.rmtree(folder, ignore_errors=True)
        writer = CorpusWriter(folder, vocabulary)
        state = {"counts": dict.fromkeys(("n_cells", "n_empty_cells", "n_truncated_cells", "n_tokens"), 0)}
        state |= {"source": 0, "cell": 0, "writer": writer.state()}
        part.save(state)
    else:
        writer = CorpusWriter(folder, vocabulary, state["writer"])
    counts = dict(state["counts"])
    total = sum(source.n_cells for source in sources)
    try:
        for number, source in enumerate(sources):
            if number < state["source"]:
                continue
            first_cell = state["cell"] if number == state["source"] else 0
            encode = Encoder(source.genes, vocabulary, max_len=max_len, normalized=normalized).encode_read
            for cells in source.chunks(
                obs, first_cell=first_cell, max_nonzeros=CHUNK_NONZEROS, workers=_n_workers(), then=encode
            ):
                writer.append_ragged(cells.tokens, cells.lengths, cells.obs)
                counts["n_cells"] += len(cells.lengths)
                counts["n_empty_cells"] += int((cells.lengths == 0).sum())
                counts["n_truncated_cells"] += cells.n_truncated
                counts["n_tokens"] += len(cells.tokens)
                cell = cells.start + len(cells.lengths)
                part.save({"counts": counts, "source": number, "cell": cell, "writer": writer.state()})
                progress("tokenize", counts["n_cells"], total)
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    return counts


def _check_max_len(max_len: int, function: str) -> None:
    if not 1 <= max_len < 2**31:
        raise InputError(f"{function}: 'max_len' must be in 1 .. 2**31 - 1, got {max_len}")


def _n_workers() -> int:
    """Threads that read and encode whole chunks: as many as torch has, 16 at most, for each holds a chunk."""
    return max(READERS, min(16, torch.get_num_threads()))


def _hash_of(medians: np.ndarray | None) -> str | None:
    return None if medians is None else hashlib.blake2b(medians.tobytes(), digest_size=16).hexdigest()


def _with_medians(
    sources: Sequence[Source],
    union: Sequence[str],
    vocabulary: Vocabulary | None,
    normalized: bool,
    memory_bytes: int,
    progress: Progress,
) -> Vocabulary:
    """The vocabulary with medians of these cells; without one, of the genes that have counts."""
    position = {gene: i for i, gene in enumerate(union)}
    accumulator = MedianAccumulator(len(union), memory_bytes)
    total, done = sum(source.n_cells for source in sources), 0
    for source in sources:
        columns = np.array([position[str(gene)] for gene in source.genes], dtype=np.int64)
        for chunk in source.chunks(max_nonzeros=CHUNK_NONZEROS):
            counts = chunk.counts
            if normalized:
                counts = sp.csr_array(
                    (np.expm1(counts.data.astype(np.float64)), counts.indices, counts.indptr), shape=counts.shape
                )
            with torch_threads(max(1, torch.get_num_threads() // 2)):  # the other ones read
                accumulator.update(counts, columns)
            done += counts.shape[0]
            progress("medians", done, total)
    medians, origin = accumulator.medians(), accumulator.origin()
    if vocabulary is None:
        counted = np.flatnonzero(~np.isnan(medians))
        if len(counted) == 0:
            raise InputError("tokenize: no cell has any counts; give raw counts")
        return Vocabulary(np.array(union, dtype=object)[counted], medians=medians[counted], medians_origin=origin)
    table = np.array([medians[position[gene]] if gene in position else np.nan for gene in vocabulary.genes])
    return Vocabulary(vocabulary.genes, vocabulary.first_gene_token, vocabulary.special_tokens, table, origin)
