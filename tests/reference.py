"""The plain numpy twin of every operator: slow, readable, written from the specification alone.

Arrays in, arrays out; every function asserts the shapes of what it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

SEEDS, CORRUPTION, PARTNERS, BINNING = 0, 1, 2, 5  # streams
NO_GROUP, SPECIAL = -1, -2
VISIBLE = -1
IGNORED = -100
LOW = np.uint64(0xFFFFFFFF)


def philox4x32(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """Philox4x32-10: [2] and [N, 4] of uint32 values -> uint64 [N, 4] of uint32 values."""
    assert key.shape == (2,)
    assert counter.ndim == 2
    assert counter.shape[1] == 4
    k0, k1 = (int(k) for k in key)
    c0, c1, c2, c3 = (np.asarray(counter[:, i], dtype=np.uint64) for i in range(4))
    shift = np.uint64(32)
    for _ in range(10):
        product0 = np.uint64(0xD2511F53) * c0
        product1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ np.uint64(k0),
            product1 & LOW,
            (product0 >> shift) ^ c3 ^ np.uint64(k1),
            product0 & LOW,
        )
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def draws(seed: int, epoch: int, cell_id: int, index: np.ndarray, stream: int) -> np.ndarray:
    """The words of one cell for several values of the third counter: uint64 [N, 4]."""
    assert 0 <= seed < 2**63
    assert 0 <= epoch < 2**28
    assert 0 <= stream < 16
    assert index.ndim == 1
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint64)
    counter = np.empty((len(index), 4), dtype=np.uint64)
    counter[:, 0] = cell_id & 0xFFFFFFFF
    counter[:, 1] = cell_id >> 32
    counter[:, 2] = index
    counter[:, 3] = (epoch << 4) | stream
    return philox4x32(key, counter)


def bounded(word: int, n: int) -> int:
    """An integer in [0, n)."""
    return (int(word) * int(n)) >> 32


def happens(word: int, threshold: int) -> bool:
    """The event of probability threshold / 2**32."""
    return int(word) < int(threshold)


def budget(n_eligible: int, rate_ppm: int) -> int:
    """How many of the eligible positions are masked."""
    return min(n_eligible, max(1, (n_eligible * rate_ppm + 500000) // 1000000))


def _seed_draws(seed: int, epoch: int, cell_id: int, n_draws: int) -> Iterator[np.ndarray]:
    for first in range(0, n_draws, 256):
        yield from draws(seed, epoch, cell_id, np.arange(first, min(first + 256, n_draws)), SEEDS)


def sample_groups_in_cell(
    tokens: np.ndarray,
    cell_id: int,
    token_group: np.ndarray,
    group_indptr: np.ndarray,
    group_tokens: np.ndarray,
    *,
    rate_ppm: int,
    seed: int,
    epoch: int = 0,
    expand: int = 2**32,
    accept: np.ndarray | None = None,
    take: np.ndarray | None = None,
    max_group: int | None = None,
    rotate: bool = False,
) -> np.ndarray:
    """One cell: tokens [n] -> owner int32 [n]."""
    assert tokens.ndim == 1
    assert group_indptr[-1] == len(group_tokens)
    owner = np.full(len(tokens), VISIBLE, dtype=np.int32)
    eligible = [j for j, token in enumerate(tokens) if token_group[token] != SPECIAL]
    n = len(eligible)
    if n == 0:
        return owner
    m = budget(n, rate_ppm)
    position: dict[int, int] = {}
    for j in eligible:
        position.setdefault(int(tokens[j]), j)
    n_masked = 0
    taken_along = draws(seed, epoch, cell_id, np.arange(len(token_group)), PARTNERS)[:, 0]

    for w0, w1, w2, w3 in _seed_draws(seed, epoch, cell_id, 32 * n + 64):
        j = eligible[bounded(w0, n)]
        s = int(tokens[j])
        if owner[j] != VISIBLE:
            continue
        if accept is not None and not happens(w1, accept[s]):
            continue
        owner[j] = s
        n_masked += 1
        if n_masked == m:
            return owner
        g = int(token_group[s])
        if g < 0 or not happens(w2, expand):
            continue
        members = group_tokens[group_indptr[g] : group_indptr[g + 1]]
        size = len(members)
        start = bounded(w3, size) if rotate else 0
        n_taken = 0
        for r in range(size):
            if max_group is not None and n_taken >= max_group:
                break
            u = int(members[(start + r) % size])
            if u not in position or owner[position[u]] != VISIBLE:
                continue
            if take is not None and not happens(taken_along[u], take[u]):
                continue
            owner[position[u]] = s
            n_taken += 1
            n_masked += 1
            if n_masked == m:
                return owner
    for j in eligible:
        if owner[j] == VISIBLE:
            owner[j] = tokens[j]
            n_masked += 1
            if n_masked == m:
                break
    return owner


def sample_groups(
    input_ids: np.ndarray,
    lengths: np.ndarray,
    cell_ids: np.ndarray,
    token_group: np.ndarray,
    group_indptr: np.ndarray,
    group_tokens: np.ndarray,
    **options: object,
) -> np.ndarray:
    """A batch: owner int32 [B, L]."""
    n_cells, width = input_ids.shape
    assert lengths.shape == cell_ids.shape == (n_cells,)
    owner = np.full((n_cells, width), VISIBLE, dtype=np.int32)
    for b, length in enumerate(lengths):
        owner[b, :length] = sample_groups_in_cell(
            input_ids[b, :length].astype(np.int64),
            int(cell_ids[b]),
            token_group,
            group_indptr,
            group_tokens,
            **options,  # type: ignore[arg-type]
        )
    return owner


def mask_tokens(
    input_ids: np.ndarray,
    owner: np.ndarray,
    cell_ids: np.ndarray,
    *,
    seed: int,
    epoch: int = 0,
    mask_token_id: int,
    gene_token_range: tuple[int, int],
    mask_threshold: int,
    random_threshold: int,
    unit: str = "token",
) -> tuple[np.ndarray, np.ndarray]:
    """What masked positions show, from the owners that `sample_groups` gives: corrupted and labels, [B, L]."""
    assert input_ids.shape == owner.shape
    assert cell_ids.shape == input_ids.shape[:1]
    lo, hi = gene_token_range
    corrupted = input_ids.copy()
    labels = np.full(input_ids.shape, IGNORED, dtype=np.int64)
    for place in zip(*np.nonzero(owner != VISIBLE)):
        x, cell_id = int(input_ids[place]), int(cell_ids[place[0]])
        who = int(owner[place]) if unit == "group" else x
        decision = draws(seed, epoch, cell_id, np.array([who]), CORRUPTION)[0, 0]
        if happens(decision, mask_threshold):
            corrupted[place] = mask_token_id
        elif happens(decision, mask_threshold + random_threshold):
            w1 = draws(seed, epoch, cell_id, np.array([x]), CORRUPTION)[0, 1]
            corrupted[place] = lo + bounded(w1, hi - lo)
        labels[place] = x
    return corrupted, labels


def rank_encode(
    indptr: np.ndarray,
    indices: np.ndarray,
    counts: np.ndarray,
    medians: np.ndarray,
    gene_tokens: np.ndarray,
    *,
    max_len: int,
    pad_id: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens by descending count / median, ties by ascending column: int32 [N, max_len], int64 [N]."""
    n_cells = len(indptr) - 1
    assert indices.shape == counts.shape == (indptr[-1],)
    assert medians.shape == gene_tokens.shape
    input_ids = np.full((n_cells, max_len), pad_id, dtype=np.int32)
    lengths = np.zeros(n_cells, dtype=np.int64)
    for i in range(n_cells):
        row = slice(indptr[i], indptr[i + 1])
        genes, values = indices[row].astype(np.int64), counts[row].astype(np.float64)
        used = (values > 0) & (gene_tokens[genes] >= 0)
        genes, values = genes[used], values[used]
        order = np.lexsort((genes, -(values / medians[genes])))[:max_len]
        lengths[i] = len(order)
        input_ids[i, : len(order)] = gene_tokens[genes[order]]
    return input_ids, lengths


