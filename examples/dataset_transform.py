"""Masks in the dataset, before any collator: for recipes whose loader or collator you would rather not touch.

`datasets` calls a transform on the rows that are asked for; a cell's mask is the same alone and in any batch.
"""

from __future__ import annotations

from typing import Any

import cells
import torch
from datasets import load_from_disk
from torch.utils.data import DataLoader

import corrmask


def main() -> int:
    """Read one epoch through a plain DataLoader; masked genes."""
    _, corpus, graph = cells.make()
    groups = corrmask.GroupTable.from_graph(graph, corpus.vocabulary)
    collator = corrmask.hf.CorrMaskCollator(corpus.vocabulary, groups=groups, pad_to_multiple_of=64)

    def masked(rows: dict[str, list[Any]]) -> dict[str, Any]:
        """Columns of the rows asked for -> the same with masks."""
        return collator([dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)])

    dataset = load_from_disk(corpus.name).select_columns(["input_ids"])
    dataset = dataset.add_column("cell_id", range(len(dataset))).with_transform(masked)
    collator.set_epoch(0)  # before each pass
    batches = list(DataLoader(dataset, batch_size=32, shuffle=True))
    alone = dataset[7]  # the same mask, whatever it is read with
    for batch in batches:
        for row in torch.nonzero((batch["labels"] == alone["labels"]).all(1)):
            assert torch.equal(batch["input_ids"][int(row)], alone["input_ids"])
    return sum(int((batch["labels"] != -100).sum()) for batch in batches)


if __name__ == "__main__":
    print(f"{main():,} genes masked in one epoch")
