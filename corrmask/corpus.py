"""The tokenised cells on disk: opened by `datasets`, read in batches (corpus_writer.py writes them)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corrmask import ops
from corrmask.arguments import checked
from corrmask.corpus_files import (
    OBS_NAME,
    TOKEN_COLUMNS,
    check_shards,
    check_token_column,
    parquet_files,
    read_parquet,
    token_chunks,
)
from corrmask.devices import choose_device
from corrmask.errors import InputError
from corrmask.vocabulary import FILE_NAME, Vocabulary

if TYPE_CHECKING:
    import pandas as pd


class Batch(NamedTuple):
    """Cells as a model takes them.

    Attributes
    ----------
    input_ids
        int64 [B, L], L the longest of the batch, padded.
    lengths
        int64 [B]: tokens of each cell.
    cell_ids
        int64 [B]: rows of the corpus.
    """

    input_ids: Tensor
    lengths: Tensor
    cell_ids: Tensor


class PackedBatch(NamedTuple):
    """Cells one behind the other, without padding, as attention over ragged rows takes them."""

    input_ids: Tensor  # int64 [sum of lengths]
    lengths: Tensor  # int64 [B]
    cell_ids: Tensor  # int64 [B], rows of the corpus
    cu_seqlens: Tensor  # int32 [B + 1]: where each cell starts, and the end


class Corpus:
    """Tokenised cells, memory-mapped: a batch is copied from the files' pages, once, by as many threads as ask for one.

    Attributes
    ----------
    vocabulary
        Genes, special tokens and medians.
    hash
        Hash of the content as it was written (for a corpus of another tool: the fingerprint that `datasets` keeps).
    """

    @checked
    def __init__(self, dataset: Any, vocabulary: Vocabulary, name: str, content_hash: str) -> None:
        self.vocabulary = vocabulary
        self.name = name
        self.hash = content_hash
        if "input_ids" not in dataset.column_names:
            raise InputError(f"corpus {name!r} has no column 'input_ids' (it has {dataset.column_names})")
        if dataset._indices is not None:  # a selection of cells that were not copied
            dataset = dataset.flatten_indices()
        self._dataset = dataset
        column = dataset.data.column("input_ids")
        check_token_column(column, name)
        self._chunks = token_chunks(column)

    def __repr__(self) -> str:
        return f"Corpus {self.name!r} of {self.n_cells:,} cells, {self.vocabulary.n_genes:,} genes"

    def __getstate__(self) -> dict[str, Any]:
        # where the tokens lie holds for this process alone: a copy looks for itself, in the same files
        return {**vars(self), "_chunks": self._chunks.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._chunks = token_chunks(self._dataset.data.column("input_ids")).to(state["_chunks"])

    @classmethod
    @checked
    def open(cls, path: str | Path, vocabulary: Vocabulary | None = None) -> Corpus:
        """Open a corpus of ours, or one that Geneformer's tokenizer or `datasets` wrote (with its vocabulary).

        Parameters
        ----------
        path
            Folder that `datasets.load_from_disk` opens, with ``input_ids``; it is memory-mapped. Or a Parquet file,
            or a folder of such: they are compressed, so that they are read into memory.
        vocabulary
            For a corpus without ``vocabulary.json``.

        Raises
        ------
        InputError
            There is no corpus, it is damaged, has no ``input_ids``, no vocabulary, or another one than is given.
        """
        from datasets import Dataset, load_from_disk

        path = Path(path)
        if not path.exists():
            raise InputError(f"corpus {str(path)!r} does not exist; write one with `corrmask tokenize FILES -o {path}`")
        try:
            if parquet := parquet_files(path):
                dataset, content_hash = read_parquet(parquet)
            else:
                check_shards(path)
                dataset, content_hash = load_from_disk(str(path)), ""
                if isinstance(dataset, Dataset):
                    content_hash = str(json.loads((path / "state.json").read_text())["_fingerprint"])
        except InputError:
            raise
        except Exception as error:  # pyarrow and datasets raise many kinds for a damaged folder
            raise InputError(
                f"corpus {str(path)!r} cannot be opened ({' '.join(str(error).split())}); write it anew"
            ) from error
        if not isinstance(dataset, Dataset):
            raise InputError(f"corpus {str(path)!r} holds several splits; give the folder of one of them")
        if vocabulary is None:
            if not (path / FILE_NAME).exists():
                raise InputError(
                    f"corpus {str(path)!r} has no {FILE_NAME}; give its token dictionary (--vocabulary, vocabulary=)"
                )
            vocabulary = Vocabulary.load(path)
        elif (path / FILE_NAME).exists() and Vocabulary.load(path).hash != vocabulary.hash:
            raise InputError(
                f"corpus {str(path)!r} was tokenised with another vocabulary, which it holds; leave the one that is "
                "given out (--vocabulary, vocabulary=)"
            )
        return cls(dataset, vocabulary, str(path), content_hash)

    @classmethod
    @checked
    def from_dataset(cls, dataset: Any, vocabulary: Vocabulary, name: str = "dataset") -> Corpus:
        """A corpus of a `datasets.Dataset` with ``input_ids``, where it lies; a streamed one is read into memory.

        Parameters
        ----------
        dataset
            `datasets.Dataset` or `datasets.IterableDataset`.
        vocabulary
            That it was tokenised with.
        name
            What messages call it.

        Raises
        ------
        InputError
            It is neither, has no cells, or no ``input_ids``.
        """
        from datasets import Dataset, IterableDataset

        if isinstance(dataset, IterableDataset):
            dataset = Dataset.from_list(list(dataset))
        if not isinstance(dataset, Dataset):
            raise InputError(
                f"corpus {name!r} must be a datasets.Dataset, got {type(dataset).__name__}; give one split of it"
            )
        return cls(dataset, vocabulary, name, dataset._fingerprint)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self._chunks)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell: int64 [n_cells]."""
        return self._chunks.lengths()

    @property
    def obs_columns(self) -> list[str]:
        """Columns of `obs` that the corpus carries."""
        return [name for name in self._dataset.column_names if name not in (*TOKEN_COLUMNS, OBS_NAME)]

    def __len__(self) -> int:
        return self.n_cells

    def row_numbers(self, rows: np.ndarray | None, name: str) -> np.ndarray:
        """Rows of this corpus, checked: int64 [n]; all for None. `name` is who was given them, for messages.

        Raises
        ------
        InputError
            They are no whole numbers [n], or not in 0 .. n_cells - 1.
        """
        if rows is None:
            return np.arange(self.n_cells)
        try:
            array = np.asarray(rows)
        except ValueError:  # lists of unequal length
            array = np.empty((0, 0))
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise InputError(
                f"{name}: 'rows' must be row numbers [n], got {array.dtype} {list(array.shape)}; of a mask give "
                "np.flatnonzero(mask)"
            )
        if array.size and not 0 <= array.min() <= array.max() < self.n_cells:
            raise InputError(
                f"{name}: 'rows' must be in 0 .. {self.n_cells - 1}, got {array.min()} .. {array.max()}; give rows "
                f"that corpus {self.name!r} has"
            )
        return array.astype(np.int64)

    @checked
    def to(self, device: torch.device | str) -> Corpus:
        """The same corpus with its tokens copied to the memory of a CUDA device, where batches are put together then.

        A million cells of 1,500 tokens take 3 GB. `Loader` reads corpora on the CPU.
        """
        there = copy.copy(self)
        there._chunks = self._chunks.to(choose_device(device))
        return there

    def batch(self, rows: np.ndarray, max_len: int) -> Batch:
        """Cells by row, the first `max_len` tokens of each, padded to the longest of them.

        Parameters
        ----------
        rows
            int64 [B], in any order, repeats allowed.
        max_len
            Most tokens of a cell.

        Raises
        ------
        InputError
            A row is not in 0 .. n_cells - 1 or is damaged, or a token not in the vocabulary.
        """
        cell_ids, (input_ids, lengths, _) = self._gather(ops.gather_tokens, rows, max_len, packed=False)
        return Batch(input_ids, lengths, cell_ids)

    def packed_batch(self, rows: np.ndarray, max_len: int) -> PackedBatch:
        """Cells by row, the first `max_len` tokens of each, one behind the other. Raises as `batch` does."""
        cell_ids, (input_ids, lengths, cu_seqlens) = self._gather(ops.gather_tokens, rows, max_len, packed=True)
        return PackedBatch(input_ids, lengths, cell_ids, cu_seqlens)

    def batches(self, rows: np.ndarray, max_len: int, *, packed: bool) -> list[Batch] | list[PackedBatch]:
        """Several batches in one call, each as `batch` or `packed_batch` gives it; of a corpus on the CPU.

        `rows` is int64 [n, B]. Raises as `batch` does.
        """
        cell_ids, found = self._gather(ops.gather_batches, rows, max_len, packed=packed)
        parts = zip(found, cell_ids.unbind(), strict=True)
        if packed:
            return [PackedBatch(input_ids, lengths, ids, bounds) for (input_ids, lengths, bounds), ids in parts]
        return [Batch(input_ids, lengths, ids) for (input_ids, lengths, _), ids in parts]

    def _gather(self, op: Callable[..., Any], rows: np.ndarray, max_len: int, *, packed: bool) -> tuple[Tensor, Any]:
        """Rows as a tensor, and what the operator finds there."""
        rows = np.ascontiguousarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise InputError(f"corpus {self.name!r}: rows must be whole numbers, got {rows.dtype}")
        cell_ids = torch.tensor(rows.astype(np.int64, copy=False), device=self._chunks.device)
        try:
            return cell_ids, op(
                self._chunks,
                cell_ids,
                vocabulary=self.vocabulary.size,
                max_len=max_len,
                pad_id=self.vocabulary.pad_token_id,
                packed=packed,
            )
        except ValueError as error:
            found = str(error).removeprefix(f"corrmask.{op.__name__}: ")
            raise InputError(
                f"corpus {self.name!r}: {found}; give rows that it has, and the vocabulary that it was tokenised with"
            ) from None

    @checked
    def obs(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Columns of `obs` (all by default), indexed by the cells' names where the corpus has them.

        Raises
        ------
        InputError
            A column is missing; the message names those that exist.
        """
        import pandas as pd

        columns = self.obs_columns if columns is None else list(columns)
        for column in columns:
            if column not in self.obs_columns:
                raise InputError(
                    f"corpus {self.name!r} has no obs column {column!r} (it has {self.obs_columns}); carry it along "
                    f"with `corrmask tokenize --obs {column}`"
                )
        table = self._dataset.data.table
        frame = pd.DataFrame({column: table.column(column).to_pandas() for column in columns})
        if OBS_NAME in self._dataset.column_names:
            frame.index = pd.Index(table.column(OBS_NAME).to_pandas().to_numpy(dtype=object))
        else:
            frame.index = pd.Index([str(row) for row in range(self.n_cells)])
        return frame


@checked
def split_cells(n_cells: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, a pure function of the arguments.

    Parameters
    ----------
    n_cells
        Cells of the corpus.
    held_out
        Share of cells held out, 0 .. 1, rounded; at least one cell remains for training.
    seed
        Of the split: 0 or more.

    Returns
    -------
    train, held_out : numpy.ndarray
        int64, ascending.

    Raises
    ------
    InputError
        An argument is out of range.
    """
    if n_cells < 0 or not 0 <= held_out <= 1 or seed < 0:
        raise InputError(
            "split_cells: 'n_cells' and 'seed' must be at least 0 and 'held_out' in 0 .. 1, "
            f"got {n_cells}, {seed} and {held_out}"
        )
    n_held_out = min(round(n_cells * held_out), max(n_cells - 1, 0))
    order = np.random.default_rng([seed, 0x5717]).permutation(n_cells)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
