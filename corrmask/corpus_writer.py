"""The tokenised cells are written: Arrow batches in shards, as `datasets` opens them, taken up again after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from torch import Tensor

from corrmask.corpus_files import OBS_NAME, STREAM_END, TOKEN_COLUMNS
from corrmask.errors import InputError
from corrmask.vocabulary import FILE_NAME, Vocabulary

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SHARD_CELLS = 200_000


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
        self.dtype = token_dtype(vocabulary)
        self._digest = xxhash.xxh3_128()
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
            self._digest.update(part.to_numpy())

    def append(self, input_ids: Tensor, lengths: Tensor, obs: pd.DataFrame) -> None:
        """Add cells.

        Parameters
        ----------
        input_ids, lengths
            int32 [n, max_len] and int64 [n], as `corrmask.ops.rank_encode` gives them.
        obs
            [n] rows; all columns are carried along, the index as column ``obs_name``.
        """
        tokens = np.empty(int(lengths.sum()), dtype=self.dtype)
        copy_tokens(input_ids, lengths, tokens)
        self.append_ragged(tokens, lengths.numpy(), obs)

    def append_ragged(self, tokens: np.ndarray, lengths: np.ndarray, obs: pd.DataFrame) -> None:
        """Add cells whose tokens stand one behind the other: `dtype` [sum of lengths], int64 [n]."""
        import pyarrow as pa

        check_obs_names(obs.columns)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns: dict[str, pa.Array] = {
            "input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)),
            "length": pa.array(lengths),
            OBS_NAME: pa.array(obs.index.astype(str).to_numpy(dtype=object), type=pa.string()),
        }
        for name in obs.columns:
            columns[str(name)] = _arrow_column(obs[name])
        table = pa.table(columns)
        if not len(lengths):
            return
        if self._schema is None:
            self._schema = _with_features(table.schema)
        try:
            table = _cast(table, self._schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise InputError(f"obs columns differ in kind between files ({error}); carry other columns") from error
        if self._sink is None or self._in_shard >= SHARD_CELLS:
            self._open_shard()
        (batch,) = table.combine_chunks().to_batches()
        self._count(batch)
        self._sink.write(batch.serialize())
        self._sink.flush()
        self._in_shard += len(lengths)
        self.n_cells += len(lengths)

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
            self._sink.write(STREAM_END)
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


def token_dtype(vocabulary: Vocabulary) -> np.dtype:
    """uint16 where all tokens fit, else int32."""
    return np.dtype(np.uint16 if vocabulary.size <= 2**16 else np.int32)


def copy_tokens(input_ids: Tensor, lengths: Tensor, tokens: np.ndarray) -> None:
    """Copy int32 [n, max_len] without its padding: [sum of lengths]."""
    stop = 0
    for row, length in zip(input_ids.numpy(), lengths.tolist(), strict=True):
        start, stop = stop, stop + length
        tokens[start:stop] = row[:length]  # five times as fast as a mask over all of the padding


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
        if name in (*TOKEN_COLUMNS, OBS_NAME):
            raise InputError(f"obs column {name!r}: the corpus has a column of its own by this name; rename yours")


def _arrow_column(column: pd.Series) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        # The nullable types of pandas know what is missing; as numpy arrays they would be objects.
        return pa.array(column.array if pd.api.types.is_extension_array_dtype(column.dtype) else column.to_numpy())
    values = [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
    return pa.array(values, type=pa.string())


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns in the types of the first file, where nothing is lost by it: 0.0 as text could be "0" and "0.0"."""
    import pyarrow as pa

    found = table.cast(schema)
    for before, after in zip(table.schema, schema, strict=True):
        if before.type == after.type:
            continue
        back = found.column(before.name).cast(before.type).to_pandas()
        uncertain = pa.types.is_floating(before.type) and pa.types.is_string(after.type)
        if uncertain or not back.equals(table.column(before.name).to_pandas()):
            raise pa.ArrowInvalid(f"{before.name!r} is {before.type}, in the first file {after.type}")
    return found


def _with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with the metadata that `datasets` keeps its feature types in."""
    from datasets import Features

    return Features.from_arrow_schema(schema).arrow_schema
