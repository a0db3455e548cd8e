"""Cells without padding: the same numbers as transformers gives for a padded batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("transformers")

from transformers import BertForMaskedLM

from corrmask import packing
from corrmask.model import attention_mask, build_model, save_model
from corrmask.packing import Cells, attend, loss_sum, masked_logits, pack
from corrmask.vocabulary import Vocabulary

# float32 rounding over layers of sums of up to 256 terms; logits here are of size 1 to 10
LOGITS, GRADIENTS = 1e-5, 1e-5
SHAPES = [
    {"layers": 1, "hidden": 16, "heads": 1, "intermediate": 32},
    {"layers": 3, "hidden": 32, "heads": 4, "intermediate": 64},
    {"layers": 2, "hidden": 256, "heads": 4, "intermediate": 512},
]
LENGTHS = [[1], [7, 1, 5], [40, 33, 2, 17, 64], [0, 3], [64, 64]]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(np.array([f"g{i}" for i in range(50)], dtype=object))


def spread(model):
    """Weights large enough that cells and positions matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def draw(lengths, rate, seed=0, size=54):
    generator = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    lengths = torch.tensor(lengths)
    real = attention_mask(lengths, shape[1]).bool()
    ids = torch.where(real, torch.randint(4, size, shape, generator=generator), 0)
    asked = real & (torch.rand(shape, generator=generator) < rate)
    return ids, torch.where(asked, torch.randint(4, size, shape, generator=generator), -100), lengths


def padded_logits(model, ids, labels, lengths):
    keep = lengths > 0  # transformers has no answer for a cell without tokens, nor has it a masked gene
    mask = attention_mask(lengths[keep], ids.shape[1])
    return model(ids[keep], attention_mask=mask).logits[labels[keep] != -100], labels[labels != -100]


