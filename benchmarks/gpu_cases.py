"""What gpu_gate.py times: each kernel beside its peers, checked first, by CUDA events."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gpu_covariance import covariance
from gpu_timing import Rates, Scale, row, table
from gpu_training import pretraining
from torch import Tensor

from corrmask import CorrMasker, ops
from corrmask.bench import cells, packages
from corrmask.bench.masking import torch_random

FAILED = "**failed**:"
TARGETS = {  # on an H200: least, or most
    "group sampling at the largest batch, million cells/s": 60.0,
    "group sampling at the smallest batch, million cells/s": 6.0,
    "rank encoding, million cells/s": 5.0,
    "covariance, million cells/s": 2.0,
    "masking, % of a training step": 0.5,
    "waiting for cells and masks, % of training": 1.0,
}


def report(scale: Scale | None = None) -> Iterator[str]:
    """The lines of RESULTS-gpu.md."""
    scale = scale or Scale()
    rates = Rates.measured(scale)
    lines: list[str] = []
    for section in (masking, gathering, encoding, covariance, share_of_a_step, pretraining):
        part: list[str] = []
        try:
            for line in section(scale, rates):
                print(line, flush=True)
                part.append(line)
        except Exception:  # the others tell what they can
            traceback.print_exc(file=sys.stdout)
            part.append(f"{FAILED} {section.__name__}")
        lines += part
    yield from ("", rates.line())
    yield from targets(scale)
    yield from lines


def targets(scale: Scale) -> Iterator[str]:
    """What was aimed for on an H200, and what was measured here."""
    yield from ("", "## Targets (H200)", "", "| what | aimed for | here | |", "|---|---|---|---|")
    for what, wanted in TARGETS.items():
        most = what.startswith(("masking", "waiting"))
        found = scale.reached.get(what, math.nan)
        met = found <= wanted if most else found >= wanted
        aim = f"{'at most' if most else 'at least'} {wanted:g}"
        yield f"| {what} | {aim} | {found:.2f} | {'met' if met else '**missed**'} |"


def masking(scale: Scale, rates: Rates) -> Iterator[str]:
    """Groups alone, and masks 80 / 10 / 10, from a batch on the device."""
    small = cells.draw_batch(64, scale.width, scale.nonzeros, scale.n_genes)
    masker = CorrMasker(small.groups, 0.15, gene_token_range=(cells.SPECIAL_TOKENS, small.groups.vocabulary_size))
    there = CorrMasker(small.groups, 0.15, gene_token_range=masker.gene_token_range).to(scale.device)
    epoch = torch.zeros(1, dtype=torch.int64, device=scale.device)
    width = small.input_ids.shape[1]
    lines: dict[str, list[str]] = {"groups": [], "masks": []}
    for n_cells in scale.batches:
        pick = torch.arange(n_cells) % len(small.lengths)
        ids, lengths = small.input_ids[pick], small.lengths[pick]
        cell_ids = torch.arange(n_cells)
        narrow, wide = ids.to(scale.device, torch.int32), ids.to(scale.device)
        lengths_there, cells_there = lengths.to(scale.device), cell_ids.to(scale.device)

        def groups(ids: Tensor = narrow, lengths: Tensor = lengths_there, cell_ids: Tensor = cells_there) -> Tensor:
            return there.owners(ids, lengths, cell_ids, epoch)

        def masks(ids: Tensor = wide, lengths: Tensor = lengths_there, cell_ids: Tensor = cells_there) -> Any:
            return there(ids, lengths, cell_ids, epoch)

        first = slice(0, 64)
        assert torch.equal(groups()[first].cpu(), masker.owners(ids[first].int(), lengths[first], cell_ids[first], 0))
        expected = masker(ids[first], lengths[first], cell_ids[first], 0)
        assert all(torch.equal(a[first].cpu(), b) for a, b in zip(masks(), expected, strict=True))
        for name, run, moved in (("groups", groups, 4 + 4), ("masks", masks, 8 + 8 + 8)):
            floor = n_cells * width * moved / rates.bandwidth * 1e3
            graph, eager = scale.milliseconds(scale.replayed(run)), scale.milliseconds(run)
            lines[name].append(row(n_cells, "**corrmask**, CUDA graph", graph, graph, floor / graph))
            lines[name].append(row(n_cells, "**corrmask**, eager", eager, graph, floor / eager))
            if name == "masks":
                batch = cells.Batch(wide, lengths_there, cells_there, small.groups)
                with torch.device(scale.device):
                    random = scale.milliseconds(torch_random(batch))
                lines[name].append(row(n_cells, "random masks in torch on the GPU (restated)", random, graph))
                if n_cells <= 4096 and (collator_class := packages.collator_class()) is not None:
                    lines[name].append(_collator(scale, collator_class, ids, lengths, small, graph))
            elif n_cells in (min(scale.batches), max(scale.batches)):
                size = "smallest" if n_cells == min(scale.batches) else "largest"
                scale.reached[f"group sampling at the {size} batch, million cells/s"] = n_cells / graph / 1e3
    note = f"int32, {scale.n_genes:,} genes, 16 partners each, {width:,} positions, who masks whom alone."
    yield from table("Group sampling", note)
    yield from lines["groups"]
    yield from table("Masking 80 / 10 / 10", "int64 ids and labels; the same masks as on the CPU, bit for bit.")
    yield from lines["masks"]


def _collator(scale: Scale, collator_class: Any, ids: Tensor, lengths: Tensor, small: cells.Batch, ours: float) -> str:
    """transformers' masking on the CPU, and the copy of its result."""
    from corrmask.bench.masking import _Tokenizer

    collator = collator_class(_Tokenizer(small.groups.vocabulary_size), mlm_probability=0.15)
    special = torch.arange(ids.shape[1]) >= lengths[:, None]

    def run() -> None:
        for one in collator.torch_mask_tokens(ids.clone(), special_tokens_mask=special):
            one.to(scale.device)

    ms = scale.milliseconds(run, rounds=5, warm_up=1)
    return row(len(ids), "transformers' collator on the CPU, and the copy", ms, ours)


