"""Which gene has which token, and the medians by which its counts are divided."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from corrmask.arguments import checked
from corrmask.errors import InputError

SPECIAL_TOKENS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}
FILE_NAME = "vocabulary.json"
_FORMAT = 1


@checked
@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens of genes and special tokens.

    Attributes
    ----------
    genes
        str [n_genes], in token order: ``genes[i]`` has token ``first_gene_token + i``.
    first_gene_token
        Token of the first gene.
    special_tokens
        Token of each special name; ``<pad>`` and ``<mask>`` are always there.
    medians
        float64 [n_genes] above 0, NaN where a gene has none; None where no medians were brought.
    medians_origin
        How the medians came to be: ``{"kind": "exact" | "sketch" | "table", ...}``.

    Raises
    ------
    InputError
        A name or token that stands twice, no ``<pad>`` or ``<mask>``, tokens out of range, or medians of another shape.
    """

    genes: np.ndarray
    first_gene_token: int = len(SPECIAL_TOKENS)
    special_tokens: dict[str, int] = field(default_factory=lambda: dict(SPECIAL_TOKENS))
    medians: np.ndarray | None = None
    medians_origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", np.asarray(self.genes, dtype=object))
        for gene in self.genes:
            if not isinstance(gene, str):
                raise InputError(f"vocabulary: gene names must be text, one has {type(gene).__name__} {gene!r}")
        if len(self._token_of_gene) != len(self.genes):
            raise InputError("vocabulary: gene names must be unique; two genes share one")
        plain = {str(name): int(token) for name, token in self.special_tokens.items()}
        object.__setattr__(self, "special_tokens", plain)
        for name in ("<pad>", "<mask>"):
            if name not in self.special_tokens:
                raise InputError(f"vocabulary: special token {name!r} is missing; add it to the dictionary")
        lo, hi = self.gene_token_range
        if lo < 0 or hi > 2**31:
            raise InputError(f"vocabulary: gene tokens {lo} .. {hi - 1} must be in 0 .. 2**31 - 1")
        taken: dict[int, str] = {}
        for name, token in self.special_tokens.items():
            if name in self._token_of_gene:
                raise InputError(f"vocabulary: {name!r} is both a gene and a special token; rename the gene")
            if not 0 <= token < 2**31:
                raise InputError(f"vocabulary: special token {name!r} is {token}; it must be in 0 .. 2**31 - 1")
            if lo <= token < hi or token in taken:
                other = self.genes[token - lo] if lo <= token < hi else taken[token]
                raise InputError(f"vocabulary: {name!r} and {str(other)!r} share token {token}; each needs its own")
            taken[token] = name
        if self.medians is not None:
            try:
                object.__setattr__(self, "medians", np.asarray(self.medians, dtype=np.float64))
            except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor that learns
                raise InputError(
                    "vocabulary: 'medians' must be numbers, one per gene, NaN where there is none"
                ) from None
            if self.medians.shape != self.genes.shape:
                raise InputError(
                    f"vocabulary: 'medians' must be [{len(self.genes)}], one per gene, got {list(self.medians.shape)}"
                )
            wrong = np.flatnonzero((self.medians <= 0) | np.isinf(self.medians))
            if wrong.size:
                gene, median = self.genes[wrong[0]], self.medians[wrong[0]]
                raise InputError(f"vocabulary: the median of {gene} is {median}; give one above 0, or leave it out")

    @classmethod
    def from_dictionary(
        cls, tokens: Mapping[str, int], medians: Mapping[str, float] | None = None, *, origin: str = "a table"
    ) -> Vocabulary:
        """A vocabulary from a token dictionary (gene or special name -> token), such as Geneformer's.

        Parameters
        ----------
        tokens
            Names in angle brackets are special; all others are genes, whose tokens must follow one another.
        medians
            Median of each gene; a gene that is missing here gets NaN.
        origin
            Where the medians came from, for ``medians_origin``.

        Raises
        ------
        InputError
            Gene tokens with a gap, a repeated token, one that is no whole number in 0 .. 2**31 - 1, or no ``<pad>`` or
            ``<mask>``.
        """
        for name, token in tokens.items():
            if not isinstance(name, str):
                raise InputError(f"token dictionary: {name!r} names token {token!r}; names are text")
            whole = isinstance(token, Integral) or (
                isinstance(token, Real) and math.isfinite(token) and int(token) == token
            )
            if not whole:
                raise InputError(f"token dictionary: {name!r} has token {token!r}; tokens are whole numbers")
        special = {name: int(token) for name, token in tokens.items() if name.startswith("<") and name.endswith(">")}
        genes = sorted((int(token), name) for name, token in tokens.items() if name not in special)
        if not genes:
            raise InputError("token dictionary: it holds no genes")
        first, last = genes[0][0], genes[-1][0]
        if last - first + 1 != len(genes) or len({token for token, _ in genes}) != len(genes):
            raise InputError(
                f"token dictionary: {len(genes)} genes have tokens {first} .. {last}; gene tokens must follow one "
                "another without gaps or repeats"
            )
        names = np.array([name for _, name in genes], dtype=object)
        table = None if medians is None else np.array([float(medians.get(name, np.nan)) for name in names])
        return cls(names, first, special, table, {} if medians is None else {"kind": "table", "source": origin})

    @cached_property
    def _token_of_gene(self) -> dict[str, int]:
        return {gene: self.first_gene_token + i for i, gene in enumerate(self.genes)}

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def gene_token_range(self) -> tuple[int, int]:
        """(lo, hi): gene tokens are lo .. hi - 1."""
        return self.first_gene_token, self.first_gene_token + self.n_genes

    @property
    def size(self) -> int:
        """Number of tokens V: all are below it."""
        return max(self.gene_token_range[1], max(self.special_tokens.values()) + 1)

    @property
    def pad_token_id(self) -> int:
        """Token that fills a row behind its length."""
        return self.special_tokens["<pad>"]

    @property
    def mask_token_id(self) -> int:
        """Token that a masked position shows."""
        return self.special_tokens["<mask>"]

    @cached_property
    def hash(self) -> str:
        """Hash of genes and tokens (not of medians): two vocabularies with the same one give the same tokens."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([list(self.genes), self.first_gene_token, self.special_tokens]).encode())
        return digest.hexdigest()

    def tokens_of(self, genes: Sequence[str] | np.ndarray) -> np.ndarray:
        """Tokens of gene names: int32 [len(genes)], -1 where a gene has none."""
        lookup = self._token_of_gene
        return np.array([lookup.get(str(gene), -1) for gene in genes], dtype=np.int32)

    def save(self, path: str | Path) -> None:
        """Write ``vocabulary.json``."""
        medians = None
        if self.medians is not None:
            medians = [None if np.isnan(median) else float(median) for median in self.medians]
        document = {
            "format": _FORMAT,
            "special_tokens": self.special_tokens,
            "first_gene_token": self.first_gene_token,
            "genes": list(self.genes),
            "medians": medians,
            "medians_origin": self.medians_origin,
        }
        Path(path).write_text(json.dumps(document, allow_nan=False))

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Vocabulary:
        """Read ``vocabulary.json``, from the file or from the folder that holds it.

        Raises
        ------
        InputError
            There is none, or it is not one of ours.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE_NAME
        try:
            document = json.loads(path.read_text())
            if document["format"] != _FORMAT:
                raise InputError(f"its format is {document['format']!r}, this version reads {_FORMAT}; update corrmask")
            medians = document["medians"]
            return cls(
                np.array(document["genes"], dtype=object),
                int(document["first_gene_token"]),
                {str(name): int(token) for name, token in document["special_tokens"].items()},
                None if medians is None else np.array([np.nan if m is None else m for m in medians], dtype=np.float64),
                document["medians_origin"],
            )
        except FileNotFoundError:
            raise InputError(
                f"vocabulary {str(path)!r} does not exist; give the vocabulary.json or token dictionary of this corpus"
            ) from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: no JSON, no text, no number
            raise InputError(f"vocabulary {str(path)!r} is not a vocabulary.json of corrmask ({error!r})") from None
