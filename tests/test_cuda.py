"""CUDA operators against the CPU's, bit by bit; all skip where there is no GPU (benchmarks/gpu_gate.py runs them)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import MaskingCase, masking_cases, random_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_covariance import BOUND, accumulators, assert_gram_close, chunk, gram_of, hard_genes, random_y
from test_gather_tokens import V, n_rows, random_pieces
from torch import Tensor

import corrmask
from corrmask.covariance import Covariance, no_edges
from corrmask.ops import (
    TokenChunks,
    bin_values,
    covariance_update,
    gather_tokens,
    mask_tokens,
    philox4x32,
    rank_encode,
    sample_groups,
    topk_edges,
)
from corrmask.ops.covariance_update import panels_offset, panels_size

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


# Widths and vocabularies on both sides of where rows are read 16 bytes at a time, of where blocks grow, and of where
# their memory is no longer shared.
@pytest.mark.parametrize(
    ("width", "vocabulary"),
    [
        (2048, 20_000),
        (2049, 20_000),
        (2050, 20_000),
        (2052, 120_000),
        (2048, 2**18),
        (16_384, 60_000),
        (16_385, 60_000),
        (40_000, 300_000),
        (2048, 2**20),
    ],
)
@pytest.mark.parametrize("repeats", [False, True])
def test_sizes(width: int, vocabulary: int, repeats: bool) -> None:
    case = many_cells(width, vocabulary, n_cells=50, repeats=repeats)
    tensors = case.tensors(torch.int32)
    assert same(sample_groups(*on_gpu(tensors), **case.options), sample_groups(*tensors, **case.options))


# Few cells have many warps each; blocks of many take several, and know the special tokens before.
@pytest.mark.parametrize("n_cells", [1, 64, 500, 600, 5000, 20_000])
@pytest.mark.parametrize("options", [{}, {"expand": 0}, {"max_group": 2, "rotate": True}], ids=str)
def test_numbers_of_cells(n_cells: int, options: dict[str, Any]) -> None:
    case = many_cells(260, 3000, n_cells=n_cells, repeats=n_cells == 600, **options)
    for dtype in TOKEN_DTYPES[:2]:
        tensors = case.tensors(dtype)
        expected = sample_groups(*tensors, **case.options)
        assert same(sample_groups(*on_gpu(tensors), **case.options), expected)
        shown = {**case.options, **CORRUPTION, "gene_token_range": (4, 3000), "unit": "group"}
        assert same(mask_tokens(*on_gpu(tensors), **shown), mask_tokens(*tensors, **shown))


def test_groups_of_every_size() -> None:
    """Members on both sides of how many are looked for ahead of a seed's turn, of a warp and of several."""
    sizes = [0, 1, 15, 16, 17, 31, 32, 33, 300]
    for options in ({}, {"rotate": True}, {"max_group": 16}, {"max_group": 20, "rotate": True}):
        case = many_cells(1024, 4000, n_cells=700, group_sizes=sizes, **options)
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


@pytest.mark.filterwarnings("ignore")  # torch's own, while inductor is imported
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
    masker = corrmask.CorrMasker(corrmask.GroupTable(*case.tensors()[3:]), seed=9, gene_token_range=(4, 3000))
    batch, epoch = case.tensors()[:3], torch.tensor([5])
    whole = torch.compile(masker.cuda(), fullgraph=True)(*on_gpu(batch), epoch.cuda())
    assert same(whole, masker.cpu()(*batch, epoch))


def test_opcheck() -> None:
    ops, cells = torch.ops.corrmask, counts_of(8, 40, 20)
    case = many_cells(64, 300, n_cells=8)
    scalars = {"seed": torch.tensor(1), "epoch": torch.tensor(0)}
    options = {**case.raw_options, **scalars}
    masked = {**options, "mask_token_id": 1, "gene_lo": 4, "gene_hi": 300, "unit_is_group": False}
    masked |= {"mask_threshold": 2**31, "random_threshold": 2**30}
    medians, tokens = torch.ones(40, dtype=torch.float64), torch.arange(40, dtype=torch.int32)
    chunks = TokenChunks(*random_pieces(np.random.default_rng(3), 6, np.uint16, np.int32)).to("cuda")
    gathered = {"token_bits": 16, "offset_bits": 32, "vocabulary": V, "max_len": 9, "pad_id": 0, "packed": True}
    y = random_y(np.random.default_rng(0), 20, 30)
    *sums, ranks = accumulators(30)
    gram = (*sums, ranks, *chunk(y, np.zeros(20, dtype=np.int64)))
    edges = (*no_edges(30, 4), torch.rand(panels_size(30)).double(), ranks, sums[1], torch.ones(30).double())
    for op, arguments, named in (
        (ops.philox4x32, (torch.tensor([1, 2]), torch.randint(0, 9, (5, 4))), {}),
        (ops.sample_groups, case.tensors(), options),
        (ops.mask_tokens, case.tensors(), masked),
        (ops.rank_encode, (*cells, medians, tokens), {"max_len": 9, "pad_id": 0}),
        (ops.bin_values, (*cells, torch.arange(8)), {**scalars, "n_bins": 5}),
        (ops.gather_tokens, (torch.tensor([2, 0, 2]), chunks.table), {**gathered, "wide": True}),
        (ops.covariance_update, gram, {"target_sum": 0.0, "first_panel": 0}),
        (ops.topk_edges, edges, {"first_panel": 0, "min_corr": 0.1, "positive": False}),
    ):
        torch.library.opcheck(op.default, on_gpu(tuple(arguments)), named)


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
    ("n_genes", "most"), [(500, 300), (20_000, 3000), (20_000, 4097), (20_000, 8193), (60_000, 40_000)]
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


