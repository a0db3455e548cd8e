"""The collator for Hugging Face: the masker's masks, in any batch, worker, epoch and Trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_import import brought_by
from torch import Tensor
from torch.utils.data import DataLoader

from corrmask import CorrMasker, GroupTable, Vocabulary
from corrmask.errors import InputError, InputWarning
from corrmask.hf import CorrMaskCollator, Passes, content_id

N_GENES = 60
N_CELLS = 96
VOCABULARY = Vocabulary(np.array([f"gene{i}" for i in range(N_GENES)]))
GROUPS = GroupTable.from_modules(
    {str(first): [f"gene{i}" for i in range(first, first + 5)] for first in range(0, N_GENES, 5)}, VOCABULARY
)
NAMES = ("input_ids", "attention_mask", "labels")
Example = dict[str, Any]


def make_examples(n_cells: int = N_CELLS, seed: int = 0) -> list[Example]:
    """Geneformer's examples; cells are of two kinds that share no gene, and each has a row."""
    rng = np.random.default_rng(seed)
    examples = []
    for cell in range(n_cells):
        genes = rng.permutation(N_GENES // 2)[: rng.integers(12, 28)] + N_GENES // 2 * (cell % 2)
        tokens = (genes + VOCABULARY.first_gene_token).tolist()
        examples.append({"input_ids": tokens, "length": len(tokens), "cell_id": cell})
    return examples


EXAMPLES = make_examples()


def without_ids(examples: list[Example]) -> list[Example]:
    return [{name: value for name, value in example.items() if name != "cell_id"} for example in examples]


def make_collator(**options: Any) -> CorrMaskCollator:
    collator = CorrMaskCollator(VOCABULARY, **{"groups": GROUPS, "seed": 3, **options})
    collator.set_epoch(0)  # most tests mask the same cells again on purpose
    return collator


def masked_cells(batches: Any) -> dict[bytes, tuple[bytes, bytes]]:
    """What each cell shows, by the cell: tokens before, tokens after and labels, without padding."""
    cells = {}
    for batch in batches:
        for ids, real, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            shown, wanted = ids[real == 1].numpy(), labels[real == 1].numpy()
            cells[np.where(wanted == -100, shown, wanted).tobytes()] = shown.tobytes(), wanted.tobytes()
    return cells


# --- the masks ---


@pytest.mark.parametrize("options", [{}, {"unit": "group", "max_group": 2, "expand": 0.5, "rotate": True}])
@pytest.mark.parametrize("brings_ids", [True, False])
def test_it_is_the_masker(options: dict[str, Any], brings_ids: bool) -> None:
    collator = make_collator(mlm_probability=0.3, mask_replace_prob=0.6, random_replace_prob=0.3, **options)
    masker = CorrMasker(GROUPS, 0.3, options.pop("expand", 1.0), mask_prob=0.6, random_prob=0.3, seed=3, **options)
    lengths = torch.tensor([example["length"] for example in EXAMPLES])
    plain = torch.zeros(N_CELLS, int(lengths.max()), dtype=torch.int64)
    for row, example in zip(plain, EXAMPLES, strict=True):
        row[: example["length"]] = torch.tensor(example["input_ids"])
    ids = [example["cell_id"] if brings_ids else content_id(np.array(example["input_ids"])) for example in EXAMPLES]
    for epoch in (0, 7):
        collator.set_epoch(epoch)
        batch = collator(EXAMPLES if brings_ids else without_ids(EXAMPLES))
        input_ids, labels = masker(plain, lengths, torch.tensor(ids), epoch=epoch)
        assert tuple(batch) == NAMES
        assert all(tensor.dtype == torch.int64 for tensor in batch.values())
        assert torch.equal(batch["input_ids"], input_ids)
        assert torch.equal(batch["labels"], labels)
        assert torch.equal(batch["attention_mask"].sum(1), lengths)


@pytest.mark.parametrize("brings_ids", [True, False])
def test_a_mask_does_not_know_its_batch(brings_ids: bool) -> None:
    examples = EXAMPLES if brings_ids else without_ids(EXAMPLES)
    collator = make_collator(pad_to_multiple_of=16)
    whole = masked_cells([collator(examples)])
    assert len(whole) == N_CELLS
    order = np.random.default_rng(1).permutation(N_CELLS)
    for size in (1, 7):
        batches = [collator([examples[i] for i in order[first : first + size]]) for first in range(0, N_CELLS, size)]
        assert all(batch["input_ids"].shape[1] % 16 == 0 for batch in batches)
        assert masked_cells(batches) == whole
    collator.set_epoch(1)
    assert sum(whole[cell] != mask for cell, mask in masked_cells([collator(examples)]).items()) > N_CELLS * 0.9


def test_every_form_of_example_gives_the_same() -> None:
    examples = without_ids(EXAMPLES)
    expected = make_collator()(examples)
    padded = [[*example["input_ids"], *[0] * (30 - example["length"])] for example in examples]
    forms: dict[str, list[Any]] = {
        "arrays": [{"input_ids": np.array(example["input_ids"], dtype=np.uint16)} for example in examples],
        "tensors": [{"input_ids": torch.tensor(example["input_ids"], dtype=torch.int32)} for example in examples],
        "tokens alone": [example["input_ids"] for example in examples],
        "other columns": [{**example, "donor": "d1", "tissue": None} for example in examples],
    }
    for form, given in forms.items():
        got = make_collator()(given)
        assert all(torch.equal(got[name], tensor) for name, tensor in expected.items()), form
    wide = make_collator()(padded)
    assert wide["input_ids"].shape[1] == 30, "the width that was given is kept"
    assert masked_cells([wide]) == masked_cells([expected]), "padding is not hashed and not masked"
    arrays = make_collator(return_tensors="np")(examples)
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in expected.items())
    assert isinstance(arrays["labels"], np.ndarray)
    assert isinstance(make_collator()(examples, return_tensors="np")["labels"], np.ndarray)
    empty = make_collator()([[], [0, 0]])
    assert empty["attention_mask"].sum() == 0
    assert (empty["labels"] == -100).all()
    assert make_collator()([[]])["input_ids"].shape == (1, 0)


