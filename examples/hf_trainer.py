"""A Hugging Face Trainer: the collator stands where `DataCollatorForLanguageModeling` stood."""

from __future__ import annotations

from tempfile import mkdtemp

import cells
from datasets import load_from_disk
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

import corrmask


def main() -> float:
    """Train for two epochs; the last loss."""
    _, corpus, graph = cells.make()
    groups = corrmask.GroupTable.from_graph(graph, corpus.vocabulary)
    collator = corrmask.hf.CorrMaskCollator(corpus.vocabulary, groups=groups, mlm_probability=0.15)

    dataset = load_from_disk(corpus.name).select_columns(["input_ids", "length"])
    dataset = dataset.add_column("cell_id", range(len(dataset)))  # masks are replayed by it
    config = BertConfig(
        vocab_size=corpus.vocabulary.size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    arguments = TrainingArguments(
        mkdtemp(),
        per_device_train_batch_size=32,
        num_train_epochs=2,
        learning_rate=3e-3,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,  # keeps cell_id
    )
    trainer = Trainer(
        BertForMaskedLM(config),
        arguments,
        data_collator=collator,
        train_dataset=dataset,
        callbacks=[collator.callback()],  # new masks in each epoch
    )
    return trainer.train().training_loss


if __name__ == "__main__":
    print(f"training loss {main():.3f}")