def gathering(scale: Scale, rates: Rates) -> Iterator[str]:
    """Batches out of a corpus in the device's memory, beside the CPU's and their copy."""
    rng = np.random.default_rng(0)
    n_rows = 4 * scale.batches[1]
    offsets = np.append(0, np.cumsum(rng.integers(scale.nonzeros // 2, scale.nonzeros * 3 // 2, n_rows)))
    tokens = rng.integers(0, scale.n_genes, offsets[-1]).astype(np.uint16)
    here = ops.TokenChunks([tokens], [offsets])
    there = here.to(scale.device)
    rows = torch.from_numpy(rng.permutation(n_rows)[: scale.batches[1]])
    rows_there = rows.to(scale.device)
    options: dict[str, Any] = {"vocabulary": scale.n_genes, "max_len": scale.width}
    got = ops.gather_tokens(there, rows_there, **options)
    expected = ops.gather_tokens(here, rows, **options)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True))
    ms = scale.milliseconds(lambda: ops.gather_tokens(there, rows_there, **options))
    moved = 2 * 2 * int(got[1].sum()) + 8 * got[0].numel()
    yield from table("Gathering", "uint16 tokens to padded int64 batches; the host waits once for their size.")
    yield row(len(rows), "**corrmask**, corpus on the device", ms, ms, moved / rates.bandwidth * 1e3 / ms)

    def copied() -> None:
        for one in ops.gather_tokens(here, rows, **options):
            one.to(scale.device)

    yield row(len(rows), "**corrmask** on the CPU, and the copy", scale.milliseconds(copied, rounds=5), ms)


def encoding(scale: Scale, rates: Rates) -> Iterator[str]:
    """Rank encoding and binning of counts on the device."""
    n_cells = scale.encoded_cells
    counts = cells.draw_counts(n_cells, scale.n_genes, scale.nonzeros)
    indptr = torch.from_numpy(counts.indptr.astype(np.int64))
    indices = torch.from_numpy(counts.indices.astype(np.int32))
    values = torch.from_numpy(counts.data)
    medians = torch.from_numpy(cells.typical_counts(counts))
    tokens = torch.arange(scale.n_genes, dtype=torch.int32) + 4
    there = [tensor.to(scale.device) for tensor in (indptr, indices, values, medians, tokens)]
    cell_ids = torch.arange(n_cells)
    encoded = ops.rank_encode(*there, max_len=scale.width)
    expected = ops.rank_encode(indptr, indices, values, medians, tokens, max_len=scale.width)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(encoded, expected, strict=True))
    ms = scale.milliseconds(lambda: ops.rank_encode(*there, max_len=scale.width))
    scale.reached["rank encoding, million cells/s"] = n_cells / ms / 1e3
    floor = (8 * len(indices) + 4 * n_cells * scale.width) / rates.bandwidth * 1e3
    nonzeros = f"{len(indices) / n_cells:,.0f} nonzeros a cell"
    yield from table("Rank encoding", f"{nonzeros}, {scale.width:,} kept, counts on the device.")
    yield row(n_cells, "**corrmask**", ms, ms, floor / ms)
    padded = _padded_sort(scale, there)
    yield row(n_cells, "sort of padded rows in torch (restated; ties in any order)", padded, ms)
    cells_there = [*there[:3], cell_ids.to(scale.device)]
    bins = ops.bin_values(*cells_there, seed=1, epoch=0)
    assert torch.equal(bins.cpu(), ops.bin_values(indptr, indices, values, cell_ids, seed=1, epoch=0))
    ms = scale.milliseconds(lambda: ops.bin_values(*cells_there, seed=1, epoch=0))
    yield from table("Binning", "51 bins, the same cells.")
    yield row(n_cells, "**corrmask**", ms, ms, 12 * len(indices) / rates.bandwidth * 1e3 / ms)


