"""CUDA operators against the CPU's, bit by bit; all skip where there is no GPU (benchmarks/gpu_gate.py runs them)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import MaskingCase, masking_cases, random_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import corrmask
from corrmask.ops import bin_values, mask_tokens, philox4x32, rank_encode, sample_groups

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and corrmask._library.cuda_is_loaded), reason="needs a GPU and the CUDA operators"
)
MANY = settings(max_examples=1500, suppress_health_check=list(HealthCheck))
CORRUPTION: dict[str, Any] = {
    "mask_token_id": 1,
    "mask_threshold": round(0.8 * 2**32),
    "random_threshold": round(0.1 * 2**32),
}
TOKEN_DTYPES = [torch.int32, torch.int64, torch.uint16]


def on_gpu(values: Any) -> Any:
    """Every tensor in a tuple or a dict on the GPU."""
    if isinstance(values, Tensor):
        return values.cuda()
    if isinstance(values, dict):
        return {name: on_gpu(value) for name, value in values.items()}
    return tuple(map(on_gpu, values)) if isinstance(values, tuple) else values


def same(on_device: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> bool:
    if isinstance(expected, Tensor):
        assert isinstance(on_device, Tensor)
        return on_device.is_cuda and torch.equal(on_device.cpu(), expected)
    return all(same(a, b) for a, b in zip(on_device, expected, strict=True))


def many_cells(width: int, vocabulary: int, n_cells: int = 300, **options: Any) -> MaskingCase:
    return random_case(
        np.random.default_rng(width), n_cells=n_cells, width=width, vocabulary=vocabulary, seed=2**62 + 3, **options
    ).valid_padding()


def test_philox_equals_the_cpu() -> None:
    counter = torch.randint(0, 2**32, (100_000, 4))
    key = torch.tensor([2**32 - 1, 17])
    assert same(philox4x32(key.cuda(), counter.cuda()), philox4x32(key, counter))


@MANY
@given(masking_cases(), st.sampled_from(TOKEN_DTYPES[:2]))
def test_owners_equal_the_cpu(case: MaskingCase, dtype: torch.dtype) -> None:
    tensors = case.valid_padding().tensors(dtype)
    assert same(
        sample_groups(*on_gpu(tensors), **on_gpu(case.tensor_options)), sample_groups(*tensors, **case.tensor_options)
    )


@MANY
@given(masking_cases(), st.sampled_from(TOKEN_DTYPES[:2]), st.sampled_from(["token", "group"]))
def test_masks_equal_the_cpu(case: MaskingCase, dtype: torch.dtype, unit: Any) -> None:
    tensors = case.valid_padding().tensors(dtype)
    options = {**case.tensor_options, **CORRUPTION, "gene_token_range": (4, len(case.token_group)), "unit": unit}
    assert same(mask_tokens(*on_gpu(tensors), **on_gpu(options)), mask_tokens(*tensors, **options))


# Widths and vocabularies on both sides of where tables leave shared memory, and where entries grow.
@pytest.mark.parametrize(
    ("width", "vocabulary"),
    [
        (2048, 20_000),
        (2049, 20_000),
        (2048, 2**18 - 1),
        (2048, 2**18),
        (16_384, 60_000),
        (16_385, 60_000),
        (40_000, 300_000),
    ],
)
@pytest.mark.parametrize("repeats", [False, True])
def test_sizes(width: int, vocabulary: int, repeats: bool) -> None:
    case = many_cells(width, vocabulary, n_cells=50, repeats=repeats)
    tensors = case.tensors(torch.int32)
    assert same(sample_groups(*on_gpu(tensors), **case.options), sample_groups(*tensors, **case.options))


def test_a_batch_of_more_than_two_to_the_31_positions() -> None:
    width, n_cells = 16_384, 2**17 + 7
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GB of GPU memory")
    case = many_cells(width, 60_000, n_cells=8, repeats=False)
    tensors = case.tensors(torch.int32)
    ids, lengths, cells, *groups = on_gpu(tensors)
    rows = torch.arange(n_cells, device="cuda") % 8
    owners = sample_groups(ids[rows], lengths[rows], cells[rows], *groups, **case.options)
    expected = sample_groups(*tensors, **case.options)
    for row in (0, 2**17 - 1, 2**17, n_cells - 1):
        assert torch.equal(owners[row].cpu(), expected[row % 8])


def test_a_stream_of_its_own() -> None:
    case = many_cells(512, 5000)
    tensors = case.tensors(torch.int32)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        gpu = on_gpu(tensors)
        torch.cuda._sleep(10**7)
        owners = sample_groups(*gpu, **case.options)
    stream.synchronize()
    assert same(owners, sample_groups(*tensors, **case.options))


def test_a_cuda_graph_is_replayed_with_other_seeds_and_epochs() -> None:
    case = many_cells(512, 5000)
    tensors, gpu = case.tensors(), on_gpu(case.tensors())
    seed, epoch = torch.tensor([5], device="cuda"), torch.tensor([0], device="cuda")
    options = {**case.options, **CORRUPTION, "gene_token_range": (4, 5000)}
    moving = {**options, "seed": seed, "epoch": epoch}
    mask_tokens(*gpu, **moving)  # what is allocated and configured once, before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = mask_tokens(*gpu, **moving)
    for new_seed, new_epoch in ((5, 0), (5, 1), (2**62, 2**28 - 1)):
        seed.fill_(new_seed)
        epoch.fill_(new_epoch)
        graph.replay()
        torch.cuda.synchronize()
        assert same(result, mask_tokens(*tensors, **{**options, "seed": new_seed, "epoch": new_epoch}))


def test_compiled_without_a_break() -> None:
    case = many_cells(256, 3000)
    options = {**case.options, **CORRUPTION, "gene_token_range": (4, 3000)}

    @torch.compile(fullgraph=True)
    def step(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        ids, labels = mask_tokens(*tensors, **options)
        return ids + 1, labels

    ids, labels = step(*on_gpu(case.tensors()))
    expected = mask_tokens(*case.tensors(), **options)
    assert same((ids - 1, labels), expected)


def test_opcheck() -> None:
    case = many_cells(64, 300, n_cells=8)
    options = {**case.raw_options, "seed": torch.tensor(1), "epoch": torch.tensor(0)}
    torch.library.opcheck(torch.ops.corrmask.sample_groups, on_gpu(case.tensors()), options)


def test_what_cannot_be_raised_for_is_left_out() -> None:
    case = many_cells(64, 300, n_cells=3)
    case.lengths[:] = [64, 99, -1]
    case.input_ids[0, :5] = [-1, 300, 2**31 - 1, 10, 11]
    owners = sample_groups(*on_gpu(case.tensors()), **case.options).cpu()
    assert (owners[0, :3] == -1).all()
    assert (owners[1] >= 0).any()
    assert (owners[2] == -1).all()


def counts_of(n_cells: int, n_genes: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(n_genes)
    sizes = rng.integers(0, most + 1, n_cells)
    sizes[:2] = 0, most
    indices = np.concatenate([rng.permutation(n_genes)[:n] for n in sizes]).astype(np.int32)
    values = rng.geometric(0.4, len(indices)) - (rng.random(len(indices)) < 0.05)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    return torch.from_numpy(indptr), torch.from_numpy(indices), torch.from_numpy(values.astype(np.float32))


# Cells on both sides of where a launch of its own begins.
@pytest.mark.parametrize(
    ("n_genes", "most"), [(500, 300), (20_000, 3000), (20_000, 4097), (60_000, 16_385), (60_000, 40_000)]
)
def test_ranks_equal_the_cpu(n_genes: int, most: int) -> None:
    cells = counts_of(60, n_genes, most)
    rng = np.random.default_rng(0)
    medians = torch.from_numpy(rng.choice([0.5, 1.0, 1.5, 3.0], n_genes))
    tokens = torch.from_numpy(np.where(rng.random(n_genes) < 0.1, -1, np.arange(n_genes)).astype(np.int32))
    for max_len in (16, 2048, most):
        arguments = (*cells, medians, tokens)
        assert same(
            rank_encode(*on_gpu(arguments), max_len=max_len, pad_id=7),
            rank_encode(*arguments, max_len=max_len, pad_id=7),
        )


@pytest.mark.parametrize(("n_genes", "most"), [(500, 300), (20_000, 4097), (60_000, 20_000)])
@pytest.mark.parametrize("n_bins", [2, 51, 1000])
def test_bins_equal_the_cpu(n_genes: int, most: int, n_bins: int) -> None:
    cells = (*counts_of(40, n_genes, most), torch.arange(40) * 2**33)
    options = {"seed": 2**61, "epoch": 4, "n_bins": n_bins}
    assert same(bin_values(*on_gpu(cells), **options), bin_values(*cells, **options))


def test_the_same_bytes_twice() -> None:
    case = many_cells(2048, 20_000)
    gpu = on_gpu(case.tensors(torch.int32))
    first = sample_groups(*gpu, **case.options)
    for _ in range(20):
        assert torch.equal(first, sample_groups(*gpu, **case.options))


def test_the_masker_on_a_cuda_batch() -> None:
    """One launch: no copy to the host, no wait."""
    case = many_cells(512, 5000)
    ids, lengths, cells, *groups = case.tensors()
    table = corrmask.GroupTable(*groups)
    masker = corrmask.CorrMasker(table, seed=9, gene_token_range=(4, 5000)).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = [tensor.cuda() for tensor in (ids, lengths, cells)]
        result = masker(*batch, epoch=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = corrmask.CorrMasker(table, seed=9, gene_token_range=(4, 5000))(ids, lengths, cells, epoch=3)
    assert same(result, expected)
