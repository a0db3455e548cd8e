"""Joint masking in Hugging Face's training loops: a data collator, and the callback that tells it the epoch.

`transformers` is imported by `CorrMaskCollator.callback` alone: the collator itself needs the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from corrmask.arguments import checked
from corrmask.collating import EpochTold, Passes, cell_ids, check_batch, content_id, tokens_of
from corrmask.errors import InputError
from corrmask.groups import SPECIAL, GroupTable
from corrmask.masking import CorrMasker
from corrmask.vocabulary import Vocabulary

__all__ = ["CorrMaskCollator", "Passes", "content_id"]

# Where Geneformer's tokenizer and its collator keep the token dictionary.
_DICTIONARIES = ("gene_token_dict", "token_dictionary")


class CorrMaskCollator(EpochTold):
    """Pads and masks tokenised cells: a drop-in for `transformers.DataCollatorForLanguageModeling`.

    Each mask is a pure function of (seed, epoch, cell id, the cell's tokens, the groups, the parameters), and exactly
    `mlm_probability` of each cell's genes is masked. So a run can be replayed, whatever its batches, workers and order.

    The *cell id* is the column ``cell_id`` of the examples. Where there is none it is `content_id`, a hash of the
    cell's tokens, so that the masks can be replayed still; its limit is that cells with equal tokens get equal masks in
    an epoch. A collator does not see the dataset's index; to have that as the id, add it once:
    ``dataset.add_column("cell_id", range(len(dataset)))``. A `Trainer` drops the column, and the hash takes its
    place, unless it is given ``remove_unused_columns=False``.

    The *epoch* is told by `set_epoch`, or by `callback` in a Trainer; without either, each epoch has the same masks, of
    which a second pass warns. A column ``epoch`` of the examples goes before it: `Passes` adds it to a stream, so
    that a Trainer over one can be resumed.

    Parameters
    ----------
    tokenizer
        Knows the tokens for padding and masking: a `Vocabulary`, a token dictionary such as Geneformer's (name ->
        token), Geneformer's tokenizer, or any object with ``pad_token_id`` and ``mask_token_id``.
    mlm
        Mask; otherwise labels are the tokens themselves, as for causal models.
    groups
        Which tokens are masked along with which, over the same vocabulary.
    whole_word_mask
        There for the sake of the signature; genes have no words, so that only False is taken.
    mlm_probability
        Share of each cell's genes that is masked: exact (rounded to 1e-6 and to whole genes, at least one).
    mask_replace_prob, random_replace_prob
        Shares of masked positions that show the mask token and a random gene (never a special token).
    pad_to_multiple_of
        Pads the width of a batch up to a multiple.
    return_tensors
        "pt" or "np".
    seed
        0 <= seed < 2**63.
    expand, max_group, rotate, unit, gene_token_range
        As `CorrMasker` takes them; a vocabulary brings its own range of gene tokens.

    Raises
    ------
    InputError
        An argument is out of range, or tokenizer and groups do not fit.

    Examples
    --------
    >>> groups = GroupTable.from_graph(graph, vocabulary)
    >>> collator = CorrMaskCollator(vocabulary, groups=groups, mlm_probability=0.15)
    >>> Trainer(model, args, data_collator=collator, train_dataset=cells, callbacks=[collator.callback()]).train()
    """

    @checked
    def __init__(
        self,
        tokenizer: Any,
        mlm: bool = True,
        *,
        groups: GroupTable,
        whole_word_mask: bool = False,
        mlm_probability: float = 0.15,
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "pt",
        seed: int = 0,
        expand: float = 1.0,
        max_group: int | None = None,
        rotate: bool = False,
        unit: Literal["token", "group"] = "token",
        gene_token_range: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if whole_word_mask:
            raise InputError("CorrMaskCollator: 'whole_word_mask' must be False; 'groups' say what is masked together")
        for name, share, least in (
            ("mlm_probability", mlm_probability, 1e-6),
            ("mask_replace_prob", mask_replace_prob, 0),
            ("random_replace_prob", random_replace_prob, 0),
        ):
            if not least <= share <= 1:
                raise InputError(f"CorrMaskCollator: {name!r} must be in {least} .. 1, got {share!r}")
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise InputError(f"CorrMaskCollator: 'pad_to_multiple_of' must be 1 or more, got {pad_to_multiple_of}")
        _check_return_tensors(return_tensors)
        pad_token_id, mask_token_id, vocabulary = _special_tokens(tokenizer)
        if vocabulary is not None:
            if vocabulary.size != groups.vocabulary_size:
                raise InputError(
                    f"CorrMaskCollator: the tokenizer has {vocabulary.size:,} tokens and 'groups' "
                    f"{groups.vocabulary_size:,}; build the groups with the tokenizer's vocabulary"
                )
            gene_token_range = gene_token_range or vocabulary.gene_token_range
        for name, token in (("pad", pad_token_id), ("mask", mask_token_id)):
            if not 0 <= token < groups.vocabulary_size or int(groups.token_group[token]) != SPECIAL:
                raise InputError(
                    f"CorrMaskCollator: {name} token {token} must be a special token of 'groups' (-2 in 'token_group')"
                    "; build the groups with the tokenizer's vocabulary"
                )
        self.masker = CorrMasker(
            groups.to("cpu"),
            float(mlm_probability),
            expand,
            mask_prob=float(mask_replace_prob),
            random_prob=float(random_replace_prob),
            unit=unit,
            max_group=max_group,
            rotate=rotate,
            mask_token_id=mask_token_id,
            gene_token_range=gene_token_range,
            seed=int(seed),
        )
        self.mlm = mlm
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of
        self.return_tensors = return_tensors

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Pad and mask a batch.

        Parameters
        ----------
        features
            Examples: mappings with ``input_ids`` and perhaps ``cell_id`` and ``epoch`` (all others, such as
            Geneformer's ``length``, are passed over), or the tokens alone; tokens as a list, array or tensor of whole
            numbers. Pad tokens at the end of one are padding.
        return_tensors
            "pt" or "np"; None takes the constructor's.

        Returns
        -------
        dict
            ``input_ids``, ``attention_mask`` (1 where there is a token) and ``labels`` (-100 where nothing is to be
            predicted): int64 [B, L], L the longest example, rounded up to a multiple of `pad_to_multiple_of`.

        Raises
        ------
        InputError
            No examples, no ``input_ids``, tokens that are not in the vocabulary, or a ``cell_id`` or ``epoch`` that is
            none.
        """
        kind = self.return_tensors if return_tensors is None else return_tensors
        _check_return_tensors(kind)
        check_batch(features, "CorrMaskCollator")
        cells = [tokens_of(feature, "input_ids", "CorrMaskCollator") for feature in features]
        width = max(len(tokens) for tokens in cells)
        multiple = self.pad_to_multiple_of or 1
        padded = np.full((len(cells), -(-width // multiple) * multiple), self.pad_token_id, dtype=np.int64)
        for row, tokens in zip(padded, cells, strict=True):
            row[: len(tokens)] = tokens
        self._check_tokens(padded)
        # Behind the last token that is not padding, whether this batch or the one who tokenised padded it.
        places = np.arange(padded.shape[1])
        lengths = ((places + 1) * (padded != self.pad_token_id)).max(axis=1, initial=0)
        attention_mask = torch.from_numpy((places < lengths[:, None]).astype(np.int64))
        input_ids = torch.from_numpy(padded)
        if self.mlm:
            unpadded = [row[:length] for row, length in zip(padded, lengths, strict=True)]
            ids = cell_ids(features, unpadded, "CorrMaskCollator")
            plain = input_ids, torch.from_numpy(lengths), torch.from_numpy(ids)
            epochs = self.by_epoch(features, ids)
            masked = [self.masker(*(tensor[rows] for tensor in plain), epoch) for epoch, rows in epochs]
            input_ids, labels = masked[0]
            if len(epochs) > 1:
                back = np.argsort(np.concatenate([rows for _, rows in epochs]))
                input_ids, labels = (torch.cat(parts)[back] for parts in zip(*masked, strict=True))
        else:
            labels = input_ids.masked_fill(input_ids == self.pad_token_id, -100)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return {name: tensor.numpy() for name, tensor in batch.items()} if kind == "np" else batch

    def _check_tokens(self, padded: np.ndarray) -> None:
        size = len(self.masker.token_group)
        if padded.size and (int(padded.max()) >= size or int(padded.min()) < 0):
            wrong = padded[(padded < 0) | (padded >= size)][0]
            raise InputError(
                f"CorrMaskCollator: an example holds token {wrong}, the groups' vocabulary has {size:,}; "
                "build the groups with the vocabulary that the cells were tokenised with"
            )


def _check_return_tensors(kind: Any) -> None:
    if not isinstance(kind, str) or kind not in ("pt", "np"):
        raise InputError(f"CorrMaskCollator: 'return_tensors' must be 'pt' or 'np', got {kind!r}")


def _special_tokens(tokenizer: Any) -> tuple[int, int, Vocabulary | None]:
    """Pad token, mask token, and the vocabulary where the tokenizer tells it."""
    vocabulary = tokenizer if isinstance(tokenizer, Vocabulary) else None
    found = [tokenizer, *(getattr(tokenizer, name, None) for name in _DICTIONARIES)]
    for dictionary in found:
        if isinstance(dictionary, Mapping):
            vocabulary = Vocabulary.from_dictionary(dictionary)
            break
    if vocabulary is not None:
        return vocabulary.pad_token_id, vocabulary.mask_token_id, vocabulary
    if getattr(tokenizer, "padding_side", "right") != "right":
        raise InputError("CorrMaskCollator: cells are padded on the right; set the tokenizer's padding_side to 'right'")
    tokens = []
    for name in ("pad_token_id", "mask_token_id"):
        token = getattr(tokenizer, name, None)
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise InputError(
                f"CorrMaskCollator: 'tokenizer' has no {name} ({type(tokenizer).__name__}); give a Vocabulary, "
                "a token dictionary with <pad> and <mask>, or a tokenizer that has both"
            )
        tokens.append(int(token))
    return tokens[0], tokens[1], None
