"""The tokenised cells on disk: written in shards, opened by `datasets`, read in batches."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corrmask import ops
from corrmask.corpus_files import check_shards, check_token_column, parquet_files, read_parquet, token_chunks
from corrmask.errors import InputError
from corrmask.vocabulary import FILE_NAME, Vocabulary

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

OBS_NAME = "obs_name"
_TOKEN_COLUMNS = ("input_ids", "length")
SHARD_CELLS = 200_000
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


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


class CorpusWriter:
    """Writes a corpus into a folder: Arrow shards as `datasets.load_from_disk` opens them, and the vocabulary.

    Parameters
    ----------
    folder
        A folder that does not exist yet (use `corrmask.files.replacing`); with `state`, the one that was left.
    vocabulary
        Decides the token width: uint16 where all tokens fit, else int32.
    state
        What `state` returned after the last cells that are to be kept; what was written behind them is cut off.

    Raises
    ------
    InputError
        What the folder holds is not what was written up to `state`.
    """

    def __init__(self, folder: Path, vocabulary: Vocabulary, state: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.vocabulary = vocabulary
        self.n_cells = 0
        self._dtype = np.uint16 if vocabulary.size <= 2**16 else np.int32
        self._digest = hashlib.blake2b(digest_size=16)
        self._schema: pa.Schema | None = None
        self._shards: list[str] = []
        self._in_shard = 0
        self._sink: Any = None
        if state is None:
            folder.mkdir()
        else:
            self._take_up(state)

    def state(self) -> dict[str, Any]:
        """How far the cells go that are in the files now; JSON-safe."""
        size = 0 if self._sink is None else self._sink.tell()
        return {
            "n_cells": self.n_cells,
            "shards": self._shards,
            "in_shard": self._in_shard,
            "bytes": size,
            "digest": self._digest.hexdigest(),
        }

    def _take_up(self, state: dict[str, Any]) -> None:
        import pyarrow as pa

        self._shards, self._in_shard, self.n_cells = list(state["shards"]), state["in_shard"], state["n_cells"]
        try:
            for path in self.folder.iterdir():
                if path.name not in self._shards:
                    path.unlink()
            for name in self._shards:
                path = self.folder / name
                if name == self._shards[-1]:
                    if path.stat().st_size < state["bytes"]:
                        raise pa.ArrowInvalid("it was cut")
                    os.truncate(path, state["bytes"])
                with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                    self._schema = stream.schema
                    for batch in stream:
                        self._count(batch)
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged_part(self.folder) from error
        if self._digest.hexdigest() != state["digest"]:
            raise damaged_part(self.folder)
        if self._shards:
            self._sink = (self.folder / self._shards[-1]).open("ab")

    def _count(self, batch: pa.RecordBatch) -> None:
        """Add a batch to the hash of the content."""
        for part in (batch.column("input_ids").flatten(), batch.column("length")):
            self._digest.update(part.to_numpy().tobytes())

    def append(self, input_ids: Tensor, lengths: Tensor, obs: pd.DataFrame) -> None:
        """Add cells.

        Parameters
        ----------
        input_ids, lengths
            int32 [n, max_len] and int64 [n], as `corrmask.ops.rank_encode` gives them.
        obs
            [n] rows; all columns are carried along, the index as column ``obs_name``.
        """
        import pyarrow as pa

        check_obs_names(obs.columns)
        lengths_np = lengths.numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths_np)]).astype(np.int32)
        tokens = np.empty(offsets[-1], dtype=self._dtype)
        for row, start, stop in zip(input_ids.numpy(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            tokens[start:stop] = row[: stop - start]  # five times as fast as a mask over all of the padding
        columns: dict[str, pa.Array] = {
            "input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)),
            "length": pa.array(lengths_np),
            OBS_NAME: pa.array(obs.index.astype(str).to_numpy(dtype=object), type=pa.string()),
        }
        for name in obs.columns:
            columns[str(name)] = _arrow_column(obs[name])
        table = pa.table(columns)
        if not len(lengths_np):
            return
        if self._schema is None:
            self._schema = _with_features(table.schema)
        try:
            table = table.cast(self._schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise InputError(f"obs columns differ in kind between files ({error}); carry other columns") from error
        if self._sink is None or self._in_shard >= SHARD_CELLS:
            self._open_shard()
        (batch,) = table.combine_chunks().to_batches()
        self._count(batch)
        self._sink.write(batch.serialize())
        self._sink.flush()
        self._in_shard += len(lengths_np)
        self.n_cells += len(lengths_np)

    def _open_shard(self) -> None:
        """Begin a file: an Arrow stream is its schema, then batch after batch, so that it can be gone on with."""
        assert self._schema is not None
        self._close_shard()
        name = f"data-{len(self._shards):05d}.arrow"
        self._shards.append(name)
        self._sink = (self.folder / name).open("wb")
        self._sink.write(self._schema.serialize())
        self._in_shard = 0

    def _close_shard(self) -> None:
        if self._sink is not None:
            self._sink.write(_END_OF_STREAM)
            self._sink.close()
            self._sink = None

    def abandon(self) -> None:
        """Close what is open, after an error."""
        if self._sink is not None:
            with suppress(OSError):  # a full disk was told already
                self._sink.close()
            self._sink = None

    def close(self) -> None:
        """Finish the corpus: what `datasets` reads beside the shards, and ``vocabulary.json``."""
        from datasets import Features

        if self._schema is None:
            raise InputError("corpus: there are no cells to write; give files that hold cells")
        self._close_shard()
        self.vocabulary.save(self.folder / FILE_NAME)
        features = Features.from_arrow_schema(self._schema)
        info = {"citation": "", "description": "", "homepage": "", "license": "", "features": features.to_dict()}
        (self.folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in self._shards],
            "_fingerprint": self._digest.hexdigest(),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self.folder / "state.json").write_text(json.dumps(state, indent=2))


def damaged_part(folder: Path) -> InputError:
    """The error for parts of a corpus that are not what was written."""
    return InputError(f"{folder}: the parts that were kept are damaged; begin anew without --resume (resume=False)")


def check_obs_names(names: Iterable[object]) -> None:
    """Check that no column of obs has the name of one that the corpus itself writes.

    Raises
    ------
    InputError
        One has.
    """
    for name in names:
        if name in (*_TOKEN_COLUMNS, OBS_NAME):
            raise InputError(f"obs column {name!r}: the corpus has a column of its own by this name; rename yours")


def _arrow_column(column: pd.Series) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        # The nullable types of pandas know what is missing; as numpy arrays they would be objects.
        return pa.array(column.array if pd.api.types.is_extension_array_dtype(column.dtype) else column.to_numpy())
    values = [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
    return pa.array(values, type=pa.string())


def _with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with the metadata that `datasets` keeps its feature types in."""
    from datasets import Features

    return Features.from_arrow_schema(schema).arrow_schema


