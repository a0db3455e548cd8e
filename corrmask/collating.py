"""What collators share: the id of each cell, and the epoch, told to workers that run already.

`transformers` is imported by `EpochTold.callback` alone.
"""

from __future__ import annotations

import hashlib
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from corrmask.errors import InputError, InputWarning

if TYPE_CHECKING:
    from transformers import TrainerCallback

CELL_ID = "cell_id"
_WATCHED = 8  # cells by which a second pass is recognised; one alone may have a twin with equal tokens


def content_id(tokens: np.ndarray) -> int:
    """The cell id of a cell that brings none: 63 bits of BLAKE2b over its tokens (as little-endian int32). Exact.

    Parameters
    ----------
    tokens
        [n], whole numbers in 0 .. 2**31 - 1, without padding.
    """
    digest = hashlib.blake2b(np.asarray(tokens).astype("<i4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class EpochTold:
    """The epoch that masks are drawn for, in shared memory: workers that run already see it change, forked or spawned.

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

        Over a stream without a length a Trainer counts steps, not epochs; the callback then counts the passes, from the
        whole epochs of the checkpoint on. Evaluation within an epoch draws the masks of that epoch.
        """
        from transformers import TrainerCallback

        collator = self

        class EpochCallback(TrainerCallback):
            coming = 0

            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.coming = 0

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                # state.epoch is a fraction; over a stream it stays below the passes that are done.
                epoch = max(int(state.epoch or 0), self.coming)
                collator.set_epoch(epoch)
                self.coming = epoch + 1

        return EpochCallback()

    def watch(self, cell_ids: np.ndarray) -> None:
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
                stacklevel=3,
            )


def tokens_of(feature: Any, column: str, name: str) -> np.ndarray:
    """Tokens of one example, its `column` or itself: whole numbers [n]. `name` is the collator's, for messages."""
    if isinstance(feature, Mapping):
        if column not in feature:
            raise InputError(f"{name}: an example has no {column!r} (it has {', '.join(map(str, feature))})")
        feature = feature[column]
    try:
        tokens = feature.numpy(force=True) if isinstance(feature, torch.Tensor) else np.asarray(feature)
    except ValueError:  # lists of unequal length
        tokens = np.empty((0, 0))
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise InputError(
            f"{name}: {column!r} of an example must be whole numbers [n], "
            f"got {tokens.dtype} {list(tokens.shape)}; give one cell an example"
        )
    return tokens


def cell_ids(features: Sequence[Any], cells: Sequence[np.ndarray], name: str, column: str = CELL_ID) -> np.ndarray:
    """Cell ids: int64 [B], from the column, or else from the tokens. `name` is the collator's, for messages."""
    given = [isinstance(feature, Mapping) and column in feature for feature in features]
    if not any(given):
        return np.array([content_id(tokens) for tokens in cells], dtype=np.int64)
    if not all(given):
        raise InputError(
            f"{name}: {given.count(False)} of {len(given)} examples have no {column!r}; give it to all or to none"
        )
    ids = np.empty(len(features), dtype=np.int64)
    for i, feature in enumerate(features):
        try:
            ids[i] = operator.index(feature[column])
        except (TypeError, OverflowError):
            ids[i] = -1
        if ids[i] < 0:
            raise InputError(f"{name}: {column!r} must be a whole number in 0 .. 2**63 - 1, got {feature[column]!r}")
    return ids