@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_the_masker_on_a_cuda_batch() -> None:
    """One launch: no copy to the host, no wait."""
    case = many_cells(512, 5000)
    ids, lengths, cells, *groups = case.tensors()
    table = corrmask.GroupTable(*groups)
    masker = corrmask.CorrMasker(table, seed=9, gene_token_range=(4, 5000)).cuda()
    batch = [tensor.cuda() for tensor in (ids, lengths, cells)]  # copies from memory that is not pinned wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = masker(*batch, epoch=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = corrmask.CorrMasker(table, seed=9, gene_token_range=(4, 5000))(ids, lengths, cells, epoch=3)
    assert same(result, expected)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        masker(*batch, epoch=3)
        torch.cuda.synchronize()
    launched = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(launched) == 1, launched


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.uint16, np.int32, np.int64]),
    st.sampled_from([np.int32, np.int64]),
    st.sampled_from([torch.int32, torch.int64]),
    st.sampled_from([1, 17, 10**9]),
    st.booleans(),
)
def test_rows_are_gathered_as_on_the_cpu(
    case: int, kind: Any, offset: Any, dtype: torch.dtype, max_len: int, packed: bool
) -> None:
    rng = np.random.default_rng(case)
    pieces = random_pieces(rng, 4, kind, offset, longest=300)
    chunks = TokenChunks(*pieces)
    rows = torch.from_numpy(rng.integers(0, max(1, n_rows(pieces)), rng.integers(0, 99) * (n_rows(pieces) > 0)))
    options: dict[str, Any] = {"vocabulary": V, "max_len": max_len, "packed": packed, "dtype": dtype, "pad_id": 3}
    assert same(gather_tokens(chunks.to("cuda"), rows.cuda(), **options), gather_tokens(chunks, rows, **options))


def test_what_is_wrong_with_gathered_rows_is_said_as_on_the_cpu() -> None:
    tokens = np.array([0, 1, 2, 3, 9], dtype=np.int64)
    chunks = TokenChunks([tokens, tokens], [np.array([0, 1, 2, 5]), np.array([0, 2, 1])])
    for rows in ([0, 5], [1, -1], [0, 4], [2, 0]):
        with pytest.raises(ValueError) as expected:
            gather_tokens(chunks, torch.tensor(rows), vocabulary=5, max_len=9)
        with pytest.raises(ValueError) as found:
            gather_tokens(chunks.to("cuda"), torch.tensor(rows).cuda(), vocabulary=5, max_len=9)
        assert str(found.value) == str(expected.value)


def skewed_y(n_cells: int, n_genes: int, seed: int = 0) -> np.ndarray:
    """Genes from the rarest to those in nine of ten cells: tiles, strips, rare pairs and shifts."""
    rng = np.random.default_rng(seed)
    return random_y(rng, n_cells, n_genes, 1.0) * (rng.random((n_cells, n_genes)) < np.linspace(0, 0.97, n_genes) ** 3)


@pytest.mark.parametrize(("n_cells", "n_genes"), [(900, 700), (40, 130), (3000, 1500), (20_000, 300)])
def test_a_small_gram_equals_the_cpus(n_cells: int, n_genes: int) -> None:
    """Products within the bound, counts alike, the same bytes twice; edges of one matrix alike to the last byte."""
    y = skewed_y(n_cells, n_genes)
    levels = np.random.default_rng(1).integers(0, 3, n_cells)
    arguments, wanted = tuple(chunk(y, levels)), accumulators(n_genes, 3)
    covariance_update(*wanted, *arguments)
    results = []
    for _ in range(3):
        got = on_gpu(accumulators(n_genes, 3))
        covariance_update(*got, *on_gpu(arguments))
        results.append(tuple(one.cpu() for one in got))
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], again))
    for a, b in zip(results[0][1:3], wanted[1:3]):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)
    assert torch.equal(results[0][3], wanted[3])
    assert_gram_close(gram_of(results[0]), y.T @ y)
    factors, scale = torch.zeros(1, n_genes).double(), torch.full((n_genes,), 1e-4).double()
    edges = []
    for device in ("cpu", "cuda"):
        partners, weights = no_edges(n_genes, 7, device)
        rest = (one.to(device) for one in (wanted[0], wanted[4], factors, scale))
        topk_edges(partners, weights, *rest, min_corr=0.01)
        edges.append((partners.cpu(), weights.cpu()))
    assert torch.equal(edges[0][0], edges[1][0])
    assert torch.equal(edges[0][1], edges[1][1])


