"""The files of a corpus as they are found: whole or not, Arrow or Parquet, and their tokens where they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrmask import ops
from corrmask.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # what Arrow writes as it closes a stream


OBS_NAME = "obs_name"
TOKEN_COLUMNS = ("input_ids", "length")


def check_shards(path: Path) -> None:
    """Raise InputError where a shard was cut short: Arrow would take a stream that lacks its end for a shorter one."""
    state = path / "state.json"
    names = [file["filename"] for file in json.loads(state.read_text())["_data_files"]] if state.exists() else []
    for name in names:
        shard = path / name
        if not shard.exists():
            raise InputError(f"corpus {str(path)!r} lacks its file {name!r}; copy it again, or write the corpus anew")
        with shard.open("rb") as file:
            file.seek(max(0, shard.stat().st_size - len(STREAM_END)))
            if file.read() != STREAM_END:
                raise InputError(
                    f"corpus {str(path)!r}: {name!r} is cut short; copy it again, or write the corpus anew"
                )


def parquet_files(path: Path) -> list[Path]:
    """The file, or those of a folder; none where it is a folder of `datasets`."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return [] if (path / "state.json").exists() else sorted(path.glob("*.parquet"))


def read_parquet(files: Sequence[Path]) -> tuple[Any, str]:
    """The files' rows, one after another, and the hash of their bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    digest = hashlib.blake2b(digest_size=16)
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file))
        except (pa.ArrowException, OSError) as error:
            found = " ".join(str(error).split())
            raise InputError(
                f"corpus: {str(file)!r} cannot be read ({found}); copy it again, or write it anew"
            ) from error
        with file.open("rb") as opened:
            while block := opened.read(1 << 24):
                digest.update(block)
    return Dataset(pa.concat_tables(tables)), digest.hexdigest()


def check_token_column(column: pa.ChunkedArray, name: str) -> None:
    """Raise InputError where the column holds anything but lists of whole numbers."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
        raise InputError(
            f"corpus {name!r}: 'input_ids' must hold lists of whole numbers, it holds {kind}; tokenise anew"
        )
    if column.null_count or any(chunk.values.null_count for chunk in column.chunks):
        raise InputError(f"corpus {name!r}: 'input_ids' has missing values; tokenise anew")


def token_chunks(column: pa.ChunkedArray) -> ops.TokenChunks:
    """The column's buffers where they lie; tokens of a width that is rarely written are widened in memory."""
    import pyarrow as pa

    if column.type.value_type not in (pa.uint16(), pa.int32(), pa.int64()):
        large = pa.types.is_large_list(column.type)
        column = column.cast(pa.large_list(pa.int64()) if large else pa.list_(pa.int64()))
    chunks = [chunk for chunk in column.chunks if len(chunk)]  # an empty one may have no offsets at all
    tokens = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
    return ops.TokenChunks(tokens, [chunk.offsets.to_numpy(zero_copy_only=True) for chunk in chunks])