class Corpus:
    """Tokenised cells, memory-mapped: a batch is copied from the files' pages, once, by as many threads as ask for one.

    Attributes
    ----------
    vocabulary
        Genes, special tokens and medians.
    hash
        Hash of the content as it was written (for a corpus of another tool: the fingerprint that `datasets` keeps).
    """

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

    @classmethod
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
            There is no corpus, it is damaged, has no ``input_ids`` or no vocabulary.
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
        return cls(dataset, vocabulary, str(path), content_hash)

    @classmethod
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
        return [name for name in self._dataset.column_names if name not in (*_TOKEN_COLUMNS, OBS_NAME)]

    def __len__(self) -> int:
        return self.n_cells

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
        input_ids, lengths, cell_ids, _ = self._gather(rows, max_len, packed=False)
        return Batch(input_ids, lengths, cell_ids)

    def packed_batch(self, rows: np.ndarray, max_len: int) -> PackedBatch:
        """Cells by row, the first `max_len` tokens of each, one behind the other. Raises as `batch` does."""
        return PackedBatch(*self._gather(rows, max_len, packed=True))

    def _gather(self, rows: np.ndarray, max_len: int, packed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cell_ids = torch.tensor(np.asarray(rows, dtype=np.int64))
        try:
            input_ids, lengths, cu_seqlens = ops.gather_tokens(
                self._chunks,
                cell_ids,
                vocabulary=self.vocabulary.size,
                max_len=max_len,
                pad_id=self.vocabulary.pad_token_id,
                packed=packed,
            )
        except ValueError as error:
            found = str(error).removeprefix("corrmask.gather_tokens: ")
            raise InputError(
                f"corpus {self.name!r}: {found}; give rows that it has, and the vocabulary that it was tokenised with"
            ) from None
        return input_ids, lengths, cell_ids, cu_seqlens

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


def split_cells(n_cells: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, a pure function of the arguments.

    Parameters
    ----------
    n_cells
        Cells of the corpus.
    held_out
        Share of cells held out, rounded; at least one cell remains for training.
    seed
        Of the split.

    Returns
    -------
    train, held_out : numpy.ndarray
        int64, ascending.
    """
    n_held_out = min(round(n_cells * held_out), max(n_cells - 1, 0))
    order = np.random.default_rng([seed, 0x5717]).permutation(n_cells)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
