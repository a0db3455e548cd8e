"""Joint masking for models of expression values (scGPT, Tahoe-x1, BMFM-RNA): the owner of a gene masks its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from corrmask import ops
from corrmask.arguments import checked
from corrmask.collating import EpochTold, cell_ids, check_batch, tokens_of
from corrmask.errors import InputError
from corrmask.groups import SPECIAL, GroupTable
from corrmask.masking import CorrMasker
from corrmask.staging import on_host

_SAMPLING_STREAM = 6  # of the draws that choose genes for a cell with more than `max_length`


def mask_values(
    masker: CorrMasker,
    genes: Tensor,
    values: Tensor,
    lengths: Tensor,
    cell_ids: Tensor,
    epoch: int | Tensor = 0,
    *,
    mask_value: float = -1,
    mask_zeros: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mask the values of a batch: a pure function of seed, epoch and cell. Exact, on any device.

    Gene tokens stay as they are. What is to be predicted is `values` where the mask is true.

    Parameters
    ----------
    masker
        Its rate, groups and seed decide; what masked positions show (80/10/10) is for tokens and has no part here.
    genes
        int32 or int64 [B, L]: gene tokens; special tokens of the masker's groups are never masked.
    values
        [B, L], any dtype: bins, counts or normalised values of these genes.
    lengths, cell_ids
        int64 [B]: positions of each cell that are not padding, and its row in the corpus.
    epoch
        0 <= epoch < 2**28.
    mask_value
        Shown in place of a masked value: -1 as in scGPT, or the id of a mask token where values are tokens.
    mask_zeros
        Let genes whose value is 0 take part: as seeds, as partners, and in the budget.

    Returns
    -------
    masked_values, mask : Tensor
        [B, L] of the dtype of `values`, and bool [B, L].
    """
    for name, value, kind in (("masker", masker, CorrMasker), ("genes", genes, Tensor), ("values", values, Tensor)):
        if not isinstance(value, kind):
            raise InputError(f"mask_values: {name!r} must be a {kind.__name__}, got {type(value).__name__}")
    if not isinstance(mask_value, Real) or isinstance(mask_value, bool):
        raise InputError(f"mask_values: 'mask_value' must be a number, got {type(mask_value).__name__}")
    if not _holds(values.dtype, mask_value):
        raise InputError(
            f"mask_values: 'values' of {values.dtype} cannot hold 'mask_value' {mask_value}; convert them "
            "(values.float()) or give another"
        )
    if values.shape != genes.shape:
        raise InputError(
            f"mask_values: 'values' must be of the shape of 'genes', {list(genes.shape)}, got {list(values.shape)}"
        )
    if not mask_zeros:
        if masker.special_token is None:
            raise InputError(
                "mask_values: 'mask_zeros=False' needs a special token in the groups (-2 in 'token_group')"
            )
        genes = genes.masked_fill(values == 0, masker.special_token)
    mask = masker.owners(genes, lengths, cell_ids, epoch) >= 0
    return values.masked_fill(mask, float(mask_value) if values.is_floating_point() else int(mask_value)), mask


