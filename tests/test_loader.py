"""Batches read ahead: the same cells for any threads and ranks, errors in one piece, no thread left behind."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corrmask.errors import InputError
from corrmask.groups import GroupTable
from corrmask.loader import LoadedBatch, Loader
from corrmask.masking import CorrMasker
from corrmask.order import shuffled
from corrmask.vocabulary import Vocabulary

pytest.importorskip("datasets")

from datasets import load_from_disk
from test_corpus import make_cells, make_obs, make_vocabulary, write

from corrmask.corpus import Batch, Corpus

N_CELLS = 150


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    vocabulary = make_vocabulary()
    folder = tmp_path_factory.mktemp("loader") / "corpus"
    return Corpus.open(write(folder, make_cells(N_CELLS, vocabulary), vocabulary, chunk=40))


def make_masker(vocabulary: Vocabulary, **options: Any) -> CorrMasker:
    """Each gene brings the next two."""
    lo, hi = vocabulary.gene_token_range
    genes = np.arange(lo, hi)
    token_group = np.full(vocabulary.size, -2, dtype=np.int32)
    token_group[lo:hi] = np.arange(hi - lo)
    members = np.stack([lo + (genes - lo + 1) % (hi - lo), lo + (genes - lo + 2) % (hi - lo)], axis=1)
    groups = GroupTable(
        torch.from_numpy(token_group), torch.arange(hi - lo + 1) * 2, torch.from_numpy(members.astype(np.int32).ravel())
    )
    return CorrMasker(groups, 0.4, mask_token_id=vocabulary.mask_token_id, **options)


def assert_soon_no_threads() -> None:
    end = time.monotonic() + 10
    while loader_threads():
        assert time.monotonic() < end
        time.sleep(0.01)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("corrmask-loader")]


def same(one: LoadedBatch, other: LoadedBatch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b or a == b for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_batches_are_those_of_the_corpus_in_the_order(corpus: Corpus, threads: int, masked: bool) -> None:
    assert_soon_no_threads()  # of a generator that another test closed, which does not wait
    masker = make_masker(corpus.vocabulary, seed=5) if masked else None
    loader = Loader(corpus, 32, 6, seed=9, masker=masker, threads=threads)
    assert len(loader) == 4
    batches = list(loader.batches(2, 11))
    assert not loader_threads()
    assert [(batch.step, batch.epoch) for batch in batches] == [(step, step // 4) for step in range(2, 11)]
    for batch in batches:
        place = batch.step % 4 * 32
        rows = shuffled(np.arange(N_CELLS), seed=9, epoch=batch.epoch)[place : place + 32]
        expected = corpus.batch(rows, 6)
        input_ids, labels = expected.input_ids, None
        if masker is not None:
            input_ids, labels = masker(*expected, epoch=batch.epoch)
        wanted = LoadedBatch(batch.step, batch.epoch, input_ids, labels, expected.lengths, expected.cell_ids, None)
        assert same(batch, wanted)
    assert loader.waited > 0
    assert [batch.step for batch in loader.epoch(3)] == [12, 13, 14, 15]
    with contextlib.closing(loader.batches(2)) as endless:
        assert all(same(next(endless), batch) for batch in batches)


@pytest.mark.parametrize("balance", [None, "donor"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batch_of_a_step(corpus: Corpus, world_size: int, balance: str | None) -> None:
    options: dict[str, Any] = {"seed": 1, "masker": make_masker(corpus.vocabulary), "balance": balance}
    whole = list(Loader(corpus, 12, 9, **options).batches(0, 30))
    ranks = [
        list(Loader(corpus, 12, 9, rank=rank, world_size=world_size, threads=rank + 1, **options).batches(0, 30))
        for rank in range(world_size)
    ]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert {len(part.lengths) for part in parts} == {12 // world_size}
        for name in ("lengths", "cell_ids"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
        for name in ("input_ids", "labels"):
            rows = [row[:n] for part in parts for row, n in zip(getattr(part, name), part.lengths)]
            assert all(torch.equal(row, other[: len(row)]) for row, other in zip(rows, getattr(batch, name)))


@pytest.mark.parametrize("masked", [False, True])
def test_packed_is_padded_without_the_padding(corpus: Corpus, masked: bool) -> None:
    masker = make_masker(corpus.vocabulary) if masked else None
    padded, packed = (
        list(Loader(corpus, 16, 7, masker=masker, packed=packed).batches(0, 9)) for packed in (False, True)
    )
    for one, other in zip(padded, packed, strict=True):
        real = torch.arange(one.input_ids.shape[1]) < one.lengths[:, None]
        assert torch.equal(other.input_ids, one.input_ids[real])
        assert other.cu_seqlens is not None
        assert other.cu_seqlens.dtype == torch.int32
        assert other.cu_seqlens.tolist() == [0, *one.lengths.cumsum(0).tolist()]
        assert torch.equal(other.cell_ids, one.cell_ids)
        if masked:
            assert one.labels is not None
            assert other.labels is not None
            assert torch.equal(other.labels, one.labels[real])


def test_rows_and_leftovers(corpus: Corpus) -> None:
    rows = np.flatnonzero(corpus.lengths > 3)
    loader = Loader(corpus, 8, 9, rows=rows)
    epochs = [torch.cat([batch.cell_ids for batch in loader.epoch(epoch)]).tolist() for epoch in range(2)]
    assert all(len(set(cells)) == len(cells) == len(rows) // 8 * 8 for cells in epochs)
    assert set(epochs[0]) | set(epochs[1]) <= set(rows.tolist())
    assert epochs[0] != epochs[1]
    few = Loader(corpus, 64, 9, rows=rows[:5])
    assert [sorted(batch.cell_ids.tolist()) for batch in few.batches(0, 2)] == [rows[:5].tolist()] * 2


def test_balance_by_a_column(corpus: Corpus) -> None:
    rows = np.array([0, 2, 4, 6, 8])  # all of them known, but cell 2
    drawn = torch.cat([b.cell_ids for b in Loader(corpus, 4, 9, rows=rows, balance="known").batches(0, 50)])
    assert set(drawn.tolist()) == {0, 4, 6, 8}
    labels = make_obs(N_CELLS)["donor"].to_numpy()
    rows = np.sort(np.r_[np.flatnonzero(labels == "d0")[:40], np.flatnonzero(labels == "d1")[:2]])
    drawn = torch.cat([b.cell_ids for b in Loader(corpus, 40, 9, rows=rows, balance="donor").batches(0, 100)])
    share = (labels[drawn.numpy()] == "d1").mean()
    assert abs(share - 0.5) < 6 * 0.5 / len(drawn) ** 0.5
    with pytest.raises(InputError, match="no obs column 'sex'"):
        Loader(corpus, 4, 9, balance="sex")


def test_expand_follows_the_step(corpus: Corpus) -> None:
    masker = make_masker(corpus.vocabulary)
    scheduled = Loader(corpus, 32, 9, masker=masker, expand=lambda step: step / 7, threads=3)
    for batch in scheduled.batches(0, 8):
        plain = corpus.batch(batch.cell_ids.numpy(), 9)
        _, labels = make_masker(corpus.vocabulary, expand=batch.step / 7)(*plain, epoch=batch.epoch)
        assert torch.equal(batch.labels, labels)
    assert masker.expand == 1


@pytest.mark.parametrize(("ahead", "turn"), [(3, 1), (7, 2)])
def test_it_reads_ahead_and_no_further(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, ahead: int, turn: int) -> None:
    loader = Loader(corpus, 8, 9, threads=2, ahead=ahead)
    n = ahead // turn * turn
    asked: list[int] = []
    finish = loader._finish
    monkeypatch.setattr(loader, "_finish", lambda step, batch: (asked.append(step), finish(step, batch))[1])
    with contextlib.closing(loader.batches(0, 100)) as batches:
        next(batches)
        deadline = time.monotonic() + 20
        while len(asked) < n and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert sorted(asked) == list(range(n))
        next(batches)
    assert len(asked) <= n + turn
    assert_soon_no_threads()


@pytest.mark.parametrize("error", [RuntimeError("a disk fails"), SystemExit("a worker dies"), MemoryError()])
def test_an_error_of_a_thread_arrives_at_its_step(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    loader = Loader(corpus, 8, 9, threads=2)
    finish = loader._finish

    def fails(step: int, batch: Batch) -> Any:
        if step == 5:
            raise error
        return finish(step, batch)

    monkeypatch.setattr(loader, "_finish", fails)
    batches = loader.batches(0, 100)
    assert [next(batches).step for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error
    assert not loader_threads()


def test_a_damaged_cell_is_told_at_its_step(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    folder = write(tmp_path / "damaged", [[4 + i % 20] for i in range(40)], vocabulary)
    corpus = Corpus.from_dataset(load_from_disk(folder), make_vocabulary(19))  # token 23 of the cells 19 and 39
    reached: list[int] = []
    with pytest.raises(InputError, match=r"row (19|39) holds token 23, the vocabulary has 23"):
        reached.extend(batch.step for batch in Loader(corpus, 2, 9, seed=1).batches())
    order = shuffled(np.arange(40), seed=1, epoch=0)
    assert reached == list(range(np.isin(order, [19, 39]).argmax() // 2))
    assert reached


def test_no_thread_stays_where_the_consumer_leaves(corpus: Corpus) -> None:
    loader = Loader(corpus, 8, 9, threads=2)
    for batch in loader.batches():
        if batch.step == 3:
            break
    del batch
    assert_soon_no_threads()  # the generator was collected, and closed
    with contextlib.suppress(ZeroDivisionError), contextlib.closing(loader.batches()) as batches:
        next(batches)
        _ = 1 / 0
    assert_soon_no_threads()
    loader.batches()  # never begun: no thread was started


def test_threads_compute_alone_and_torch_keeps_its_number(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loader = Loader(corpus, 8, 9, threads=2)
        load, seen = loader._load, []
        monkeypatch.setattr(loader, "_load", lambda *steps: (seen.append(torch.get_num_threads()), load(*steps))[1])
        with contextlib.closing(loader.batches()) as batches:
            for _ in range(6):
                next(batches)
            assert set(seen) == {1}
            assert torch.get_num_threads() == 3
            other: list[int] = []
            thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert other == [3]
    finally:
        torch.set_num_threads(before)


def test_one_cell_and_cells_longer_than_the_context(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    corpus = Corpus.open(write(tmp_path / "one", [list(range(4, 14))], vocabulary))
    loader = Loader(corpus, 32, 4, masker=make_masker(vocabulary), packed=True, threads=2)
    assert len(loader) == 1
    for batch in loader.batches(0, 3):
        assert batch.labels is not None
        restored = torch.where(batch.labels >= 0, batch.labels, batch.input_ids)
        assert restored.tolist() == [4, 5, 6, 7]
        assert int((batch.labels >= 0).sum()) == 2
        assert batch.epoch == batch.step


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 0}, "'batch_size' must be a whole number of at least 1, got 0"),
        ({"max_len": 2.5}, "Loader: 'max_len' must be a whole number"),
        ({"threads": 0}, "'threads'"),
        ({"ahead": 0}, "'ahead'"),
        ({"seed": -1}, "'seed'"),
        ({"rank": 1}, r"'rank' must be in 0 \.\. 0, got 1"),
        ({"seed": 2**63}, "'seed'"),
        ({"rows": np.zeros(0, np.int64)}, "no cells to read"),
        (
            {"rows": np.ones(90, bool)},
            r"'rows' must be row numbers \[n\], got bool \[90\]; of a mask give np.flatnonzero",
        ),
        ({"rows": [0.5]}, r"'rows' must be row numbers \[n\], got float64"),
        ({"rows": ["a"]}, r"'rows' must be row numbers \[n\], got <U1"),
        ({"rows": [[1, 2]]}, r"'rows' must be row numbers \[n\], got int64 \[1, 2\]"),
        ({"rows": [900], "balance": "kind"}, r"'rows' must be in 0 \.\. \d+, got 900 \.\. 900; give rows that corpus"),
        ({"rows": [-1]}, "got -1"),
        ({"masker": make_masker(Vocabulary(np.array(["A", "B"], dtype=object)))}, "'masker' is of 6 tokens, corpus"),
    ],
)
def test_bad_arguments(corpus: Corpus, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Loader(corpus, **{"batch_size": 8, "max_len": 9, **changed})
    assert "\n" not in str(caught.value)
    for epoch in (-1, 2**28, "1"):
        with pytest.raises(InputError, match=r"epoch|'number'"):
            Loader(corpus, 8, 9).epoch(epoch)  # type: ignore[arg-type]


def test_batches_go_to_any_device(corpus: Corpus) -> None:
    for batch in Loader(corpus, 8, 9, device="meta").batches(0, 3):
        assert {batch.input_ids.device.type, batch.lengths.device.type, batch.cell_ids.device.type} == {"meta"}


def test_steps_that_are_none(corpus: Corpus) -> None:
    for steps in ((-1, 2), (0.5, 2), (0, -1), (0, "2")):
        with pytest.raises(InputError, match=r"Loader: '(first|last)' must be a whole number of at least 0"):
            next(Loader(corpus, 8, 9).batches(*steps))  # type: ignore[arg-type]


def test_cuda_that_is_not_there(corpus: Corpus) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match="no CUDA device"):
        Loader(corpus, 8, 9, pin_memory=True)
    for use in (lambda: Loader(corpus, 8, 9, device="cuda"), lambda: corpus.to("cuda")):
        with pytest.raises(InputError, match="device 'cuda' is not available here"):
            use()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_copies_to_cuda(corpus: Corpus) -> None:
    here = list(Loader(corpus, 8, 9, masker=make_masker(corpus.vocabulary)).batches(0, 40))
    there = Loader(corpus, 8, 9, masker=make_masker(corpus.vocabulary), device="cuda").batches(0, 40)
    for one, other in zip(here, there, strict=True):
        assert other.input_ids.is_cuda
        assert torch.equal(one.input_ids, other.input_ids.cpu())
        assert torch.equal(one.labels, other.labels.cpu())
    assert all(one.lengths.is_pinned() for one in Loader(corpus, 8, 9, pin_memory=True).batches(0, 3))