@pytest.mark.parametrize(("shape", "lengths"), list(itertools.product(SHAPES, LENGTHS)), ids=str)
def test_logits_loss_and_gradients_are_those_of_transformers(vocabulary, shape, lengths):
    model = spread(build_model(vocabulary, **shape, max_len=64, dropout=0.0, seed=0))
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        ids, labels, lengths_ = draw(lengths, 1.0 if lengths == [1] else 0.4)
        theirs, targets = padded_logits(model, ids, labels, lengths_)
        batch = pack(ids, labels, lengths_)
        assert torch.equal(batch.targets, targets)
        torch.testing.assert_close(masked_logits(model, batch), theirs, rtol=0, atol=LOGITS)
        expected = functional.cross_entropy(theirs, targets, reduction="sum")
        loss = loss_sum(model, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        wanted = torch.autograd.grad(expected, list(model.parameters()))
        found = torch.autograd.grad(loss, list(model.parameters()))
        for (name, _), one, other in zip(model.named_parameters(), found, wanted, strict=True):
            assert (one - other).abs().max() <= GRADIENTS * max(1.0, float(other.abs().max())), name


def test_a_saved_model_gives_the_same_in_transformers(vocabulary, tmp_path):
    model = spread(build_model(vocabulary, **SHAPES[1], max_len=64, dropout=0.1, seed=0)).eval()
    ids, labels, lengths = draw([30, 9], 0.5)
    ours = masked_logits(model, pack(ids, labels, lengths))
    save_model(model, vocabulary, tmp_path)
    opened = BertForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(padded_logits(opened, ids, labels, lengths)[0], ours, rtol=0, atol=LOGITS)
    assert torch.equal(masked_logits(opened, pack(ids, labels, lengths)), ours)


def test_a_cell_does_not_see_its_neighbours(vocabulary):
    model = spread(build_model(vocabulary, **SHAPES[1], max_len=64, dropout=0.0, seed=0))
    ids, labels, lengths = draw([20, 31, 6], 0.5)
    together = masked_logits(model, pack(ids, labels, lengths))
    alone = [masked_logits(model, pack(ids[i : i + 1], labels[i : i + 1], lengths[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=LOGITS)


def test_nothing_masked_has_no_loss_and_gradients_of_zero(vocabulary):
    """Of zero, not None: a rank without a masked gene takes part in the sum of gradients all the same."""
    model = build_model(vocabulary, **SHAPES[1], max_len=64, dropout=0.0, seed=0)
    ids, labels, lengths = draw([5, 3], 0.0)
    loss = loss_sum(model, pack(ids, labels, lengths))
    assert loss == 0
    loss.backward()
    assert all(torch.equal(one.grad, torch.zeros_like(one)) for one in model.parameters())


def test_logits_in_pieces_give_the_same(vocabulary, monkeypatch):
    model = spread(build_model(vocabulary, **SHAPES[1], max_len=64, dropout=0.0, seed=0))
    batch = pack(*draw([64, 50, 41], 0.7))
    results = []
    for piece in (1, 7, 512):
        monkeypatch.setattr(packing, "_PIECE", piece)
        loss = loss_sum(model, batch)
        results.append([loss, *torch.autograd.grad(3 * loss, list(model.parameters()))])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5 * max(1.0, float(one.detach().abs().max())))


def test_half_precision_keeps_the_sum_in_float32(vocabulary):
    model = spread(build_model(vocabulary, **SHAPES[1], max_len=64, dropout=0.0, seed=0))
    batch = pack(*draw([64, 50, 41], 0.7))
    exact = loss_sum(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss_sum(model, batch)
    assert half.dtype == torch.float32
    assert half.item() != exact.item()
    torch.testing.assert_close(half, exact, rtol=2e-2, atol=0)  # bf16 keeps 8 bits
    half.backward()
    assert all(one.grad.dtype == torch.float32 and one.grad.isfinite().all() for one in model.parameters())


def test_dropout_of_attention_is_drawn_in_training_alone(vocabulary):
    model = build_model(vocabulary, **SHAPES[1], max_len=64, dropout=0.0, attention_dropout=0.5, seed=0).train()
    assert model.config.attention_probs_dropout_prob == 0.5
    batch = pack(*draw([30, 9], 0.5))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = masked_logits(model, batch), masked_logits(model, batch)
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        assert torch.equal(first, masked_logits(model, batch))
    model.eval()
    assert torch.equal(masked_logits(model, batch), masked_logits(model, batch))


def test_attention_within_cells():
    """Against the formula, in float64, with fewer tokens asking than answering."""
    generator = torch.Generator().manual_seed(0)
    asking, lengths = torch.tensor([2, 0, 3]), torch.tensor([5, 1, 3])
    query = torch.randn(5, 2, 8, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(9, 2, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    found = attend(query, key, value, Cells.of(asking, "cpu"), Cells.of(lengths, "cpu"))
    expected = torch.empty_like(query)
    for row, cell in enumerate([0, 0, 2, 2, 2]):
        own = slice(*[(0, 5), (5, 6), (6, 9)][cell])
        for head in range(2):
            scores = torch.exp(key[own, head] @ query[row, head] / 8**0.5)
            expected[row, head] = (scores / scores.sum()) @ value[own, head]
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="varlen_attn has no CPU kernel")
@pytest.mark.parametrize("lengths", LENGTHS[1:3], ids=str)
def test_cuda_gives_what_the_cpu_gives(vocabulary, lengths):
    model = spread(build_model(vocabulary, **SHAPES[2], max_len=64, dropout=0.0, seed=0))
    ids, labels, lengths_ = draw(lengths, 0.4)
    exact = loss_sum(model, pack(ids, labels, lengths_))
    wanted = torch.autograd.grad(exact, list(model.parameters()))
    model.cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = loss_sum(model, pack(ids, labels, lengths_, "cuda"))
    torch.testing.assert_close(half.cpu(), exact, rtol=2e-2, atol=0)
    for one, other in zip(torch.autograd.grad(half, list(model.parameters())), wanted, strict=True):
        assert (one.cpu() - other).abs().max() <= 0.1 * max(1.0, float(other.abs().max()))
