"""Group tables: which tokens are masked along with which."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from corrmask.arguments import checked
from corrmask.errors import InputError, InputWarning
from corrmask.gene_graph import GeneGraph
from corrmask.progress import Progress, silent
from corrmask.vocabulary import Vocabulary

if TYPE_CHECKING:
    from corrmask.corpus import Corpus

NO_GROUP = -1
SPECIAL = -2


def threshold(probability: float, name: str = "'probability'") -> int:
    """A probability as a threshold of 2**32, by which the kernels decide in integers: round(probability * 2**32).

    Raises
    ------
    InputError
        It is not in 0 .. 1; the message begins with `name`.
    """
    if not isinstance(probability, Real) or not 0 <= probability <= 1:
        raise InputError(f"{name} must be in 0 .. 1, got {probability!r}")
    return round(probability * 2**32)


@checked
@dataclass(frozen=True, eq=False, repr=False)
class GroupTable:
    """Groups over a vocabulary of V tokens, as `corrmask.ops.sample_groups` takes them.

    Attributes
    ----------
    token_group
        int32 [V]: the group that a token brings along; -1 none; -2 special, never masked.
    group_indptr
        int64 [n_groups + 1]: where each group starts in `group_tokens`.
    group_tokens
        int32 [n_members]: members of each group, in the order in which they are taken.
    accept, take
        int64 [V] thresholds of 2**32, or None: how readily a token becomes a seed, and how readily it comes along.

    Raises
    ------
    InputError
        A dtype or shape is another, or an array points outside the others.
    """

    token_group: Tensor
    group_indptr: Tensor
    group_tokens: Tensor
    accept: Tensor | None = None
    take: Tensor | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("token_group", torch.int32), ("group_indptr", torch.int64), ("group_tokens", torch.int32)):
            if getattr(self, name).dtype != dtype or getattr(self, name).dim() != 1:
                raise InputError(f"GroupTable: {name!r} must be {dtype} of one dimension".replace("torch.", ""))
        indptr, members, groups = self.group_indptr.cpu(), self.group_tokens.cpu(), self.token_group.cpu()
        vocabulary = len(groups)
        if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(members) or bool((indptr.diff() < 0).any()):
            raise InputError(f"GroupTable: 'group_indptr' must rise from 0 to {len(members)} (size of 'group_tokens')")
        if len(members) and (int(members.min()) < 0 or int(members.max()) >= vocabulary):
            raise InputError(f"GroupTable: 'group_tokens' must be in 0 .. {vocabulary - 1} (size of 'token_group')")
        if len(groups) and (int(groups.min()) < SPECIAL or int(groups.max()) >= len(indptr) - 1):
            raise InputError(f"GroupTable: 'token_group' must be in -2 .. {len(indptr) - 2}, the groups that there are")
        for name, thresholds in (("accept", self.accept), ("take", self.take)):
            if thresholds is not None and (
                thresholds.dtype != torch.int64
                or thresholds.shape != groups.shape
                or int(thresholds.min()) < 0
                or int(thresholds.max()) > 2**32
            ):
                raise InputError(f"GroupTable: {name!r} must be int64 [{vocabulary}] in 0 .. 2**32")

    def __repr__(self) -> str:
        return f"GroupTable of {self.vocabulary_size:,} tokens, {self.n_groups:,} groups"

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens V."""
        return len(self.token_group)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.group_indptr) - 1

    def group_sizes(self) -> np.ndarray:
        """Members of each group: int64 [n_groups]."""
        return self.group_indptr.cpu().diff().numpy()

    def to(self, device: str | torch.device) -> GroupTable:
        """The same table on another device."""
        return GroupTable(
            self.token_group.to(device),
            self.group_indptr.to(device),
            self.group_tokens.to(device),
            None if self.accept is None else self.accept.to(device),
            None if self.take is None else self.take.to(device),
        )

    def with_thresholds(self, *, accept: Tensor | None = None, take: Tensor | None = None) -> GroupTable:
        """The same groups with other `accept` and `take`."""
        return replace(self, accept=accept, take=take)

    @checked
    def calibrate(
        self,
        corpus: Corpus,
        rate: float = 0.15,
        expand: float = 1.0,
        *,
        max_group: int | None = None,
        rotate: bool = False,
        rows: np.ndarray | None = None,
        max_len: int = 2048,
        seed: int = 0,
        progress: Progress = silent,
    ) -> GroupTable:
        """The same groups with `accept` and `take` fitted so that genes are masked equally often. Deterministic.

        Partners of many are otherwise masked nearly always and others seldom. Afterwards the chance of each gene to be
        masked, where it is present, is close to the rate; genes in few of the cells counted match roughly. Levelling
        has a price: what is masked with one gene alone cannot be masked with all its other partners as well, so that
        more partners stay visible (`corrmask audit` shows both).

        Parameters
        ----------
        corpus
            Tokenised cells over the same vocabulary.
        rate, expand, max_group, rotate
            As `CorrMasker` will be given them; the thresholds hold for these.
        rows
            int64 [n]: rows of the corpus to count on, such as the training cells; None for all. 40 rounds of at most
            8,192 of them are masked.
        max_len
            Most tokens of a cell, as in training.
        seed
            Of the choice of cells and the masks counted.
        progress
            Called as progress("level masks", rounds done, rounds).

        Raises
        ------
        InputError
            The corpus has another vocabulary, its cells hold no genes, or a value is out of range.
        """
        from corrmask.levelling import level

        if not 1e-6 <= rate <= 1:
            raise InputError(f"calibrate: 'rate' must be in 1e-6 .. 1, got {rate}")
        if not 1 <= max_len < 2**31 or not 0 <= seed < 2**63 or not 0 <= (max_group or 0) < 2**31:
            raise InputError(
                "calibrate: 'max_len' must be in 1 .. 2**31 - 1, 'seed' in 0 .. 2**63 - 1 and 'max_group' in "
                f"0 .. 2**31 - 1, got {max_len}, {seed} and {max_group}"
            )
        sampling = {
            "rate_ppm": round(rate * 10**6),
            "seed": seed,
            "expand": threshold(expand, "calibrate: 'expand'"),
            "max_group": max_group,
            "rotate": rotate,
        }
        return level(self, corpus, sampling, rows=rows, max_len=max_len, progress=progress)

    @classmethod
    def _from_lists(cls, token_group: np.ndarray, indptr: np.ndarray, members: np.ndarray) -> GroupTable:
        return cls(
            torch.from_numpy(token_group.astype(np.int32)),
            torch.from_numpy(indptr.astype(np.int64)),
            torch.from_numpy(members.astype(np.int32)),
        )

    @classmethod
    @checked
    def without_groups(cls, vocabulary: Vocabulary) -> GroupTable:
        """No gene brings another: random masking."""
        return cls._from_lists(_ungrouped(vocabulary), np.zeros(1), np.zeros(0))

    @classmethod
    @checked
    def from_graph(cls, graph: GeneGraph, vocabulary: Vocabulary, *, min_overlap: float = 0.5) -> GroupTable:
        """Neighbourhoods: each gene brings its partners in the graph, strongest first.

        Parameters
        ----------
        graph
            Dependency graph; genes without a token are left out.
        vocabulary
            Tokens of genes.
        min_overlap
            Least share of the smaller of both gene sets that must be in the other.

        Raises
        ------
        InputError
            Graph and vocabulary do not fit: both sizes and the overlap are in the message. Or no edge joins two genes
            with tokens.

        Warns
        -----
        InputWarning
            Less than a tenth of the vocabulary's genes bring others along.
        """
        if not 0 <= min_overlap <= 1:
            raise InputError(f"from_graph: 'min_overlap' must be in 0 .. 1, got {min_overlap}")
        tokens = vocabulary.tokens_of(graph.var_names)
        overlap = int((tokens >= 0).sum())
        if overlap == 0 or overlap < min_overlap * min(graph.n_genes, vocabulary.n_genes):
            raise InputError(
                f"graph of {graph.n_genes:,} genes and vocabulary of {vocabulary.n_genes:,} do not fit: {overlap:,} "
                f"genes in common (graph: {_examples(graph.var_names)}; vocabulary: {_examples(vocabulary.genes)}); "
                "build the graph from the cells of the corpus, with the same kind of gene names"
            )
        gene_of_edge = np.repeat(np.arange(graph.n_genes), np.diff(graph.indptr))
        owner, partner = tokens[gene_of_edge], tokens[graph.indices]
        kept = (owner >= 0) & (partner >= 0)
        if not kept.any():
            raise InputError(
                f"graph of {graph.n_genes:,} genes and {graph.n_edges:,} edges: none joins two genes of the "
                "vocabulary, so that each would be masked for itself; build the graph from more cells, with a lower "
                "--min-corr (min_corr=) or --min-cells (min_cells=), or mask at random"
            )
        # Groups stand in order of their token, members in order of strength: a stable sort of edges that are ordered.
        order = np.argsort(owner[kept], kind="stable")
        owner, partner = owner[kept][order], partner[kept][order]
        grouped, sizes = np.unique(owner, return_counts=True)
        if len(grouped) < 0.1 * vocabulary.n_genes:
            warnings.warn(
                f"graph: {len(grouped):,} of the {vocabulary.n_genes:,} genes of the vocabulary have partners; "
                "what cells hold of the others is masked for itself, as at random",
                InputWarning,
                stacklevel=3,
            )
        token_group = _ungrouped(vocabulary)
        token_group[grouped] = np.arange(len(grouped))
        return cls._from_lists(token_group, np.concatenate([[0], np.cumsum(sizes)]), partner)

    @classmethod
    @checked
    def from_modules(cls, modules: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> GroupTable:
        """Modules: the genes of one module share one group, in the order given.

        Parameters
        ----------
        modules
            Gene names of each module; genes without a token are left out, and a gene may be in one module alone.
        vocabulary
            Tokens of genes.

        Raises
        ------
        InputError
            A gene is in two modules, or no gene has a token.
        """
        token_group = _ungrouped(vocabulary)
        members: list[np.ndarray] = []
        for name, genes in modules.items():
            tokens = vocabulary.tokens_of(genes)
            tokens = tokens[tokens >= 0]
            if len(tokens) == 0:
                continue
            if np.any(token_group[tokens] != NO_GROUP) or len(np.unique(tokens)) < len(tokens):
                raise InputError(
                    f"modules: a gene of {name!r} is listed twice or in another module as well; list each once"
                )
            token_group[tokens] = len(members)
            members.append(tokens)
        if not members:
            raise InputError(f"modules: none of their genes is among the {vocabulary.n_genes:,} of the vocabulary")
        return cls._from_lists(
            token_group, np.cumsum([0, *(len(tokens) for tokens in members)]), np.concatenate(members)
        )


def _ungrouped(vocabulary: Vocabulary) -> np.ndarray:
    """`token_group` without groups: genes -1, all else special."""
    token_group = np.full(vocabulary.size, SPECIAL, dtype=np.int32)
    lo, hi = vocabulary.gene_token_range
    token_group[lo:hi] = NO_GROUP
    return token_group


def _examples(genes: Sequence[Any] | np.ndarray) -> str:
    return ", ".join(str(gene) for gene in genes[:3])
