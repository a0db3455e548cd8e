"""Weights, gradients and moments spread over the ranks (FSDP2), for models that one device does not hold.

Each parameter is cut along its first dimension, as `torch.chunk` cuts it; a layer's are brought together for as long as
it computes. What is written beside the weights is one file a rank; any number of ranks reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corrmask.distributed import Ranks

_MOMENTS = ("exp_avg", "exp_avg_sq")


def shard(objective: Any, ranks: Ranks) -> None:
    """Leave this rank its part of every parameter, on its device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for layer in objective.model.bert.encoder.layer:
        # The modules that corrmask.packing calls, in its order: they come together with the first of them.
        own = layer.attention.self
        called = [own.query, own.key, own.value, layer.attention.output, layer.intermediate, layer.output]
        fully_shard(called, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    register_fsdp_forward_method(objective, "logits")


def reshard(objective: Any) -> None:
    """Let go of what was brought together for a pass without gradients."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(objective, FSDPModule):
        objective.reshard()


def is_sharded(model: Any) -> bool:
    """Whether the ranks hold but parts of it."""
    return any(map(_is_cut, model.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """The tensor of all ranks, which all must ask for; itself where it is not cut."""
    return tensor.full_tensor() if _is_cut(tensor) else tensor  # type: ignore[attr-defined]


def weights(model: Any, ranks: Ranks) -> dict[str, Tensor]:
    """The whole weights by name on rank 0, on the CPU; empty on the others. All ranks must ask."""
    found = {}
    for name, parameter in model.named_parameters():
        one = whole(parameter.detach())
        if ranks.rank == 0:
            found[name] = one.cpu()
    return found


def moments(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by name of the parameter, this rank's part of it."""
    return {
        f"{name}.{key}": _here(value.detach()).contiguous().cpu()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def read_moments(files: Sequence[Path], model: Any, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    """Bring AdamW's state to where it stood, from the files of any number of ranks, in their order."""
    from safetensors import safe_open

    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        names = set(opened[0].keys())
        for name, parameter in model.named_parameters():
            if f"{name}.step" not in names:  # a parameter that took no part in the loss has none
                continue
            first, last = _rows(parameter, ranks)
            step = opened[0].get_tensor(f"{name}.step").clone()
            state = {"step": step.to(parameter.device) if optimizer.defaults["fused"] else step}
            for key in _MOMENTS:
                state[key] = torch.zeros_like(parameter)
                # Copied, not adopted: rounding may depend on how memory is aligned.
                _here(state[key].detach()).copy_(_read(opened, f"{name}.{key}", first, last))
            optimizer.state[parameter] = state


def _read(opened: Sequence[Any], name: str, first: int, last: int) -> Tensor:
    """Rows first .. last - 1 of what the files hold one after another."""
    parts, begin = [], 0
    for file in opened:
        part = file.get_slice(name)
        end = begin + part.get_shape()[0]
        parts.append(part[min(max(first, begin), end) - begin : min(max(last, begin), end) - begin])
        begin = end
    return torch.cat(parts)


def _rows(parameter: Tensor, ranks: Ranks) -> tuple[int, int]:
    """Which rows of a parameter are here."""
    n = len(parameter)
    if not _is_cut(parameter):
        return 0, n
    each = -(-n // ranks.world)
    return min(ranks.rank * each, n), min((ranks.rank + 1) * each, n)


def _is_cut(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")


def _here(tensor: Tensor) -> Tensor:
    return tensor.to_local() if _is_cut(tensor) else tensor  # type: ignore[attr-defined]
