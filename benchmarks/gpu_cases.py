"""What gpu_gate.py times: each kernel beside its peers, checked first, by CUDA events."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corrmask import CorrMasker, ops
from corrmask.bench import cells, packages
from corrmask.bench.masking import torch_random
from corrmask.covariance import Covariance

N_GENES, NONZEROS, WIDTH = 20_000, 1_500, 2048
BATCHES = (64, 4096, 65_536)
COVARIANCE_CELLS = 100_000


def milliseconds(run: Callable[[], Any], *, rounds: int = 20, warm_up: int = 3) -> float:
    """Median time of a call on the current stream."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(rounds):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        run()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after))
    return statistics.median(times)


def replayed(run: Callable[[], Any]) -> Callable[[], None]:
    """The same as replays of a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def report() -> Iterator[str]:
    """The lines of RESULTS-gpu.md."""
    bandwidth, bf16 = copied_bytes_per_second(), bf16_flops()
    yield ""
    yield f"Memory copied at {bandwidth / 1e9:,.0f} GB/s (both ways), bf16 product at {bf16 / 1e12:,.0f} TFLOP/s."
    yield from masking(bandwidth)
    yield from encoding(bandwidth)
    yield from covariance()
    yield from share_of_a_step()


def copied_bytes_per_second() -> float:
    """Of a block of 2 GB."""
    source = torch.ones(2**29, device="cuda")
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / milliseconds(lambda: target.copy_(source)) * 1e3


def bf16_flops(n: int = 8192) -> float:
    """Of a product [n, n] @ [n, n]."""
    a = torch.ones(n, n, dtype=torch.bfloat16, device="cuda")
    out = torch.empty_like(a)
    return 2 * n**3 / milliseconds(lambda: torch.mm(a, a, out=out)) * 1e3


def table(title: str, note: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield note
    yield ""
    yield "| cells | what | ms | cells/s | time over ours | share of bandwidth |"
    yield "|---|---|---|---|---|---|"


def row(n_cells: int, what: str, ms: float, ours: float, share: float | None = None) -> str:
    shown = "" if share is None else f"{share:.0%}"
    return f"| {n_cells:,} | {what} | {ms:.3f} | {n_cells / ms * 1e3:,.0f} | {ms / ours:.1f} | {shown} |"


def masking(bandwidth: float) -> Iterator[str]:
    """Groups alone, and masks 80 / 10 / 10, from a batch on the device."""
    small = cells.draw_batch(BATCHES[0], WIDTH, NONZEROS, N_GENES)
    masker = CorrMasker(small.groups, 0.15, gene_token_range=(cells.SPECIAL_TOKENS, small.groups.vocabulary_size))
    on_device = CorrMasker(small.groups, 0.15, gene_token_range=masker.gene_token_range).cuda()
    epoch = torch.zeros(1, dtype=torch.int64, device="cuda")
    lines: dict[str, list[str]] = {"groups": [], "masks": []}
    for n_cells in BATCHES:
        pick = torch.arange(n_cells) % len(small.lengths)
        ids, lengths = small.input_ids[pick], small.lengths[pick]
        cell_ids = torch.arange(n_cells)
        narrow, wide = ids.to("cuda", torch.int32), ids.cuda()
        lengths_there, cells_there = lengths.cuda(), cell_ids.cuda()

        def groups(ids: Tensor = narrow, lengths: Tensor = lengths_there, cell_ids: Tensor = cells_there) -> Tensor:
            return on_device.owners(ids, lengths, cell_ids, epoch)

        def masks(ids: Tensor = wide, lengths: Tensor = lengths_there, cell_ids: Tensor = cells_there) -> Any:
            return on_device(ids, lengths, cell_ids, epoch)

        first = slice(0, 64)
        assert torch.equal(groups()[first].cpu(), masker.owners(ids[first].int(), lengths[first], cell_ids[first], 0))
        expected = masker(ids[first], lengths[first], cell_ids[first], 0)
        assert all(torch.equal(a[first].cpu(), b) for a, b in zip(masks(), expected, strict=True))
        for name, run, moved in (("groups", groups, 4 + 4), ("masks", masks, 8 + 8 + 8)):
            floor = n_cells * WIDTH * moved / bandwidth * 1e3
            graph, eager = milliseconds(replayed(run)), milliseconds(run)
            lines[name].append(row(n_cells, "**corrmask**, CUDA graph", graph, graph, floor / graph))
            lines[name].append(row(n_cells, "**corrmask**, eager", eager, graph, floor / eager))
            if name == "masks":
                batch = cells.Batch(wide, lengths_there, cells_there, small.groups)
                with torch.device("cuda"):
                    random = milliseconds(torch_random(batch))
                lines[name].append(row(n_cells, "random masks in torch on the GPU (restated)", random, graph))
                if n_cells <= 4096 and (collator_class := packages.collator_class()) is not None:
                    lines[name].append(_collator(collator_class, ids, lengths, small, graph))
    yield from table("Group sampling", "int32, 20,000 genes, 16 partners each, 2,048 positions, who masks whom alone.")
    yield from lines["groups"]
    yield from table("Masking 80 / 10 / 10", "int64 ids and labels; the same masks as on the CPU, bit for bit.")
    yield from lines["masks"]


def _collator(collator_class: Any, ids: Tensor, lengths: Tensor, small: cells.Batch, ours: float) -> str:
    """transformers' masking on the CPU, and the copy of its result."""
    from corrmask.bench.masking import _Tokenizer

    collator = collator_class(_Tokenizer(small.groups.vocabulary_size), mlm_probability=0.15)
    special = torch.arange(ids.shape[1]) >= lengths[:, None]

    def run() -> None:
        for one in collator.torch_mask_tokens(ids.clone(), special_tokens_mask=special):
            one.cuda()

    ms = milliseconds(run, rounds=5, warm_up=1)
    return row(len(ids), "transformers' collator on the CPU, and the copy", ms, ours)


