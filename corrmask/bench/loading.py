"""Shuffled cells from disk to batches, beside Hugging Face's data sets and collators, and scDataset."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from corrmask.bench import packages
from corrmask.bench.cells import SPECIAL_TOKENS, Batch
from corrmask.bench.masking import RATE
from corrmask.bench.timing import Case, Contestant
from corrmask.corpus import Corpus
from corrmask.corpus_writer import CorpusWriter
from corrmask.loader import Loader
from corrmask.masking import CorrMasker
from corrmask.vocabulary import Vocabulary

_CHUNK = 1000  # rows written at a time


class Cells:
    """A corpus in a folder of its own, which goes with the object.

    Parameters
    ----------
    batch
        Its cells stand in the corpus again and again, each time at a place of their own.
    n_cells
        Rows.
    within
        Where the folder is made; by default where temporary files lie.
    """

    def __init__(self, batch: Batch, n_cells: int, within: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="corrmask-bench-", dir=within))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.groups, self.max_len = batch.groups, batch.input_ids.shape[1]
        genes = np.array([f"G{i}" for i in range(batch.groups.vocabulary_size - SPECIAL_TOKENS)], dtype=object)
        writer = CorpusWriter(self.folder / "corpus", Vocabulary(genes))
        for first in range(0, n_cells, _CHUNK):
            rows = np.arange(first, min(first + _CHUNK, n_cells))
            kept = torch.from_numpy(rows % len(batch.lengths))
            obs = pd.DataFrame(index=[f"c{row}" for row in rows])
            writer.append(batch.input_ids[kept].to(torch.int32), batch.lengths[kept], obs)
        writer.close()
        self.corpus = Corpus.open(self.folder / "corpus")
        self.known = {row[:n].tobytes() for row, n in zip(batch.input_ids.numpy(), batch.lengths.tolist(), strict=True)}


def loading_case(cells: Cells, batch_size: int, *, masked: bool, batches: int, workers: Sequence[int] = (0, 2)) -> Case:
    """Batches of shuffled cells, padded to their longest, from the page cache; `masked`: 80 / 10 / 10 as well.

    Ours masks groups, the others at random. Ours starts its threads anew each time, as many as torch has; the `workers`
    of the others read on between their turns, and the two or three batches that they then hold ready are their gain.
    """
    masker = CorrMasker(cells.groups, RATE) if masked else None
    loader = Loader(cells.corpus, batch_size, cells.max_len, masker=masker, threads=torch.get_num_threads())
    steps = itertools.count(step=batches)

    def ours() -> tuple[Tensor, Tensor | None]:
        first = next(steps)
        *_, last = loader.batches(first, first + batches)
        return last.input_ids, last.labels

    def check(result: tuple[Tensor, Tensor | None]) -> None:
        _check(cells, batch_size, masked, *result)

    contestants = [Contestant("Loader", ours, check, ours=True)]
    for name, source, restated in sources(cells, batch_size, masked, workers):
        contestants.append(Contestant(name, _reader(source, batches), check, restated=restated))
    mean = float(cells.corpus.lengths.mean())
    return Case(
        kernel="Loader, masked" if masked else "Loader",
        size=f"{batches} of {batch_size} x {cells.max_len:,} ({mean:,.0f})",
        dtype="uint16",
        n_cells=batches * batch_size,
        contestants=contestants,
        bytes_moved=batches * batch_size * (2 * mean + cells.max_len * (8 + 16 * masked)),
    )


def sources(
    cells: Cells, batch_size: int, masked: bool, workers: Sequence[int]
) -> Iterator[tuple[str, Iterable[Any], bool]]:
    """What is read from in place of ours: the data set as its users read it, and as fast as it goes."""
    if (collator_class := packages.collator_class()) is None:
        return
    from datasets import load_from_disk
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding

    tokenizer = _tokenizer(cells.groups.vocabulary_size)
    masking = collator_class(tokenizer, mlm_probability=RATE)
    collator = masking if masked else DataCollatorWithPadding(tokenizer)
    lists = load_from_disk(str(cells.folder / "corpus")).select_columns(["input_ids"])
    arrays = lists.with_format("numpy")

    def pad(rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Without a tokenizer, which pads lists; the collator's own function masks."""
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row.astype(np.int64)) for row in rows], True)
        if not masked:
            return {"input_ids": ids}
        input_ids, labels = masking.torch_mask_tokens(ids, special_tokens_mask=ids == 0)
        return {"input_ids": input_ids, "labels": labels}

    def pad_examples(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        return pad([example["input_ids"] for example in examples])

    for data, collate, name, restated in (
        (lists, collator, type(collator).__name__, False),
        (arrays, pad_examples, "arrays padded by torch", True),
    ):
        for n in workers:
            # A worker holds one batch ready: a longer queue would be filled between the turns.
            options: dict[str, Any] = {"num_workers": n, "prefetch_factor": 1 if n else None}
            source = DataLoader(data, batch_size, shuffle=True, drop_last=True, collate_fn=collate, **options)
            yield f"datasets, {name}, {n} workers", source, restated
    if (package := packages.scdataset()) is not None:
        source = package.scDataset(
            arrays,
            package.BlockShuffling(block_size=16),
            batch_size=batch_size,
            fetch_factor=16,
            drop_last=True,
            fetch_callback=lambda data, rows: data[rows]["input_ids"],
            batch_callback=lambda fetched, rows: [fetched[row] for row in rows],
            batch_transform=pad,
        )
        yield "scDataset, arrays padded by torch", source, False


def _reader(source: Iterable[Any], batches: int) -> Callable[[], tuple[Tensor, Tensor | None]]:
    """Reads so many batches, epoch after epoch."""
    endless = itertools.chain.from_iterable(source for _ in itertools.count())

    def read() -> tuple[Tensor, Tensor | None]:
        *_, last = itertools.islice(endless, batches)
        return last["input_ids"], last.get("labels")

    return read


def _tokenizer(vocabulary_size: int) -> Any:
    """A tokenizer of transformers over the same tokens, from which its collators take padding and special tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<mask>", "<cls>", "<eos>"]
    names = [*special, *(f"G{i}" for i in range(vocabulary_size - SPECIAL_TOKENS))]
    words = Tokenizer(WordLevel({name: token for token, name in enumerate(names)}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", mask_token="<mask>")


def _check(cells: Cells, batch_size: int, masked: bool, input_ids: Tensor, labels: Tensor | None) -> None:
    """Every row is a cell of the corpus, once what was masked is put back."""
    assert len(input_ids) == batch_size
    if masked:
        assert labels is not None
        assert 0.1 < float((labels >= 0).sum() / (input_ids != 0).sum()) < 0.2
        input_ids = torch.where(labels >= 0, labels, input_ids)
    for row in input_ids.numpy():
        assert row[row != 0].tobytes() in cells.known
