"""The Gram matrix of cells that stream from host memory, beside products that others form; what gpu_gate.py times."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_timing import Rates, Scale, not_run, row, table
from torch import Tensor

from corrmask.bench import cells, packages
from corrmask.covariance import Covariance, no_edges

FOLDER = Path(__file__).resolve().parent
BOUND = 1e-5  # of a correlation


def covariance(scale: Scale, rates: Rates) -> Iterator[str]:
    """Ours, its edges, and the peers."""
    chunk, n_chunks = scale.chunk, scale.covariance_cells // scale.chunk
    counts = cells.draw_counts(chunk, scale.n_genes, scale.nonzeros)
    check(scale, counts)

    def ours() -> Covariance:
        sums = Covariance(scale.n_genes, device=scale.device)
        for _ in range(n_chunks):
            sums.update(counts)
        scale.synchronize()
        return sums

    n_cells, n_bytes = n_chunks * chunk, n_chunks * (counts.data.nbytes + counts.indices.nbytes)
    ms = scale.milliseconds(ours, rounds=3, warm_up=1)
    scale.reached["covariance, million cells/s"] = n_cells / ms / 1e3
    note = f"{scale.n_genes:,} genes, {counts.nnz / chunk:,.0f} nonzeros a cell, counts in host memory."
    yield from table("Covariance", note, "share of the bus")
    yield row(n_cells, "**corrmask**", ms, ms, n_bytes / rates.bus * 1e3 / ms)
    sums, there = ours(), scale.device
    edges = scale.milliseconds(
        lambda: sums.update_edges(*no_edges(scale.n_genes, 16, there), min_cells=10, min_corr=0.1), rounds=3, warm_up=1
    )
    yield row(n_cells, "its edges, 16 of each gene, once at the end", edges, ms)
    piece = counts[: scale.peer_cells]
    n_piece = piece.shape[0]
    for name, run in products(scale, piece):
        try:
            peer = scale.milliseconds(run, rounds=3, warm_up=1)
        except Exception as error:  # a peer may lack memory, its library, or this machine
            yield not_run(n_piece, name, error)
            continue
        yield row(n_cells, f"{name} ({n_piece:,} cells, as many times)", peer * n_cells / n_piece, ms)
    scale.release()
    yield from tiles(scale, rates)


def check(scale: Scale, counts: Any, n: int = 3000) -> None:
    """Correlations of the first cells and frequent genes against float64; the same bytes twice."""
    frequent = np.argsort(-np.bincount(counts.indices, minlength=scale.n_genes), kind="stable")[:n]
    part = counts[:n]
    results = []
    for _ in range(2):
        sums = Covariance(scale.n_genes, device=scale.device)
        sums.update(part)
        results.append(sums)
    assert torch.equal(results[0].gram, results[1].gram), "another Gram matrix at the second time"
    y = cells.normalised(part)[:, frequent].toarray().astype(np.float64)
    y -= y.mean(0)
    y /= np.maximum(np.sqrt((y**2).sum(0)), 1e-300)
    wanted = y.T @ y
    partners, weights = no_edges(scale.n_genes, 16, scale.device)
    results[0].update_edges(partners, weights, min_cells=10, min_corr=0.1)
    place = np.full(scale.n_genes, -1)
    place[frequent] = np.arange(len(frequent))
    found, strength = partners.cpu().numpy(), weights.cpu().numpy()
    own = np.repeat(np.arange(scale.n_genes), found.shape[1]).reshape(found.shape)
    both = (found >= 0) & (place[own] >= 0) & (place[np.maximum(found, 0)] >= 0)
    error = np.abs(strength[both] - wanted[place[own[both]], place[found[both]]]).max(initial=0)
    assert both.any(), "no edge was compared"
    assert error <= BOUND, f"a correlation is off by {error:.1e}"


def products(scale: Scale, counts: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Products of a chunk with itself, its copy to the device in the time of each."""
    normalised = cells.normalised(counts).astype(np.float32)
    n_cells, n_genes = normalised.shape

    def on_device() -> Tensor:
        arrays = normalised.indptr, normalised.indices, normalised.data
        indptr, indices, values = (torch.from_numpy(one).to(scale.device) for one in arrays)
        return torch.sparse_csr_tensor(indptr, indices, values, size=(n_cells, n_genes), check_invariants=False)

    gram = torch.zeros(n_genes, n_genes, device=scale.device)

    def product() -> Tensor:
        dense = on_device().to_dense()
        return gram.addmm_(dense.T, dense)

    yield "dense float32 product by cuBLAS (gemm)", product
    yield "dense float32 product by cuBLAS (syrk)", lambda: syrk(on_device().to_dense(), gram)
    yield "torch sparse CSR @ CSR", lambda: on_device().to_sparse_csc().transpose(0, 1) @ on_device()
    if packages.has("cupy"):
        yield "cupyx X.T @ X", lambda: (lambda x: x.T @ x)(import_module("cupyx.scipy.sparse").csr_matrix(normalised))
    yield "float atomics, every pair of a cell (restated)", lambda: atomics(on_device(), gram)


