"""The order in which cells are read: a pure function of (seed, epoch), known at any place without what comes before it.

A permutation of all cells would read single cells from all over the disk, and 100 million of them do not fit in memory.
So the rows are cut into blocks of 16 neighbours, blocks are drawn in random order, and 4,096 of them at a time are
shuffled cell by cell (block sampling with batched fetching, as scDataset has it). A batch then mixes cells from some
thousand places, whatever the order of the file. Up to 98,288 cells this is a full shuffle.

The words are Philox's of stream 3 (`corrmask.ops.philox4x32`), counter (row, row >> 32, use, epoch << 4 | 3):

- use 0: the key of a row, by which the rows of a buffer are sorted (ties by row);
- use 1: at which row the first block begins, so that neighbours part at other rows in each epoch;
- use 2: the draws of a balanced order, one for each place;
- use 3 to 10: the rounds of a Feistel network, a keyed permutation of block numbers in little memory (Luby and Rackoff,
  SIAM J. Comput. 1988; numbers beyond the last block are sent through again, Black and Rogaway, CT-RSA 2002).
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from corrmask import ops
from corrmask.errors import InputError

BLOCK_ROWS = 16
BUFFER_BLOCKS = 4096
_STREAM = 3
_KEY, _START, _DRAW, _ROUND = 0, 1, 2, 3
_ROUNDS = 8
_SHIFT = np.uint64(32)


class Order(Protocol):
    """Rows by epoch and place."""

    def __len__(self) -> int:
        """Places of an epoch."""

    def take(self, epoch: int, first: int, last: int) -> np.ndarray:
        """Rows at the places first .. last - 1 of an epoch, as far as there are any: int64."""


def batches_per_epoch(n_cells: int, batch_size: int) -> int:
    """Whole batches of an epoch.

    The cells left over after the last whole batch stay out of that epoch (others each time, for the order differs); a
    corpus of fewer cells than a batch makes one batch of all of them.
    """
    return max(1, n_cells // batch_size)


def shuffled(rows: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Rows in random order: int64, a pure function of (seed, epoch).

    Rows are sorted by a 64-bit random key of their own (ties by row), so the order of two cells does not depend on
    which others there are, nor on the version of a library.
    """
    rows = np.sort(np.asarray(rows, dtype=np.int64))
    return rows[np.argsort(_long_words(seed, epoch, rows, _KEY), kind="stable")]