def encoding(bandwidth: float, n_cells: int = 20_000) -> Iterator[str]:
    """Rank encoding and binning of counts on the device."""
    counts = cells.draw_counts(n_cells, N_GENES, NONZEROS)
    indptr = torch.from_numpy(counts.indptr.astype(np.int64))
    indices = torch.from_numpy(counts.indices.astype(np.int32))
    values = torch.from_numpy(counts.data)
    medians, tokens = torch.from_numpy(cells.typical_counts(counts)), torch.arange(N_GENES, dtype=torch.int32) + 4
    there = [tensor.cuda() for tensor in (indptr, indices, values, medians, tokens)]
    cell_ids = torch.arange(n_cells)
    encoded = ops.rank_encode(*there, max_len=WIDTH)
    expected = ops.rank_encode(indptr, indices, values, medians, tokens, max_len=WIDTH)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(encoded, expected, strict=True))
    ms = milliseconds(lambda: ops.rank_encode(*there, max_len=WIDTH))
    floor = (8 * len(indices) + 4 * n_cells * WIDTH) / bandwidth * 1e3
    nonzeros = f"{len(indices) / n_cells:,.0f} nonzeros a cell"
    yield from table("Rank encoding", f"{nonzeros}, 2,048 kept, counts on the device.")
    yield row(n_cells, "**corrmask**", ms, ms, floor / ms)
    yield row(n_cells, "sort of padded rows in torch (restated; ties in any order)", _padded_sort(there), ms)
    bins = ops.bin_values(*there[:3], cell_ids.cuda(), seed=1, epoch=0)
    assert torch.equal(bins.cpu(), ops.bin_values(indptr, indices, values, cell_ids, seed=1, epoch=0))
    ms = milliseconds(lambda: ops.bin_values(*there[:3], cell_ids.cuda(), seed=1, epoch=0))
    yield from table("Binning", "51 bins, the same cells.")
    yield row(n_cells, "**corrmask**", ms, ms, 12 * len(indices) / bandwidth * 1e3 / ms)


def _padded_sort(there: list[Tensor]) -> float:
    indptr, indices, values, medians, tokens = there
    lengths = indptr.diff()
    n_cells, width = len(lengths), int(lengths.max())
    inside = torch.arange(width, device="cuda") < lengths[:, None]

    def run() -> Tensor:
        keys = torch.full((n_cells, width), -1.0, dtype=torch.float64, device="cuda")
        genes = torch.zeros((n_cells, width), dtype=torch.int64, device="cuda")
        keys[inside] = values.double() / medians[indices]
        genes[inside] = indices.long()
        order = keys.argsort(dim=1, descending=True)[:, :WIDTH]
        return torch.where(keys.gather(1, order) > 0, tokens[genes.gather(1, order)], 0)

    return milliseconds(run, rounds=5, warm_up=1)


