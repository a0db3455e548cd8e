"""Plain PyTorch: one function on a batch of tensors, in a loop of your own; (seed, epoch) replays every mask."""

from __future__ import annotations

import cells
import torch
from torch import nn

import corrmask


class Encoder(nn.Module):
    """Stands for your model: tokens [B, L] -> logits [B, L, V]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.layer(self.embedding(input_ids)))


def main() -> list[float]:
    """Train for three epochs; the loss of each."""
    _, corpus, graph = cells.make()
    groups = corrmask.GroupTable.from_graph(graph, corpus.vocabulary)
    masker = corrmask.CorrMasker(groups, rate=0.15, seed=0)

    torch.manual_seed(0)
    model = Encoder(corpus.vocabulary.size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for epoch in range(3):
        rows, total = torch.randperm(corpus.n_cells).numpy(), 0.0
        for first in range(0, len(rows), 32):
            batch = corpus.batch(rows[first : first + 32], max_len=64)
            input_ids, labels = masker(batch.input_ids, batch.lengths, batch.cell_ids, epoch=epoch)
            loss = nn.functional.cross_entropy(model(input_ids).flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch.lengths)
        losses.append(total / len(rows))
    return losses


if __name__ == "__main__":
    print("loss of each epoch:", *(f"{loss:.3f}" for loss in main()))
