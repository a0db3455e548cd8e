"""Group sampling and corruption, beside random masking as others do it and groups in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corrmask.bench import packages
from corrmask.bench.cells import SPECIAL_TOKENS, Batch
from corrmask.bench.timing import Case, Contestant
from corrmask.groups import SPECIAL
from corrmask.masking import CorrMasker

RATE, MASK, RANDOM, MASK_TOKEN, IGNORED = 0.15, 0.8, 0.1, 1, -100
DTYPES = {"uint16": torch.uint16, "int32": torch.int32, "int64": torch.int64}


def sampling_case(batch: Batch, dtype: str = "int64") -> Case:
    """Which positions are masked, and by whom (`corrmask.ops.sample_groups`)."""
    ids, epochs = batch.input_ids.to(DTYPES[dtype]), itertools.count()
    masker = CorrMasker(batch.groups, RATE)
    numpy_groups = NumpyGroups(batch)

    def ours() -> Tensor:
        return masker.owners(ids, batch.lengths, batch.cell_ids, next(epochs))

    n_cells, width = ids.shape
    return Case(
        kernel="sample_groups",
        size=_size(batch),
        dtype=dtype,
        n_cells=n_cells,
        contestants=[
            Contestant("CorrMasker.owners", ours, lambda owner: check_owners(batch, owner), ours=True),
            Contestant("groups in numpy", numpy_groups.masked, lambda m: _check_budget(batch, m), restated=True),
        ],
        bytes_moved=n_cells * width * (ids.element_size() + 4),
    )


def masking_case(batch: Batch, dtype: str = "int64", *, expand: float = 1.0) -> Case:
    """Positions masked 80 / 10 / 10, as input_ids and int64 labels (`corrmask.ops.mask_tokens`).

    With `expand` 0 ours masks at random, as the collators do; else it masks groups, which costs no less.
    """
    ids, epochs = batch.input_ids.to(DTYPES[dtype]), itertools.count()
    masker = CorrMasker(batch.groups, RATE, expand=expand)

    def ours() -> tuple[Tensor, Tensor]:
        return masker(ids, batch.lengths, batch.cell_ids, next(epochs))

    def exact(result: tuple[Tensor, Tensor]) -> None:
        _check_budget(batch, (result[1] != IGNORED).numpy())
        _check_shown(batch, result)

    contestants = [Contestant("CorrMasker", ours, exact, ours=True)]
    contestants += random_maskers(batch)
    if expand:
        contestants.append(Contestant("groups in numpy", NumpyGroups(batch), exact, restated=True))
    n_cells, width = ids.shape
    return Case(
        kernel="mask_tokens" if expand else "mask_tokens expand=0",
        size=_size(batch),
        dtype=dtype,
        n_cells=n_cells,
        contestants=contestants,
        bytes_moved=n_cells * width * (2 * ids.element_size() + 8),
    )


def random_maskers(batch: Batch) -> list[Contestant]:
    """Random masking by transformers' collator where it is installed, and the leanest that torch's functions give."""

    def about(result: tuple[Tensor, Tensor]) -> None:
        n_masked, n = int((result[1] != IGNORED).sum()), int(batch.lengths.sum())
        assert abs(n_masked - RATE * n) <= 8 * (n * RATE * (1 - RATE)) ** 0.5, f"{n_masked} of {n} tokens masked"
        _check_shown(batch, result)

    found = [Contestant("random in torch", torch_random(batch), about, restated=True)]
    if (collator_class := packages.collator_class()) is not None:
        collator = collator_class(_Tokenizer(batch.groups.vocabulary_size), mlm_probability=RATE)
        special = behind(batch)

        # The part of the collator that masks, special tokens given: padding and lists would cost it more. It writes
        # into what it gets, so it gets a copy: ours leaves the batch as it was.
        def collate() -> tuple[Tensor, Tensor]:
            return collator.torch_mask_tokens(batch.input_ids.clone(), special_tokens_mask=special)

        found.insert(0, Contestant("transformers DataCollatorForLanguageModeling", collate, about))
    return found


def torch_random(batch: Batch) -> Callable[[], tuple[Tensor, Tensor]]:
    """80 / 10 / 10 at random: two draws a position, and random genes for those that show one."""
    ids, special = batch.input_ids, behind(batch)
    vocabulary = batch.groups.vocabulary_size

    def run() -> tuple[Tensor, Tensor]:
        masked = (torch.rand(ids.shape) < RATE).masked_fill_(special, False)
        shown = torch.rand(ids.shape)
        labels = ids.masked_fill(~masked, IGNORED)
        out = ids.masked_fill(masked & (shown < MASK), MASK_TOKEN)
        swapped = masked & (shown >= MASK) & (shown < MASK + RANDOM)
        out[swapped] = torch.randint(SPECIAL_TOKENS, vocabulary, (int(swapped.sum()),))
        return out, labels

    return run


class NumpyGroups:
    """Groups within an exact budget in numpy, all cells of a batch in step: seed after seed, but vectorised over cells.

    What `sample_groups` does, with numpy's generator; partners stand in a table, short groups filled up with <pad>.
    """

    def __init__(self, batch: Batch, seed: int = 0) -> None:
        self.ids = batch.input_ids.numpy()
        self.lengths = batch.lengths.numpy()
        indptr = batch.groups.group_indptr.numpy()
        sizes = np.diff(indptr)
        members = np.zeros((len(sizes), max(1, int(sizes.max(initial=0)))), dtype=np.int64)  # <pad> is in no cell
        members[np.arange(members.shape[1]) < sizes[:, None]] = batch.groups.group_tokens.numpy()
        self.vocabulary = batch.groups.vocabulary_size
        self.partners = np.zeros((self.vocabulary, members.shape[1]), dtype=np.int64)
        grouped = batch.groups.token_group.numpy() >= 0
        self.partners[grouped] = members[batch.groups.token_group.numpy()[grouped]]
        self.budget = budgets(batch)
        self.rng = np.random.default_rng(seed)
        self.position = np.full((len(self.ids), self.vocabulary), -1, dtype=np.int32)

    def masked(self) -> np.ndarray:
        """Whether each position is masked: bool [B, L]."""
        ids, lengths, rng = self.ids, self.lengths, self.rng
        n_cells, width = ids.shape
        rows, columns = np.nonzero(np.arange(width) < lengths[:, None])
        self.position[rows, ids[rows, columns]] = columns
        masked = np.zeros(ids.shape, dtype=bool)
        left = self.budget.copy()
        cells = np.flatnonzero(left > 0)
        while len(cells):
            # As many draws for each cell at a time as there are members in a group: fewer calls of the generator.
            for drawn in rng.random((self.partners.shape[1], n_cells)):
                at = (drawn[cells] * lengths[cells]).astype(np.int64)
                new = ~masked[cells, at]
                seeded, at = cells[new], at[new]
                masked[seeded, at] = True
                left[seeded] -= 1
                own = self.position[seeded[:, None], self.partners[ids[seeded, at]]]
                wanted = (own >= 0) & ~masked[seeded[:, None], own]
                wanted &= wanted.cumsum(axis=1) <= left[seeded, None]
                which, member = np.nonzero(wanted)
                masked[seeded[which], own[which, member]] = True
                left[seeded] -= wanted.sum(axis=1)
                cells = cells[left[cells] > 0]
                if len(cells) == 0:
                    break
        self.position[rows, ids[rows, columns]] = -1
        return masked

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Mask and corrupt: input_ids and labels, int64 [B, L]."""
        masked = self.masked()
        out, labels = self.ids.copy(), np.full(self.ids.shape, IGNORED, dtype=np.int64)
        rows, columns = np.nonzero(masked)
        labels[rows, columns] = self.ids[rows, columns]
        shown = self.rng.random(len(rows))
        to_mask, to_gene = shown < MASK, (shown >= MASK) & (shown < MASK + RANDOM)
        out[rows[to_mask], columns[to_mask]] = MASK_TOKEN
        out[rows[to_gene], columns[to_gene]] = self.rng.integers(SPECIAL_TOKENS, self.vocabulary, to_gene.sum())
        return torch.from_numpy(out), torch.from_numpy(labels)