def syrk(dense: Tensor, gram: Tensor) -> Tensor:
    """gram += dense.T @ dense, one triangle of it, by the cuBLAS that torch has loaded."""
    if not dense.is_cuda:
        raise OSError("needs a GPU")
    loaded = re.search(r"\S*/libcublas\.so\S*", Path("/proc/self/maps").read_text())
    if loaded is None:
        raise OSError("torch has loaded no cuBLAS")
    n_cells, n_genes = dense.shape
    one = ctypes.c_float(1)
    status = ctypes.CDLL(loaded.group()).cublasSsyrk_v2(
        ctypes.c_void_p(torch.cuda.current_blas_handle()),
        *(ctypes.c_int(value) for value in (0, 0, n_genes, n_cells)),  # lower, not turned: columns are our rows
        ctypes.byref(one),
        ctypes.c_void_p(dense.data_ptr()),
        ctypes.c_int(n_genes),
        ctypes.byref(one),
        ctypes.c_void_p(gram.data_ptr()),
        ctypes.c_int(n_genes),
    )
    if status:
        raise RuntimeError(f"cublasSsyrk says {status}")
    return gram


_PAIRS = """
extern "C" __global__ void pairs(const long long* start, const int* genes, const float* values, float* gram,
                                 int n_cells, int n_genes) {
  for (int cell = blockIdx.x; cell < n_cells; cell += gridDim.x) {
    const long long first = start[cell];
    const int n = static_cast<int>(start[cell + 1] - first);
    for (int i = 0; i < n; ++i) {
      float* row = gram + static_cast<long long>(genes[first + i]) * n_genes;
      const float own = values[first + i];
      for (int j = i + threadIdx.x; j < n; j += blockDim.x) atomicAdd(row + genes[first + j], own * values[first + j]);
    }
  }
}
"""
_compiled: list[Any] = []


def atomics(whole: Tensor, gram: Tensor) -> Tensor:
    """As rapids-singlecell adds: a block to a cell, each product to a dense float32 matrix, whichever comes first."""
    if not whole.is_cuda:
        raise OSError("needs a GPU")
    if not _compiled:
        _compiled.append(torch.cuda._compile_kernel(_PAIRS, "pairs"))  # torch's NVRTC, from 2.9 on
    n_cells, n_genes = whole.shape
    arguments = [whole.crow_indices().long(), whole.col_indices().int(), whole.values(), gram, n_cells, n_genes]
    _compiled[0](grid=(n_cells, 1, 1), block=(256, 1, 1), args=arguments)
    return gram


def tiles(scale: Scale, rates: Rates) -> Iterator[str]:
    """The dense tiles alone: a program of its own, without torch."""
    yield from ("", "### Dense tiles by tensor cores", "")
    compiler = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if scale.device == "cpu" or not Path(compiler).exists():
        yield "No GPU, or no nvcc: not run."
        return
    major, minor = torch.cuda.get_device_capability()
    with tempfile.TemporaryDirectory() as folder:
        built = f"{folder}/tile_pieces"
        flags = ["-std=c++20", "-O3", "--fmad=false", f"-arch=sm_{major}{minor}"]
        subprocess.run([compiler, *flags, str(FOLDER / "tile_pieces.cu"), "-o", built], check=True)
        done = subprocess.run([built], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"tile_pieces: {done.stdout} {done.stderr}")
    yield from tile_lines(done.stdout, rates)


def tile_lines(printed: str, rates: Rates) -> Iterator[str]:
    """What tile_pieces prints, as a table."""
    yield "10,240 cells, 44 panels of 128 genes; the rate counts the products of all pieces."
    yield ""
    yield "| pieces | ms | TFLOP/s | share of the bf16 product's rate | largest error |"
    yield "|---|---|---|---|---|"
    for line in printed.splitlines():
        name, ms, rate, error = line.split()
        share = float(rate) * 1e12 / rates.bf16
        yield f"| {name} | {float(ms):.2f} | {float(rate):.0f} | {share:.0%} | {error} |"