def _padded_sort(scale: Scale, there: list[Tensor]) -> float:
    indptr, indices, values, medians, tokens = there
    lengths = indptr.diff()
    n_cells, width = len(lengths), int(lengths.max())
    inside = torch.arange(width, device=scale.device) < lengths[:, None]

    def run() -> Tensor:
        keys = torch.full((n_cells, width), -1.0, dtype=torch.float64, device=scale.device)
        genes = torch.zeros((n_cells, width), dtype=torch.int64, device=scale.device)
        keys[inside] = values.double() / medians[indices]
        genes[inside] = indices.long()
        order = keys.argsort(dim=1, descending=True)[:, : scale.width]
        return torch.where(keys.gather(1, order) > 0, tokens[genes.gather(1, order)], 0)

    return scale.milliseconds(run, rounds=5, warm_up=1)


def share_of_a_step(scale: Scale, _: Rates) -> Iterator[str]:
    """Masking beside a training step of Geneformer's shape of 10 M parameters."""
    from transformers import BertConfig, BertForMaskedLM

    batch = cells.draw_batch(scale.step_cells, scale.width, scale.nonzeros, scale.n_genes)
    size, width = batch.groups.vocabulary_size, batch.input_ids.shape[1]
    config = BertConfig(
        vocab_size=size,
        hidden_size=256,
        num_hidden_layers=scale.layers,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=width,
    )
    model = BertForMaskedLM(config).to(scale.device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    masker = CorrMasker(batch.groups, 0.15, gene_token_range=(cells.SPECIAL_TOKENS, size)).to(scale.device)
    ids, lengths, cell_ids = (one.to(scale.device) for one in (batch.input_ids, batch.lengths, batch.cell_ids))
    attended = torch.arange(width, device=scale.device) < lengths[:, None]
    shown, labels = masker(ids, lengths, cell_ids)

    def step() -> None:
        with torch.autocast(scale.device, torch.bfloat16):
            loss = model(input_ids=shown, attention_mask=attended, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step_ms = scale.milliseconds(step, rounds=10)
    mask_ms = scale.milliseconds(lambda: masker(ids, lengths, cell_ids))
    scale.reached["masking, % of a training step"] = 100 * mask_ms / step_ms
    n = sum(parameter.numel() for parameter in model.parameters())
    yield from ("", "## Share of a training step", "")
    yield (
        f"{scale.step_cells} cells of up to {width:,} genes, {n / 1e6:.1f} M parameters, bf16: a step takes "
        f"{step_ms:.1f} ms, masking {mask_ms:.3f} ms (eager), {mask_ms / step_ms:.2%} of it."
    )