class _Tokenizer:
    """What the collator asks of a tokenizer; a real one answers the same, more slowly."""

    mask_token, pad_token, is_fast = "<mask>", "<pad>", True

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_tokens_to_ids(self, token: str) -> int:
        return MASK_TOKEN


def behind(batch: Batch) -> Tensor:
    """Positions behind each cell's length: bool [B, L]."""
    return torch.arange(batch.input_ids.shape[1]) >= batch.lengths[:, None]


def budgets(batch: Batch) -> np.ndarray:
    """How many positions of each cell are masked: int64 [B]."""
    n = batch.lengths.numpy()
    return np.minimum(n, np.maximum(1, (n * round(RATE * 10**6) + 500_000) // 10**6))


def check_owners(batch: Batch, owner: Tensor) -> None:
    """Check that each cell's budget is met, and that who was masked is the seed or stands in its group."""
    owners, ids = owner.numpy(), batch.input_ids.numpy()
    masked = owners >= 0
    _check_budget(batch, masked)
    seeds, tokens = owners[masked], ids[masked]
    along = seeds != tokens
    group = batch.groups.token_group.numpy()
    indptr, members = batch.groups.group_indptr.numpy(), batch.groups.group_tokens.numpy()
    vocabulary = batch.groups.vocabulary_size
    listed = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)) * vocabulary + members
    assert np.all(group[seeds[along]] >= 0)
    pairs = group[seeds[along]].astype(np.int64) * vocabulary + tokens[along]
    assert np.isin(pairs, listed).all(), "masked along with a seed whose group does not hold it"


def _check_budget(batch: Batch, masked: np.ndarray) -> None:
    assert np.array_equal(masked.sum(axis=1), budgets(batch)), "a cell misses its budget"
    assert not masked[behind(batch).numpy()].any(), "padding was masked"


def _check_shown(batch: Batch, result: tuple[Any, Any]) -> None:
    """Check labels against the batch, and the shares of what is shown."""
    shown, labels = result[0].to(torch.int64), result[1]
    masked = labels != IGNORED
    assert torch.equal(labels[masked], batch.input_ids[masked]), "a label is not the token that was there"
    assert torch.equal(shown[~masked], batch.input_ids[~masked]), "a visible token was changed"
    n, as_mask = int(masked.sum()), int((shown[masked] == MASK_TOKEN).sum())
    assert abs(as_mask - MASK * n) <= 8 * (n * MASK * (1 - MASK)) ** 0.5 + 1, f"{as_mask} of {n} show the mask token"
    assert int(batch.groups.token_group[0]) == SPECIAL


def _size(batch: Batch) -> str:
    n_cells, width = batch.input_ids.shape
    return f"{n_cells:,} x {width:,} ({batch.lengths.double().mean():,.0f})"