class CorrMaskValueCollator(EpochTold):
    """Pads, bins and masks the values of cells: scGPT's `DataCollator`, its fields and names, with groups.

    Masks, bins and the choice of genes are pure functions of (seed, epoch, cell id, the cell), and exactly
    `mlm_probability` of each cell's genes is masked. The *cell id* is the column ``id`` of the examples, as in scGPT's
    data, or else a hash of the cell's genes. The *epoch* is told by `set_epoch`, or by `callback` in a Trainer, or is
    the column ``epoch``, as in `corrmask.hf.CorrMaskCollator`.

    Parameters
    ----------
    groups
        Which genes are masked along with which, over the model's vocabulary; special tokens are never masked.
    pad_token_id
        Token that pads genes: a special token of `groups`.
    max_length
        Most positions of a cell; None for no limit.
    pad_value, mask_value
        Values at padding, and in place of masked ones.
    do_binning, n_bins
        Bin the values of each cell, as `corrmask.ops.bin_values` does; without it values stay as they are.
    mlm_probability
        Share of each cell's genes that is masked.
    sampling
        A cell with more genes than `max_length` keeps some drawn at random, anew in each epoch, in their order;
        otherwise the first.
    keep_first_n_tokens
        Positions at the start, such as <cls>, that are neither binned nor drawn away. (They stay visible where they
        hold special tokens.)
    data_style
        "pcpt": the fields ``gene``, ``expr`` and ``masked_expr``. "both": masked genes are to be generated, the others
        are seen: ``pcpt_gene``, ``pcpt_expr``, ``gen_gene``, ``gen_expr_target``.
    mask_zeros
        Let genes whose value is 0 take part.
    seed
        0 <= seed < 2**63.
    expand, max_group, rotate
        As `CorrMasker` takes them.

    Raises
    ------
    InputError
        An argument is out of range, or `pad_token_id` is no special token.

    References
    ----------
    Cui et al. scGPT: toward building a foundation model for single-cell multi-omics using generative AI. Nature
    Methods, 2024.

    Examples
    --------
    >>> collator = CorrMaskValueCollator(groups, pad_token_id=0, max_length=1200, mlm_probability=0.4)
    >>> batch = collator([{"id": 0, "genes": genes, "expressions": counts}])
    >>> loss = masked_mse_loss(predicted, batch["expr"], batch["masked_expr"].eq(-1))
    """

    @checked
    def __init__(
        self,
        groups: GroupTable,
        *,
        pad_token_id: int = 0,
        max_length: int | None = None,
        pad_value: float = 0,
        mask_value: float = -1,
        do_binning: bool = True,
        n_bins: int = 51,
        mlm_probability: float = 0.15,
        sampling: bool = True,
        keep_first_n_tokens: int = 1,
        data_style: Literal["pcpt", "both"] = "pcpt",
        mask_zeros: bool = True,
        seed: int = 0,
        expand: float = 1.0,
        max_group: int | None = None,
        rotate: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not 0 <= pad_token_id < groups.vocabulary_size or int(groups.token_group[pad_token_id]) != SPECIAL:
            raise InputError(f"{name}: 'pad_token_id' {pad_token_id} must be a special token of 'groups' (-2)")
        if keep_first_n_tokens < 0 or (max_length is not None and max_length < max(keep_first_n_tokens, 1)):
            raise InputError(
                f"{name}: 'keep_first_n_tokens' must be in 0 .. 'max_length' ({max_length}), got {keep_first_n_tokens}"
            )
        if not np.isfinite([mask_value, pad_value]).all():
            raise InputError(f"{name}: 'mask_value' and 'pad_value' must be finite, got {mask_value} and {pad_value}")
        if mask_value == pad_value:
            raise InputError(
                f"{name}: 'mask_value' and 'pad_value' must differ, both are {mask_value}; masks would be lost"
            )
        if not 2 <= n_bins <= 2**20:
            raise InputError(f"{name}: 'n_bins' must be in 2 .. 2**20, got {n_bins}")
        # The range of gene tokens is for random replacement, which values do not know.
        if not 1e-6 <= mlm_probability <= 1:
            raise InputError(f"{name}: 'mlm_probability' must be in 1e-06 .. 1, got {mlm_probability}")
        self.masker = CorrMasker(
            groups.to("cpu"),
            mlm_probability,
            expand,
            max_group=max_group,
            rotate=rotate,
            gene_token_range=(0, groups.vocabulary_size),
            seed=seed,
        )
        self.pad_token_id, self.pad_value, self.mask_value = pad_token_id, pad_value, mask_value
        self.max_length, self.sampling, self.keep_first_n_tokens = max_length, sampling, keep_first_n_tokens
        self.do_binning, self.n_bins = do_binning, n_bins
        self.data_style, self.mask_zeros = data_style, mask_zeros

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Bin, cut, pad and mask a batch.

        Parameters
        ----------
        examples
            Mappings with ``genes`` (whole numbers [n]), ``expressions`` (numbers [n], finite; 0 or more where they are
            binned) and perhaps ``id``; others are passed over.

        Returns
        -------
        dict
            By `data_style`: gene tokens int64 and values float32, [B, L] each.

        Raises
        ------
        InputError
            No examples, a field that is missing or does not fit, or a value that `mask_value` could be taken for.
        """
        name = type(self).__name__
        check_batch(examples, name)
        genes = [tokens_of(example, "genes", name).astype(np.int64) for example in examples]
        values = [_values_of(example, len(tokens), name) for example, tokens in zip(examples, genes, strict=True)]
        size = self.masker.token_group.shape[0]
        for tokens in genes:
            outside = tokens[(tokens < 0) | (tokens >= size)]
            if len(outside):
                raise InputError(f"{name}: an example holds token {outside[0]}, the groups' vocabulary has {size:,}")
        ids = cell_ids(examples, genes, name, "id")
        parts = self.by_epoch(examples, ids)
        if len(parts) == 1:
            return self._masked(genes, values, ids, parts[0][0])
        found: dict[str, list[Any]] = {}  # rows of each field, in the order of the examples
        for epoch, rows in parts:
            at = np.arange(len(ids))[rows]
            batch = self._masked([genes[i] for i in at], [values[i] for i in at], ids[at], epoch)
            for field, whole in batch.items():
                of_batch = found.setdefault(field, [None] * len(ids))
                for i, row in zip(at, whole, strict=True):
                    of_batch[i] = row
        return {
            field: pad_sequence(
                of_batch, batch_first=True, padding_value=self.pad_token_id if "gene" in field else self.pad_value
            )
            for field, of_batch in found.items()
        }

    def _masked(
        self, genes: list[np.ndarray], values: list[np.ndarray], ids: np.ndarray, epoch: int
    ) -> dict[str, Tensor]:
        """The fields of cells of one epoch."""
        if self.do_binning:
            values = self._bin(genes, values, ids, epoch)
        if self.max_length is not None:
            kept = [self._kept(tokens, int(cell), epoch) for tokens, cell in zip(genes, ids, strict=True)]
            genes = [tokens[at] for tokens, at in zip(genes, kept, strict=True)]
            values = [numbers[at] for numbers, at in zip(values, kept, strict=True)]
        gene, expr = _pad(genes, self.pad_token_id, np.int64), _pad(values, self.pad_value, np.float32)
        lengths = torch.tensor([len(tokens) for tokens in genes])
        masked, mask = mask_values(
            self.masker,
            gene,
            expr,
            lengths,
            torch.from_numpy(ids),
            epoch,
            mask_value=self.mask_value,
            mask_zeros=self.mask_zeros,
        )
        real = torch.arange(gene.shape[1]) < lengths[:, None]
        if self.data_style == "pcpt":
            if bool((real & ~mask & (masked == self.mask_value)).any()):
                raise InputError(
                    f"{type(self).__name__}: a value that is not masked equals 'mask_value' {self.mask_value}, so that "
                    "masks could not be told; give one that no value has"
                )
            return {"gene": gene, "expr": expr, "masked_expr": masked}
        fields = {}
        for prefix, where, target in (("pcpt", real & ~mask, "pcpt_expr"), ("gen", mask, "gen_expr_target")):
            rows = [at.numpy() for at in where]
            parts = [[row[at] for row, at in zip(whole.numpy(), rows, strict=True)] for whole in (gene, expr)]
            fields[f"{prefix}_gene"] = _pad(parts[0], self.pad_token_id, np.int64)
            fields[target] = _pad(parts[1], self.pad_value, np.float32)
        return fields

    def _bin(self, genes: list[np.ndarray], values: list[np.ndarray], ids: np.ndarray, epoch: int) -> list[np.ndarray]:
        """The same values, those behind the first ones binned."""
        first = self.keep_first_n_tokens
        sizes = [max(len(row) - first, 0) for row in values]
        indptr = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        whole = np.concatenate([row[first:] for row in values])
        if np.any(whole < 0):
            raise InputError(f"{type(self).__name__}: 'expressions' must be 0 or more to be binned, got {whole.min()}")
        bins = ops.bin_values(
            indptr,
            torch.from_numpy(np.concatenate([row[first:] for row in genes])),
            torch.from_numpy(whole),
            torch.from_numpy(ids),
            n_bins=self.n_bins,
            seed=self.masker.seed,
            epoch=epoch,
        ).numpy()
        parts = np.split(bins, indptr.numpy()[1:-1])
        return [np.concatenate([row[:first], part]) for row, part in zip(values, parts, strict=True)]

    def _kept(self, tokens: np.ndarray, cell_id: int, epoch: int) -> np.ndarray:
        """Which positions of a cell stay, ascending: the first ones, and of the rest those with the smallest words."""
        assert self.max_length is not None
        if len(tokens) <= self.max_length or not self.sampling:
            return np.arange(min(len(tokens), self.max_length))
        first, seed = self.keep_first_n_tokens, self.masker.seed
        counter = torch.empty(len(tokens) - first, 4, dtype=torch.int64)
        counter[:, 0], counter[:, 1] = cell_id & 0xFFFFFFFF, cell_id >> 32
        counter[:, 2] = torch.from_numpy(tokens[first:])
        counter[:, 3] = epoch << 4 | _SAMPLING_STREAM
        words = ops.philox4x32(torch.tensor([seed & 0xFFFFFFFF, seed >> 32]), counter)[:, 0]
        drawn = np.argsort(words.numpy(), kind="stable")[: self.max_length - first]
        return np.concatenate([np.arange(first), first + np.sort(drawn)])


def _holds(dtype: torch.dtype, value: float) -> bool:
    """Whether a dtype can hold a number: in its range, and whole where it is one of whole numbers."""
    if dtype.is_floating_point or dtype.is_complex:
        return not torch.finfo(dtype).max < abs(value) < float("inf")
    least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return least <= value <= most and value == int(value)


def _values_of(example: Mapping[str, Any], n: int, name: str) -> np.ndarray:
    """Values of one example: float64 [n], within the range of float32."""
    if "expressions" not in example:
        raise InputError(f"{name}: an example has no 'expressions' (it has {', '.join(map(str, example))})")
    given = example["expressions"]
    try:
        if isinstance(given, Tensor):  # numpy knows no bfloat16
            array = (given.double() if given.is_floating_point() else given).numpy(force=True)
        else:
            array = np.asarray(on_host(given))
        values = array.astype(np.float64)
    except (TypeError, ValueError):
        values = np.empty((0, 0))
    if values.shape != (n,) or not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise InputError(
            f"{name}: 'expressions' of an example must be {n} finite numbers that float32 can hold, one for each of "
            "its 'genes'"
        )
    return values


def _pad(rows: Sequence[np.ndarray], value: float, dtype: Any) -> Tensor:
    """[B, L], L the longest row."""
    padded = np.full((len(rows), max(len(row) for row in rows)), value, dtype=dtype)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)