def test_the_id_of_a_cell_without_one_is_its_content() -> None:
    assert content_id(np.array([4, 5, 6])) == content_id(np.array([4, 5, 6], dtype=np.uint16)) == 3280135284775877566
    for beyond in (-1, 2**31):
        with pytest.raises(InputError, match="content_id: 'tokens' must be in 0"):
            content_id(np.array([4, beyond]))
    assert len({content_id(np.array(example["input_ids"])) for example in EXAMPLES}) == N_CELLS
    first, again = make_collator()([EXAMPLES[0]["input_ids"]] * 2)["labels"]
    assert torch.equal(first, again), "the stated limit: equal cells get equal masks"
    rows = [{"input_ids": EXAMPLES[0]["input_ids"], "cell_id": row} for row in (0, 1)]
    first, again = make_collator()(rows)["labels"]
    assert not torch.equal(first, again)


def test_rate_and_shares() -> None:
    """The rate is exact in every cell; shares lie within 5 standard deviations of the binomial: p < 1e-6 each."""
    collator = make_collator()
    shown, labels = [], []
    for epoch in range(100):
        collator.set_epoch(epoch)
        batch = collator(EXAMPLES)
        n_masked = (batch["labels"] != -100).sum(1)
        budget = torch.clamp((batch["attention_mask"].sum(1) * 150_000 + 500_000) // 1_000_000, min=1)
        assert torch.equal(n_masked, budget)
        shown.append(batch["input_ids"][batch["labels"] != -100])
        labels.append(batch["labels"][batch["labels"] != -100])
    ids, wanted = torch.cat(shown), torch.cat(labels)
    is_mask, is_same = ids == VOCABULARY.mask_token_id, ids == wanted
    is_random = ~is_mask & ~is_same
    hit = 0.1 / N_GENES  # a random gene may be the one that stood there
    for got, share in ((is_mask, 0.8), (is_random, 0.1 - hit), (is_same, 0.1 + hit)):
        assert abs(float(got.double().mean()) - share) < 5 * math.sqrt(share * (1 - share) / len(ids))
    assert ids[is_random].min() >= VOCABULARY.first_gene_token


def test_without_masking_it_is_the_plain_collator() -> None:
    batch = make_collator(mlm=False)(EXAMPLES)
    real = batch["attention_mask"] == 1
    assert torch.equal(batch["labels"][real], batch["input_ids"][real])
    assert (batch["labels"][~real] == -100).all()
    assert (~real).any()


# --- tokenizers ---


def test_what_may_stand_for_a_tokenizer() -> None:
    dictionary = {**VOCABULARY.special_tokens, **{f"gene{i}": 4 + i for i in range(N_GENES)}}
    expected = make_collator()(EXAMPLES)
    for tokenizer in (
        dictionary,
        SimpleNamespace(gene_token_dict=dictionary),
        SimpleNamespace(token_dictionary=dictionary, padding_side="right"),
        SimpleNamespace(pad_token_id=0, mask_token_id=1),
    ):
        got = CorrMaskCollator(tokenizer, groups=GROUPS, seed=3)(EXAMPLES)
        assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def test_a_tokenizer_of_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    names = ["[PAD]", "[MASK]", "[CLS]", "[UNK]", "[SEP]", *(f"gene{i}" for i in range(N_GENES - 1))]
    tokenizer = BertTokenizer(vocab={name: i for i, name in enumerate(names)})
    vocabulary = Vocabulary(np.array(names[5:]), 5, {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<unk>": 3, "<eos>": 4})
    batch = CorrMaskCollator(tokenizer, groups=GroupTable.without_groups(vocabulary))([[2, 9, 10, 11, 4], [2, 7, 4]])
    assert (batch["labels"] != -100).sum(1).tolist() == [1, 1]
    assert (batch["labels"][:, 0] == -100).all()
    assert batch["attention_mask"].sum(1).tolist() == [5, 3]


def test_geneformers_dictionary(data_dir: Path) -> None:
    from corrmask.geneformer import read_dictionary, read_vocabulary

    path = data_dir / "geneformer" / "token_dictionary.pkl"
    dictionary, vocabulary = read_dictionary(path), read_vocabulary(path)
    collator = CorrMaskCollator(dictionary, groups=GroupTable.without_groups(vocabulary))
    rng = np.random.default_rng(0)
    lo, hi = vocabulary.gene_token_range
    cells = [rng.permutation(np.arange(lo, hi))[:n] for n in (2048, 300)]
    batch = collator([{"input_ids": cell.tolist(), "length": len(cell)} for cell in cells])
    assert (batch["labels"] != -100).sum(1).tolist() == [307, 45]
    assert (batch["input_ids"][1, 300:] == dictionary["<pad>"]).all()
    assert (batch["input_ids"] == dictionary["<mask>"]).sum() > 200


# --- workers and datasets ---


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later, of any process with threads
@pytest.mark.parametrize(
    ("workers", "context", "persistent"),
    [(0, None, False), (2, "fork", False), (2, "fork", True), (1, "spawn", False), (2, "spawn", True)],
)
def test_the_epoch_reaches_running_workers(workers: int, context: str | None, persistent: bool) -> None:
    alone, collator = make_collator(), make_collator()
    options = {"num_workers": workers, "multiprocessing_context": context, "persistent_workers": persistent}
    loader = DataLoader(EXAMPLES, batch_size=13, shuffle=True, collate_fn=collator, **options)
    seen: list[dict[bytes, tuple[bytes, bytes]]] = []
    processes: set[int] = set()
    for epoch in (5,) if context == "spawn" and not persistent else (0, 1, 5, 0):
        collator.set_epoch(epoch)
        alone.set_epoch(epoch)
        iterator = iter(loader)
        seen.append(masked_cells(iterator))
        processes.update(worker.pid for worker in getattr(iterator, "_workers", []))
        assert seen[-1] == masked_cells([alone(EXAMPLES)]), epoch
        assert collator.epoch == epoch
    assert all(one != other for one, other in pairwise(seen))
    if persistent:
        assert len(processes) == workers, "the same workers gave every epoch"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_pass_without_an_epoch_warns_once(workers: int, recwarn: pytest.WarningsRecorder) -> None:
    twins = [*EXAMPLES[:90], *[{**EXAMPLES[0], "cell_id": 7}] * 2]
    collator = CorrMaskCollator(VOCABULARY, groups=GROUPS)
    loader = DataLoader(twins, batch_size=10, shuffle=True, collate_fn=collator, num_workers=workers)
    list(loader)
    assert not [one for one in recwarn if one.category is InputWarning], "equal cells in one pass are no second pass"
    assert not collator._told
    if workers:
        list(loader)  # warns in the worker
        assert collator._told
    else:
        with pytest.warns(InputWarning, match="for the second time.*set_epoch") as caught:
            list(loader)
        list(loader)  # once: warnings are errors here
        assert len(caught) == 1
    told = CorrMaskCollator(VOCABULARY, groups=GROUPS)
    told.set_epoch(0)
    list(DataLoader(twins, batch_size=10, collate_fn=told))
    list(DataLoader(twins, batch_size=10, collate_fn=told))


@pytest.fixture
def quiet_datasets() -> Iterator[Any]:
    """`datasets`, without its progress bars."""
    import datasets

    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


def test_datasets_in_memory_and_streamed(quiet_datasets: Any) -> None:
    collator = make_collator()
    expected = masked_cells([collator(EXAMPLES)])
    dataset = quiet_datasets.Dataset.from_list(EXAMPLES)
    indexed = quiet_datasets.Dataset.from_list(without_ids(EXAMPLES)).add_column("cell_id", range(N_CELLS))
    streamed = dataset.to_iterable_dataset(num_shards=4)
    for name, cells in {
        "in memory": dataset.shuffle(seed=1),
        "index as id": indexed,
        "as arrays": dataset.with_format("numpy"),
        "as tensors": dataset.with_format("torch"),
        "streamed": streamed,
        "streamed and shuffled": streamed.shuffle(seed=2, buffer_size=20),
    }.items():
        assert masked_cells(DataLoader(cells, batch_size=10, collate_fn=collator)) == expected, name
    hashed = masked_cells([collator(without_ids(EXAMPLES))])
    stream = streamed.remove_columns("cell_id").shuffle(seed=2, buffer_size=20)
    assert masked_cells(DataLoader(stream, batch_size=10, collate_fn=collator)) == hashed


# --- in a Trainer ---


BATCHES = N_CELLS // 16  # of an epoch


def train(
    folder: Path, cells: Any, *, resume: str | None = None, **options: Any
) -> tuple[Any, list[dict[str, Tensor]]]:
    """Train a model of two layers; the trainer, and all batches that its model was given."""
    from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY.size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    model = BertForMaskedLM(config)
    given: list[dict[str, Tensor]] = []
    model.register_forward_pre_hook(
        lambda module, arguments, batch: given.append({name: batch[name].clone() for name in NAMES}), with_kwargs=True
    )
    collator = make_collator(mlm_probability=0.3)
    arguments = TrainingArguments(
        str(folder),
        **{
            "per_device_train_batch_size": 16,
            "num_train_epochs": 3,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "remove_unused_columns": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            **options,
        },
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=collator,
        train_dataset=cells,
        callbacks=[collator.callback()],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, given


@pytest.fixture
def quiet_trainer(set_threads: Callable[[int], None]) -> Iterator[None]:
    """One thread, which is enough for the model and leaves the others alone; no lines of each step."""
    set_threads(1)
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def check_epochs(given: list[dict[str, Tensor]], n_epochs: int, examples: list[Example] = EXAMPLES) -> None:
    """Every epoch gave every cell, with the masks that the collator gives by itself."""
    per_epoch = len(given) // n_epochs
    assert len(given) == n_epochs * per_epoch
    alone = make_collator(mlm_probability=0.3)
    for epoch in range(n_epochs):
        alone.set_epoch(epoch)
        of_epoch = given[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert masked_cells(of_epoch) == masked_cells([alone(examples)]), epoch


@pytest.mark.usefixtures("quiet_trainer")
def test_a_trainer_learns(tmp_path: Path, quiet_datasets: Any) -> None:
    trainer, given = train(tmp_path, quiet_datasets.Dataset.from_list(EXAMPLES), num_train_epochs=20)
    check_epochs(given, 20)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20 * BATCHES
    # Who tells the two kinds apart needs ln(30) = 3.4 nats a gene, who does not ln(60) = 4.1.
    assert np.mean(losses[:3]) > math.log(N_GENES) - 0.2
    assert np.mean(losses[-BATCHES:]) < math.log(N_GENES) - 0.4


def check_continues(uninterrupted: tuple[Any, Any], resumed: tuple[Any, Any], step: int) -> None:
    """From `step` on the batches that both were given are equal, and in the end the weights: bit for bit."""
    (whole, given), (other, again) = uninterrupted, resumed
    assert len(again) == len(given) - step
    for wanted, got in zip(given[step:], again, strict=True):
        assert all(torch.equal(wanted[name], got[name]) for name in NAMES)
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, other.model.state_dict()[name]), name


@pytest.mark.usefixtures("quiet_trainer")
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, quiet_datasets: Any) -> None:
    cells = quiet_datasets.Dataset.from_list(EXAMPLES)
    whole, given = train(tmp_path, cells, save_strategy="steps", save_steps=3)
    check_epochs(given, 3)
    for step in (9, 12):  # in the middle of an epoch of 6 steps, and at its end
        resumed, again = train(tmp_path / "again", cells, resume=str(tmp_path / f"checkpoint-{step}"))
        check_continues((whole, given), (resumed, again), step)


@pytest.mark.usefixtures("quiet_trainer")
@pytest.mark.parametrize("kept", [True, False])
def test_cells_are_grouped_by_length(tmp_path: Path, quiet_datasets: Any, kept: bool) -> None:
    """With the other columns kept, and without them: `length` serves the sampler, `cell_id` is replaced by a hash."""
    cells = quiet_datasets.Dataset.from_list(EXAMPLES)
    options = {"num_train_epochs": 2, "remove_unused_columns": not kept, "per_device_train_batch_size": 4}
    grouping = {"train_sampling_strategy": "group_by_length", "length_column_name": "length"}
    _, grouped = train(tmp_path, cells, **options, **grouping)
    _, shuffled = train(tmp_path, cells, **options)
    for given in (grouped, shuffled):
        check_epochs(given, 2, EXAMPLES if kept else without_ids(EXAMPLES))
    padding = [sum(int((batch["attention_mask"] == 0).sum()) for batch in given) for given in (grouped, shuffled)]
    assert padding[0] < padding[1] / 2, "batches hold cells of one length"


@pytest.mark.usefixtures("quiet_trainer")
@pytest.mark.parametrize("kept", [True, False])
def test_a_trainer_over_a_stream(tmp_path: Path, quiet_datasets: Any, kept: bool) -> None:
    """A stream has no length: the Trainer counts steps, and the callback the passes."""
    stream = quiet_datasets.Dataset.from_list(EXAMPLES).to_iterable_dataset(num_shards=3)
    _, given = train(tmp_path, stream, max_steps=3 * BATCHES, remove_unused_columns=not kept)
    check_epochs(given, 3, EXAMPLES if kept else without_ids(EXAMPLES))


@pytest.mark.usefixtures("quiet_trainer")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_over_a_stream_is_resumed(tmp_path: Path, quiet_datasets: Any, workers: int) -> None:
    """Shuffled anew in each pass, 96 cells in batches of 20, so that batches hold the end of one and the next begin."""
    stream = quiet_datasets.Dataset.from_list(EXAMPLES).to_iterable_dataset(num_shards=4)
    cells = Passes(stream.shuffle(seed=1, buffer_size=30))
    options = {"max_steps": 18, "per_device_train_batch_size": 20, "dataloader_num_workers": workers}
    whole, given = train(tmp_path, cells, save_strategy="steps", save_steps=4, **options)
    assert len(given) == 18
    seen = [masked_cells([batch]) for batch in given]
    alone, places = make_collator(mlm_probability=0.3), []
    for epoch in range(4):
        alone.set_epoch(epoch)
        of_epoch = masked_cells([alone(EXAMPLES)])
        places.append([i for i, batch in enumerate(seen) if all(batch[cell] == of_epoch[cell] for cell in batch)])
    if not workers:  # with workers that count their passes apart, batches of two passes may take turns
        assert places == [[*range(4)], [*range(5, 9)], [*range(10, 14)], [*range(15, 18)]]
    for step in (4, 12):  # within the first pass, and in the third
        resumed, again = train(tmp_path / "again", cells, resume=str(tmp_path / f"checkpoint-{step}"), **options)
        check_continues((whole, given), (resumed, again), step)


@pytest.mark.usefixtures("quiet_trainer")
def test_a_stream_that_is_resumed_without_passes_is_warned_of(tmp_path: Path, quiet_datasets: Any) -> None:
    stream = quiet_datasets.Dataset.from_list(EXAMPLES).to_iterable_dataset(num_shards=3)
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 7}
    train(tmp_path, stream, **options)
    with pytest.warns(InputWarning, match=r"resumed over a stream begins its passes anew.*Passes\(stream\)"):
        train(tmp_path, stream, resume=str(tmp_path / "checkpoint-7"), **options)
    with pytest.raises(InputError, match="remove_unused_columns=False"):
        train(tmp_path, Passes(stream), max_steps=2, remove_unused_columns=True)


def test_passes_end_where_there_are_no_cells_and_refuse_what_is_read_once() -> None:
    assert list(Passes([])) == []
    one = iter(Passes(EXAMPLES[:2]))
    assert [(next(one)["cell_id"], epoch) for epoch in (0, 0, 1, 1)] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    for once in (iter(EXAMPLES), (example for example in EXAMPLES), 5, {"train": EXAMPLES}, "train"):
        with pytest.raises(InputError, match="'stream' must be examples, iterable more than once"):
            Passes(once)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="examples must be mappings, got list"):
        next(iter(Passes([[5, 6]])))  # type: ignore[list-item]


def test_a_column_goes_before_the_epoch_that_is_told() -> None:
    collator, alone = make_collator(), make_collator()
    epochs = np.random.default_rng(0).integers(0, 3, N_CELLS)
    batch = collator([{**example, "epoch": epoch} for example, epoch in zip(EXAMPLES, epochs, strict=True)])
    for epoch in range(3):
        alone.set_epoch(epoch)
        wanted = alone(EXAMPLES)
        assert all(torch.equal(batch[name][epochs == epoch], wanted[name][epochs == epoch]) for name in NAMES)


@pytest.mark.usefixtures("quiet_trainer")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_trainer_with_workers_that_stay(tmp_path: Path, quiet_datasets: Any) -> None:
    cells = quiet_datasets.Dataset.from_list(EXAMPLES)
    check_epochs(train(tmp_path, cells, dataloader_num_workers=2, dataloader_persistent_workers=True)[1], 3)


# --- what is refused, and what an import brings ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": None}, "'groups' must be a GroupTable, got None"),
        ({"whole_word_mask": True}, "'whole_word_mask' must be False"),
        ({"mlm_probability": 0}, "'mlm_probability' must be in 1e-06 .. 1, got 0"),
        ({"mlm_probability": None}, "CorrMaskCollator: 'mlm_probability' must be a number, got None"),
        ({"mlm_probability": 15}, "'mlm_probability' must be in 1e-06 .. 1, got 15"),
        ({"mask_replace_prob": 1.1}, "'mask_replace_prob' must be in 0 .. 1, got 1.1"),
        ({"random_replace_prob": -0.1}, "'random_replace_prob' must be in 0 .. 1"),
        ({"random_replace_prob": 0.3}, "must be at most 1"),
        ({"pad_to_multiple_of": 0}, "'pad_to_multiple_of' must be 1 or more"),
        ({"gene_token_range": (4, 65)}, "'gene_token_range' must be within 0 .. 64"),
        ({"return_tensors": "tf"}, "'return_tensors' must be 'pt' or 'np', got 'tf'"),
        ({"seed": None}, "'seed' must be a whole number, got None"),
        ({"seed": -1}, "'seed' must be in"),
        ({"tokenizer": "bert"}, "'tokenizer' has no pad_token_id"),
        ({"tokenizer": SimpleNamespace(pad_token_id=0, mask_token_id=None)}, "'tokenizer' has no mask_token_id"),
        ({"tokenizer": SimpleNamespace(pad_token_id=0, mask_token_id=9)}, "mask token 9 must be a special token"),
        ({"tokenizer": SimpleNamespace(pad_token_id=99, mask_token_id=1)}, "pad token 99 must be a special token"),
        ({"tokenizer": SimpleNamespace(padding_side="left")}, "padding_side"),
        ({"tokenizer": {"<pad>": 0, "<mask>": 1, "gene": 2}}, "the tokenizer has 3 tokens and 'groups' 64"),
        ({"tokenizer": {"gene": 2}}, "special token '<pad>' is missing"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        CorrMaskCollator(**{"tokenizer": VOCABULARY, "groups": GROUPS, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "holds no examples"),
        (EXAMPLES[0], "a batch must be a list of examples, got dict"),
        (None, "a batch must be a list of examples, got NoneType"),
        ([{"input_ids": [4], "epoch": 2**28}], "'epoch' must be a whole number in 0 .. 2**28 - 1, got 268435456"),
        ([{"input_ids": [4], "epoch": 0}, {"input_ids": [4]}], "1 of 2 examples have no 'epoch'"),
        ([{"tokens": [4], "length": 1}], "no 'input_ids' (it has tokens, length)"),
        ([{"input_ids": [[4, 5], [6, 7]]}], "must be whole numbers [n], got int64 [2, 2]"),
        ([{"input_ids": [[4, 5], [6]]}], "must be whole numbers [n]"),
        ([{"input_ids": [4.5, 5]}], "must be whole numbers [n], got float64 [2]"),
        ([{"input_ids": [4, 64]}], "holds token 64, the groups' vocabulary has 64"),
        ([{"input_ids": [4, -1]}], "holds token -1"),
        ([{"input_ids": [4], "cell_id": 0}, {"input_ids": [4]}], "1 of 2 examples have no 'cell_id'"),
        ([{"input_ids": [4], "cell_id": -1}], "'cell_id' must be a whole number in 0 .. 2**63 - 1, got -1"),
        ([{"input_ids": [4], "cell_id": 2**63}], "'cell_id' must be a whole number"),
        ([{"input_ids": [4], "cell_id": "AAAC-1"}], "'cell_id' must be a whole number in 0 .. 2**63 - 1, got 'AAAC-1'"),
    ],
)
def test_examples_that_are_refused(features: list[Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        make_collator()(features)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("epoch", [-1, 2**28, 1.0, True, None])
def test_epochs_that_are_refused(epoch: Any) -> None:
    with pytest.raises(InputError, match="'epoch' must be a whole number"):
        make_collator().set_epoch(epoch)


def test_the_collator_needs_the_core_alone() -> None:
    brought = brought_by("import corrmask; corrmask.hf.CorrMaskCollator")
    assert not brought & {"transformers", "datasets", "accelerate", "safetensors"}
