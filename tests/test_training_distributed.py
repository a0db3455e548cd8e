"""Training by several processes: the same batches as one, and runs whose processes are killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("tensorboard")

import tiny_models as tiny
from safetensors.torch import load_file
from transformers import BertForMaskedLM

from corrmask.corpus import split_cells
from corrmask.distributed import Ranks
from corrmask.errors import InputError
from corrmask.training import loop, pretrain
from corrmask.training.log import read_metrics

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device of Linux")

# Rounding alone, over 12 updates: gradients are summed in another order.
LOSS = 1e-4

# One rank notes the cells that it is given, and is killed at an update: one for each life.
SCRIPT = """
import os, signal, sys
from pathlib import Path

from corrmask.cli.app import main
from corrmask.loader import Loader
from corrmask.training import loop

notes, rank, at = Path(sys.argv[1]), os.environ["RANK"], os.environ["KILLED_AT"].split()
update = loop.update


def noted(objective, optimizer, step, *rest):
    if at[int(os.environ["TORCHELASTIC_RESTART_COUNT"]) :][:1] == [f"{rank}:{step}"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(objective, optimizer, step, *rest)


loop.update = noted
batches = Loader.batches


def asked(self, *steps):
    for batch in batches(self, *steps):
        with open(notes / f"rank{rank}", "a") as file:
            print(*batch.cell_ids.tolist(), file=file)
        yield batch


Loader.batches = asked
main(sys.argv[2:])
"""


def torchrun(tmp_path, inputs, folder, *extra, killed_at=(), **changed):
    """The command as two processes; what came of it."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    (tmp_path / "notes").mkdir(exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--max-restarts={len(killed_at)}"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--monitor-interval=0.1"]
    arguments = [
        "pretrain",
        "--corpus",
        inputs[0],
        "--graph",
        inputs[1],
        "-o",
        folder,
        *tiny.options(**changed),
        *extra,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KILLED_AT": " ".join(killed_at), "GLOO_SOCKET_IFNAME": "lo"}
    command = [*launcher, script, tmp_path / "notes", *arguments]
    return subprocess.run(
        [str(one) for one in command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def curve(folder, kind="train"):
    names = ("step", "loss", "masked", "cells", "tokens")
    return [[line[name] for name in names if name in line] for line in read_metrics(folder) if line["kind"] == kind]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny.write_inputs(tmp_path_factory.mktemp("inputs"), tiny.cells())


@pytest.fixture(scope="module")
def pair(inputs, tmp_path_factory):
    """A run of two processes that were not killed, and the rows that each was given."""
    tmp_path = tmp_path_factory.mktemp("pair")
    done = torchrun(tmp_path, inputs, tmp_path / "m", "--json", dropout=0.0)
    assert done.returncode == 0, done.stderr
    notes = [(tmp_path / "notes" / f"rank{rank}").read_text().splitlines() for rank in range(2)]
    rows = [[[*map(int, line.split())] for line in lines] for lines in notes]
    return tmp_path / "m", json.loads(done.stdout), rows


def test_two_processes_train_as_one(inputs, pair, tmp_path):
    folder, printed, _ = pair
    pretrain(inputs[0], tmp_path / "one", tiny.settings(dropout=0.0), graph=inputs[1])
    for kind in ("train", "validation"):
        for one, two in zip(curve(tmp_path / "one", kind), curve(folder, kind), strict=True):
            assert two == pytest.approx(one, abs=LOSS), kind
            assert [two[0], *two[2:]] == [one[0], *one[2:]]  # steps, masked genes, cells and tokens exactly
    # one process printed, and all of it is one document
    assert printed == json.loads((folder / "training.json").read_text()) | {"output": str(folder)}
    assert printed["sessions"][0]["processes"] == 2


def test_no_cell_goes_to_two_processes(pair):
    _, record, rows = pair
    train, _ = split_cells(120, 0.2, 0)
    assert [[len(batch) for batch in one] for one in rows] == [[8] * 12] * 2
    per_epoch = record["steps_per_epoch"]
    for epoch in range(0, 12, per_epoch):
        cells = [cell for one in rows for batch in one[epoch : epoch + per_epoch] for cell in batch]
        assert len(cells) == len(set(cells))
        assert set(cells) <= set(train)


def test_a_killed_process_is_started_again(inputs, pair, tmp_path):
    """kill -9 of the one that writes: torchrun starts both anew, and not a batch is lost or repeated."""
    done = torchrun(tmp_path, inputs, tmp_path / "m", "--resume", killed_at=("0:7",), dropout=0.0)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (pair[0] / "model.safetensors").read_bytes()
    assert curve(tmp_path / "m") == curve(pair[0])
    record = json.loads((tmp_path / "m" / "training.json").read_text())
    assert [one["from_step"] for one in record["sessions"]] == [0, 6]


@pytest.fixture(scope="module")
def sharded(inputs, tmp_path_factory):
    """The same as `pair`, weights and moments spread over the two."""
    tmp_path = tmp_path_factory.mktemp("sharded")
    done = torchrun(tmp_path, inputs, tmp_path / "m", "--shard", dropout=0.0)
    assert done.returncode == 0, done.stderr
    return tmp_path / "m"


def test_sharded_weights_train_as_whole_ones(pair, sharded):
    for kind in ("train", "validation"):
        for one, two in zip(curve(pair[0], kind), curve(sharded, kind), strict=True):
            assert two == pytest.approx(one, abs=LOSS), kind
    models = [BertForMaskedLM.from_pretrained(folder) for folder in (pair[0], sharded)]
    for one, two in zip(*(model.state_dict().values() for model in models), strict=True):
        # a gradient of 0 but for rounding is an update of lr, whichever its sign
        assert (one - two).abs().mean() < 1e-4
        assert (one - two).abs().max() < 12 * tiny.SHAPE["lr"]
    assert (sharded / "config.json").read_text() == (pair[0] / "config.json").read_text()
    keys = [list(load_file(folder / "model.safetensors")) for folder in (pair[0], sharded)]
    assert keys[0] == keys[1]


def test_each_rank_writes_its_moments(pair, sharded):
    names = [f"optimizer-0000{rank}-of-00002.safetensors" for rank in (1, 2)]
    newest = sharded / "checkpoints" / "step-000012"
    assert sorted(path.name for path in newest.glob("optimizer*")) == names
    state = json.loads((newest / "state.json").read_text())
    assert set(names) < set(state["hashes"])
    whole = load_file(pair[0] / "checkpoints" / "step-000012" / "optimizer.safetensors")
    parts = [load_file(newest / name) for name in names]
    assert set(whole) == set(parts[0]) == set(parts[1])
    for name, moment in whole.items():
        if name.endswith(".step"):
            assert [moment] == [parts[0][name]] == [parts[1][name]]
            continue
        assert len(parts[0][name]) == -(-len(moment) // 2)
        assert torch.cat([part[name] for part in parts]).shape == moment.shape


def test_a_killed_process_of_sharded_ones_is_started_again(inputs, sharded, tmp_path):
    done = torchrun(tmp_path, inputs, tmp_path / "m", "--resume", "--shard", killed_at=("1:7",), dropout=0.0)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (sharded / "model.safetensors").read_bytes()
    assert curve(tmp_path / "m") == curve(sharded)


def test_one_process_goes_on_from_the_parts_of_two(inputs, pair, sharded, tmp_path):
    """The moments are put together again: the curve stays that of the others."""
    shutil.copytree(sharded, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "checkpoints" / "step-000012")
    (tmp_path / "m" / "config.json").unlink()
    record = pretrain(inputs[0], tmp_path / "m", tiny.settings(dropout=0.0), graph=inputs[1], resume=True)
    assert [one["from_step"] for one in record["sessions"]] == [0, 9]
    for one, two in zip(curve(pair[0]), curve(tmp_path / "m"), strict=True):
        assert two == pytest.approx(one, abs=LOSS)


def test_a_batch_has_a_cell_for_each_process(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "joined", lambda _: nullcontext(Alone(0, 2, torch.device("cpu"))))
    with pytest.raises(InputError, match="a batch of 1 cells cannot be shared by 2 processes"):
        pretrain(inputs[0], tmp_path / "m", tiny.settings(batch_size=1), graph=inputs[1])
    assert not (tmp_path / "m").exists()


class Alone(Ranks):
    """One of two that tells the other nothing."""

    def first(self, work):
        return work()
