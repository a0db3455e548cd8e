"""A model of expression values in the manner of scGPT: binned counts, mask value -1, genes masked jointly."""

from __future__ import annotations

import cells
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import corrmask
from corrmask.values import CorrMaskValueCollator

MASK_VALUE, PAD_VALUE = -1, -2


class ValueModel(nn.Module):
    """Stands for scGPT: genes and values [B, L] -> predicted values [B, L]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gene, self.value = nn.Embedding(size, 32), nn.Linear(1, 32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, gene: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Predicted values."""
        hidden = self.gene(gene) + self.value(values[..., None] / 50)
        return self.head(self.layer(hidden, src_key_padding_mask=values == PAD_VALUE)).squeeze(-1)


def main() -> list[float]:
    """Train for three epochs; the mean squared error of each."""
    adata, corpus, graph = cells.make()
    groups = corrmask.GroupTable.from_graph(graph, corpus.vocabulary)
    tokens = corpus.vocabulary.tokens_of(adata.var_names)
    counts = adata.X.tocsr()
    examples = [
        {"id": row, "genes": tokens[counts[row].indices], "expressions": counts[row].data.astype(np.float32)}
        for row in range(adata.n_obs)
    ]
    collator = CorrMaskValueCollator(
        groups,
        max_length=64,
        pad_value=PAD_VALUE,
        mask_value=MASK_VALUE,
        mlm_probability=0.4,
        keep_first_n_tokens=0,  # no <cls> here
    )
    torch.manual_seed(0)
    model = ValueModel(corpus.vocabulary.size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for epoch in range(3):
        collator.set_epoch(epoch)
        total = 0.0
        for batch in DataLoader(examples, batch_size=32, shuffle=True, collate_fn=collator):
            mask = batch["masked_expr"].eq(MASK_VALUE)
            predicted = model(batch["gene"], batch["masked_expr"])
            loss = (predicted - batch["expr"])[mask].square().mean() / 50**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(mask)
        losses.append(total / len(examples))
    return losses


if __name__ == "__main__":
    print("error of each epoch:", *(f"{loss:.4f}" for loss in main()))
