"""The masker inside a training step: compiled whole with it, under autocast, in a model that DDP wraps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import random_case
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from corrmask import CorrMasker, GroupTable, _library
from corrmask.values import mask_values

CASE = random_case(np.random.default_rng(0), n_cells=6, width=24, vocabulary=40).valid_padding()
IDS, LENGTHS, CELLS, *GROUPS = CASE.tensors()
EPOCH = torch.tensor(3)


class Masked(nn.Module):
    """Masks its batch, then predicts what was there: the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.masker = CorrMasker(GroupTable(*GROUPS), 0.3, gene_token_range=(4, 40), seed=1)
        self.body = nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 40))

    def forward(self, ids: Tensor, lengths: Tensor, cells: Tensor, epoch: Tensor) -> tuple[Tensor, Tensor]:
        shown, labels = self.masker(ids, lengths, cells, epoch)
        return nn.functional.cross_entropy(self.body(shown).flatten(0, 1).float(), labels.flatten()), labels


def step(model: nn.Module, bf16: bool = False) -> dict[str, Tensor]:
    """Loss, labels and gradients of one step."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss, labels = model(IDS, LENGTHS, CELLS, EPOCH)
    loss.backward()
    gradients = {name.removeprefix("module."): value.grad for name, value in model.named_parameters()}
    return {"loss": loss.detach(), "labels": labels, **gradients}


def check_same(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert torch.equal(got["labels"], wanted["labels"])
    assert (wanted["labels"] >= 0).sum() > 10
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_compiles_whole(bf16: bool) -> None:
    torch._dynamo.reset()
    model = Masked()
    wanted = step(model, bf16)
    model.compile(fullgraph=True, backend="aot_eager")
    # bf16 keeps 8 bits: products that are ordered otherwise differ in the last.
    check_same({n.replace("_orig_mod.", ""): t for n, t in step(model, bf16).items()}, wanted, 2e-2 if bf16 else 1e-6)


@pytest.mark.parametrize("given", [EPOCH, 3])
def test_a_batch_on_cuda_is_traced_whole(given: Tensor | int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before the operators there, by tensors that hold nothing: no GPU is needed."""
    torch._dynamo.reset()
    monkeypatch.setattr(_library, "cuda_is_loaded", True)
    masker = Masked().masker
    with FakeTensorMode():
        for name, table in masker.named_buffers():
            setattr(masker, name, torch.empty(table.shape, dtype=table.dtype, device="cuda"))
        batch = [torch.empty(one.shape, dtype=one.dtype, device="cuda") for one in (IDS, LENGTHS, CELLS)]
        epoch = given if isinstance(given, int) else torch.empty(given.shape, dtype=given.dtype, device="cuda")
        shown, labels = torch.compile(masker, fullgraph=True, backend="eager")(*batch, epoch)
    assert shown.is_cuda
    assert labels.shape == IDS.shape


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, while inductor is imported
def test_inductor_gives_the_same_masks() -> None:
    torch._dynamo.reset()
    masker = Masked().masker
    values = torch.rand(IDS.shape)

    def both(ids: Tensor, lengths: Tensor, cells: Tensor, epoch: Tensor) -> tuple[Tensor, ...]:
        return *masker(ids, lengths, cells, epoch), *mask_values(
            masker, ids, values, lengths, cells, epoch, mask_zeros=False
        )

    compiled = torch.compile(both, fullgraph=True, backend="inductor")
    for got, wanted in zip(compiled(IDS, LENGTHS, CELLS, EPOCH), both(IDS, LENGTHS, CELLS, EPOCH), strict=True):
        assert torch.equal(got, wanted)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_inside_a_model_that_ddp_wraps() -> None:
    wanted = step(Masked())
    model: Any = nn.parallel.DistributedDataParallel(Masked())
    check_same(step(model), wanted, 1e-6)
    assert not [name for name in model.state_dict() if "masker" in name], "nothing of it is in a checkpoint"
