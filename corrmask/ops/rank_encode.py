"""Rank-value encoding: the genes of a cell in descending order of count / median."""

from __future__ import annotations

import torch
from torch import Tensor

from corrmask._library import call, require_device
from corrmask.ops._checks import INDEX_DTYPES, check_csr, check_devices, check_integer, check_tensor


def rank_encode(
    indptr: Tensor,
    indices: Tensor,
    counts: Tensor,
    medians: Tensor,
    gene_tokens: Tensor,
    *,
    max_len: int,
    pad_id: int = 0,
) -> tuple[Tensor, Tensor]:
    """Encode cells as tokens ranked by count / median, as Geneformer does. Exact.

    Per cell: for each gene with count > 0 and a token, key = count / median in float64; tokens in descending key, ties
    by ascending gene column; the first `max_len` are kept.

    Parameters
    ----------
    indptr
        int64 [N + 1]: where each cell starts (cells x genes in compressed rows).
    indices
        int32 or int64 [nnz]: gene columns, in any order within a cell, none twice.
    counts
        float32, float64, int32 or int64 [nnz]: raw counts; what is not above 0, NaN too, is left out.
    medians
        float64 [G]: each gene's median over the corpus; positive and finite for every gene with a token.
    gene_tokens
        int32 or int64 [G]: each gene's token; -1 where it has none.
    max_len
        Most tokens kept of a cell.
    pad_id
        Token that fills a row behind its length.

    Returns
    -------
    input_ids : Tensor
        int32 [N, max_len].
    lengths : Tensor
        int64 [N].

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, shape or range; a gene with a token has a median that is NaN, infinite or
        <= 0.

    References
    ----------
    Theodoris et al. Transfer learning enables predictions in network biology. Nature, 2023.
    """
    op = "rank_encode"
    check_csr(op, indptr, indices, counts, "counts")
    check_tensor(op, "medians", medians, (torch.float64,), (None,), "[G]")
    check_tensor(op, "gene_tokens", gene_tokens, INDEX_DTYPES, (medians.shape[0],), "[G], as 'medians'")
    max_len = check_integer(op, "max_len", max_len, 1, 2**31 - 1)
    pad_id = check_integer(op, "pad_id", pad_id, -(2**31), 2**31 - 1)
    check_devices(op, counts, indptr=indptr, indices=indices, medians=medians, gene_tokens=gene_tokens)
    require_device(op, counts)
    # Elsewhere than on the CPU a look at the values would wait for the device.
    if (
        gene_tokens.dtype == torch.int64
        and gene_tokens.is_cpu
        and not torch.compiler.is_compiling()
        and len(gene_tokens)
    ):
        for token in map(int, torch.aminmax(gene_tokens)):
            if not -(2**31) <= token < 2**31:
                raise ValueError(f"corrmask.{op}: 'gene_tokens' must be in -1 .. 2**31 - 1, got {token}")
    tensors = [indptr, indices, counts, medians, gene_tokens.to(torch.int32)]
    return call(
        torch.ops.corrmask.rank_encode, *(tensor.contiguous() for tensor in tensors), max_len=max_len, pad_id=pad_id
    )


@torch.library.register_fake("corrmask::rank_encode")
def _(
    indptr: Tensor,
    indices: Tensor,
    counts: Tensor,
    medians: Tensor,
    gene_tokens: Tensor,
    *,
    max_len: int,
    pad_id: int,
) -> tuple[Tensor, Tensor]:
    n_cells = indptr.shape[0] - 1
    return indptr.new_empty((n_cells, max_len), dtype=torch.int32), indptr.new_empty((n_cells,))
