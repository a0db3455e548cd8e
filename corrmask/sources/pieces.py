"""Slices of zarr arrays of one dimension: pieces are decompressed where they belong, outside Python's lock.

zarr-python gives each piece to its event loop and copies it several times; here a thread reads the stored bytes and the
codec's own library decompresses them. What is written in a way that is not known here is left to zarr-python.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from corrmask.sources.faults import damaged

_ABSENT = 2**64 - 1  # what the index of a shard says of a piece that was never written


@dataclass(frozen=True)
class Pieces:
    """A zarr array of one dimension in a local folder, every piece of which must be there.

    Attributes
    ----------
    name
        What messages call it.
    prefix
        Path of its files, without their number.
    shape, dtype
        Of the array.
    file_size, size
        Values in a file, and in each piece of it that is compressed by itself.
    sharded
        Whether a file ends with an index of its pieces.
    codec
        What decompresses a piece, of numcodecs; None where it is stored as it is.
    """

    name: str
    prefix: str
    shape: tuple[int]
    dtype: np.dtype
    file_size: int
    size: int
    sharded: bool
    codec: Any

    def __getitem__(self, rows: slice) -> np.ndarray:
        """The values of a slice without a step.

        Raises
        ------
        InputError
            A file or piece is not there (zarr takes it for zeros), or does not hold what it should.
        """
        low, high, _ = rows.indices(self.shape[0])
        result = np.empty(max(0, high - low), dtype=self.dtype)
        for number in range(low // self.file_size, -(-high // self.file_size)):
            first = number * self.file_size
            begin, end = max(low, first), min(high, first + self.file_size)
            for start, stored, path in self._read(number, begin - first, end - first):
                into, stop = first + start, first + start + self.size
                if begin <= into and stop <= end and self._decodes_alone(stored):
                    self.codec.decode(stored, out=result[into - low : stop - low])
                    continue
                kept = slice(max(begin - into, 0), self.size - max(stop - end, 0))
                result[max(into, begin) - low : min(stop, end) - low] = self._decode(stored, path)[kept]
        return result

    def _read(self, number: int, begin: int, end: int) -> Iterator[tuple[int, bytes, str]]:
        """The pieces of a file that hold its values begin .. end - 1: where each starts, as it is stored, its file."""
        path = f"{self.prefix}{number}"
        try:
            with open(path, "rb") as file:
                length = os.fstat(file.fileno()).st_size
                places = [[0, length]]
                if self.sharded:
                    size = 16 * (self.file_size // self.size) + 4
                    places = _index(os.pread(file.fileno(), size, max(0, length - size)), path)
                for piece in range(begin // self.size, -(-end // self.size)):
                    offset, stored = places[piece]
                    if offset == _ABSENT or offset + stored > length:
                        raise damaged(path, f"its piece {piece} is not there")
                    yield piece * self.size, os.pread(file.fileno(), stored, offset), path
        except FileNotFoundError:
            raise damaged(self.name, f"{os.path.relpath(path, self.name)} is not there") from None

    def _decodes_alone(self, stored: bytes) -> bool:
        """Whether the codec fills the place of a piece, as the piece says of itself: of less it would not complain."""
        return getattr(self.codec, "codec_id", None) == "zstd" and _zstd_size(stored) == self.size * self.dtype.itemsize

    def _decode(self, stored: bytes, path: str) -> np.ndarray:
        plain = stored if self.codec is None else self.codec.decode(stored)
        if len(plain) != self.size * self.dtype.itemsize:
            raise damaged(path, f"a piece of {len(plain)} bytes instead of {self.size * self.dtype.itemsize}")
        return np.frombuffer(plain, dtype=self.dtype)


def _zstd_size(stored: bytes) -> int | None:
    """Bytes of the content of a zstd frame, as its head gives them (RFC 8878, 3.1.1.1)."""
    if len(stored) < 18 or stored[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = stored[4]
    is_single = flags >> 5 & 1
    n_bytes = (is_single, 2, 4, 8)[flags >> 6]
    first = 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3]  # behind the window and the number of the dictionary
    size = int.from_bytes(stored[first : first + n_bytes], "little") + (256 if n_bytes == 2 else 0)
    return size if n_bytes else None


def _index(stored: bytes, path: str) -> list[list[int]]:
    """Offset and length of each piece of a shard, from the end of its file."""
    import google_crc32c

    if google_crc32c.value(stored[:-4]) != int.from_bytes(stored[-4:], "little"):
        raise damaged(path, "its index does not match the checksum")
    return np.frombuffer(stored[:-4], dtype="<u8").reshape(-1, 2).tolist()


def open_pieces(folder: str, name: str) -> Pieces | None:
    """The zarr array in a folder, or None where there is none, or it is stored in another way than is known here."""
    for file, layout in (("zarr.json", _layout_3), (".zarray", _layout_2)):
        path = os.path.join(folder, file)
        if os.path.exists(path):
            with open(path) as opened:
                return layout(json.load(opened), folder, name)
    return None


def _layout_3(document: Any, folder: str, name: str) -> Pieces | None:
    match document:
        case {
            "shape": [int(length)],
            "data_type": str(dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [int(file_size)]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": str(separator)}},
            "codecs": [*codecs],
        } if sys.byteorder == "little" and not document.get("storage_transformers"):
            size, sharded = file_size, False
        case _:
            return None
    match codecs:
        case [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [int(size)],
                    "codecs": [*codecs],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                    **where,
                },
            }
        ] if where.get("index_location", "end") == "end":
            sharded = True
    match codecs:
        case [{"name": "bytes", "configuration": {"endian": "big"}}, *_]:
            return None
        case [{"name": "bytes"}]:
            codec = None
        case [{"name": "bytes"}, {"name": str(codec)}]:
            pass
        case _:
            return None
    return _pieces(name, f"{folder}/c{separator}", length, dtype, file_size, size, sharded, codec)


def _layout_2(document: Any, folder: str, name: str) -> Pieces | None:
    match document:
        case {"shape": [int(length)], "chunks": [int(size)], "dtype": str(dtype), "filters": None | []}:
            compressor = document.get("compressor")
            codec = None if compressor is None else str(compressor.get("id"))
            return _pieces(name, f"{folder}/", length, dtype, size, size, False, codec)
    return None


def _pieces(
    name: str, prefix: str, length: int, dtype: str, file_size: int, size: int, sharded: bool, codec: str | None
) -> Pieces | None:
    try:
        from numcodecs import LZ4, Blosc, GZip, Zlib, Zstd
    except ImportError:
        return None
    codecs: dict[str | None, Any] = {"zstd": Zstd(), "blosc": Blosc(), "gzip": GZip(), "zlib": Zlib(), "lz4": LZ4()}
    try:
        number = np.dtype(dtype)
    except TypeError:
        return None
    if codec not in codecs | {None: None} or number.kind not in "iuf" or not number.isnative:
        return None
    return Pieces(name, prefix, (length,), number, file_size, size, sharded, codecs.get(codec))
