"""What collators share: the id of each cell, and its epoch: a column, or told to workers that run already.

`transformers` is imported by `EpochTold.callback` alone.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from corrmask.errors import InputError, InputWarning
from corrmask.staging import on_host

if TYPE_CHECKING:
    from transformers import TrainerCallback

CELL_ID = "cell_id"
EPOCH = "epoch"
_WATCHED = 8  # cells by which a second pass is recognised; one alone may have a twin with equal tokens


def content_id(tokens: np.ndarray) -> int:
    """The cell id of a cell that brings none: 63 bits of BLAKE2b over its tokens (as little-endian int32). Exact.

    Parameters
    ----------
    tokens
        [n], whole numbers in 0 .. 2**31 - 1, without padding.

    Raises
    ------
    InputError
        They are none.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise InputError(f"content_id: 'tokens' must be whole numbers [n], got {tokens.dtype} {list(tokens.shape)}")
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < 2**31):
        raise InputError(f"content_id: 'tokens' must be in 0 .. 2**31 - 1, got {tokens.min()} .. {tokens.max()}")
    digest = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Passes(IterableDataset):
    """A stream without end for a `transformers.Trainer`: pass after pass, each example with its pass as ``epoch``.

    A Trainer takes the steps over a stream for one epoch, and when it is resumed it skips as many batches of one pass:
    data and masks are then others than without the interruption. Of a stream that goes on by itself it skips what was
    seen. With ``max_steps`` and ``remove_unused_columns=False``, so that the collator sees the column.

    Parameters
    ----------
    stream
        Examples, mappings, anew each time it is iterated: a `datasets.IterableDataset`, which is told each pass by its
        ``set_epoch`` and so shuffles anew, or any other. Workers of a DataLoader count their passes apart.

    Raises
    ------
    InputError
        It cannot be iterated more than once, or (as it is iterated) an example is no mapping.

    Examples
    --------
    >>> Trainer(model, args, data_collator=collator, train_dataset=Passes(stream), callbacks=[collator.callback()])
    """

    def __init__(self, stream: Iterable[Mapping[str, Any]]) -> None:
        if not hasattr(stream, "__iter__") or isinstance(stream, (Iterator, str, bytes, Mapping)):
            raise InputError(
                "Passes: 'stream' must be examples, iterable more than once, "
                f"got {type(stream).__name__}; give the dataset"
            )
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Its epoch is shared between workers, of which one may be a pass ahead: each tells a copy of its own.
        told = hasattr(self.stream, "set_epoch")
        stream = copy.deepcopy(self.stream) if told else self.stream
        for epoch in itertools.count():
            if told:
                stream.set_epoch(epoch)  # type: ignore[attr-defined]
            example = None
            for example in stream:
                if not isinstance(example, Mapping):
                    raise InputError(f"Passes: examples must be mappings, got {type(example).__name__}")
                yield {**example, EPOCH: epoch}
            if example is None:  # no cells, or none for this worker
                return


