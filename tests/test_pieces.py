"""zarr arrays read without zarr: the same values however they are stored, and what is not there is no zero."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from corrmask.errors import InputError
from corrmask.sources import open_sources
from corrmask.sources.pieces import Pieces, _zstd_size, open_pieces

zarr = pytest.importorskip("zarr", minversion="3")
numcodecs = pytest.importorskip("numcodecs")

N = 1000
V3: dict[str, dict[str, Any]] = {
    "as it is": {"compressors": None},
    "zstd": {},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "blosc": {"compressors": zarr.codecs.BloscCodec()},
    "shards": {"shards": (300,)},
    "one piece a shard": {"shards": (100,)},
    "last piece cut": {"chunks": (128,), "shards": (384,)},
}
V2: dict[str, Any] = {
    "as it is": None,
    "zstd": numcodecs.Zstd(),
    "blosc": numcodecs.Blosc(),
    "zlib": numcodecs.Zlib(),
    "gzip": numcodecs.GZip(),
    "lz4": numcodecs.LZ4(),
}


def write(path: Path, dtype: str = "int32", **options: Any) -> np.ndarray:
    """An array of numbers from 1 on, so that no piece is of zeros."""
    values = (np.arange(N) % 100 + 1).astype(dtype)
    options = {"chunks": (100,), "zarr_format": 3, **options}
    array = zarr.create_array(path, shape=(N,), dtype=dtype, **options)
    array[:] = values
    return values


def check(found: Pieces | None, values: np.ndarray) -> None:
    assert found is not None
    assert (found.shape, found.dtype) == (values.shape, values.dtype)
    rng = np.random.default_rng(0)
    bounds = [(0, N), (0, 0), (N, N), (99, 101), (100, 300), *np.sort(rng.integers(0, N + 1, (20, 2)))]
    for low, high in bounds:
        np.testing.assert_array_equal(found[int(low) : int(high)], values[low:high])


@pytest.mark.parametrize("kind", V3)
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16", "int64", "uint8"])
def test_version_3(tmp_path: Path, kind: str, dtype: str) -> None:
    values = write(tmp_path / "a", dtype, **V3[kind])
    check(open_pieces(str(tmp_path / "a"), "a"), values)


@pytest.mark.parametrize("kind", V2)
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_version_2(tmp_path: Path, kind: str, dtype: str) -> None:
    values = write(tmp_path / "a", dtype, zarr_format=2, compressors=V2[kind])
    check(open_pieces(str(tmp_path / "a"), "a"), values)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": ">i4", "zarr_format": 2},
        {"zarr_format": 2, "filters": [numcodecs.Delta("<i4")]},
        {"zarr_format": 2, "compressors": numcodecs.BZ2()},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    ],
    ids=["big endian", "filter", "bz2", "big endian, 3", "two codecs"],
)
def test_what_is_not_known_is_left_to_zarr(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path / "a", **options)
    assert open_pieces(str(tmp_path / "a"), "a") is None
    assert open_pieces(str(tmp_path / "b"), "b") is None


def test_a_piece_that_was_never_written(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(N,), dtype="int32", chunks=(100,), shards=(500,))
    array[:] = np.r_[np.ones(600), np.zeros(400)].astype(np.int32)  # zarr leaves out pieces of zeros
    found = open_pieces(str(tmp_path / "a"), "a")
    assert found is not None
    assert found[:600].all()
    with pytest.raises(InputError, match="its piece 1 is not there"):
        found[550:650]


def test_pieces_of_another_size(tmp_path: Path) -> None:
    write(tmp_path / "a")
    document = json.loads((tmp_path / "a" / "zarr.json").read_text())
    document["chunk_grid"]["configuration"]["chunk_shape"] = [50]
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(document))
    found = open_pieces(str(tmp_path / "a"), "a")
    assert found is not None
    for n in (10, N):  # a part of a piece; whole ones, which are decompressed in place
        with pytest.raises(InputError, match="a piece of 400 bytes instead of 200"):
            found[:n]


@pytest.mark.parametrize("n_bytes", [0, 1, 255, 256, 257, 65_791, 65_792, 1 << 20])
def test_the_size_of_a_zstd_frame(n_bytes: int) -> None:
    stored = numcodecs.Zstd().encode(np.random.default_rng(0).integers(0, 256, n_bytes, dtype=np.uint8))
    assert _zstd_size(stored) in (n_bytes, None)
    assert _zstd_size(stored) == n_bytes or len(stored) < 18
    assert _zstd_size(stored[:4]) is None
    assert _zstd_size(b"\0" + stored[1:]) is None
    unknown = stored[:4] + bytes([0]) + stored[5:]  # neither one segment nor a size
    assert _zstd_size(unknown) is None


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_a_lost_chunk_is_no_zero(tmp_path: Path, zarr_format: int, part: str) -> None:
    counts = sp.random_array((N, 20), density=0.3, format="csr", rng=0, dtype=np.float32).ceil()
    path = tmp_path / "cells.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces a new default
        ad.io.write_elem(group, "/", ad.AnnData(counts), dataset_kwargs={"chunks": 100})
    (source,) = open_sources(path)
    assert sum(chunk.counts.nnz for chunk in source.chunks()) == counts.nnz
    (path / "X" / part / ("c/1" if zarr_format == 3 else "1")).unlink()
    with pytest.raises(InputError, match=rf"damaged.*1 of \d+ chunks of 'X/{part}' are not there") as caught:
        open_sources(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counts", [np.zeros((5, 3)), np.ones((4, 1)), np.zeros((3, 1))])
def test_zeros_that_are_meant(tmp_path: Path, counts: np.ndarray) -> None:
    """Cells without counts, or a single gene: whole chunks of zeros, which zarr does not write."""
    path = tmp_path / "cells.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces a new default
        ad.AnnData(sp.csr_array(counts.astype(np.float32))).write_zarr(path)
    (source,) = open_sources(path)
    (chunk,) = source.chunks()
    np.testing.assert_array_equal(chunk.counts.toarray(), counts)
