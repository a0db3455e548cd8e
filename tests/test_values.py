"""Masks of expression values: a plain numpy twin, scGPT's fields, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from cases import random_case
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from corrmask import CorrMasker, GroupTable, Vocabulary
from corrmask.errors import InputError
from corrmask.hf import content_id
from corrmask.values import CorrMaskValueCollator, mask_values

N_GENES = 50
VOCABULARY = Vocabulary(np.array([f"g{i}" for i in range(N_GENES)], dtype=object))
GROUPS = GroupTable.from_modules(
    {str(first): [f"g{i}" for i in range(first, first + 5)] for first in range(0, N_GENES, 5)}, VOCABULARY
)
CLS = 2


def make_examples(n_cells: int = 12, zeros: float = 0.3) -> list[dict[str, Any]]:
    """scGPT's examples: <cls> first, counts, some of them 0."""
    rng = np.random.default_rng(3)
    examples = []
    for cell in range(n_cells):
        genes = np.concatenate([[CLS], 4 + rng.permutation(N_GENES)[: rng.integers(8, 40)]])
        counts = np.where(rng.random(len(genes)) < zeros, 0, rng.poisson(4, len(genes)) + 1).astype(np.float32)
        counts[0] = 0
        examples.append({"id": 100 + cell, "genes": torch.from_numpy(genes), "expressions": torch.from_numpy(counts)})
    return examples


EXAMPLES = make_examples()
TABLES = tuple(getattr(GROUPS, name).numpy() for name in ("token_group", "group_indptr", "group_tokens"))


