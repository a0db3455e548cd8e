"""BERT over cells laid end to end: the modules and weights of transformers, without padding and unasked outputs.

A padded batch spends work on padding in every layer and, in the last ones, on positions that enter no loss. Here the
cells of a batch are one row of tokens; attention keeps to the cell; the last layer gives its output where genes are
masked alone (its keys and values see all of the cell); and the logits of those are formed in pieces, never all at once.
What results is what `transformers.BertForMaskedLM` gives at the same positions, to the rounding of float32.

Attention within cells is `torch.nn.attention.varlen` on CUDA in half precision, and one call per cell elsewhere: on the
CPU a cell's scores then stay in the cache. Neither kernel has dropout of attention; where a model asks for it,
attention is several times as slow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from corrmask.loader import unpadded

# Masked positions of which logits are held at once: 40 MB of float32 at 20,000 genes, and 640 MB.
_PIECE, _PIECE_ON_CUDA = 512, 8192


class Cells(NamedTuple):
    """Where each cell starts and ends among tokens laid end to end."""

    lengths: list[int]  # [B]
    starts: Tensor  # int32 [B + 1], on the device

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device) -> Cells:
        """From int64 [B] on the CPU."""
        starts = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        return cls(lengths.tolist(), starts.to(device, non_blocking=True))


class Packed(NamedTuple):
    """A masked batch without padding; T tokens, of which M are masked."""

    input_ids: Tensor  # int64 [T]
    positions: Tensor  # int64 [T], of each token within its cell
    cells: Cells
    masked: Tensor  # int64 [M], places of the masked genes among the T
    masked_cells: Cells  # how many of them each cell has
    targets: Tensor  # int64 [M], the genes that stood there


def pack(input_ids: Tensor, labels: Tensor, lengths: Tensor, device: torch.device | str = "cpu") -> Packed:
    """What the model takes of a masked batch.

    Parameters
    ----------
    input_ids, labels
        int64 on the CPU: [sum of lengths], as a packed `Loader` gives them, or [B, L], as `corrmask.CorrMasker` does;
        labels are -100 where nothing is asked.
    lengths
        int64 [B] on the CPU.
    device
        Where the result is wanted. All that depends on the data is found out before, so that CUDA is not waited for.
    """
    device = torch.device(device)
    if input_ids.dim() == 2:
        input_ids, labels = unpadded(input_ids, lengths), unpadded(labels, lengths)
    cell_of = torch.arange(len(lengths)).repeat_interleave(lengths)
    positions = torch.arange(len(input_ids)) - (lengths.cumsum(0) - lengths)[cell_of]
    masked = (labels != -100).nonzero()[:, 0]
    counts = torch.bincount(cell_of[masked], minlength=len(lengths))
    parts = input_ids, positions, masked, labels[masked]
    if device.type == "cuda":
        parts = tuple(part.pin_memory() for part in parts)  # type: ignore[assignment]
    tokens, positions, masked, targets = (part.to(device, non_blocking=True) for part in parts)
    return Packed(tokens, positions, Cells.of(lengths, device), masked, Cells.of(counts, device), targets)


def attend(query: Tensor, key: Tensor, value: Tensor, asking: Cells, cells: Cells, dropout: float = 0.0) -> Tensor:
    """Attention within each cell.

    Parameters
    ----------
    query
        [T', heads, d], the cells' tokens that ask, end to end.
    key, value
        [T, heads, d], all tokens of the cells.
    asking, cells
        How many of both each cell has.
    dropout
        Of the attention.

    Returns
    -------
    Tensor
        [T', heads, d]
    """
    if query.is_cuda and dropout == 0 and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        most = max(asking.lengths), max(cells.lengths)
        found = varlen_attn(query, key, value, asking.starts, cells.starts, *most)
        assert isinstance(found, Tensor)
        return found
    attention = functional.scaled_dot_product_attention
    # Cells of one length take one call: short ones would wait for the calls.
    if len(set(cells.lengths)) == 1 == len(set(asking.lengths)) and asking.lengths[0] > 0:
        n = len(cells.lengths)
        q, k, v = (part.unflatten(0, (n, -1)).transpose(1, 2) for part in (query, key, value))  # [n, heads, tokens, d]
        return attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(0, 1)
    pieces = (
        part.transpose(0, 1)[None].split(one.lengths, dim=2)  # [1, heads, tokens of the cell, d]
        for part, one in ((query, asking), (key, cells), (value, cells))
    )
    cellwise = [attention(q, k, v, dropout_p=dropout) for q, k, v in zip(*pieces, strict=True)]
    return torch.cat(cellwise, dim=2)[0].transpose(0, 1)


def masked_states(model: Any, batch: Packed) -> Tensor:
    """The last hidden layer of a `transformers.BertForMaskedLM` at the masked genes: [M, hidden]."""
    bert = model.bert
    hidden = bert.embeddings(input_ids=batch.input_ids[None], position_ids=batch.positions[None])[0]
    *layers, last = bert.encoder.layer
    for layer in layers:
        hidden = _layer(layer, hidden, hidden, batch.cells, batch.cells)
    return _layer(last, hidden, hidden[batch.masked], batch.masked_cells, batch.cells)


def _layer(layer: Any, hidden: Tensor, asking: Tensor, asking_cells: Cells, cells: Cells) -> Tensor:
    """What `transformers`' BertLayer gives for the tokens that ask: [T', hidden]."""
    own = layer.attention.self
    query, key, value = (
        project(states).unflatten(-1, (own.num_attention_heads, own.attention_head_size))
        for project, states in ((own.query, asking), (own.key, hidden), (own.value, hidden))
    )
    context = attend(query, key, value, asking_cells, cells, own.dropout.p if own.training else 0.0)
    attended = layer.attention.output(context.flatten(-2), asking)
    return layer.output(layer.intermediate(attended), attended)


def masked_logits(model: Any, batch: Packed) -> Tensor:
    """Logits at the masked genes: [M, V]."""
    return model.cls(masked_states(model, batch))


def loss_sum(model: Any, batch: Packed) -> Tensor:
    """Cross entropy (nats) at the masked genes, summed: float32, a scalar."""
    head = model.cls.predictions
    states, weight = head.transform(masked_states(model, batch)), head.decoder.weight
    if torch.is_autocast_enabled(states.device.type):  # which does not reach into what is written out below
        dtype = torch.get_autocast_dtype(states.device.type)
        states, weight = states.to(dtype), weight.to(dtype)
    return _LinearCrossEntropy.apply(states, weight, head.decoder.bias, batch.targets)


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of ``states @ weight.T + bias``, the gradients formed along with the logits, piece by piece.

    torch has `linear_cross_entropy` since 2.13, which rounds the sum to the precision of the states.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """`states` [M, d] and `weight` [V, d] of one dtype, `bias` float32 [V], `targets` int64 [M]."""
        total = torch.zeros((), device=states.device)
        of_states = torch.empty_like(states)
        of_weight, of_bias = (torch.zeros_like(one, dtype=torch.float32) for one in (weight, bias))
        size = _PIECE_ON_CUDA if states.is_cuda else _PIECE
        with torch.autocast(states.device.type, enabled=False):
            for piece, asked, of_piece in zip(*(one.split(size) for one in (states, targets, of_states))):
                logits = (piece @ weight.T).float().add_(bias)
                log_sums = logits.logsumexp(1, keepdim=True)
                total += (log_sums - logits.gather(1, asked[:, None])).sum()
                errors = logits.sub_(log_sums).exp_()
                errors.scatter_add_(1, asked[:, None], torch.full_like(log_sums, -1.0))
                of_bias += errors.sum(0)
                errors = errors.to(weight.dtype)
                torch.mm(errors, weight, out=of_piece)
                of_weight += errors.T @ piece
        ctx.save_for_backward(of_states, of_weight.to(weight.dtype), of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass formed."""
        of_states, of_weight, of_bias = ctx.saved_tensors
        return of_states * gradient, of_weight * gradient, of_bias * gradient, None
