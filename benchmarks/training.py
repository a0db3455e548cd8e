"""Training beside transformers' Trainer: ``python benchmarks/training.py CORPUS [--help]``.

The peer is what Geneformer trains with: `Trainer`, `BertForMaskedLM`, `DataCollatorForLanguageModeling`, cells grouped
by length. Both start from the same weights and take the same cells in the same order, masked at random; after each
update of the Trainer comes one of ours, so that a change of the machine's pace meets both. At the end both are
validated on the same masked cells. The Trainer's clock stands still while ours runs; both times hold data, masks and
the update, and the device has done its work when they stop. On CUDA both train in bf16.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from corrmask.arms import make_masker
from corrmask.bench.machine import cpu_model, sgemm_flops
from corrmask.corpus import Corpus, split_cells
from corrmask.devices import choose_device
from corrmask.model import build_model
from corrmask.training import Settings
from corrmask.training.step import Objective, build_optimizer, update
from corrmask.training.validation import Validation


def main() -> None:
    """Train both, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="written by `corrmask tokenize`")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=12, help="Geneformer's is 12")
    parser.add_argument("--max-len", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--validate-cells", type=int, default=64)
    parser.add_argument("--attention-dropout", type=float, default=0.02, help="the peer's; Geneformer's is 0.02")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    corpus = Corpus.open(options.corpus)
    settings = Settings(
        mask="random",
        steps=options.steps,
        batch_size=options.batch_size,
        max_len=options.max_len,
        validate_cells=options.validate_cells,
        device=options.device,
    ).resolve(1)
    device = choose_device(settings.device)
    train, held_out = split_cells(corpus.n_cells, settings.held_out, settings.seed)
    train = np.random.default_rng(0).permutation(train)[: options.steps * options.batch_size]
    validation = Validation(corpus, held_out[: options.validate_cells], settings)
    ours, theirs = model(corpus, settings, 0.0), model(corpus, settings, options.attention_dropout)
    ours.to(device)
    start = validation(Objective(ours), device, lambda *_: None)["loss"]
    race = Race(corpus, settings, ours, train)
    race.run(theirs)
    ends = [validation(Objective(one), device, lambda *_: None)["loss"] for one in (ours, theirs)]
    report(options, corpus, race, start, ends)


def model(corpus: Corpus, settings: Settings, attention_dropout: float) -> Any:
    """Geneformer's shape of 10 M parameters; the same weights each time."""
    shape = {name: getattr(settings, name) for name in ("layers", "hidden", "heads", "intermediate", "dropout")}
    return build_model(corpus.vocabulary, **shape, max_len=2048, attention_dropout=attention_dropout, seed=0).train()


class Race(transformers.TrainerCallback):
    """Our updates between those of a Trainer."""

    def __init__(self, corpus: Corpus, settings: Settings, ours: Any, rows: np.ndarray) -> None:
        self.corpus, self.settings, self.ours, self.rows = corpus, settings, ours, rows
        self.optimizer, self.objective = build_optimizer(ours, settings), Objective(ours)
        self.masker = make_masker("random", graph=None, corpus=corpus, rows=rows, max_len=settings.max_len)
        self.batches: list[np.ndarray] = []  # rows, as the Trainer asked for them
        self.seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        self.tokens: list[int] = []
        self.work: list[float] = []  # floating-point operations that the update needs
        self.rates: list[float] = []  # operations per second that the machine reaches, or is said to
        self.waiting = 0.0  # of our seconds, for data and masks
        self.collating = 0.0  # of the Trainer's
        self.on_cuda = next(ours.parameters()).is_cuda

    def run(self, theirs: Any) -> None:
        """Train both over all batches."""
        settings, vocabulary = self.settings, self.corpus.vocabulary
        names = {str(token): token for token in range(vocabulary.size)}
        names = {"<pad>": vocabulary.pad_token_id, "<mask>": vocabulary.mask_token_id} | {
            name: token for name, token in names.items() if token not in (0, 1)
        }
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(names, "<pad>")), pad_token="<pad>", mask_token="<mask>"
        )
        mask = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=settings.rate)

        def collate(cells: list[dict[str, Any]]) -> Any:
            before = time.perf_counter()
            self.batches.append(np.array([cell["row"] for cell in cells]))
            batch = mask([{"input_ids": cell["input_ids"]} for cell in cells])
            self.collating += time.perf_counter() - before
            return batch

        lengths = np.minimum(self.corpus.lengths[self.rows], settings.max_len)
        tokens = [self.corpus.batch(np.array([row]), settings.max_len).input_ids[0].tolist() for row in self.rows]
        cells = datasets.Dataset.from_dict({"input_ids": tokens, "length": lengths, "row": self.rows})
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder,
                per_device_train_batch_size=settings.batch_size,
                max_steps=settings.steps or 0,
                learning_rate=settings.lr,
                weight_decay=settings.weight_decay,
                warmup_steps=settings.warmup or 0,
                lr_scheduler_type="linear",
                train_sampling_strategy="group_by_length",
                length_column_name="length",
                remove_unused_columns=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=not self.on_cuda,
                bf16=settings.precision == "bf16",
            )
            trainer = transformers.Trainer(theirs, arguments, mask, cells, callbacks=[self])
            trainer.data_collator = collate
            trainer.train()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the Trainer's clock."""
        self.since = self.now()

    def now(self) -> float:
        """Seconds, with the device's work done."""
        if self.on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the Trainer's clock, update ours with the same cells, measure the machine."""
        before = self.now()
        self.seconds["theirs"].append(before - self.since)
        step = state.global_step - 1
        batch = self.corpus.batch(self.batches[step], self.settings.max_len)
        input_ids, labels = self.masker(*batch)
        self.waiting += time.perf_counter() - before
        values = update(self.objective, self.optimizer, step, input_ids, labels, batch.lengths, self.settings)
        self.seconds["ours"].append(self.now() - before)
        self.tokens.append(int(batch.lengths.sum()))
        self.work.append(1e12 * values["tflop"])
        peak = self.settings.peak
        self.rates.append(sgemm_flops(0.1) if peak is None else 1e12 * peak)
        self.since = self.now()


