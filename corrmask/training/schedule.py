"""What happens at which step: pure functions of settings, seed and step, so that nothing need be stored to resume.

Random numbers are Philox words, as in the masks: stream 4 seeds dropout; `corrmask.order` has the order of cells.
"""

from __future__ import annotations

import torch

from corrmask import ops

_DROPOUT_STREAM = 4


def learning_rate(step: int, *, peak: float, warmup: int, steps: int) -> float:
    """Learning rate of update `step` (0 .. steps - 1): linear warm-up, then linear decay.

    It rises from ``peak / warmup`` to `peak` over the first `warmup` updates and falls to
    ``peak / (steps - warmup)`` at the last one, so that no update is spent at 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / (steps - warmup)


def expand_share(step: int, *, first: float, last: float, steps: int) -> float:
    """Share of seeds that bring their group at update `step`: linear from `first` to `last`, reached at `steps`."""
    return first + (last - first) * min(1.0, step / steps)


def dropout_seed(step: int, *, seed: int, rank: int = 0) -> int:
    """Seed of torch's generator before update `step` on a rank: 0 .. 2**63 - 1."""
    counter = torch.tensor([[step & 0xFFFFFFFF, step >> 32, rank, _DROPOUT_STREAM]])
    words = ops.philox4x32(torch.tensor([seed & 0xFFFFFFFF, seed >> 32]), counter)[0].tolist()
    return (words[0] << 31) | (words[1] >> 1)
