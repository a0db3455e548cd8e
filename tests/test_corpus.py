"""The corpus on disk: what is written comes back, through `datasets` too."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from corrmask import corpus_writer as corpus_module
from corrmask.corpus import Corpus, split_cells
from corrmask.corpus_writer import CorpusWriter
from corrmask.errors import InputError
from corrmask.vocabulary import Vocabulary

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")


def make_vocabulary(n_genes: int = 20) -> Vocabulary:
    return Vocabulary(np.array([f"G{i}" for i in range(n_genes)], dtype=object))


def make_cells(n_cells: int, vocabulary: Vocabulary, seed: int = 0) -> list[list[int]]:
    """Token lists; cells 0 and the last are empty."""
    rng = np.random.default_rng(seed)
    lo, hi = vocabulary.gene_token_range
    cells = [rng.choice(np.arange(lo, hi), rng.integers(0, 10), replace=False).tolist() for _ in range(n_cells)]
    cells[0] = cells[-1] = []
    return cells


def padded(cells: list[list[int]], width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(cells), width, dtype=torch.int32)
    for row, cell in zip(ids, cells):
        row[: len(cell)] = torch.tensor(cell, dtype=torch.int32)
    return ids, torch.tensor([len(cell) for cell in cells])


def first_tokens(corpus: Corpus) -> list[list[int]]:
    """What a process of its own reads of a corpus that it was sent."""
    return corpus.batch(np.arange(30), 10).input_ids.tolist()


@pytest.mark.parametrize("kind", ["files", "memory", "parquet"])
def test_a_copy_reads_the_same_cells(tmp_path: Path, kind: str) -> None:
    """Where tokens lie in memory holds for one process: a pickle must not carry addresses."""
    vocabulary = make_vocabulary()
    cells = make_cells(30, vocabulary)
    corpus = Corpus.from_dataset(datasets.Dataset.from_dict({"input_ids": cells}), vocabulary)
    if kind == "files":
        corpus._dataset.save_to_disk(tmp_path / "corpus")
        corpus = Corpus.open(tmp_path / "corpus", vocabulary)
    if kind == "parquet":
        corpus._dataset.to_parquet(tmp_path / "cells.parquet")
        corpus = Corpus.open(tmp_path / "cells.parquet", vocabulary)
    expected = first_tokens(corpus)
    assert repr(corpus).endswith(" of 30 cells, 20 genes")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(first_tokens, (corpus,)) == expected
    for again in (pickle.loads(pickle.dumps(corpus)), copy.deepcopy(corpus), copy.copy(corpus)):
        corpus = None  # the copy stands alone
        assert first_tokens(again) == expected
        assert again.lengths.tolist() == [len(cell) for cell in cells]
        chunks = pickle.loads(pickle.dumps(again._chunks))
        assert torch.equal(chunks.table[:, 0], again._chunks.table[:, 0])


def make_obs(n_cells: int) -> pd.DataFrame:
    n = np.arange(n_cells)
    return pd.DataFrame(
        {
            "type": pd.Categorical(np.array(["B", "T"])[n % 2], categories=["unseen", "T", "B"]),
            "donor": [f"d{i % 3}" for i in n],
            "age": n,
            "dose": n / 7,
            "sick": n % 2 == 0,
            "batch": pd.array([None if i == 1 else i for i in n], dtype="Int64"),
            "known": pd.array([None if i == 2 else i % 2 == 0 for i in n], dtype="boolean"),
            "note": [None if i == 3 else f"n{i}" for i in n],
        },
        index=[f"cell{i}" for i in n],
    )


def write(folder: Path, cells: list[list[int]], vocabulary: Vocabulary, chunk: int = 4, obs: Any = None) -> Path:
    obs = make_obs(len(cells)) if obs is None else obs
    writer = CorpusWriter(folder, vocabulary)
    for first in range(0, len(cells), chunk):
        writer.append(*padded(cells[first : first + chunk]), obs.iloc[first : first + chunk])
    writer.close()
    return folder


def read(corpus: Corpus, max_len: int = 100) -> list[list[int]]:
    batch = corpus.batch(np.arange(corpus.n_cells), max_len)
    return [row[:length].tolist() for row, length in zip(batch.input_ids, batch.lengths)]


@pytest.mark.parametrize(("n_genes", "kind"), [(20, "uint16"), (2**16 - 4, "uint16"), (2**16 - 3, "int32")])
def test_written_and_read(tmp_path: Path, n_genes: int, kind: str) -> None:
    vocabulary = make_vocabulary(n_genes)
    cells = make_cells(11, vocabulary)
    cells[5] = [vocabulary.size - 1, 4]
    path = write(tmp_path / "corpus", cells, vocabulary)
    corpus = Corpus.open(path)
    assert corpus.n_cells == 11
    assert corpus.lengths.tolist() == [len(cell) for cell in cells]
    assert read(corpus) == cells
    assert corpus.vocabulary.hash == vocabulary.hash
    assert corpus.obs_columns == list(make_obs(1).columns)

    dataset = datasets.load_from_disk(str(path))
    assert dataset["input_ids"][:] == cells
    assert dataset["length"][:] == [len(cell) for cell in cells]
    assert dataset["obs_name"][:] == [f"cell{i}" for i in range(11)]
    assert kind in str(dataset.features["input_ids"])
    assert "int64" in str(dataset.features["length"])
    filtered = dataset.filter(lambda cell: cell["length"] > 0, load_from_cache_file=False)
    assert len(filtered) == sum(map(bool, cells))


def test_obs_come_back(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    corpus = Corpus.open(write(tmp_path / "corpus", make_cells(9, vocabulary), vocabulary))
    obs, given = corpus.obs(), make_obs(9)
    assert obs.index.tolist() == given.index.tolist()
    for column in ("type", "donor", "age", "dose", "sick"):
        assert obs[column].tolist() == given[column].tolist()
    for column in ("batch", "known", "note"):
        assert obs[column].isna().tolist() == given[column].isna().tolist()
        assert obs[column].dropna().tolist() == given[column].dropna().tolist()
    assert corpus.obs(["dose"]).columns.tolist() == ["dose"]
    assert corpus.obs([]).shape == (9, 0)
    assert corpus.obs([]).index.tolist() == given.index.tolist()
    with pytest.raises(InputError, match=r"no obs column 'age2'.*'age'"):
        corpus.obs(["age2"])
    with pytest.raises(InputError, match="no obs column 'length'"):
        corpus.obs(["length"])


@pytest.mark.parametrize("shard", [1, 4, 5, 100])
def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int) -> None:
    monkeypatch.setattr(corpus_module, "SHARD_CELLS", shard)
    vocabulary = make_vocabulary()
    cells = make_cells(17, vocabulary)
    path = write(tmp_path / "corpus", cells, vocabulary, chunk=2)
    assert len(list(path.glob("*.arrow"))) == {1: 9, 4: 5, 5: 3, 100: 1}[shard]
    corpus = Corpus.open(path)
    assert read(corpus) == cells
    assert datasets.load_from_disk(str(path))["input_ids"][:] == cells
    rows = np.array([16, 3, 3, 9])
    batch = corpus.batch(rows, 100)
    assert batch.cell_ids.tolist() == rows.tolist()
    assert [r[:n].tolist() for r, n in zip(batch.input_ids, batch.lengths)] == [cells[row] for row in rows]


def test_batches_are_padded_to_their_longest(tmp_path: Path) -> None:
    vocabulary = Vocabulary(np.array([f"G{i}" for i in range(20)]), 0, {"<pad>": 25, "<mask>": 24})
    cells = [[], [3, 1, 2], [5]]
    corpus = Corpus.open(write(tmp_path / "corpus", cells, vocabulary))
    batch = corpus.batch(np.array([1, 0, 2]), 2)
    assert batch.input_ids.tolist() == [[3, 1], [25, 25], [5, 25]]
    assert batch.lengths.tolist() == [2, 0, 1]
    assert (batch.input_ids.dtype, batch.lengths.dtype, batch.cell_ids.dtype) == (torch.int64,) * 3
    there = corpus.to("cpu:0").batch(np.array([1, 0, 2]), 2)  # another copy in the same memory
    assert all(map(torch.equal, there, batch))
    assert corpus.batch(np.array([0]), 2).input_ids.shape == (1, 0)
    assert corpus.batch(np.array([], dtype=int), 2).input_ids.shape == (0, 0)
    packed = corpus.packed_batch(np.array([1, 0, 2]), 2)
    assert packed.input_ids.tolist() == [3, 1, 5]
    assert packed.cu_seqlens.tolist() == [0, 2, 2, 3]
    assert (packed.lengths.tolist(), packed.cell_ids.tolist()) == ([2, 0, 1], [1, 0, 2])
    for rows in ([0.5], [True, False]):
        with pytest.raises(InputError, match=r"rows must be whole numbers, got (float64|bool)"):
            corpus.batch(np.array(rows), 2)
    for row in (3, -1):
        with pytest.raises(InputError, match=rf"0 \.\. 2, got {row}"):
            corpus.batch(np.array([0, row]), 2)


def test_tokens_are_read_from_the_mapped_file(tmp_path: Path) -> None:
    """Without a copy: the addresses that the kernel reads lie in the mapped shards."""
    vocabulary = make_vocabulary()
    path = write(tmp_path / "corpus", make_cells(40, vocabulary), vocabulary)
    corpus = Corpus.open(path)
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".arrow")]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in mapped if str(path) in line[-1]]
    addresses = corpus._chunks.table[:-1, 1:3].ravel().tolist()
    assert addresses
    assert all(any(low <= address < high for low, high in ranges) for address in addresses)


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    cells = make_cells(8, vocabulary)
    hashes = [Corpus.open(write(tmp_path / f"c{i}", cells, vocabulary)).hash for i in range(2)]
    other = [*cells[:3], [4], *cells[4:]] if cells[3] != [4] else [*cells[:3], [5], *cells[4:]]
    hashes.append(Corpus.open(write(tmp_path / "c2", other, vocabulary)).hash)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("selected", [False, True])
def test_a_corpus_of_another_tool(tmp_path: Path, selected: bool) -> None:
    """As Geneformer's tokenizer writes it: lists of int64, a length, columns of its own, no vocabulary."""
    vocabulary = make_vocabulary()
    cells = make_cells(10, vocabulary)
    dataset = datasets.Dataset.from_dict(
        {"input_ids": cells, "length": [len(c) for c in cells], "cell_type": ["B", "T"] * 5}
    )
    rows = list(range(10))
    if selected:
        rows = [7, 2, 9]
        dataset = dataset.select(rows)
    dataset.save_to_disk(str(tmp_path / "corpus"))
    with pytest.raises(InputError, match=r"no vocabulary\.json"):
        Corpus.open(tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus", vocabulary)
    assert read(corpus) == [cells[row] for row in rows]
    assert corpus.obs()["cell_type"].tolist() == [["B", "T"][row % 2] for row in rows]
    assert corpus.obs().index.tolist() == [str(i) for i in range(len(rows))]
    assert corpus.hash


@pytest.mark.parametrize("kind", ["int8", "int32", "uint32", "int64"])
def test_any_integer_width_is_read(tmp_path: Path, kind: str) -> None:
    cells = [[4, 5], [], [9]]
    features = datasets.Features({"input_ids": datasets.Sequence(datasets.Value(kind))})
    datasets.Dataset.from_dict({"input_ids": cells}, features=features).save_to_disk(str(tmp_path / "corpus"))
    assert read(Corpus.open(tmp_path / "corpus", make_vocabulary())) == cells


def test_tokens_that_the_vocabulary_lacks(tmp_path: Path) -> None:
    for token in (24, -1):
        path = tmp_path / f"corpus{token}"
        datasets.Dataset.from_dict({"input_ids": [[4], [5, token]]}).save_to_disk(str(path))
        corpus = Corpus.open(path, make_vocabulary())
        corpus.batch(np.array([0]), 10)
        with pytest.raises(InputError, match=f"token {token}.*vocabulary has 24"):
            corpus.batch(np.array([0, 1]), 10)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"tokens": [[4]]}, "no column 'input_ids'"),
        ({"input_ids": [4, 5]}, "'input_ids'.*holds int"),
        ({"input_ids": ["A B"]}, "'input_ids'.*string"),
        ({"input_ids": [[0.5]]}, "'input_ids'.*double"),
        ({"input_ids": [["A"]]}, "'input_ids'.*string"),
        ({"input_ids": [[4, None]]}, "'input_ids'.*missing"),
        ({"input_ids": [[4], None]}, "'input_ids'.*missing"),
    ],
)
def test_columns_that_are_no_tokens(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "corpus"))
    with pytest.raises(InputError, match=words) as caught:
        Corpus.open(tmp_path / "corpus", make_vocabulary())
    assert "\n" not in str(caught.value)