def report(options: argparse.Namespace, corpus: Corpus, race: Race, start: float, ends: list[float]) -> None:
    """Print it, the first update of each left out."""
    for line in lines(options, corpus, race, start, ends):
        print(line)


def lines(options: argparse.Namespace, corpus: Corpus, race: Race, start: float, ends: list[float]) -> Iterator[str]:
    """What is printed."""
    tokens, work, rate = sum(race.tokens[1:]), sum(race.work[1:]), statistics.median(race.rates)
    seconds = {name: sum(times[1:]) for name, times in race.seconds.items()}
    ratios = [theirs / ours for theirs, ours in zip(race.seconds["theirs"][1:], race.seconds["ours"][1:])]
    if race.on_cuda:
        where, of = torch.cuda.get_device_name(), f"the published {rate / 1e12:,.0f} TFLOP/s"
    else:
        where = f"{cpu_model()}, {options.threads} threads"
        of = f"the float32 product's {rate / 1e9:.0f} GFLOP/s meanwhile (best {max(race.rates) / 1e9:.0f})"
    yield f"{where}, {race.settings.precision}, torch {torch.__version__}, transformers {transformers.__version__}"
    mean_length = tokens / options.batch_size / len(ratios)
    yield (
        f"{options.steps} updates of {options.batch_size} cells, mean length {mean_length:.0f}"
        f", at most {options.max_len}; {corpus.vocabulary.size:,} tokens in the vocabulary"
    )
    for name, loss, dropout in (("ours", ends[0], 0.0), ("theirs", ends[1], options.attention_dropout)):
        yield (
            f"{name:6}: {tokens / seconds[name]:,.0f} real tokens/s, {work / seconds[name] / rate:.1%} of {of}, "
            f"attention dropout {dropout}, validation loss {start:.4f} -> {loss:.4f}"
        )
    yield (
        f"ratio of tokens/s {seconds['theirs'] / seconds['ours']:.2f}; of single updates: median "
        f"{statistics.median(ratios):.2f}, {min(ratios):.2f} .. {max(ratios):.2f}"
    )
    yield (
        f"for data and masks: ours {race.waiting / sum(race.seconds['ours']):.2%} of the time, theirs "
        f"{race.collating / sum(race.seconds['theirs']):.2%} in the collator"
    )


if __name__ == "__main__":
    main()
