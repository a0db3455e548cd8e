"""Random batches and group tables for the masking operators, as hypothesis draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import reference
import torch
from hypothesis import strategies as st
from torch import Tensor

ALWAYS = 2**32


@dataclass(frozen=True)
class MaskingCase:
    """Arguments of `sample_groups` as numpy arrays and numbers."""

    input_ids: np.ndarray  # int64 [B, L]; beyond a cell's length anything
    lengths: np.ndarray  # int64 [B]
    cell_ids: np.ndarray  # int64 [B]
    token_group: np.ndarray  # int32 [V]
    group_indptr: np.ndarray  # int64 [n_groups + 1]
    group_tokens: np.ndarray  # int32
    options: dict[str, Any]

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The positional arguments."""
        return (
            self.input_ids,
            self.lengths,
            self.cell_ids,
            self.token_group,
            self.group_indptr,
            self.group_tokens,
        )

    def tensors(self, dtype: torch.dtype = torch.int64) -> tuple[Tensor, ...]:
        """The positional arguments of the operators."""
        first, *others = (torch.from_numpy(np.ascontiguousarray(array)) for array in self.arrays)
        return first.to(dtype), *others

    @property
    def tensor_options(self) -> dict[str, Any]:
        """The keyword arguments of the operators."""
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self.options.items()
        }

    @property
    def raw_options(self) -> dict[str, Any]:
        """The keyword arguments as the schema has them."""
        options = self.tensor_options
        for name in ("seed", "epoch"):
            options[name] = torch.tensor(options[name])
        if options["max_group"] is None:
            options["max_group"] = 2**31 - 1
        return options

    def but(self, **options: Any) -> MaskingCase:
        """The same with other keyword arguments."""
        return replace(self, options={**self.options, **options})

    def valid_padding(self) -> MaskingCase:
        """The same with token 0 beyond each cell's length."""
        ids = self.input_ids.copy()
        ids[np.arange(ids.shape[1])[None, :] >= self.lengths[:, None]] = 0
        return replace(self, input_ids=ids)

    def owners(self) -> np.ndarray:
        """What the reference says."""
        return reference.sample_groups(*self.arrays, **self.options)


def random_case(
    rng: np.random.Generator,
    *,
    n_cells: int = 4,
    width: int = 30,
    vocabulary: int = 60,
    repeats: bool = True,
    group_sizes: Sequence[int] = range(9),
    **options: Any,
) -> MaskingCase:
    """Cells of random length and groups of random size; members may be special, listed twice, or the gene itself."""
    special = rng.random(vocabulary) < 0.1
    special[: min(4, vocabulary - 1)] = True
    n_groups = int(rng.integers(0, vocabulary))
    sizes = rng.choice(group_sizes, n_groups)
    token_group = rng.integers(-1, max(n_groups, 1), vocabulary) if n_groups else np.full(vocabulary, -1)
    token_group[special] = -2
    input_ids = rng.integers(-(2**31), 2**31, (n_cells, width))  # nonsense, where it is not overwritten
    lengths = rng.integers(0, width + 1, n_cells)
    if not repeats:
        lengths = np.minimum(lengths, vocabulary)
    for row, length in zip(input_ids, lengths):
        row[:length] = rng.choice(vocabulary, length, replace=repeats)
    return MaskingCase(
        input_ids,
        lengths,
        rng.integers(0, 2**63, n_cells),
        token_group.astype(np.int32),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        rng.integers(0, vocabulary, sizes.sum()).astype(np.int32),
        {
            "rate_ppm": 150_000,
            "seed": 0,
            "epoch": 0,
            "expand": ALWAYS,
            "accept": None,
            "take": None,
            "max_group": None,
            "rotate": False,
            **options,
        },
    )


def _thresholds(rng: np.random.Generator, kind: str, vocabulary: int) -> np.ndarray | None:
    if kind == "none":
        return None
    if kind == "extreme":
        return rng.choice([0, ALWAYS], vocabulary)
    if kind == "never":
        return np.zeros(vocabulary, dtype=np.int64)
    return rng.integers(0, ALWAYS + 1, vocabulary)


@st.composite
def masking_cases(draw: st.DrawFn, *, repeats: bool | None = None) -> MaskingCase:
    """Every parameter over its range, the ends included."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="rng"))
    vocabulary = draw(st.integers(5, 90))
    kinds = st.sampled_from(["none", "none", "random", "extreme", "never"])
    return random_case(
        rng,
        n_cells=draw(st.integers(0, 5)),
        width=draw(st.integers(0, 40)),
        vocabulary=vocabulary,
        repeats=draw(st.booleans()) if repeats is None else repeats,
        rate_ppm=draw(st.sampled_from([1, 150_000, 500_000, 999_999, 10**6]) | st.integers(1, 10**6)),
        seed=draw(st.sampled_from([0, 2**32 - 1, 2**32, 2**63 - 1]) | st.integers(0, 2**63 - 1)),
        epoch=draw(st.sampled_from([0, 2**28 - 1]) | st.integers(0, 2**28 - 1)),
        expand=draw(st.sampled_from([0, 1, 2**31, ALWAYS]) | st.integers(0, ALWAYS)),
        accept=_thresholds(rng, draw(kinds), vocabulary),
        take=_thresholds(rng, draw(kinds), vocabulary),
        max_group=draw(st.sampled_from([None, None, 0, 1, 3])),
        rotate=draw(st.booleans()),
    )