class EpochTold:
    """The epoch that masks are drawn for, in shared memory: workers that run already see it change, forked or spawned.

    A column ``epoch`` of the examples, such as `Passes` adds, goes before what is told.

    A collator is not told when a pass over the data ends. Where cells come back and no epoch was ever told, it warns.
    """

    def __init__(self) -> None:
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._told = torch.zeros(1, dtype=torch.bool).share_memory_()
        # The ids of the first batch, -1 where there are fewer, and which of them came back.
        self._first = torch.full((_WATCHED,), -1, dtype=torch.int64).share_memory_()
        self._returned = torch.zeros(_WATCHED, dtype=torch.bool).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that masks are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the masks of this epoch from now on, in running DataLoader workers too.

        Call it between two passes: workers read ahead, and batches that are under way keep the epoch before.

        Parameters
        ----------
        epoch
            0 <= epoch < 2**28.

        Raises
        ------
        InputError
            It is none.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, (int, np.integer)) or not 0 <= epoch < 2**28:
            raise InputError(f"{type(self).__name__}: 'epoch' must be a whole number in 0 .. 2**28 - 1, got {epoch!r}")
        self._epoch[0] = int(epoch)
        self._told[0] = True

    def callback(self) -> TrainerCallback:
        """A callback that sets the epoch as a `transformers.Trainer` begins one, in a resumed run too.

        Over a stream without a length a Trainer counts steps, not epochs; the callback then counts the passes. Resumed,
        such a run repeats cells, of which the callback warns: `Passes` makes it go on as if never interrupted.
        Evaluation within an epoch draws the masks of that epoch.
        """
        from transformers import TrainerCallback
        from transformers.trainer_utils import has_length

        collator = self

        class EpochCallback(TrainerCallback):
            coming = 0

            def on_train_begin(
                self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any
            ) -> None:
                self.coming = 0
                if isinstance(getattr(train_dataloader, "dataset", None), Passes):
                    if args.remove_unused_columns:
                        raise InputError(
                            "Passes: the Trainer would drop the column 'epoch'; give TrainingArguments "
                            "remove_unused_columns=False"
                        )
                elif state.global_step and train_dataloader is not None and not has_length(train_dataloader):
                    warnings.warn(
                        f"{type(collator).__name__}: a Trainer that is resumed over a stream begins its passes anew: "
                        "cells and masks are others than in an uninterrupted run; give train_dataset="
                        "corrmask.hf.Passes(stream)",
                        InputWarning,
                        stacklevel=2,
                    )

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                # state.epoch is a fraction; over a stream it stays below the passes that are done.
                epoch = max(int(state.epoch or 0), self.coming)
                collator.set_epoch(epoch)
                self.coming = epoch + 1

        return EpochCallback()

    def by_epoch(self, features: Sequence[Any], cell_ids: np.ndarray) -> list[tuple[int, np.ndarray | slice]]:
        """Rows of a batch by the epoch that their masks are drawn for; nearly always one epoch.

        Parameters
        ----------
        features, cell_ids
            B examples, and int64 [B].
        """
        given = whole_numbers(features, EPOCH, type(self).__name__, 2**28 - 1)
        if given is None:
            self._watch(cell_ids)
            return [(self.epoch, slice(None))]
        return [(int(epoch), np.flatnonzero(given == epoch)) for epoch in np.unique(given)]

    def _watch(self, cell_ids: np.ndarray) -> None:
        """Warn once where the cells [B] come back and no epoch was told.

        Warns
        -----
        InputWarning
            All cells of the first batch came again in epoch 0.
        """
        if self._told:
            return
        first = self._first.numpy()
        if first[0] < 0:
            ids = np.unique(cell_ids)[:_WATCHED]
            first[: len(ids)] = ids
            return
        self._returned |= torch.from_numpy(np.isin(first, cell_ids))
        if bool((self._returned | (self._first < 0)).all()):
            self._told[0] = True
            name = type(self).__name__
            warnings.warn(
                f"{name}: cells come for the second time with the masks of epoch 0; give the Trainer "
                "callbacks=[collator.callback()], or call collator.set_epoch(epoch) before each pass (set_epoch(0) if "
                "the same masks are wanted)",
                InputWarning,
                stacklevel=4,
            )


def tokens_of(feature: Any, column: str, name: str) -> np.ndarray:
    """Tokens of one example, its `column` or itself: whole numbers [n]. `name` is the collator's, for messages."""
    if isinstance(feature, Mapping):
        if column not in feature:
            raise InputError(f"{name}: an example has no {column!r} (it has {', '.join(map(str, feature))})")
        feature = feature[column]
    try:
        tokens = feature.numpy(force=True) if isinstance(feature, torch.Tensor) else np.asarray(on_host(feature))
    except ValueError:  # lists of unequal length
        tokens = np.empty((0, 0))
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise InputError(
            f"{name}: {column!r} of an example must be whole numbers [n], "
            f"got {tokens.dtype} {list(tokens.shape)}; give one cell an example"
        )
    return tokens


def check_batch(features: Any, name: str) -> None:
    """Check that there are examples. `name` is the collator's, for messages."""
    listed = hasattr(features, "__len__") and hasattr(features, "__iter__") and getattr(features, "ndim", 1) > 0
    if not listed or isinstance(features, (str, bytes, Mapping)):
        raise InputError(f"{name}: a batch must be a list of examples, got {type(features).__name__}")
    if len(features) == 0:
        raise InputError(f"{name}: the batch holds no examples")


def cell_ids(features: Sequence[Any], cells: Sequence[np.ndarray], name: str, column: str = CELL_ID) -> np.ndarray:
    """Cell ids: int64 [B], from the column, or else from the tokens. `name` is the collator's, for messages."""
    ids = whole_numbers(features, column, name, 2**63 - 1)
    return np.array([content_id(tokens) for tokens in cells], dtype=np.int64) if ids is None else ids


def whole_numbers(features: Sequence[Any], column: str, name: str, most: int) -> np.ndarray | None:
    """A column of whole numbers in 0 .. `most`: int64 [B]; None where no example has it."""
    given = [isinstance(feature, Mapping) and column in feature for feature in features]
    if not any(given):
        return None
    if not all(given):
        raise InputError(
            f"{name}: {given.count(False)} of {len(given)} examples have no {column!r}; give it to all or to none"
        )
    numbers = np.empty(len(features), dtype=np.int64)
    for i, feature in enumerate(features):
        try:
            numbers[i] = operator.index(feature[column])
        except (TypeError, OverflowError):
            numbers[i] = -1
        if not 0 <= numbers[i] <= most:
            power = (most + 1).bit_length() - 1
            raise InputError(
                f"{name}: {column!r} must be a whole number in 0 .. 2**{power} - 1, got {feature[column]!r}"
            )
    return numbers
