"""The tokenised cells on disk: written in shards, opened by `datasets`, read in batches."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

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
    """Cells as a model takes them."""

    input_ids: Tensor  # int64 [B, L], L the longest of the batch, padded
    lengths: Tensor  # int64 [B]
    cell_ids: Tensor  # int64 [B], rows of the corpus


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


def _check_token_column(column: pa.ChunkedArray, name: str) -> None:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
        raise InputError(
            f"corpus {name!r}: 'input_ids' must hold lists of whole numbers, it holds {kind}; tokenise anew"
        )
    if column.null_count or any(chunk.values.null_count for chunk in column.chunks):
        raise InputError(f"corpus {name!r}: 'input_ids' has missing values; tokenise anew")


class Corpus:
    """Tokenised cells, memory-mapped.

    Attributes
    ----------
    vocabulary
        Genes, special tokens and medians.
    lengths
        int64 [n_cells]: tokens of each cell.
    hash
        Hash of the content as it was written (for a corpus of another tool: the fingerprint that `datasets` keeps).
    """

    def __init__(self, dataset: Any, vocabulary: Vocabulary, name: str, content_hash: str) -> None:
        self.vocabulary = vocabulary
        self.name = name
        self.hash = content_hash
        self._dataset = dataset
        column = dataset.data.column("input_ids")
        _check_token_column(column, name)
        self._tokens: list[np.ndarray] = []
        starts, lengths, pieces = [], [], []
        for piece, chunk in enumerate(column.chunks):
            offsets = chunk.offsets.to_numpy()
            self._tokens.append(chunk.values.to_numpy())
            starts.append(offsets[:-1].astype(np.int64))
            lengths.append(np.diff(offsets).astype(np.int64))
            pieces.append(np.full(len(chunk), piece, dtype=np.int32))
        self._starts = np.concatenate(starts) if starts else np.zeros(0, np.int64)
        self._pieces = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)

    @classmethod
    def open(cls, path: str | Path, vocabulary: Vocabulary | None = None) -> Corpus:
        """Open a corpus of ours, or one that Geneformer's tokenizer wrote (with its vocabulary).

        Parameters
        ----------
        path
            Folder that `datasets.load_from_disk` opens, with ``input_ids``.
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
            dataset = load_from_disk(str(path))
            content_hash = ""
            if isinstance(dataset, Dataset):
                content_hash = str(json.loads((path / "state.json").read_text())["_fingerprint"])
        except Exception as error:  # pyarrow and datasets raise many kinds for a damaged folder
            raise InputError(
                f"corpus {str(path)!r} cannot be opened ({' '.join(str(error).split())}); write it anew"
            ) from error
        if not isinstance(dataset, Dataset):
            raise InputError(f"corpus {str(path)!r} holds several splits; give the folder of one of them")
        if "input_ids" not in dataset.column_names:
            raise InputError(f"corpus {str(path)!r} has no column 'input_ids' (it has {dataset.column_names})")
        if dataset._indices is not None:  # a selection that was saved without its cells being copied
            dataset = dataset.flatten_indices()
        if vocabulary is None:
            if not (path / FILE_NAME).exists():
                raise InputError(
                    f"corpus {str(path)!r} has no {FILE_NAME}; give its token dictionary (--vocabulary, vocabulary=)"
                )
            vocabulary = Vocabulary.load(path)
        return cls(dataset, vocabulary, str(path), content_hash)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.lengths)

    @property
    def obs_columns(self) -> list[str]:
        """Columns of `obs` that the corpus carries."""
        return [name for name in self._dataset.column_names if name not in (*_TOKEN_COLUMNS, OBS_NAME)]

    def __len__(self) -> int:
        return self.n_cells

    def batch(self, rows: np.ndarray, max_len: int) -> Batch:
        """Cells by row, the first `max_len` tokens of each, padded to the longest of them.

        Raises
        ------
        InputError
            A row is not in 0 .. n_cells - 1, or a token not in the vocabulary.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < self.n_cells:
            wrong = rows[(rows < 0) | (rows >= self.n_cells)][0]
            raise InputError(f"corpus {self.name!r} has no row {wrong}; rows are 0 .. {self.n_cells - 1}")
        lengths = np.minimum(self.lengths[rows], max_len)
        width = int(lengths.max(initial=0))
        input_ids = np.full((len(rows), width), self.vocabulary.pad_token_id, dtype=np.int64)
        for i, row in enumerate(rows):
            start = self._starts[row]
            input_ids[i, : lengths[i]] = self._tokens[self._pieces[row]][start : start + lengths[i]]
        if input_ids.size and (int(input_ids.max()) >= self.vocabulary.size or int(input_ids.min()) < 0):
            wrong = input_ids[(input_ids < 0) | (input_ids >= self.vocabulary.size)][0]
            raise InputError(
                f"corpus {self.name!r} holds token {wrong}, its vocabulary has {self.vocabulary.size}; "
                "give the vocabulary that it was tokenised with"
            )
        return Batch(torch.from_numpy(input_ids), torch.from_numpy(lengths), torch.from_numpy(rows))

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