def bin_values(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    cell_ids: np.ndarray,
    *,
    n_bins: int,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """Bins of each cell's nonzero values, edges at quantiles, ties spread over what they straddle: int32 [nnz]."""
    assert indices.shape == values.shape == (indptr[-1],)
    assert cell_ids.shape == (len(indptr) - 1,)
    bins = np.zeros(len(values), dtype=np.int32)
    for i, cell_id in enumerate(cell_ids):
        used = np.arange(indptr[i], indptr[i + 1])
        used = used[values[used] != 0]
        if not len(used):
            continue
        x = values[used].astype(np.float64)
        edges = np.quantile(x, np.linspace(0, 1, n_bins - 1))
        below, up_to = np.digitize(x, edges, right=True), np.digitize(x, edges)
        words = draws(seed, epoch, int(cell_id), indices[used].astype(np.uint64), BINNING)[:, 0]
        bins[used] = [high - bounded(word, high - low) for word, low, high in zip(words, below, up_to)]
    return bins


def covariance_update(
    y: np.ndarray, levels: np.ndarray, n_levels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What a chunk of cells [N, G] adds: Gram matrix [G, G], sums [n_levels, G], squares [G], expressed [G]."""
    n_cells, n_genes = y.shape
    assert levels.shape == (n_cells,)
    gram = np.zeros((n_genes, n_genes))
    sums = np.zeros((n_levels, n_genes))
    for cell, level in zip(y, levels):
        gram += np.outer(cell, cell)
        sums[level] += cell
    return gram, sums, (y**2).sum(axis=0), (y > 0).sum(axis=0)


def panel_places(ranks: np.ndarray) -> tuple[np.ndarray, int]:
    """Where each pair of genes stands in the panels of 128 [G, G], counted entry by entry, and how many entries."""
    n_genes = len(ranks)
    place, size = np.zeros((n_genes, n_genes), dtype=np.int64), 0
    gene_at = np.argsort(ranks)
    for first in range(0, n_genes, 128):
        for high in range(first, n_genes):
            for low in range(first, min(first + 128, high + 1, n_genes)):
                place[gene_at[low], gene_at[high]] = place[gene_at[high], gene_at[low]] = size + low - first
            size += 128
    return place, size


def unpack(gram: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The Gram matrix [G, G] out of its panels."""
    place, size = panel_places(ranks)
    assert gram.shape == (size,)
    return gram[place]


def pack(gram: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The panels of a Gram matrix [G, G]; what is never read is NaN."""
    place, size = panel_places(ranks)
    panels = np.full(size, np.nan)
    panels[place] = gram
    return panels


def gather_tokens(
    tokens: list[np.ndarray],
    offsets: list[np.ndarray],
    rows: np.ndarray,
    *,
    max_len: int,
    pad_id: int = 0,
    packed: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a ragged column in pieces: tokens [B, L] (packed: [sum of lengths]), lengths [B], cu_seqlens [B + 1]."""
    assert len(tokens) == len(offsets)
    cells = [part[a:b] for part, bounds in zip(tokens, offsets) for a, b in pairwise(bounds)]
    taken = [cells[row][:max_len].astype(np.int64) for row in rows]
    lengths = np.array([len(cell) for cell in taken], dtype=np.int64)
    cu_seqlens = np.append(0, np.cumsum(lengths)).astype(np.int32)
    if packed:
        return np.concatenate([np.zeros(0, np.int64), *taken]), lengths, cu_seqlens
    padded = np.full((len(rows), lengths.max(initial=0)), pad_id, dtype=np.int64)
    for out, cell in zip(padded, taken):
        out[: len(cell)] = cell
    return padded, lengths, cu_seqlens


def sketch_values(
    table: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    genes: np.ndarray,
    *,
    first_bucket: int,
) -> tuple[int, int]:
    """Add values to int64 [G, n_buckets] in place, where all are in reach: the lowest and the highest bucket."""
    assert totals.shape == (len(indptr) - 1,)
    assert counts.shape == indices.shape == (indptr[-1],)
    buckets, owners = [], []
    for i, total in enumerate(totals):
        for e in range(indptr[i], indptr[i + 1]):
            with np.errstate(all="ignore"):
                value = np.float64(counts[e]) * np.float64(10000) / np.float64(total)
            if value > 0:
                buckets.append(int(value.view(np.int64)) >> 43)
                owners.append(genes[indices[e]])
    if not buckets:
        return 1, 0
    inside = first_bucket <= min(buckets) and max(buckets) < first_bucket + table.shape[1]
    for gene, bucket in zip(owners, buckets) if inside else ():
        if gene >= 0:
            table[gene, bucket - first_bucket] += 1
    return min(buckets), max(buckets)


def log_normalize(counts: np.ndarray, target_sum: float = 1e4) -> np.ndarray:
    """log1p(count * target_sum / cell total), [N, G] float64; a cell without counts stays zero."""
    assert counts.ndim == 2
    counts = counts.astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts * target_sum / np.where(totals == 0, 1, totals))


def correlation(y: np.ndarray, levels: np.ndarray | None = None) -> np.ndarray:
    """Pearson r of every pair of genes in float64, in two passes: means first (within levels), then products.

    [N, G] -> [G, G]; 0 for a gene that does not vary, and on the diagonal.
    """
    assert y.ndim == 2
    y = y.astype(np.float64).copy()
    levels = np.zeros(len(y), dtype=np.int64) if levels is None else np.asarray(levels)
    assert levels.shape == (len(y),)
    for level in np.unique(levels):
        y[levels == level] -= y[levels == level].mean(axis=0)
        constant = np.ptp(y[levels == level], axis=0) == 0
        y[np.ix_(levels == level, constant)] = 0
    scale = np.sqrt((y**2).sum(axis=0))
    y /= np.where(scale == 0, 1, scale)
    r = y.T @ y
    np.fill_diagonal(r, 0)
    return r


def pairwise_correlation(y: np.ndarray, levels: np.ndarray | None = None, *, min_cells: int = 0) -> np.ndarray:
    """r of each pair over the cells that measured both genes, NaN [N, G] being what was not measured: [G, G].

    NaN where a gene does not vary within the levels of those cells, or is expressed in fewer than `min_cells` of them.
    """
    n_genes = y.shape[1]
    r = np.full((n_genes, n_genes), np.nan)
    for i in range(n_genes):
        for j in range(i):
            both = ~np.isnan(y[:, i]) & ~np.isnan(y[:, j])
            pair = y[both][:, [i, j]]
            of_pair = correlation(pair, None if levels is None else np.asarray(levels)[both])[0, 1] if len(pair) else 0
            if of_pair != 0 and ((pair > 0).sum(axis=0) >= min_cells).all():
                r[i, j] = r[j, i] = of_pair
    return r


def correlation_from_gram(gram: np.ndarray, mean_factors: np.ndarray, inverse_sd: np.ndarray) -> np.ndarray:
    """r as the operator defines it, rounded to float32: [G, G]."""
    n_genes = len(inverse_sd)
    assert gram.shape == (n_genes, n_genes)
    assert mean_factors.shape[1:] == (n_genes,)
    covariance = gram
    for factors in mean_factors:
        covariance = covariance - np.outer(factors, factors)
    return np.clip(covariance * np.outer(inverse_sd, inverse_sd), -1, 1).astype(np.float32)


def topk_edges(
    r: np.ndarray, usable: np.ndarray, *, top_k: int, min_corr: float, positive: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Partners int32 and weights float32, [G, top_k], of a matrix of correlations float32 [G, G].

    `usable` [G]: genes that may have edges.
    """
    n_genes = len(r)
    assert r.shape == (n_genes, n_genes)
    assert usable.shape == (n_genes,)
    partners = np.full((n_genes, top_k), -1, dtype=np.int32)
    weights = np.zeros((n_genes, top_k), dtype=np.float32)
    for gene in np.flatnonzero(usable):
        strength = r[gene] if positive else np.abs(r[gene])
        candidates = [u for u in range(n_genes) if u != gene and usable[u] and strength[u] >= np.float32(min_corr)]
        best = sorted(candidates, key=lambda u: (-strength[u], u))[:top_k]
        partners[gene, : len(best)] = best
        weights[gene, : len(best)] = r[gene, best]
    return partners, weights