class ShuffledOrder:
    """Each row once an epoch, in random blocks that are mixed.

    Parameters
    ----------
    rows
        int64 [n], ascending; or their number, for the rows 0 .. n - 1.
    seed
        0 <= seed < 2**63.
    block_rows, buffer_blocks
        Neighbours that are read together, and how many such blocks are mixed.
    """

    def __init__(
        self, rows: np.ndarray | int, *, seed: int, block_rows: int = BLOCK_ROWS, buffer_blocks: int = BUFFER_BLOCKS
    ) -> None:
        self._rows = None if isinstance(rows, int) else np.asarray(rows, dtype=np.int64)
        self._n = rows if isinstance(rows, int) else len(rows)
        self._seed = seed
        self._block = block_rows
        self._n_blocks = -(-self._n // block_rows)
        self._n_buffers = max(1, round(self._n_blocks / buffer_blocks))
        # Threads that read ahead stand in the same buffer or in the next: one fills it, the others wait for that.
        self._lock = threading.Lock()
        self._buffer = lru_cache(maxsize=3)(self._fill)
        self._network = lru_cache(maxsize=2)(self._epoch_network)

    def __len__(self) -> int:
        return self._n

    def take(self, epoch: int, first: int, last: int) -> np.ndarray:
        """Rows at the places first .. last - 1 of an epoch, as far as there are any: int64."""
        parts = [np.zeros(0, np.int64)]
        last = min(last, self._n)
        while first < last:
            # The last buffer that begins at this block or before it; they hold equally many blocks, give or take one.
            number = ((first // self._block + 1) * self._n_buffers - 1) // self._n_blocks
            begin = self._first_block(number) * self._block
            with self._lock:
                rows = self._buffer(epoch, number)
            parts.append(rows[first - begin : last - begin])
            first = begin + len(rows)
        return np.concatenate(parts)

    def _first_block(self, number: int) -> int:
        return number * self._n_blocks // self._n_buffers

    def _fill(self, epoch: int, number: int) -> np.ndarray:
        places = np.arange(self._first_block(number), self._first_block(number + 1))
        start, network = self._network(epoch)
        # The last block, which may be short, stays the last: it lies elsewhere in each epoch.
        last = self._n_blocks - 1
        blocks = network.permute(places[places < last])
        blocks = np.append(blocks, places[places == last])
        ranks = (blocks[:, None] * self._block + np.arange(self._block)).ravel()
        ranks = (ranks[ranks < self._n] + start) % self._n
        return shuffled(ranks if self._rows is None else self._rows[ranks], seed=self._seed, epoch=epoch)

    def _epoch_network(self, epoch: int) -> tuple[int, _Feistel]:
        start = int(_long_words(self._seed, epoch, np.zeros(1, np.int64), _START)[0]) % max(1, self._n)
        return start, _Feistel(self._n_blocks - 1, self._seed, epoch)


class _Feistel:
    """A permutation of 0 .. n - 1, of which any part is found at once; its tables have about the square root of n."""

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        self._n = n
        self._bits = max(1, (max(n - 1, 0).bit_length() + 1) // 2)  # of each half
        halves = np.arange(1 << self._bits)
        mask = (1 << self._bits) - 1
        self._tables = [_words(seed, epoch, halves, _ROUND + i)[:, 0] & mask for i in range(_ROUNDS)]

    def permute(self, numbers: np.ndarray) -> np.ndarray:
        """Where each of these goes: int64, as many."""
        result = self._once(numbers)
        while (outside := result >= self._n).any():
            result[outside] = self._once(result[outside])
        return result

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._bits, numbers & ((1 << self._bits) - 1)
        for table in self._tables:
            left, right = right, left ^ table[right]
        return left << self._bits | right


class BalancedOrder:
    """Every label equally often, in expectation: at each place a label is drawn, then one of its rows, both at random.

    Parameters
    ----------
    rows
        int64 [n].
    labels
        [n] label of each row as a number; negative where it has none: such rows are never drawn.
    seed
        0 <= seed < 2**63.

    Raises
    ------
    InputError
        No row has a label.
    """

    def __init__(self, rows: np.ndarray, labels: np.ndarray, *, seed: int) -> None:
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        if len(order) == 0:
            raise InputError("balance: none of the cells has a label; choose another column")
        self._rows = np.asarray(rows, dtype=np.int64)[order]
        _, self._starts, self._sizes = np.unique(labels[order], return_index=True, return_counts=True)
        self._n = len(rows)
        self._seed = seed

    def __len__(self) -> int:
        return self._n

    def take(self, epoch: int, first: int, last: int) -> np.ndarray:
        """Rows at the places first .. last - 1 of an epoch, as far as there are any: int64."""
        last = min(last, self._n)
        words = _words(self._seed, epoch, np.arange(first, max(first, last)), _DRAW)
        label = (words[:, 0] * len(self._sizes)) >> 32
        draw = (words[:, 1].astype(np.uint64) << _SHIFT) | words[:, 2].astype(np.uint64)
        return self._rows[self._starts[label] + (draw % self._sizes[label].astype(np.uint64)).astype(np.int64)]


def _words(seed: int, epoch: int, numbers: np.ndarray, use: int) -> np.ndarray:
    """Four words for each number: int64 [n, 4]."""
    counter = np.empty((len(numbers), 4), dtype=np.int64)
    counter[:, 0], counter[:, 1] = numbers & 0xFFFFFFFF, numbers >> 32
    counter[:, 2], counter[:, 3] = use, (epoch << 4) | _STREAM
    key = torch.tensor([seed & 0xFFFFFFFF, seed >> 32])
    return ops.philox4x32(key, torch.from_numpy(counter)).numpy()


def _long_words(seed: int, epoch: int, numbers: np.ndarray, use: int) -> np.ndarray:
    """The first two words as one: uint64 [n]."""
    words = _words(seed, epoch, numbers, use)[:, :2].astype(np.uint64)
    return (words[:, 0] << _SHIFT) | words[:, 1]