def test_the_bound_of_correlations() -> None:
    y = hard_genes(20_000, np.random.default_rng(3))
    r = np.corrcoef(y.T)
    sums = Covariance(y.shape[1], target_sum=None, device="cuda")
    for first in range(0, len(y), 7000):  # chunks through both buffers
        sums.update(sp.csr_array(y[first : first + 7000]))
    partners, weights = no_edges(y.shape[1], 42, "cuda")
    sums.update_edges(partners, weights, min_cells=0, min_corr=0)
    partners, weights = partners.cpu().numpy(), weights.cpu().numpy()
    rows, places = np.nonzero(partners >= 0)
    assert len(rows) > 1000
    assert np.abs(weights[rows, places] - r[rows, partners[rows, places]]).max() <= BOUND


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_the_graph_of_a_device() -> None:
    counts = sp.csr_matrix(np.round(skewed_y(4000, 500)))
    expected = corrmask.correlation_graph(counts, min_corr=0.02)
    graph = corrmask.correlation_graph(counts, min_corr=0.02, device="cuda")
    matrices = [(one.to_scipy().toarray(), one.provenance["input_hash"]) for one in (expected, graph)]
    assert matrices[0][1] == matrices[1][1]
    both = (matrices[0][0] != 0) & (matrices[1][0] != 0)
    assert both.sum() >= 0.99 * (matrices[0][0] != 0).sum()
    assert np.abs(matrices[0][0] - matrices[1][0])[both].max() <= 2 * BOUND
    tensor = torch.sparse_csr_tensor(
        *(torch.from_numpy(part).cuda() for part in (counts.indptr, counts.indices, counts.data)),
        size=counts.shape,
        check_invariants=True,
    )
    there = corrmask.correlation_graph(tensor, min_corr=0.02, device="cuda")
    for name in ("indptr", "indices", "weights"):
        np.testing.assert_array_equal(getattr(there, name), getattr(graph, name))


def test_cells_and_graphs_of_cupy() -> None:
    csp = pytest.importorskip("cupyx.scipy.sparse")
    counts = sp.csr_matrix(np.round(skewed_y(2000, 300)))
    matrix = csp.csr_matrix(counts)
    expected = corrmask.correlation_graph(counts, device="cuda")
    graph = corrmask.correlation_graph(matrix, device="cuda")
    np.testing.assert_array_equal(graph.weights, expected.weights)
    fetched = corrmask.correlation_graph(matrix, device="cpu")
    assert fetched.provenance["input_hash"] == corrmask.correlation_graph(counts).provenance["input_hash"]
    assert abs(graph.to_cupy().get() - graph.to_scipy()).max() == 0


def test_accumulators_of_two_devices_add_up() -> None:
    y = skewed_y(2000, 300)
    last = f"cuda:{torch.cuda.device_count() - 1}"
    sums = [Covariance(300, target_sum=None, device=device) for device in ("cuda:0", "cpu", last)]
    for number, one in enumerate(sums):
        if number < 2:
            one.rank(y.sum(0))  # the third has an order of its own
        one.update(sp.csr_array(y[number::3]))
    for other in sums[1:]:
        sums[0].add(other)
    assert sums[0].n_cells == 2000
    assert sums[0].gram.is_cuda
    assert_gram_close(gram_of((sums[0].gram.cpu(), 0, 0, 0, sums[0].ranks)), y.T @ y)


def test_a_gram_of_more_than_two_to_the_31_entries() -> None:
    n_genes, n_cells = 66_000, 300
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("needs 30 GB of GPU memory")
    rng = np.random.default_rng(0)
    frequent = sp.csr_array(random_y(rng, n_cells, 200, 0.6))
    others = sp.random_array((n_cells, n_genes - 200), density=0.01, rng=rng, format="csr")
    whole = sp.csr_array(sp.hstack([frequent, others]))
    sums = Covariance(n_genes, target_sum=None, device="cuda")
    sums.update(whole)
    assert sums.gram.numel() > 2**31
    ranks = sums.ranks.numpy().astype(np.int64)
    columns = whole.tocsc()
    for a, b in [*rng.integers(0, n_genes, (200, 2)), *rng.integers(0, 200, (50, 2)), (n_genes - 1, n_genes - 1)]:
        low, high = np.sort(ranks[[a, b]])
        got = float(sums.gram[int(panels_offset(low, high, n_genes))])
        x, z = columns[:, [a]].toarray(), columns[:, [b]].toarray()
        assert abs(got - float((x * z).sum())) <= 2e-6 * np.sqrt((x**2).sum() * (z**2).sum())
