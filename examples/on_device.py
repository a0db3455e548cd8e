"""Masks drawn where the batch is: in Lightning's `on_after_batch_transfer`, or in any training step, compiled or not.

The class below has the hooks of a `LightningModule`; derive it from that instead of `nn.Module` and give it to a
`Trainer`. The masker is a submodule without state: it moves with the model and stays out of checkpoints.
"""

from __future__ import annotations

import cells
import torch
from plain_torch import Encoder
from torch import nn

import corrmask
from corrmask.corpus import Batch


class MaskedModel(nn.Module):
    """A model that masks its own batches."""

    def __init__(self, groups: corrmask.GroupTable) -> None:
        super().__init__()
        self.masker = corrmask.CorrMasker(groups, rate=0.15, seed=0)
        self.encoder = Encoder(groups.vocabulary_size)
        self.current_epoch = 0  # Lightning keeps it

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask on the device that the batch came to."""
        return self.masker(*batch, epoch=self.current_epoch)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int = 0) -> torch.Tensor:
        """Loss of a masked batch."""
        input_ids, labels = batch
        return nn.functional.cross_entropy(self.encoder(input_ids).flatten(0, 1), labels.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> list[float]:
    """What Lightning's Trainer does, in short: three epochs under bf16 autocast; the loss of each."""
    # Operators of corrmask on CUDA: see the table in the README.
    _, corpus, graph = cells.make()
    torch.manual_seed(0)
    model = MaskedModel(corrmask.GroupTable.from_graph(graph, corpus.vocabulary))
    optimizer = model.configure_optimizers()
    losses = []
    for model.current_epoch in range(3):
        rows, total = torch.randperm(corpus.n_cells).numpy(), 0.0
        for first in range(0, len(rows), 32):
            batch = model.on_after_batch_transfer(corpus.batch(rows[first : first + 32], max_len=64))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model.training_step(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / -(-len(rows) // 32))
    return losses


if __name__ == "__main__":
    print("loss of each epoch:", *(f"{loss:.3f}" for loss in main()))
