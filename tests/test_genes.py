"""Names of genes."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from corrmask.errors import InputError
from corrmask.genes import Renaming, name_by_id, read_gene_map, rename, strip_version, united_genes
from corrmask.sources import open_sources
from corrmask.vocabulary import Vocabulary

TABLE = (
    "ensembl_id\tgene_name\tgene_type\n"
    "ENSG00000000001\tA\tx\n"
    "ENSG00000000002.5\tB\tx\n"
    "ENSG00000000003\tA\tx\n"
    "ENSG00000000004\t\tx\n"
    "ENSG00000000005\tNA\tx\n"
    "ENSG00000000001\tA2\tx\n"
)


def test_versions() -> None:
    assert strip_version("ENSG00000000003.14") == "ENSG00000000003"
    assert strip_version("ENSMUSG00000000003.1") == "ENSMUSG00000000003"
    for name in ("ENSG00000000003", "RP11-34P13.7", "ENSG00000182378.14_PAR_Y", "AC000001.1", ""):
        assert strip_version(name) == name


@pytest.mark.parametrize("form", ["tsv", "tsv.gz", "csv"])
def test_a_table_is_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"genes.{form}"
    text = TABLE.replace("\t", ",") if form == "csv" else TABLE
    path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    gene_map = read_gene_map(path)
    assert gene_map == {
        "A": ("ENSG00000000001", "ENSG00000000003"),
        "B": ("ENSG00000000002",),
        "NA": ("ENSG00000000005",),  # a symbol like any other, not a missing value
        "A2": ("ENSG00000000001",),
    }


def test_columns_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "genes.tsv"
    path.write_text("Symbol\tother\tgene_id\nA\tx\tENSG00000000001\n")
    assert read_gene_map(str(path)) == {"A": ("ENSG00000000001",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file or folder"),
        ("", "no table of genes"),
        ("a\tb\nc\td\n", r"needs a column of Ensembl ids \(ensembl_id, .*found: a, b"),
        ("gene_id\tname\nENSG1\t\n", "no row has both"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "genes.tsv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_gene_map(path)
    assert str(path) in str(caught.value)


def test_rename_counts_every_gene() -> None:
    gene_map = {
        "A": ("ENSG00000000001", "ENSG00000000007"),
        "A2": ("ENSG00000000001",),
        "B": ("ENSG00000000002",),
        "C": ("ENSG00000000003",),
    }
    genes = ["A", "A2", "X", "B", "ENSG00000000002", "ENSG00000000003.7", "ENSG00000000009.1"]
    renamed, renaming = rename(genes, gene_map)
    assert renamed.tolist() == [
        "ENSG00000000001",
        "A2",  # its id went to A
        "X",
        "B",  # its id was there
        "ENSG00000000002",
        "ENSG00000000003",
        "ENSG00000000009",
    ]
    assert renaming == (1, 3, 1, 2, 1)
    assert "1 names have several ids" in str(renaming)
    assert renamed.dtype == object


def test_of_several_ids_the_preferred_one_is_taken() -> None:
    gene_map = {"A": ("ENSG00000000001", "ENSG00000000002", "ENSG00000000003")}
    renamed, renaming = rename(["A"], gene_map, prefer=["ENSG00000000003", "ENSG00000000002"])
    assert renamed.tolist() == ["ENSG00000000002"]  # the table's order decides among those
    assert renaming.ambiguous == 0


@pytest.mark.parametrize("order", [("A", "ENSG00000000003"), ("ENSG00000000003.4", "A")])
def test_two_files_agree_on_the_id(tmp_path: Path, order: tuple[str, str]) -> None:
    table = tmp_path / "genes.tsv"
    table.write_text(TABLE)
    sources = open_sources([one_cell([gene]) for gene in order])
    assert name_by_id(sources, table) == Renaming(1, 1, 0, 0, 0)
    assert united_genes(sources).tolist() == ["ENSG00000000003"]
    sources = open_sources([one_cell([gene]) for gene in ("A", "A")])
    vocabulary = Vocabulary(np.array(["ENSG00000000003", "ENSG00000000009"]))
    assert name_by_id(sources, table, prefer=vocabulary.genes) == Renaming(2, 0, 0, 0, 0)
    assert united_genes(sources).tolist() == ["ENSG00000000003"]


NAMES = ["A", "B", "C", *(f"ENSG0000000000{i}{version}" for i in range(3) for version in ("", ".1", ".2"))]
IDS = [f"ENSG0000000000{i}" for i in range(4)]


@given(
    st.lists(st.sampled_from(NAMES), unique=True),
    st.dictionaries(st.sampled_from(["A", "B", "D"]), st.lists(st.sampled_from([*IDS, "C"]), min_size=1).map(tuple)),
)
def test_renamed_genes_stay_unique(genes: list[str], gene_map: dict[str, str]) -> None:
    renamed, renaming = rename(np.array(genes, dtype=object), gene_map)
    assert len(set(renamed)) == len(genes)
    assert sum(renaming[:4]) == len(genes)
    assert rename(renamed, gene_map)[0].tolist() == renamed.tolist()


def one_cell(genes: Sequence[str]) -> anndata.AnnData:
    return anndata.AnnData(
        sparse.csr_matrix(np.ones((1, len(genes)), dtype=np.float32)),
        obs=pd.DataFrame(index=["x"]),
        var=pd.DataFrame(index=list(genes)),
    )


def test_genes_are_united_in_the_order_of_the_files() -> None:
    assert united_genes(open_sources([one_cell("cabd"), one_cell("xdca")])).tolist() == [*"cabdx"]
    assert united_genes(open_sources(one_cell("cab"))).tolist() == [*"cab"]
    assert united_genes(open_sources([one_cell("ab"), one_cell("bc"), one_cell("cd")])).tolist() == [*"abcd"]
    with pytest.raises(InputError, match=r"no gene in common: .* has 4 \(c, a, b, ...\) and .* has 2 \(y, z, ...\)"):
        united_genes(open_sources([one_cell("cabd"), one_cell("xd"), one_cell("yz")]))
