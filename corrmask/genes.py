"""Names of genes: symbols to Ensembl ids, versions, and the genes of several sources."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from corrmask.errors import InputError
from corrmask.sources import Source
from corrmask.sources.faults import reading

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?")
_IDS = ("ensembl_id", "gene_id", "ensembl", "id")
_NAMES = ("gene_name", "symbol", "gene_symbol", "name")


GeneMap = dict[str, tuple[str, ...]]
"""Gene name -> its Ensembl ids, in the order of the table: several where haplotypes of a gene have one each."""

Ids = Collection[str] | np.ndarray


def strip_version(gene: str) -> str:
    """``ENSG00000000003.14`` -> ``ENSG00000000003``; every other name as it is."""
    return gene.partition(".")[0] if _ENSEMBL.fullmatch(gene) else gene


def read_gene_map(path: str | Path) -> GeneMap:
    """Read a table of gene names and Ensembl ids.

    Parameters
    ----------
    path
        Tab- or (.csv) comma-separated with a header, possibly gzipped. Ids stand in a column ensembl_id, gene_id,
        ensembl or id; names in gene_name, symbol, gene_symbol or name (in this order of preference, in any case).

    Raises
    ------
    InputError
        The file cannot be read, a column is missing, or no row has both.
    """
    name = str(path)
    separator = "," if name.lower().removesuffix(".gz").endswith(".csv") else "\t"
    try:
        with reading(name):
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except InputError:
        raise
    except ValueError as error:  # what pandas raises for an empty file and for text that is no table
        raise InputError(f"{name}: no table of genes ({error}); give a TSV or CSV with a header") from error
    lower = {str(column).strip().lower(): column for column in table.columns}
    chosen = [next((lower[column] for column in wanted if column in lower), None) for wanted in (_IDS, _NAMES)]
    if None in chosen:
        raise InputError(
            f"{name}: needs a column of Ensembl ids ({', '.join(_IDS)}) and one of names ({', '.join(_NAMES)}), "
            f"found: {', '.join(map(str, table.columns))}"
        )
    gene_map: GeneMap = {}
    for gene_id, gene_name in zip(table[chosen[0]], table[chosen[1]]):
        gene_id = strip_version(gene_id.strip())
        gene_name = gene_name.strip()
        known = gene_map.get(gene_name, ())
        if gene_id and gene_name and gene_id not in known:
            gene_map[gene_name] = (*known, gene_id)
    if not gene_map:
        raise InputError(f"{name}: no row has both an Ensembl id and a name; give a filled table")
    return gene_map


class Renaming(NamedTuple):
    """How many genes went which way; the first four add up to all."""

    mapped: int  # names that the map turned into ids
    kept: int  # ids already (a version was stripped)
    unmapped: int  # names that the map does not hold: as they were
    clashes: int  # another gene had taken the id: as they were
    ambiguous: int  # of those mapped: names with several ids, none of them a preferred one, so the first was taken

    def __str__(self) -> str:
        text = f"{self.mapped:,} names became ids, {self.kept:,} were ids, {self.unmapped:,} are not in the table"
        if self.clashes:
            text += f", {self.clashes:,} kept their name because another gene has their id"
        if self.ambiguous:
            text += f"; {self.ambiguous:,} names have several ids in the table, the first was taken"
        return text


def rename(
    genes: Sequence[str] | np.ndarray,
    gene_map: Mapping[str, tuple[str, ...]],
    prefer: Ids = (),
) -> tuple[np.ndarray, Renaming]:
    """Give genes their Ensembl ids.

    Ids stay, without their version; unmapped names stay. Of several ids of a name the first that is preferred is taken,
    or the first of all. Where several genes land on one id it goes to the id itself, then to the id with a version,
    then to the first name; the others keep their own name.

    Parameters
    ----------
    genes
        [n_genes] names, each once.
    gene_map
        Name -> ids, as from `read_gene_map`.
    prefer
        Ids that a vocabulary or other files hold.

    Returns
    -------
    genes : numpy.ndarray
        [n_genes] object array of str, each name once.
    renaming : Renaming
        The counts.
    """
    genes = [str(gene) for gene in genes]
    ids = {gene_id for several in gene_map.values() for gene_id in several}
    preferred = set(prefer)
    targets: list[str | None] = []
    rank: list[int] = []
    ambiguous: list[bool] = []
    for gene in genes:
        is_id = gene in ids or _ENSEMBL.fullmatch(gene) is not None
        named = () if is_id else gene_map.get(gene, ())
        wanted = [gene_id for gene_id in named if gene_id in preferred]
        target = (gene if gene in ids else strip_version(gene)) if is_id else next(iter([*wanted, *named]), None)
        targets.append(target)
        rank.append(0 if target == gene else 1 if is_id else 2)
        ambiguous.append(len(named) > 1 and not wanted)
    result = list(genes)
    counts = {"mapped": 0, "kept": 0, "unmapped": 0, "clashes": 0, "ambiguous": 0}
    taken: set[str] = set()
    for i in sorted(range(len(genes)), key=rank.__getitem__):
        target = targets[i]
        if target is None:
            counts["unmapped"] += 1
        elif target in taken:
            counts["clashes"] += 1
        else:
            taken.add(target)
            result[i] = target
            counts["kept" if rank[i] < 2 else "mapped"] += 1
            counts["ambiguous"] += ambiguous[i]
    return np.array(result, dtype=object), Renaming(**counts)


def name_by_id(sources: Sequence[Source], gene_map: str | Path | None, prefer: Ids = ()) -> Renaming | None:
    """Rename the genes of sources to Ensembl ids by a table, in place.

    Of several ids of a name the one that `prefer` holds is taken; without `prefer`, one that a source holds as an id.

    Returns
    -------
    Renaming or None
        Sums over the sources; None where there is no table.
    """
    if gene_map is None:
        return None
    table = read_gene_map(gene_map)
    if len(prefer) == 0:
        prefer = {strip_version(str(gene)) for source in sources for gene in source.genes}
    counts = []
    for source in sources:
        source.genes, renaming = rename(source.genes, table, prefer)
        counts.append(renaming)
    return Renaming(*map(sum, zip(*counts, strict=True)))


def united_genes(sources: Sequence[Source]) -> np.ndarray:
    """Genes that any source has, in the order of the sources: object array of str.

    Raises
    ------
    InputError
        A source of several has no gene that another one has: it names them differently.
    """
    in_sources = Counter(str(gene) for source in sources for gene in source.genes)
    for source in sources[1:] if len(sources) > 1 else ():
        if all(in_sources[str(gene)] == 1 for gene in source.genes):
            raise InputError(
                f"no gene in common: {_example(sources[0])} and {_example(source)}; give the same kind of names, "
                "for instance with a table of names and ids, or --gene-column (gene_column=)"
            )
    return np.array(list(in_sources), dtype=object)


def _example(source: Source) -> str:
    return f"{source.name} has {len(source.genes)} ({', '.join(map(str, source.genes[:3]))}, ...)"