def covariance() -> Iterator[str]:
    """The Gram of cells that stream from host memory, beside products that others form."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("corrmask::covariance_update", "CUDA"):
        yield ""
        yield "## Covariance"
        yield ""
        yield "No CUDA kernel in this build: not measured."
        return
    n_cells, chunk = COVARIANCE_CELLS, 20_000
    counts = cells.draw_counts(chunk, N_GENES, NONZEROS)
    yield from table("Covariance", f"20,000 genes, {counts.nnz / chunk:,.0f} nonzeros a cell, counts in host memory.")

    def ours() -> None:
        sums = Covariance(N_GENES, device="cuda")
        for _ in range(n_cells // chunk):
            sums.update(counts)
        torch.cuda.synchronize()

    ms = milliseconds(ours, rounds=3, warm_up=1)
    yield row(n_cells, "**corrmask**", ms, ms)
    for name, run in _products(counts):
        try:
            peer = milliseconds(run, rounds=3, warm_up=1)
        except (RuntimeError, MemoryError) as error:
            yield f"| {chunk:,} | {name}: {str(error).splitlines()[0][:60]} | | | | |"
            continue
        yield row(n_cells, f"{name} ({n_cells // chunk} times one chunk)", peer * n_cells / chunk, ms)


def _products(counts: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Products of one chunk with itself, its copy to the device in the time of each."""
    normalised = cells.normalised(counts).astype(np.float32)
    n_cells, n_genes = normalised.shape

    def on_device() -> Tensor:
        parts = (torch.from_numpy(one).cuda() for one in (normalised.indptr, normalised.indices, normalised.data))
        return torch.sparse_csr_tensor(*parts, size=(n_cells, n_genes))

    def dense() -> Tensor:
        gram = torch.zeros(n_genes, n_genes, device="cuda")
        whole = on_device()
        for first in range(0, n_cells, 4096):
            piece = _rows(whole, first)
            gram.addmm_(piece.T, piece)
        return gram

    yield "dense float32 product by cuBLAS, chunk by chunk", dense
    yield "torch sparse CSR @ CSR", lambda: on_device().to_sparse_csc().transpose(0, 1) @ on_device()
    if packages.has("cupy"):
        import cupyx.scipy.sparse as csp

        yield "cupyx X.T @ X", lambda: (lambda x: x.T @ x)(csp.csr_matrix(normalised))
    if hasattr(torch.cuda, "_compile_kernel"):  # torch's NVRTC, from 2.9 on
        atomics = _atomics(n_genes)
        yield "float atomics, every pair of a cell (restated)", lambda: atomics(on_device())


def _rows(whole: Tensor, first: int) -> Tensor:
    """Rows first .. first + 4,095 of a CSR matrix as a dense one."""
    start, indices, values = whole.crow_indices(), whole.col_indices(), whole.values()
    last = min(first + 4096, whole.shape[0])
    low, high = int(start[first]), int(start[last])
    part = (start[first : last + 1] - low, indices[low:high], values[low:high])
    return torch.sparse_csr_tensor(*part, size=(last - first, whole.shape[1])).to_dense()


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


def _atomics(n_genes: int) -> Callable[[Tensor], Tensor]:
    """As rapids-singlecell adds: a block to a cell, each product to a dense float32 matrix, whichever comes first."""
    kernel = torch.cuda._compile_kernel(_PAIRS, "pairs")

    def run(whole: Tensor) -> Tensor:
        gram = torch.zeros(n_genes * n_genes, device="cuda")
        start, genes, values = whole.crow_indices().long(), whole.col_indices().int(), whole.values()
        n_cells = whole.shape[0]
        kernel(grid=(n_cells, 1, 1), block=(256, 1, 1), args=[start, genes, values, gram, n_cells, n_genes])
        return gram

    return run


def share_of_a_step() -> Iterator[str]:
    """Masking beside a training step of Geneformer's shape of 10 M parameters."""
    from transformers import BertConfig, BertForMaskedLM

    batch = cells.draw_batch(32, WIDTH, NONZEROS, N_GENES)
    size = batch.groups.vocabulary_size
    config = BertConfig(
        vocab_size=size,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=WIDTH,
    )
    model = BertForMaskedLM(config).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    masker = CorrMasker(batch.groups, 0.15, gene_token_range=(cells.SPECIAL_TOKENS, size)).cuda()
    ids, lengths, cell_ids = batch.input_ids.cuda(), batch.lengths.cuda(), batch.cell_ids.cuda()
    attended = torch.arange(WIDTH, device="cuda") < lengths[:, None]
    shown, labels = masker(ids, lengths, cell_ids)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=shown, attention_mask=attended, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step_ms = milliseconds(step, rounds=10)
    mask_ms = milliseconds(lambda: masker(ids, lengths, cell_ids))
    n = sum(parameter.numel() for parameter in model.parameters())
    yield ""
    yield "## Share of a training step"
    yield ""
    yield (
        f"32 cells of up to 2,048 genes, {n / 1e6:.1f} M parameters, bf16: a step takes {step_ms:.1f} ms, masking "
        f"{mask_ms:.3f} ms (eager), {mask_ms / step_ms:.2%} of it."
    )