def twin(example: dict[str, Any], cell_id: int, *, epoch: int, options: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """Genes, values and mask of one cell, by loops."""
    genes, values = example["genes"].numpy(), example["expressions"].numpy().astype(np.float64)
    seed, first = options["seed"], options["keep_first_n_tokens"]
    if options["do_binning"]:
        bins = reference.bin_values(
            np.array([0, len(genes) - first]),
            genes[first:],
            values[first:],
            np.array([cell_id]),
            n_bins=options["n_bins"],
            seed=seed,
            epoch=epoch,
        )
        values = np.concatenate([values[:first], bins])
    if (most := options["max_length"]) is not None and len(genes) > most:
        kept = list(range(most))
        if options["sampling"]:
            words = reference.draws(seed, epoch, cell_id, genes, stream=6)[:, 0]
            behind = sorted(range(first, len(genes)), key=lambda at: (words[at], at))
            kept = [*range(first), *sorted(behind[: most - first])]
        genes, values = genes[kept], values[kept]
    seen = genes if options["mask_zeros"] else np.where(values == 0, 0, genes)
    owner = reference.sample_groups_in_cell(
        seen, cell_id, *TABLES, rate_ppm=round(options["mlm_probability"] * 10**6), seed=seed, epoch=epoch
    )
    return genes, values, owner >= 0


OPTIONS = {
    "seed": 5,
    "keep_first_n_tokens": 1,
    "do_binning": True,
    "n_bins": 51,
    "max_length": 24,
    "sampling": True,
    "mask_zeros": True,
    "mlm_probability": 0.4,
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"max_length": None, "mask_zeros": False},
        {"sampling": False, "n_bins": 7, "seed": 2**40},
        {"do_binning": False, "keep_first_n_tokens": 0},
        {"keep_first_n_tokens": 3, "mlm_probability": 0.15},
    ],
)
@pytest.mark.parametrize("brings_ids", [True, False])
def test_collator_is_the_twin(changed: dict[str, Any], brings_ids: bool) -> None:
    options = {**OPTIONS, **changed}
    examples = EXAMPLES if brings_ids else [{k: v for k, v in one.items() if k != "id"} for one in EXAMPLES]
    both = CorrMaskValueCollator(GROUPS, data_style="both", mask_value=-1, pad_value=-2, **options)
    collator = CorrMaskValueCollator(GROUPS, mask_value=-1, pad_value=-2, **options)
    for epoch in (0, 9):
        collator.set_epoch(epoch)
        both.set_epoch(epoch)
        batch, parts = collator(examples), both(examples)
        assert tuple(batch) == ("gene", "expr", "masked_expr")
        assert [batch[name].dtype for name in batch] == [torch.int64, torch.float32, torch.float32]
        assert tuple(parts) == ("pcpt_gene", "pcpt_expr", "gen_gene", "gen_expr_target")
        for row, example in enumerate(examples):
            cell = example["id"] if brings_ids else content_id(example["genes"].numpy())
            genes, values, mask = twin(example, cell, epoch=epoch, options=options)
            assert mask.sum() > 0
            wanted = {
                "gene": (genes, 0),
                "expr": (values, -2),
                "masked_expr": (np.where(mask, -1, values), -2),
                "pcpt_gene": (genes[~mask], 0),
                "pcpt_expr": (values[~mask], -2),
                "gen_gene": (genes[mask], 0),
                "gen_expr_target": (values[mask], -2),
            }
            for name, (numbers, padding) in wanted.items():
                line = (batch if name in batch else parts)[name][row].numpy()
                assert line[: len(numbers)].tolist() == numbers.tolist(), name
                assert (line[len(numbers) :] == padding).all(), name


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([torch.float32, torch.int64, torch.bfloat16]))
def test_values_are_masked_by_their_owners(seed: int, mask_zeros: bool, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    case = random_case(rng).valid_padding()
    ids, lengths, cell_ids, *groups = case.tensors()
    table = GroupTable(*groups)
    values = torch.from_numpy(rng.integers(0, 4, ids.shape)).to(dtype)
    masker = CorrMasker(table, 0.3, gene_token_range=(0, table.vocabulary_size), seed=2)
    masked, mask = mask_values(masker, ids, values, lengths, cell_ids, epoch=3, mask_value=77, mask_zeros=mask_zeros)
    special = int(np.flatnonzero(case.token_group == -2)[0])
    seen = case.input_ids if mask_zeros else np.where(values.float().numpy() == 0, special, case.input_ids)
    owners = reference.sample_groups(seen, *case.arrays[1:], rate_ppm=300_000, seed=2, epoch=3)
    assert mask.tolist() == (owners >= 0).tolist()
    assert masked.dtype == dtype
    assert masked.tolist() == torch.where(mask, torch.tensor(77, dtype=dtype), values).tolist()


def test_zeros_take_part_or_do_not() -> None:
    batches = [
        CorrMaskValueCollator(GROUPS, mlm_probability=0.4, mask_zeros=zeros)(EXAMPLES) for zeros in (True, False)
    ]
    hit = [batch["masked_expr"] == -1 for batch in batches]
    zero = batches[0]["expr"] == 0
    assert (hit[0] & zero).any()
    assert not (hit[1] & zero).any()
    n_expressed = ((batches[0]["expr"] > 0).sum(1)).tolist()
    assert hit[1].sum(1).tolist() == [reference.budget(n, 400_000) for n in n_expressed]


@pytest.mark.parametrize("style", ["pcpt", "both"])
def test_a_column_goes_before_the_epoch_that_is_told(style: str) -> None:
    collator = CorrMaskValueCollator(GROUPS, max_length=16, mlm_probability=0.4, data_style=style, pad_value=-2)
    epochs = [cell % 3 for cell in range(len(EXAMPLES))]
    mixed = collator([{**example, "epoch": epoch} for example, epoch in zip(EXAMPLES, epochs, strict=True)])
    for epoch in range(3):
        collator.set_epoch(epoch)
        of_epoch = collator([EXAMPLES[cell] for cell in range(epoch, len(EXAMPLES), 3)])
        for name, wanted in of_epoch.items():
            got = mixed[name][epoch::3]
            assert torch.equal(got[:, : wanted.shape[1]], wanted), name
            padding = got[:, wanted.shape[1] :]
            assert (padding == (0 if "gene" in name else -2)).all()


def test_batches_order_and_workers_do_not_matter() -> None:
    collator = CorrMaskValueCollator(GROUPS, max_length=20, seed=1)
    collator.set_epoch(4)
    whole = collator(EXAMPLES)
    order = np.random.default_rng(0).permutation(len(EXAMPLES))
    loader = DataLoader([EXAMPLES[i] for i in order], batch_size=5, collate_fn=collator, num_workers=0)
    found = [row for batch in loader for row in batch["masked_expr"]]
    for i, row in zip(order, found, strict=True):
        assert whole["masked_expr"][i, : len(row)].tolist() == row.tolist()
    collator.set_epoch(5)
    assert not torch.equal(collator(EXAMPLES)["masked_expr"], whole["masked_expr"])


def test_values_that_look_masked_are_refused() -> None:
    example = {"genes": [CLS, 5, 6, 7, 8], "expressions": [0.0, -1.0, -1.0, 2.0, -1.0]}
    options: dict[str, Any] = {"do_binning": False, "pad_value": -2}
    with pytest.raises(InputError, match="equals 'mask_value' -1"):
        CorrMaskValueCollator(GROUPS, **options)([example])
    batch = CorrMaskValueCollator(GROUPS, **options, mask_value=-9)([example])
    assert int((batch["masked_expr"] == -9).sum()) == 1
    assert CorrMaskValueCollator(GROUPS, **options, data_style="both")([example])["gen_gene"].shape == (1, 1)
    with pytest.raises(InputError, match="equals 'mask_value' 50"):
        CorrMaskValueCollator(GROUPS, mask_value=50)(EXAMPLES)


def test_half_precision_is_read() -> None:
    halves = [{**example, "expressions": example["expressions"].bfloat16()} for example in EXAMPLES]
    for name, whole in CorrMaskValueCollator(GROUPS)(EXAMPLES).items():
        assert torch.equal(CorrMaskValueCollator(GROUPS)(halves)[name], whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": None}, "'groups'"),
        ({"pad_token_id": 9}, "'pad_token_id' 9"),
        ({"pad_token_id": -1}, "'pad_token_id' -1"),
        ({"data_style": "gen"}, "'data_style'"),
        ({"max_length": 0}, "'keep_first_n_tokens'"),
        ({"keep_first_n_tokens": -1}, "'keep_first_n_tokens'"),
        ({"n_bins": 1}, "'n_bins'"),
        ({"pad_value": -1}, "'mask_value' and 'pad_value' must differ"),
        ({"mlm_probability": 0.0}, "'mlm_probability' must be in"),
        ({"mask_value": float("nan")}, "must be finite"),
        ({"pad_value": float("inf")}, "must be finite"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CorrMaskValueCollator(**{"groups": GROUPS, **options})


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ({"expressions": [1.0]}, "no 'genes'"),
        ({"genes": [5]}, "no 'expressions'"),
        ({"genes": [5, 6], "expressions": [1.0]}, "must be 2 finite numbers"),
        ({"genes": [5], "expressions": [float("nan")]}, "finite"),
        ({"genes": [2, 5], "expressions": [0, -1.0]}, "0 or more"),
        ({"genes": [99], "expressions": [1.0]}, "token 99"),
        ({"genes": [-1, 5], "expressions": [1.0, 1.0]}, "token -1"),
        ({"genes": [5.5], "expressions": [1.0]}, "whole numbers"),
        ({"genes": [5], "expressions": [1.0], "id": -3}, "'id'"),
    ],
)
def test_examples_that_are_refused(example: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CorrMaskValueCollator(GROUPS)([example])
    with pytest.raises(InputError, match="no examples"):
        CorrMaskValueCollator(GROUPS)([])


def test_counts_that_float32_cannot_tell_apart() -> None:
    example = {"id": 0, "genes": [2, 4, 5], "expressions": np.array([0, 2**24, 2**24 + 1])}
    counts = example["expressions"]
    for values in (counts, torch.tensor(counts), torch.tensor(counts, dtype=torch.double)):
        collator = CorrMaskValueCollator(GROUPS, n_bins=3, mlm_probability=1e-6)
        assert collator([{**example, "expressions": values}])["expr"].tolist() == [[0, 1, 2]]
    with pytest.raises(InputError, match="must be 1 finite numbers"):
        collator([{"genes": [5], "expressions": [1e39]}])


def test_shapes_and_specials_that_are_refused() -> None:
    masker = CorrMasker(GroupTable(torch.zeros(3, dtype=torch.int32), torch.tensor([0, 0]), torch.zeros(0).int()))
    ids, one = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])
    with pytest.raises(InputError, match="shape of 'genes'"):
        mask_values(masker, ids, torch.zeros(1, 3), one, one)
    with pytest.raises(InputError, match="float32 cannot hold 'mask_value' 1e"):
        mask_values(masker, ids, torch.zeros(1, 2), one, one, mask_value=1e39)
    assert mask_values(masker, ids, torch.zeros(1, 2), one, one, mask_value=np.float32(-2))[0].min() == -2
    for dtype in (torch.uint8, torch.bool):
        with pytest.raises(InputError, match="cannot hold 'mask_value' -1"):
            mask_values(masker, ids, torch.zeros(1, 2, dtype=dtype), one, one)
    for value in (0.5, 128, float("nan")):
        with pytest.raises(InputError, match=f"int8 cannot hold 'mask_value' {value}"):
            mask_values(masker, ids, torch.zeros(1, 2, dtype=torch.int8), one, one, mask_value=value)
    with pytest.raises(InputError, match="special token"):
        mask_values(masker, ids, torch.zeros(1, 2), one, one, mask_zeros=False)