def test_folders_that_are_none(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    with pytest.raises(InputError, match="does not exist"):
        Corpus.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be opened"):
        Corpus.open(tmp_path / "empty")
    split = datasets.Dataset.from_dict({"input_ids": [[4]]})
    datasets.DatasetDict(train=split, test=split).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(InputError, match="several splits"):
        Corpus.open(tmp_path / "splits", vocabulary)
    damaged = write(tmp_path / "damaged", make_cells(4, vocabulary), vocabulary)
    (damaged / "vocabulary.json").write_text("{")
    with pytest.raises(InputError, match="not a vocabulary"):
        Corpus.open(damaged)


def test_a_shard_cut_short_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any place, the ends of its record batches included: there, Arrow takes it for a shorter one."""
    monkeypatch.setattr(corpus_module, "SHARD_CELLS", 10)
    vocabulary = make_vocabulary()
    path = write(tmp_path / "corpus", make_cells(30, vocabulary), vocabulary, chunk=5)
    assert Corpus.open(path).n_cells == 30
    shard = path / "data-00001.arrow"
    whole = shard.read_bytes()
    for kept in [*range(0, len(whole), 104), *range(len(whole) - 500, len(whole), 8), len(whole) - 1]:
        shard.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"'data-00001.arrow' is cut short") as caught:
            Corpus.open(path)
        assert "\n" not in str(caught.value)
    shard.unlink()
    with pytest.raises(InputError, match=r"lacks its file 'data-00001.arrow'"):
        Corpus.open(path)


def test_damaged_offsets_are_named_as_their_row_is_read(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    path = write(tmp_path / "corpus", [[4, 5, 6], [7, 8], [9, 10, 11, 12]], vocabulary)
    shard = path / "data-00000.arrow"
    offsets = np.array([0, 3, 5, 9], dtype=np.int32).tobytes()
    assert shard.read_bytes().count(offsets) == 1
    shard.write_bytes(shard.read_bytes().replace(offsets, np.array([0, 3, 7000, 9], dtype=np.int32).tobytes()))
    corpus = Corpus.open(path)
    assert corpus.batch(np.array([0]), 9).input_ids.tolist() == [[4, 5, 6]]
    for row in (1, 2):
        with pytest.raises(InputError, match=rf"row {row} is damaged"):
            corpus.batch(np.array([0, row]), 9)


@pytest.mark.parametrize("kind", ["uint16", "int32", "int64"])
@pytest.mark.parametrize("large", [False, True])
def test_shards_of_datasets(tmp_path: Path, kind: str, large: bool) -> None:
    """As `save_to_disk` writes them: several, one of which may hold no cell; mapped, whatever the width."""
    cells = make_cells(11, make_vocabulary())
    one = datasets.LargeList if large else datasets.Sequence
    features = datasets.Features({"input_ids": one(datasets.Value(kind))})
    dataset = datasets.Dataset.from_dict({"input_ids": cells}, features=features)
    dataset.save_to_disk(str(tmp_path / "corpus"), num_shards=4)
    assert read(Corpus.open(tmp_path / "corpus", make_vocabulary())) == cells
    first, second = (tmp_path / "corpus" / f"data-0000{i}-of-00004.arrow" for i in range(2))
    table = pa.ipc.open_stream(first.read_bytes()).read_all()
    for batches in ([], [pa.record_batch([[]], schema=table.schema)]):
        with pa.OSFile(str(second), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            for empty in batches:
                stream.write_batch(empty)
        assert read(Corpus.open(tmp_path / "corpus", make_vocabulary())) == [*cells[:3], *cells[6:]]


def test_datasets_in_memory_and_streamed(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    cells = make_cells(9, vocabulary)
    dataset = datasets.Dataset.from_dict({"input_ids": cells, "donor": list("abcabcabc")})
    for one in (dataset, dataset.to_iterable_dataset(), dataset.with_format("torch")):
        corpus = Corpus.from_dataset(one, vocabulary)
        assert read(corpus) == cells
        assert corpus.obs()["donor"].tolist() == list("abcabcabc")
        assert corpus.hash
    rows = [7, 2, 2]
    assert read(Corpus.from_dataset(dataset.select(rows), vocabulary)) == [cells[row] for row in rows]
    joined = datasets.concatenate_datasets([dataset, dataset.select([3])])
    assert read(Corpus.from_dataset(joined, vocabulary)) == [*cells, cells[3]]
    with pytest.raises(InputError, match=r"must be a datasets\.Dataset, got DatasetDict"):
        Corpus.from_dataset(datasets.DatasetDict(train=dataset), vocabulary)
    with pytest.raises(InputError, match="no column 'input_ids'"):
        Corpus.from_dataset(dataset.remove_columns("input_ids"), vocabulary)


def test_parquet(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    cells = make_cells(10, vocabulary)
    (tmp_path / "corpus").mkdir()
    for i in range(2):
        part = datasets.Dataset.from_dict({"input_ids": cells[5 * i : 5 * i + 5], "donor": [i] * 5})
        part.to_parquet(str(tmp_path / "corpus" / f"part-{i}.parquet"))
    with pytest.raises(InputError, match=r"no vocabulary\.json"):
        Corpus.open(tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus", vocabulary)
    assert read(corpus) == cells
    assert corpus.obs()["donor"].tolist() == [0] * 5 + [1] * 5
    file = tmp_path / "corpus" / "part-1.parquet"
    one = Corpus.open(file, vocabulary)
    assert read(one) == cells[5:]
    assert one.hash != corpus.hash
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-1\.parquet' cannot be read") as caught:
        Corpus.open(tmp_path / "corpus", vocabulary)
    assert "\n" not in str(caught.value)


def test_obs_columns_that_tokens_take(tmp_path: Path) -> None:
    for name in ("input_ids", "length", "obs_name"):
        writer = CorpusWriter(tmp_path / name, make_vocabulary())
        with pytest.raises(InputError, match=f"'{name}'.*rename"):
            writer.append(*padded([[4], [5]]), pd.DataFrame({name: [7, 8]}, index=["a", "b"]))
        writer.abandon()


def test_obs_that_differ_in_kind_between_files(tmp_path: Path) -> None:
    writer = CorpusWriter(tmp_path / "corpus", make_vocabulary())
    writer.append(*padded([[4]]), pd.DataFrame({"age": [3]}, index=["a"]))
    with pytest.raises(InputError, match="differ in kind"):
        writer.append(*padded([[4]]), pd.DataFrame({"age": ["old"]}, index=["a"]))
    with pytest.raises(InputError, match="differ in kind"):
        writer.append(*padded([[4]]), pd.DataFrame({"dose": [3]}, index=["a"]))
    for age in ([5], [6.0], ["7"], np.array([8], dtype=np.int8)):
        writer.append(*padded([[4]]), pd.DataFrame({"age": age}, index=["b"]))
    writer.close()
    assert Corpus.open(tmp_path / "corpus").obs()["age"].tolist() == [3, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([True], [2]),
        (np.array([1], dtype=np.float32), [1e300]),
        (np.array([1], dtype=np.float32), [16777217.0]),
        ([1], ["07"]),
        ([1], [1.5]),
        (["1"], [0.0]),
        (np.array([1], dtype=np.int8), [1000]),
    ],
)
def test_obs_that_would_lose_by_the_first_file_s_type(tmp_path: Path, first: Any, second: Any) -> None:
    writer = CorpusWriter(tmp_path / "corpus", make_vocabulary())
    writer.append(*padded([[4]]), pd.DataFrame({"age": first}, index=["a"]))
    with pytest.raises(InputError, match="differ in kind between files"):
        writer.append(*padded([[4]]), pd.DataFrame({"age": second}, index=["a"]))
    writer.abandon()


def test_another_vocabulary_than_its_own_is_refused(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    write(tmp_path / "corpus", [[4, 5], [6]], vocabulary)
    assert Corpus.open(tmp_path / "corpus", vocabulary).n_cells == 2
    other = Vocabulary(vocabulary.genes[::-1])
    with pytest.raises(InputError, match="was tokenised with another vocabulary, which it holds; leave the one"):
        Corpus.open(tmp_path / "corpus", other)


def test_no_cells(tmp_path: Path) -> None:
    writer = CorpusWriter(tmp_path / "corpus", make_vocabulary())
    with pytest.raises(InputError, match="no cells"):
        writer.close()


def test_the_folder_holds_what_it_should(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    path = write(tmp_path / "corpus", make_cells(3, vocabulary), vocabulary)
    names = {"data-00000.arrow", "dataset_info.json", "state.json", "vocabulary.json"}
    assert {p.name for p in path.iterdir()} == names
    assert json.loads((path / "vocabulary.json").read_text())["genes"][:2] == ["G0", "G1"]


@pytest.mark.parametrize(
    ("n_cells", "share", "n_held_out"), [(100, 0.1, 10), (1, 0.9, 0), (0, 0.5, 0), (3, 1, 2), (7, 0, 0)]
)
def test_splits(n_cells: int, share: float, n_held_out: int) -> None:
    train, held_out = split_cells(n_cells, share, 3)
    assert len(held_out) == n_held_out
    assert sorted([*train, *held_out]) == list(range(n_cells))
    for part in (train, held_out):
        assert (np.diff(part) > 0).all()
    again = split_cells(n_cells, share, 3)
    np.testing.assert_array_equal(again[0], train)
    if n_cells == 100:
        assert not np.array_equal(split_cells(n_cells, share, 4)[1], held_out)
