"""Batches read ahead by threads, in an order that is a pure function of (seed, epoch): training does not wait for data.

Threads suffice, since the operators that read and mask run without Python's lock. Nothing is copied between processes.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corrmask.arguments import checked
from corrmask.corpus import Batch, Corpus, PackedBatch
from corrmask.devices import choose_device
from corrmask.errors import InputError
from corrmask.masking import CorrMasker
from corrmask.order import BalancedOrder, Order, ShuffledOrder, batches_per_epoch
from corrmask.threads import lone_threads

# What a thread reads in a turn, in tokens, and at most in batches: in short turns threads wait more for each other, and
# for Python's lock, than they read. Masks take five times as long.
_TURN_TOKENS = 1 << 20
_TURN_TOKENS_MASKED = 1 << 19
_TURN_BATCHES = 16


class LoadedBatch(NamedTuple):
    """Cells of one step, masked where the loader has a masker."""

    step: int
    epoch: int
    input_ids: Tensor  # int64 [B, L], L the longest of the batch; packed: [sum of lengths]
    labels: Tensor | None  # int64, as input_ids: the token where it is masked, else -100; None without a masker
    lengths: Tensor  # int64 [B]
    cell_ids: Tensor  # int64 [B], rows of the corpus
    cu_seqlens: Tensor | None  # int32 [B + 1], where each cell of a packed batch starts, and the end; None where padded


class Loader:
    """Reads, shuffles and masks the cells of a corpus ahead of who consumes them.

    Step t is a batch of the same cells with the same masks for any number of threads and ranks; where ``rank`` of
    ``world_size`` processes read, each gets its slice of that batch. Nothing need be stored to go on at any step.

    Parameters
    ----------
    corpus
        Tokenised cells.
    batch_size
        Cells of a step, of all ranks together. An epoch has whole batches (`corrmask.order.batches_per_epoch`).
    max_len
        Most tokens of a cell.
    rows
        int64, ascending: the cells to read; all by default.
    seed
        Of the order: 0 <= seed < 2**63.
    balance
        A column of `obs`: each of its labels is drawn equally often (`corrmask.order.BalancedOrder`); cells without a
        label are left out. None reads each cell once an epoch.
    packed
        Cells one behind the other, without padding.
    masker
        On the CPU. None leaves the cells as they are.
    expand
        The masker's `expand` by step, for a schedule.
    threads
        Threads that read ahead; each computes alone.
    ahead
        Batches that are read ahead, at most. By default two turns of each thread and one more, a turn being a million
        tokens, or half as many masked, or 16 batches.
    pin_memory
        Whether batches lie in pinned memory; by default where `device` is a CUDA device.
    device
        Where batches go: copied by a stream of its own, while the consumer computes. None leaves them on the CPU.
    rank, world_size
        Which slice of each batch is read.

    Attributes
    ----------
    waited
        Seconds that the consumer has waited for batches.

    Raises
    ------
    InputError
        An argument is out of range, or there is no cell to read.

    Examples
    --------
    >>> loader = Loader(corpus, batch_size=64, max_len=2048, masker=masker, threads=2)
    >>> for epoch in range(3):
    ...     for batch in loader.epoch(epoch):
    ...         model(input_ids=batch.input_ids, labels=batch.labels)
    """

    @checked
    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        max_len: int,
        *,
        rows: np.ndarray | None = None,
        seed: int = 0,
        balance: str | None = None,
        packed: bool = False,
        masker: CorrMasker | None = None,
        expand: Callable[[int], float] | None = None,
        threads: int = 2,
        ahead: int | None = None,
        pin_memory: bool | None = None,
        device: torch.device | str | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("max_len", max_len, 1),
            ("threads", threads, 1),
            ("ahead", 1 if ahead is None else ahead, 1),
            ("seed", seed, 0),
            ("world_size", world_size, 1),
        ):
            if not least <= value < 2**63:
                raise InputError(f"Loader: {name!r} must be a whole number of at least {least}, got {value!r}")
        if not 0 <= rank < world_size:
            raise InputError(f"Loader: 'rank' must be in 0 .. {world_size - 1}, got {rank}")
        self._device = choose_device("cpu" if device is None else device, types=None)
        on_cuda = self._device.type == "cuda"
        self._pin_memory = on_cuda if pin_memory is None else pin_memory
        if self._pin_memory and not torch.cuda.is_available():
            raise InputError("Loader: there is no CUDA device; leave out 'pin_memory'")
        if masker is not None and not masker.token_group.is_cpu:
            raise InputError("Loader: 'masker' must be on the CPU, where cells are read; or mask on the device")
        if masker is not None and len(masker.token_group) != corpus.vocabulary.size:
            raise InputError(
                f"Loader: 'masker' is of {len(masker.token_group):,} tokens, corpus {corpus.name!r} has "
                f"{corpus.vocabulary.size:,}; build its groups with the corpus's vocabulary"
            )
        rows = None if rows is None else corpus.row_numbers(rows, "Loader")
        n = corpus.n_cells if rows is None else len(rows)
        if n == 0:
            raise InputError(f"Loader: corpus {corpus.name!r} has no cells to read; give another, or other 'rows'")
        self._order: Order = ShuffledOrder(n if rows is None else rows, seed=seed)
        if balance is not None:
            import pandas as pd

            rows = np.arange(n) if rows is None else rows
            labels = pd.factorize(corpus.obs([balance])[balance].to_numpy())[0][rows]
            self._order = BalancedOrder(rows, labels, seed=seed)
        self._corpus, self._batch_size, self._max_len = corpus, batch_size, max_len
        self._packed, self._masker, self._expand = packed, masker, expand
        tokens = _TURN_TOKENS if masker is None else _TURN_TOKENS_MASKED
        turn = max(1, min(tokens * world_size // (batch_size * max_len), _TURN_BATCHES))
        self._ahead = (2 * threads + 1) * turn if ahead is None else ahead
        self._threads, self._turn = threads, max(1, min(turn, self._ahead // (threads + 1)))
        self._rank, self._world_size = rank, world_size
        self._stream = torch.cuda.Stream(self._device) if on_cuda else None
        self.waited = 0.0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return batches_per_epoch(len(self._order), self._batch_size)

    @checked
    def epoch(self, number: int) -> Generator[LoadedBatch, None, None]:
        """The batches of one epoch, 0 <= number < 2**28."""
        if not 0 <= number < 2**28:
            raise InputError(f"Loader: the number of an epoch must be in 0 .. 2**28 - 1, got {number}")
        return self.batches(number * len(self), (number + 1) * len(self))

    def batches(self, first: int = 0, last: int | None = None) -> Generator[LoadedBatch, None, None]:
        """The batches of the steps first .. last - 1, through the epochs; None never ends.

        What fails in a thread is raised here, at its step. The threads end when the steps do, at an error, and soon
        after the generator is closed (``with contextlib.closing(loader.batches()) as batches``).
        """
        for name, given in (("first", first), ("last", 0 if last is None else last)):
            if not isinstance(given, Integral) or given < 0:
                raise InputError(f"Loader: {name!r} must be a whole number of at least 0, got {given!r}")
        pending: deque[Future[Any]] = deque()
        pool, waits = lone_threads(self._threads, "corrmask-loader"), True
        try:
            coming = step = first
            while last is None or step < last:
                while (end := self._end_of_turn(coming, last)) > coming and end - step <= self._ahead:
                    pending.append(pool.submit(self._load, coming, end))
                    coming = end
                before = time.perf_counter()
                loaded, error = pending.popleft().result()
                self.waited += time.perf_counter() - before
                while loaded:
                    batch, copied = loaded.popleft()
                    if copied is not None:
                        _hand_over(batch, copied, self._device)
                    step += 1
                    yield batch
                if error is not None:
                    raise error
        except GeneratorExit:  # perhaps from the garbage collector, in any thread, whatever that holds: do not wait
            waits = False
            raise
        finally:
            pool.shutdown(wait=waits, cancel_futures=True)

    def _end_of_turn(self, step: int, last: int | None) -> int:
        """Behind the steps that a thread reads together with this one: of the same epoch."""
        end = min(step + self._turn, (step // len(self) + 1) * len(self))
        return end if last is None else min(end, last)

    def _load(self, first: int, last: int) -> tuple[deque[tuple[LoadedBatch, Any]], BaseException | None]:
        """Batches of these steps of an epoch, in one of the threads, each with the CUDA event of its copy.

        Where a step fails, the batches before it, and the error.
        """
        loaded: deque[tuple[LoadedBatch, Any]] = deque()
        try:
            for step, batch in zip(range(first, last), self._read(first, last), strict=True):
                loaded.append(self._finish(step, batch))
        except BaseException as error:
            return loaded, error
        return loaded, None

    def _read(self, first: int, last: int) -> Iterable[Batch | PackedBatch]:
        """Cells of these steps."""
        rows = np.stack([self._rows(step) for step in range(first, last)])
        packed = self._packed and self._masker is None
        try:
            return self._corpus.batches(rows, self._max_len, packed=packed)
        except InputError:  # up to the step that fails
            return (self._corpus.batches(one[None], self._max_len, packed=packed)[0] for one in rows)

    def _rows(self, step: int) -> np.ndarray:
        """Which cells this rank reads."""
        epoch, place = divmod(step, len(self))
        start = place * self._batch_size
        n = min(self._batch_size, len(self._order) - start)
        first, last = (start + n * rank // self._world_size for rank in (self._rank, self._rank + 1))
        return self._order.take(epoch, first, last)

    def _finish(self, step: int, batch: Batch | PackedBatch) -> tuple[LoadedBatch, Any]:
        """Masked, packed and where it is wanted, with the CUDA event of its copy."""
        epoch = step // len(self)
        input_ids, lengths, cell_ids, *bounds = batch
        labels, cu_seqlens = None, bounds[0] if bounds else None
        if self._masker is not None:
            masker = self._masker
            if self._expand is not None:
                masker = copy.copy(masker)  # the threads mask several steps at a time
                masker.expand = self._expand(step)
            input_ids, labels = masker(input_ids, lengths, cell_ids, epoch=epoch)
            if self._packed:
                input_ids, labels = unpadded(input_ids, lengths), unpadded(labels, lengths)
                cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        return self._copied(LoadedBatch(step, epoch, input_ids, labels, lengths, cell_ids, cu_seqlens))

    def _copied(self, batch: LoadedBatch) -> tuple[LoadedBatch, Any]:
        """The batch where it is wanted."""
        if self._pin_memory:
            batch = _each(batch, lambda tensor: tensor.pin_memory())
        if self._stream is None:
            return _each(batch, lambda tensor: tensor.to(self._device)), None
        with torch.cuda.stream(self._stream):
            batch = _each(batch, lambda tensor: tensor.to(self._device, non_blocking=True))
            return batch, self._stream.record_event()


def unpadded(padded: Tensor, lengths: Tensor) -> Tensor:
    """The rows of int64 [B, L] one behind the other, each as far as it is long: int64 [sum of lengths]."""
    # numpy's slices cost a tenth of torch's
    cells = [row[:length] for row, length in zip(padded.numpy(), lengths.tolist(), strict=True)]
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *cells]))


def _each(batch: LoadedBatch, function: Callable[[Tensor], Tensor]) -> LoadedBatch:
    changed: dict[str, Any] = {name: function(one) for name, one in batch._asdict().items() if isinstance(one, Tensor)}
    return batch._replace(**changed)


def _hand_over(batch: LoadedBatch, copied: Any, device: torch.device) -> None:
    """Let the consumer's stream wait for the copy, and the allocator for the consumer."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(copied)
    for one in batch:
        if isinstance(one, Tensor):
            one.record_stream(stream)
