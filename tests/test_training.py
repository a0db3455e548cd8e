"""Pre-training: schedules, what is learned, what is logged, what is refused."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("tensorboard")

import tiny_models as tiny
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertForMaskedLM

from corrmask.arms import ARMS
from corrmask.cli.app import main
from corrmask.corpus import Corpus, split_cells
from corrmask.errors import InputError
from corrmask.model import build_model
from corrmask.training import Settings, pretrain, step
from corrmask.training.log import read_metrics
from corrmask.training.schedule import dropout_seed, expand_share, learning_rate
from corrmask.training.step import build_optimizer
from corrmask.training.utilisation import operations, peak_tflops, published_tflops


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny.write_inputs(tmp_path_factory.mktemp("inputs"), tiny.cells(empty=(5, 64)))


def lines(folder, kind):
    return [line for line in read_metrics(folder) if line["kind"] == kind]


def test_learning_rate():
    rates = [learning_rate(step, peak=8.0, warmup=4, steps=8) for step in range(8)]
    assert rates == [2.0, 4.0, 6.0, 8.0, 8.0, 6.0, 4.0, 2.0]
    assert [learning_rate(step, peak=3.0, warmup=0, steps=3) for step in range(3)] == [3.0, 2.0, 1.0]


def test_expand_share():
    assert [expand_share(step, first=0.0, last=1.0, steps=4) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert expand_share(1, first=0.5, last=0.25, steps=2) == 0.375


def test_dropout_seeds_differ_and_repeat():
    seeds = [dropout_seed(step, seed=seed) for step in range(50) for seed in (0, 1)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert dropout_seed(7, seed=1) == seeds[15]


def test_biases_and_layer_norm_do_not_decay(inputs):
    corpus = Corpus.open(inputs[0])
    model = build_model(corpus.vocabulary, layers=1, hidden=32, heads=2, intermediate=64, max_len=32, dropout=0, seed=0)
    decayed, kept = build_optimizer(model, tiny.settings(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(one)] for one in kept["params"]} == {
        name for name in names.values() if name.endswith("bias") or "LayerNorm" in name
    }
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_the_model_learns_from_context(inputs, tmp_path):
    state = torch.get_rng_state()
    record = pretrain(inputs[0], tmp_path / "m", tiny.settings(mask="random", steps=200, checkpoint_every=200, lr=1e-2))
    assert torch.equal(torch.get_rng_state(), state)
    start, *_, end = lines(tmp_path / "m", "validation")
    assert start["loss"] == pytest.approx(math.log(64), abs=0.3)
    # frequencies alone give ln 60 = 4.09; the kind of cell, seen in the visible genes, takes away ln 2
    assert end["loss"] < math.log(60) - 0.8 * math.log(2)
    assert record["validation"] == end
    assert record["cells"]["without_tokens"] == 2
    assert record["cells"]["train"] + record["cells"]["held_out"] == 118


def test_every_arm_starts_from_the_same_validation(inputs, tmp_path):
    starts = []
    for mask in ARMS:
        pretrain(inputs[0], tmp_path / mask, tiny.settings(mask=mask, steps=1), graph=inputs[1])
        starts.append(lines(tmp_path / mask, "validation")[0])
    assert starts[0]["masked"] > 0
    assert all(start == starts[0] for start in starts)


def test_what_a_run_leaves(inputs, tmp_path):
    folder = tmp_path / "m"
    called = []
    record = pretrain(
        inputs[0],
        folder,
        tiny.settings(expand_from=0.0, expand_steps=4, validate_every=5),
        graph=inputs[1],
        progress=lambda *call: called.append(call),
    )
    assert record == json.loads((folder / "training.json").read_text())
    assert record["finished"] is True
    assert record["settings"]["warmup"] == 1
    assert record["inputs"]["corpus"] == Corpus.open(inputs[0]).hash
    assert record["inputs"]["graph_provenance"]["parameters"]["top_k"] == 4
    assert ("pretrain", 12, 12) in called
    model = BertForMaskedLM.from_pretrained(folder)
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000009", "step-000012"]
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "vocabulary.json",
        "training.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
    }
    assert [line["step"] for line in lines(folder, "validation")] == [0, 5, 10, 12]
    train = lines(folder, "train")
    assert [line["step"] for line in train] == list(range(1, 13))
    assert [line["expand"] for line in train[:6]] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], abs=2**-32)
    per_epoch = record["steps_per_epoch"]
    assert [line["epoch"] for line in train] == [step // per_epoch for step in range(12)]
    assert all(line["cells"] == 16 and 0 <= line["wait_share"] <= 1 for line in train)
    waited = sum(line["wait_share"] * line["seconds"] for line in train)
    assert record["waited"] == pytest.approx(waited / sum(line["seconds"] for line in train))
    assert all(line["tflops"] > 0 and "mfu" not in line for line in train)  # no peak is known of a CPU
    assert record["mfu"] is None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx([line["loss"] for line in train])


def test_training_depends_on_each_part_of_the_settings(inputs, tmp_path):
    digests = set()
    for i, changed in enumerate(({}, {"seed": 1}, {"mask": "random"}, {"dropout": 0.0}, {"lr": 1e-3})):
        pretrain(inputs[0], tmp_path / str(i), tiny.settings(steps=2, validate_cells=1, **changed), graph=inputs[1])
        digests.add((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert len(digests) == 5
    # what is logged and kept changes nothing
    same = tiny.settings(steps=2, held_out=0.2, validate_every=1, checkpoint_every=1, keep=1)
    pretrain(inputs[0], tmp_path / "same", same, graph=inputs[1])
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (tmp_path / "0" / "model.safetensors").read_bytes()


def test_operations_are_those_that_torch_counts(inputs):
    corpus = Corpus.open(inputs[0])
    shape = {"layers": 3, "hidden": 32, "heads": 2, "intermediate": 80, "max_len": 32, "dropout": 0.0}
    model = build_model(corpus.vocabulary, **shape, seed=0)
    model.set_attn_implementation("eager")  # the counter does not know the fused kernel of the CPU
    lengths, n_masked = [7, 20], 5
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for n in lengths:
            states = model.bert(torch.arange(4, 4 + n)[None]).last_hidden_state
        model.cls(states[0, :n_masked])
    squares = sum(n**2 for n in lengths)
    assert operations(model.config, sum(lengths), squares, n_masked) == 3 * counter.get_total_flops()


def test_the_share_of_the_peak_is_logged(inputs, tmp_path, capsys):
    arguments = ["--corpus", inputs[0], "--graph", inputs[1], "-o", tmp_path / "m"]
    arguments += tiny.options(steps=3, peak=0.5, validate_cells=1)
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments)])
    assert caught.value.code == 0
    train = lines(tmp_path / "m", "train")
    assert all(line["mfu"] == pytest.approx(line["tflops"] / 0.5) for line in train)
    record = json.loads((tmp_path / "m" / "training.json").read_text())
    total = sum(line["tflops"] * line["seconds"] for line in train)
    assert record["mfu"] == pytest.approx(total / 0.5 / sum(line["seconds"] for line in train))
    assert "of 0.5 TFLOP/s a device" in " ".join(capsys.readouterr().out.split())


def test_published_peaks():
    assert published_tflops("NVIDIA H200", "bf16") == published_tflops("NVIDIA H100 80GB HBM3", "bf16") == 989.4
    assert published_tflops("NVIDIA H100 PCIe", "fp32") == 51
    assert published_tflops("NVIDIA A100-SXM4-80GB", "bf16") == 312
    assert published_tflops("NVIDIA T4", "bf16") is None
    assert peak_tflops(torch.device("cpu"), "fp32") is None


def test_bf16_learns_on_the_cpu_when_asked(inputs, tmp_path):
    settings = tiny.settings(mask="random", steps=200, checkpoint_every=200, lr=1e-2, precision="bf16")
    record = pretrain(inputs[0], tmp_path / "m", settings)
    assert record["settings"]["precision"] == "bf16"
    assert record["validation"]["loss"] < math.log(60) - 0.8 * math.log(2)
    assert BertForMaskedLM.from_pretrained(tmp_path / "m").dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of dynamo's own look at its inputs
def test_compiled_parts_take_any_number_of_tokens(inputs, tmp_path, monkeypatch):
    """One graph a part, and no other for batches of other sizes; the weights keep their names."""
    monkeypatch.setattr(step, "_BACKEND", "eager")  # half a minute less; the graphs are the same
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    record = pretrain(inputs[0], tmp_path / "m", tiny.settings(compile=True, dropout=0.0), graph=inputs[1])
    pretrain(inputs[0], tmp_path / "eager", tiny.settings(dropout=0.0), graph=inputs[1])
    sizes = {line["tokens"] for line in lines(tmp_path / "m", "train")}
    assert len(sizes) > 6
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 3 <= counted <= 6, "three parts, with gradients and without"
    for one, two in zip(lines(tmp_path / "m", "train"), lines(tmp_path / "eager", "train"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
    assert record["settings"]["compile"] is True
    assert BertForMaskedLM.from_pretrained(tmp_path / "m").dtype == torch.float32


def test_balanced_labels(tmp_path, capsys):
    """Of 120 cells 12 are of the rarer kind, one of which has lost its label; half of those that are read are."""
    adata = tiny.cells()
    kind = np.where(np.arange(120) % 10 == 0, "rare", "common").astype(object)
    kind[30] = None
    adata.obs["kind"] = pd.Categorical(kind)
    corpus, _ = tiny.write_inputs(tmp_path, adata)
    train, _ = split_cells(120, 0.2, 0)
    assert {0, 10, 30} <= set(train)
    opened, read = Corpus.open(corpus), []
    batches = opened.batches
    opened.batches = lambda rows, *options, **more: read.extend(rows.ravel()) or batches(rows, *options, **more)
    settings = tiny.settings(mask="random", steps=60, balance="kind", validate_cells=1, checkpoint_every=60)
    record = pretrain(opened, tmp_path / "m", settings)
    assert record["settings"]["balance"] == "kind"
    assert record["cells"]["without_label"] == 1
    assert len(read) == 60 * 16
    assert set(read) <= set(train) - {30}
    share = sum(row % 10 == 0 for row in read) / len(read)
    assert abs(share - 0.5) < 5 * 0.5 / len(read) ** 0.5
    arguments = ["--corpus", corpus, "-o", tmp_path / "c", *tiny.options(mask="random", steps=2)]
    assert "no obs column 'donor'" in fails(capsys, *arguments, "--balance", "donor")
    assert not (tmp_path / "c").exists()
    with pytest.raises(SystemExit):
        main(["pretrain", *map(str, arguments), "--balance", "kind"])
    printed = capsys.readouterr()
    assert "each label of 'kind' equally often" in printed.out
    assert "1 training cells without a label in 'kind'" in printed.err


def test_corpus_of_one_cell(tmp_path):
    corpus, _ = tiny.write_inputs(tmp_path, tiny.cells(1))
    record = pretrain(corpus, tmp_path / "m", tiny.settings(mask="random", steps=2))
    assert record["validation"] is None
    assert [line["cells"] for line in lines(tmp_path / "m", "train")] == [1, 1]


def test_cells_without_tokens_are_neither_trained_on_nor_validated(inputs, tmp_path):
    corpus = Corpus.open(inputs[0])
    asked, trained = [], []
    batch, batches = corpus.batch, corpus.batches
    corpus.batch = lambda rows, max_len: asked.extend(rows) or batch(rows, max_len)
    corpus.batches = lambda rows, *options, **more: trained.extend(rows.ravel()) or batches(rows, *options, **more)
    pretrain(corpus, tmp_path / "m", tiny.settings(steps=2 * 5), graph=inputs[1])
    train, held_out = split_cells(120, 0.2, 0)
    assert set(trained) <= set(train) - {5, 64}
    assert set(asked) == set(held_out) - {5, 64}
    assert trained


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": "blocks"}, "mask 'blocks' is unknown"),
        ({"epochs": 3}, "exclude each other"),
        ({"steps": 0}, "'steps' must be a whole number of at least 1, got 0"),
        ({"hidden": 30, "heads": 4}, "'hidden' must be a multiple of 'heads'"),
        ({"rate": 0.0}, "'rate' must be in"),
        ({"dropout": 1.0}, "'dropout' must be at least 0 and below 1"),
        ({"lr": -1.0}, "'lr' must be positive"),
        ({"peak": 0.0}, "'peak' must be positive"),
        ({"clip": -1.0}, "'clip' must be at least 0"),
        ({"warmup": 12}, "'warmup' must be less than the 12 steps"),
        ({"seed": -1}, "'seed' must be in"),
        ({"precision": "fp8"}, "'precision' must be"),
        ({"shard": True, "compile": True}, "'shard' and 'compile' exclude each other"),
        ({"expand_steps": 3}, "'expand_steps' needs 'expand_from'"),
        ({"expand_from": 0.0, "mask": "random"}, "has no meaning for mask 'random'"),
        ({"frequency_power": 0.5, "mask": "corr"}, "'frequency_power' has no meaning for mask 'corr'"),
        ({"frequency_power": 9.0, "mask": "weighted"}, "'frequency_power' must be in 0 .. 2, got 9.0"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
    ],
)
def test_bad_settings_get_one_line(inputs, tmp_path, capsys, changed, message):
    arguments = ["--corpus", inputs[0], "--graph", inputs[1], "-o", tmp_path / "m", *tiny.options(**changed)]
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_bad_inputs_get_one_line(inputs, tmp_path, capsys):
    corpus, graph = inputs
    out, rest = ("-o", tmp_path / "m"), tiny.options()
    assert "needs a graph" in fails(capsys, "--corpus", corpus, *out, *rest)
    assert "does not exist" in fails(capsys, "--corpus", tmp_path / "none", "--graph", graph, *out, *rest)
    assert "does not exist" in fails(capsys, "--corpus", corpus, "--graph", tmp_path / "none.h5ad", *out, *rest)
    other = tiny.cells()
    other.var_names = [f"other{i}" for i in range(tiny.N_GENES)]
    _, other_graph = tiny.write_inputs(tmp_path, other)
    assert "do not fit" in fails(capsys, "--corpus", corpus, "--graph", other_graph, *out, *rest)
    bare = tmp_path / "bare"
    shutil.copytree(corpus, bare)
    (bare / "vocabulary.json").unlink()
    assert "has no vocabulary.json" in fails(capsys, "--corpus", bare, "--graph", graph, *out, *rest)
    assert not (tmp_path / "m").exists()
    assert "does not exist; create it" in fails(
        capsys, "--corpus", corpus, "--graph", graph, "-o", tmp_path / "a" / "b", *rest
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    error = fails(capsys, "--corpus", corpus, "--graph", graph, "-o", tmp_path / "mine", "--overwrite", *rest)
    assert "is not a model of corrmask" in error
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_the_command(inputs, tmp_path, capsys):
    arguments = ["--corpus", inputs[0], "--graph", inputs[1], "-o", tmp_path / "m", *tiny.options(steps=2)]
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments), "--json"])
    assert caught.value.code == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["settings"]["steps"] == 2
    assert record["finished"] is True
    assert printed.err == ""
    assert "exists already" in fails(capsys, *arguments)
    assert "exclude each other" in fails(capsys, *arguments, "--resume", "--overwrite")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments), "--overwrite", "--seed", "5", "--vocabulary", str(inputs[0])])
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert "loss" in printed.out
    assert "waited for masked cells" in printed.out
    assert "2 cells without tokens" in printed.err
    assert (tmp_path / "m" / "model.safetensors").read_bytes() != before


def test_a_diverging_loss_is_said(inputs, tmp_path):
    with pytest.raises(InputError, match="training diverged at"):
        pretrain(inputs[0], tmp_path / "m", tiny.settings(lr=1e30, clip=0.0), graph=inputs[1])
    assert not (tmp_path / "m" / "config.json").exists()


def test_defaults_are_geneformers_shape():
    defaults = Settings(mask="random")
    assert (defaults.layers, defaults.hidden, defaults.heads, defaults.max_len) == (6, 256, 4, 2048)
