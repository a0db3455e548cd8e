"""From counts to a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reference
import scipy.sparse as sp
import torch
from test_medians import expected_medians

from corrmask.corpus import Corpus
from corrmask.errors import InputError
from corrmask.tokenization import encode_chunk, tokenize
from corrmask.vocabulary import Vocabulary

ad = pytest.importorskip("anndata")
pytest.importorskip("datasets")


def make_counts(seed: int = 0, n_cells: int = 40, n_genes: int = 12) -> np.ndarray:
    """Cells 0 and 5 are empty, gene 3 is never counted."""
    counts = np.random.default_rng(seed).poisson(1.0, (n_cells, n_genes)).astype(np.float32)
    counts[[0, 5]] = 0
    counts[:, 3] = 0
    return counts


def make_cells(counts: np.ndarray, prefix: str = "G") -> Any:
    n = len(counts)
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=pd.DataFrame({"type": [f"t{i % 2}" for i in range(n)], "age": range(n)}, index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=[f"{prefix}{i}" for i in range(counts.shape[1])]),
    )


def expected_tokens(counts: np.ndarray, genes: list[str], vocabulary: Vocabulary, max_len: int) -> list[list[int]]:
    """From the reference."""
    matrix = sp.csr_array(counts)
    tokens = vocabulary.tokens_of(genes)
    assert vocabulary.medians is not None
    medians = np.ones(len(tokens))
    medians[tokens >= 0] = vocabulary.medians[tokens[tokens >= 0] - vocabulary.first_gene_token]
    ids, lengths = reference.rank_encode(matrix.indptr, matrix.indices, matrix.data, medians, tokens, max_len=max_len)
    return [row[:length].tolist() for row, length in zip(ids, lengths)]


def tokens_in(path: Path) -> list[list[int]]:
    corpus = Corpus.open(path)
    batch = corpus.batch(np.arange(corpus.n_cells), 10**6)
    return [row[:length].tolist() for row, length in zip(batch.input_ids, batch.lengths)]


@pytest.mark.parametrize("max_len", [3, 2048])
def test_from_counts_to_a_corpus(tmp_path: Path, max_len: int) -> None:
    counts = make_counts()
    stages: list[tuple[str, int, int | None]] = []
    report = tokenize(
        make_cells(counts),
        tmp_path / "corpus",
        obs=["type", "age"],
        max_len=max_len,
        progress=lambda *step: stages.append(step),
    )
    corpus = Corpus.open(tmp_path / "corpus")
    vocabulary = corpus.vocabulary
    genes = [f"G{i}" for i in range(12)]
    assert vocabulary.genes.tolist() == [gene for gene in genes if gene != "G3"]
    np.testing.assert_array_equal(vocabulary.medians, np.delete(expected_medians(counts), 3))
    assert vocabulary.medians_origin == {"kind": "exact", "target_sum": 10000}
    expected = expected_tokens(counts, genes, vocabulary, max_len)
    assert tokens_in(tmp_path / "corpus") == expected
    assert corpus.obs()["type"].tolist() == [f"t{i % 2}" for i in range(40)]
    assert corpus.obs().index.tolist() == [f"c{i}" for i in range(40)]
    assert {stage for stage, _, _ in stages} == {"medians", "tokenize"}
    assert stages[-1] == ("tokenize", 40, 40)
    empty = int((counts.sum(axis=1) == 0).sum())
    assert report.n_empty_cells == empty >= 2
    assert report.n_cells == corpus.n_cells == 40
    assert report.n_tokens == sum(map(len, expected))
    assert report.n_truncated_cells == int(((counts > 0).sum(axis=1) > max_len).sum())
    assert (report.n_genes_in_files, report.n_genes_with_token) == (12, 11)
    assert (report.medians, report.token_dtype) == ("exact", "uint16")
    assert set(report.to_dict()) >= {"n_cells", "cells_per_second"}


def test_several_files_unite_their_genes(tmp_path: Path) -> None:
    first, second = make_cells(make_counts(1)), make_cells(make_counts(2, 30, 12))
    second.var_names = [f"G{i}" for i in (11, 10, 20, 21, 0, 1, 2, 22, 4, 5, 6, 7)]
    tokenize([first, second], tmp_path / "corpus", obs=["age"])
    vocabulary = Corpus.open(tmp_path / "corpus").vocabulary
    assert set(vocabulary.genes) == {f"G{i}" for i in (*range(12), 20, 22)} - {"G3"}
    both = pd.concat(
        [pd.DataFrame(cells.X.toarray().astype(np.float64), columns=cells.var_names) for cells in (first, second)]
    ).fillna(0)[list(vocabulary.genes)]
    np.testing.assert_array_equal(vocabulary.medians, expected_medians(both.to_numpy()))
    expected = [
        row
        for cells in (first, second)
        for row in expected_tokens(cells.X.toarray(), list(cells.var_names), vocabulary, 2048)
    ]
    assert tokens_in(tmp_path / "corpus") == expected


def test_with_a_vocabulary(tmp_path: Path) -> None:
    counts = make_counts()
    vocabulary = Vocabulary(
        np.array(["G7", "other", "G1"]), 10, {"<pad>": 3, "<mask>": 4}, np.array([2.0, np.nan, 0.5])
    )
    report = tokenize(make_cells(counts), tmp_path / "corpus", vocabulary=vocabulary)
    genes = [f"G{i}" for i in range(12)]
    assert tokens_in(tmp_path / "corpus") == expected_tokens(counts, genes, vocabulary, 2048)
    assert report.n_genes_with_token == 2
    assert Corpus.open(tmp_path / "corpus").vocabulary.hash == vocabulary.hash
    # without medians they come from these cells, over the totals of all genes
    bare = Vocabulary(vocabulary.genes, 10, {"<pad>": 3, "<mask>": 4})
    tokenize(make_cells(counts), tmp_path / "bare", vocabulary=bare)
    medians = Corpus.open(tmp_path / "bare").vocabulary.medians
    assert medians is not None
    np.testing.assert_array_equal(medians[[0, 2]], expected_medians(counts)[[7, 1]])


def test_medians_beyond_the_budget(tmp_path: Path) -> None:
    counts = make_counts(3)
    report = tokenize(make_cells(counts), tmp_path / "corpus", memory=1)
    vocabulary = Corpus.open(tmp_path / "corpus").vocabulary
    assert report.medians == vocabulary.medians_origin["kind"] == "sketch"
    expected = np.delete(expected_medians(counts), 3)
    assert vocabulary.medians is not None
    assert (np.abs(vocabulary.medians - expected) <= (1e-3 + 1e-12) * expected).all()


def test_normalized_values_are_turned_back(tmp_path: Path) -> None:
    """count is expm1(y): with the medians of these values the order is that of expm1(y) / median."""
    y = reference.log_normalize(make_counts(4))
    tokenize(make_cells(y), tmp_path / "corpus", normalized=True)
    vocabulary = Corpus.open(tmp_path / "corpus").vocabulary
    back = np.expm1(y)
    np.testing.assert_allclose(vocabulary.medians, np.delete(expected_medians(back), 3), rtol=1e-12)
    assert tokens_in(tmp_path / "corpus") == expected_tokens(back, [f"G{i}" for i in range(12)], vocabulary, 2048)


def test_symbols_become_ids(tmp_path: Path) -> None:
    table = tmp_path / "genes.tsv"
    table.write_text("ensembl_id\tgene_name\n" + "".join(f"ENSG{i:011d}\tG{i}\n" for i in range(12)))
    tokenize(make_cells(make_counts()), tmp_path / "corpus", gene_map=table)
    assert Corpus.open(tmp_path / "corpus").vocabulary.genes[0] == "ENSG00000000000"


def test_memory_that_may_not_be_written() -> None:
    matrix = sp.csr_array(make_counts())
    vocabulary = Vocabulary(np.array([f"G{i}" for i in range(12)]), medians=np.ones(12))
    expected = encode_chunk(matrix, list(vocabulary.genes), vocabulary, max_len=5)
    for part in (matrix.data, matrix.indices, matrix.indptr):
        part.flags.writeable = False
    got = encode_chunk(matrix, list(vocabulary.genes), vocabulary, max_len=5)
    assert all(bool((a == b).all()) for a, b in zip(got, expected))


def test_overwriting(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    tokenize(make_cells(make_counts()), path)
    with pytest.raises(InputError, match="exists already"):
        tokenize(make_cells(make_counts()), path)
    tokenize(make_cells(make_counts()[:10]), path, overwrite=True)
    assert Corpus.open(path).n_cells == 10
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]
    cells = path / "cells.h5ad"
    make_cells(make_counts()).write_h5ad(cells)
    for output in (cells, path):
        with pytest.raises(InputError, match="would replace the input"):
            tokenize([cells], output, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is a folder without dataset_info\.json"):
        tokenize([cells], tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").exists()
    (tmp_path / "mine" / "notes.txt").rename(tmp_path / "mine" / "vocabulary.json")  # as a model has it
    with pytest.raises(InputError, match=r"is a folder without dataset_info\.json"):
        tokenize([cells], tmp_path / "mine", overwrite=True)
    with pytest.raises(InputError, match="would replace the input"):
        tokenize(ad.read_h5ad(cells, backed="r"), path, overwrite=True)
    with pytest.raises(InputError, match=r"'cells\.h5ad' in it would be lost; move it away or choose another name"):
        tokenize(make_cells(make_counts()), path, overwrite=True)
    assert cells.exists()


def test_a_gene_that_no_cell_counts_has_no_median(tmp_path: Path) -> None:
    counts = make_counts()
    genes = [f"G{i}" for i in range(counts.shape[1])]
    tokenize(make_cells(counts), tmp_path / "corpus", vocabulary=Vocabulary(np.array([*genes, "elsewhere"])))
    found = Corpus.open(tmp_path / "corpus").vocabulary
    assert found.medians is not None
    assert np.flatnonzero(np.isnan(found.medians)).tolist() == [3, counts.shape[1]]
    assert found.medians_origin["kind"] == "exact"
    tokenize(make_cells(counts), tmp_path / "again", vocabulary=found)  # as long as none counts it
    encode_chunk(counts, genes, found, max_len=8)
    counts[7, 3] = 1
    for use in (
        lambda: encode_chunk(counts, genes, found, max_len=8),
        lambda: tokenize(make_cells(counts), tmp_path / "other", vocabulary=found),
    ):
        with pytest.raises(InputError, match="a cell counts G3, which has a token and no median"):
            use()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_len": 0}, "'max_len'"),
        ({"max_len": 2**40}, r"tokenize: 'max_len' must be in 1 \.\. 2\*\*31 - 1"),
        ({"max_len": 1.5}, "tokenize: 'max_len' must be a whole number"),
        ({"vocabulary": 5}, "tokenize: 'vocabulary' must be a Vocabulary or None, got 5"),
        ({"memory": "some"}, "tokenize: 'memory'"),
        ({"obs": ["donor"]}, "no column 'donor'.*type"),
        ({"obs": ["length"]}, "'length'"),
        ({"vocabulary": Vocabulary(np.array(["x", "y"]), medians=np.ones(2))}, "no gene in common"),
        ({"vocabulary": Vocabulary(np.array(["G1", "G2"]), medians=np.array([1, np.nan]))}, "have no median.*G2"),
        ({"matrix": "raw"}, "raw"),
        ({"gene_column": "symbol"}, "symbol"),
        ({"gene_map": "none.tsv"}, r"none\.tsv"),
    ],
)
def test_bad_input(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        tokenize(make_cells(make_counts()), tmp_path / "corpus", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(("value", "words"), [(0.5, "normalised"), (-1, "negative"), (np.nan, "finite")])
def test_bad_counts(tmp_path: Path, value: float, words: str) -> None:
    counts = make_counts()
    counts[7, 2] = value
    vocabulary = Vocabulary(np.array(["G1", "G2"]), medians=np.ones(2))
    for given in (None, vocabulary):
        with pytest.raises(InputError, match=words):
            tokenize(make_cells(counts), tmp_path / "corpus", vocabulary=given)
        assert not list(tmp_path.iterdir())


def test_cells_without_any_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cell has any counts"):
        tokenize(make_cells(np.zeros((3, 2), dtype=np.float32)), tmp_path / "corpus")
    vocabulary = Vocabulary(np.array(["G0"]), medians=np.ones(1))
    report = tokenize(make_cells(np.zeros((3, 2), dtype=np.float32)), tmp_path / "corpus", vocabulary=vocabulary)
    assert (report.n_cells, report.n_empty_cells, report.n_tokens) == (3, 3, 0)
    assert tokens_in(tmp_path / "corpus") == [[], [], []]


def test_any_matrix_is_encoded_alike() -> None:
    counts, genes = make_counts(), [f"G{i}" for i in range(12)]
    vocabulary = Vocabulary(np.array(genes), medians=np.linspace(1, 3, 12))
    expected = encode_chunk(sp.csr_array(counts), genes, vocabulary, max_len=5)
    for given in (sp.csc_matrix(counts), sp.coo_array(counts), counts, counts.astype(np.uint16), torch.tensor(counts)):
        assert all(map(torch.equal, encode_chunk(given, genes, vocabulary, max_len=5), expected))
    many = encode_chunk(np.tile(counts, (450, 1)), genes, vocabulary, max_len=5)  # read in two chunks
    assert len(many[1]) == 450 * len(counts) > 16_384
    assert all(torch.equal(one, two.tile((450, 1) if two.ndim > 1 else (450,))) for one, two in zip(many, expected))
    half = encode_chunk(torch.tensor(counts).bfloat16(), genes, vocabulary, max_len=5)
    assert all(map(torch.equal, half, expected))
    input_ids, lengths = encode_chunk(counts[:0], genes, vocabulary, max_len=5)
    assert (input_ids.shape, lengths.shape) == ((0, 5), (0,))


@pytest.mark.parametrize(("value", "words"), [(0.5, "normalised"), (-1, "negative"), (np.nan, "finite")])
def test_what_is_encoded_is_checked(value: float, words: str) -> None:
    counts, genes = make_counts(), [f"G{i}" for i in range(12)]
    vocabulary = Vocabulary(np.array(genes), medians=np.ones(12))
    with pytest.raises(InputError, match="encode_chunk: 'genes' must name the 12 columns, got 11"):
        encode_chunk(sp.csr_array(counts), genes[1:], vocabulary, max_len=5)
    with pytest.raises(InputError, match=f"encode_chunk: 'genes': 1 gene names stand more than once \\({genes[0]}\\)"):
        encode_chunk(sp.csr_array(counts), [*genes[:11], genes[0]], vocabulary, max_len=5)
    for wrong in (make_cells(counts), "cells.h5ad", [1, 2]):
        with pytest.raises(InputError, match="encode_chunk: 'counts' must be a matrix, cells x genes, got"):
            encode_chunk(wrong, genes, vocabulary, max_len=5)
    with pytest.raises(InputError, match="encode_chunk: 'max_len' must be in 1"):
        encode_chunk(counts, genes, vocabulary, max_len=0)
    counts[7, 2] = value
    with pytest.raises(InputError, match=f"encode_chunk: 'counts': cell 7 .*{words}"):
        encode_chunk(sp.csr_array(counts), genes, vocabulary, max_len=5)


def test_encoding_needs_medians() -> None:
    with pytest.raises(InputError, match="no medians"):
        encode_chunk(sp.csr_array(make_counts()), list("ABCDEFGHIJKL"), Vocabulary(np.array(["A"])), max_len=4)


@pytest.mark.parametrize("without_token", [0, 4])
@pytest.mark.parametrize("stored_zeros", [False, True])
def test_cells_longer_than_the_context_are_counted(tmp_path: Path, without_token: int, stored_zeros: bool) -> None:
    """Only tokens make a cell long: not values of genes without one, nor zeros that are stored."""
    counts = np.random.default_rng(0).integers(1, 9, (60, 12)).astype(np.float32)
    counts[np.random.default_rng(1).random(counts.shape) < 0.4] = 0
    genes = [f"G{i}" for i in range(12 - without_token)]
    matrix = sp.csr_matrix(counts)
    if stored_zeros:
        matrix.data[::3] = 0
    adata = ad.AnnData(matrix, var=pd.DataFrame(index=[f"G{i}" for i in range(12)]))
    vocabulary = Vocabulary(np.array(genes, dtype=object), medians=np.ones(len(genes)))
    report = tokenize(adata, tmp_path / "corpus", vocabulary=vocabulary, max_len=3)
    lengths = (matrix.toarray()[:, : len(genes)] > 0).sum(axis=1)
    assert report.n_truncated_cells == int((lengths > 3).sum()) > 0
    assert report.n_tokens == int(np.minimum(lengths, 3).sum())
