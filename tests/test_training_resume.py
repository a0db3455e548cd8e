"""A run that is killed and resumed ends as one never killed; what would end otherwise is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("tensorboard")

import tiny_models as tiny

from corrmask.cli.app import main
from corrmask.corpus import Corpus
from corrmask.errors import InputError, InputWarning
from corrmask.files import explain
from corrmask.tokenization import tokenize
from corrmask.training import output as run_folder
from corrmask.training import pretrain
from corrmask.training.log import read_metrics, truncate

TIMINGS = {"seconds", "cells_per_second", "tokens_per_second", "wait_share", "tflops", "mfu"}


def log_of(folder):
    """The log without what the clock gave."""
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_metrics(folder)]


def weights_of(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny.write_inputs(tmp_path_factory.mktemp("inputs"), tiny.cells())


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """A run never killed."""
    folder = tmp_path_factory.mktemp("whole") / "m"
    pretrain(inputs[0], folder, tiny.settings(expand_from=0.0), graph=inputs[1])
    return folder


class Stop(BaseException):
    """Stands for a kill: nothing in the package catches it."""


def stop_after(step):
    def report(stage, done, total):
        if stage == "pretrain" and done == step:
            raise Stop

    return report


def start(inputs, folder, *, resume=False, stop=None, **changed):
    settings = tiny.settings(**{"expand_from": 0.0, **changed})
    if stop is None:
        return pretrain(inputs[0], folder, settings, graph=inputs[1], resume=resume)
    with pytest.raises(Stop):
        pretrain(inputs[0], folder, settings, graph=inputs[1], resume=resume, progress=stop_after(stop))
    return None


@pytest.mark.parametrize("stops", [[0], [2], [3], [7], [12], [4, 5, 8, 11]])
def test_stopped_and_resumed_gives_the_same_bytes(inputs, whole, tmp_path, stops):
    for stop in stops:
        start(inputs, tmp_path / "m", resume=True, stop=stop)
        assert not (tmp_path / "m" / "config.json").exists()
        assert json.loads((tmp_path / "m" / "training.json").read_text())["finished"] is False
    record = start(inputs, tmp_path / "m", resume=True)
    assert weights_of(tmp_path / "m") == weights_of(whole)
    assert log_of(tmp_path / "m") == log_of(whole)
    assert record["sessions"][-1]["from_step"] == (stops[-1] - 1) // 3 * 3 * (stops[-1] > 3)
    assert record["validation"]["step"] == 12


@pytest.mark.parametrize("changed", [{"balance": "kind"}, {"precision": "bf16"}], ids=["balance", "bf16"])
def test_stopped_and_resumed_in_other_ways_to_train(inputs, tmp_path, changed):
    start(inputs, tmp_path / "whole", **changed)
    start(inputs, tmp_path / "m", stop=5, **changed)
    start(inputs, tmp_path / "m", resume=True, **changed)
    assert weights_of(tmp_path / "m") == weights_of(tmp_path / "whole")
    assert log_of(tmp_path / "m") == log_of(tmp_path / "whole")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_stopped_and_resumed_on_cuda(inputs, tmp_path):
    """To the rounding of bf16: gradients are added up in any order there."""
    start(inputs, tmp_path / "whole", device="cuda")
    start(inputs, tmp_path / "m", stop=5, device="cuda")
    start(inputs, tmp_path / "m", resume=True, device="cuda")
    for one, other in zip(log_of(tmp_path / "m"), log_of(tmp_path / "whole"), strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)


def test_killed_at_random_moments_gives_the_same_bytes(inputs, whole, tmp_path):
    """SIGKILL to a process that trains, at moments that differ from run to run."""
    folder, log = tmp_path / "m", tmp_path / "m" / "metrics.jsonl"
    arguments = ["pretrain", "--corpus", inputs[0], "--graph", inputs[1], "-o", folder, "--resume"]
    arguments += tiny.options(expand_from=0.0)
    # slowed down, so that it is killed before it ends
    code = (
        "import sys, time, corrmask.training.step as step; from corrmask.cli.app import main; was = step.check_finite\n"
        "step.check_finite = lambda *a, **k: (time.sleep(0.3), was(*a, **k)); main(sys.argv[1:])"
    )
    for n_lines in (2, 9):
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") >= n_lines:
                time.sleep(random.uniform(0, 0.6))
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (folder / "config.json").exists()
    start(inputs, folder, resume=True)
    assert weights_of(folder) == weights_of(whole)
    assert log_of(folder) == log_of(whole)


def test_half_written_and_damaged_checkpoints_are_passed_over(inputs, whole, tmp_path):
    folder = tmp_path / "m"
    start(inputs, folder, stop=10)
    saved = folder / "checkpoints"
    assert sorted(path.name for path in saved.iterdir()) == ["step-000006", "step-000009"]
    shutil.copytree(saved / "step-000009", saved / ".step-000012.host-123.part")  # killed before the rename
    shutil.copytree(saved / "step-000009", saved / "step-000011")
    (saved / "step-000011" / "state.json").unlink()
    damaged = bytearray((saved / "step-000009" / "optimizer.safetensors").read_bytes())
    damaged[-1] ^= 1
    (saved / "step-000009" / "optimizer.safetensors").write_bytes(damaged)
    (folder / ".model.host-123.part.safetensors").write_bytes(b"half")
    (folder / ".notes.old").write_text("mine")
    record = start(inputs, folder, resume=True)
    assert record["sessions"][-1]["from_step"] == 6
    assert weights_of(folder) == weights_of(whole)
    assert log_of(folder) == log_of(whole)
    assert sorted(path.name for path in saved.iterdir()) == ["step-000009", "step-000012"]
    assert [path.name for path in folder.glob(".*")] == [".notes.old"]


def test_a_finished_run_is_left_as_it_is(inputs, whole, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints")  # not needed any more
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert start(inputs, folder, resume=True) == json.loads((whole / "training.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(InputError, match="cannot be resumed: 'seed' was 0 and is now 1"):
        start(inputs, folder, resume=True, seed=1)


def test_a_kill_while_the_result_is_put_in_place(inputs, whole, tmp_path, monkeypatch):
    import corrmask.training.output as output

    def killed(source, target):
        if source.name == "config.json":
            raise Stop
        return copy(source, target)

    copy = shutil.copyfile
    with monkeypatch.context() as patch:
        patch.setattr(output.shutil, "copyfile", killed)
        with pytest.raises(Stop):
            start(inputs, tmp_path / "m")
    assert not (tmp_path / "m" / "config.json").exists()
    record = start(inputs, tmp_path / "m", resume=True)
    assert record["sessions"][-1]["from_step"] == 12
    assert record["validation"] == json.loads((whole / "training.json").read_text())["validation"]
    assert weights_of(tmp_path / "m") == weights_of(whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 1e-4}, "'lr' was 0.003 and is now 0.0001"),
        ({"steps": 20}, "'steps' was 12 and is now 20"),
        ({"mask": "rewired"}, "'mask' was 'corr' and is now 'rewired'"),
        ({"threads": 2}, "'threads' was 1 and is now 2"),
        ({"expand_from": None}, "'expand_from' was 0.0 and is now None"),
        ({"balance": "kind"}, "'balance' was None and is now 'kind'"),
    ],
)
def test_other_settings_are_refused(inputs, tmp_path, changed, message):
    start(inputs, tmp_path / "m", stop=5)
    with pytest.raises(InputError, match=message) as caught:
        start(inputs, tmp_path / "m", resume=True, **changed)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "m" / "checkpoints").iterdir()] == ["step-000003"]


def test_what_changes_no_weights_may_change(inputs, whole, tmp_path):
    start(inputs, tmp_path / "m", stop=5)
    record = start(inputs, tmp_path / "m", resume=True, keep=1, checkpoint_every=5, validate_every=4, threads=None)
    assert record["settings"]["threads"] == 1  # what it was started with
    assert weights_of(tmp_path / "m") == weights_of(whole)


def test_another_corpus_vocabulary_or_graph_is_refused(inputs, tmp_path, capsys):
    folder = tmp_path / "m"
    start(inputs, folder, stop=5)
    (tmp_path / "cells").mkdir()
    other_corpus, other_graph = tiny.write_inputs(tmp_path / "cells", tiny.cells(seed=1))
    with pytest.raises(InputError, match="cannot be resumed: the graph is another one"):
        start((inputs[0], other_graph), folder, resume=True)
    renamed = tiny.cells()
    renamed.var_names = renamed.var_names[::-1]
    (tmp_path / "renamed").mkdir()
    shutil.copytree(inputs[0], tmp_path / "renamed" / "corpus")
    vocabulary = json.loads((inputs[0] / "vocabulary.json").read_text())
    vocabulary["genes"].reverse()
    (tmp_path / "renamed" / "corpus" / "vocabulary.json").write_text(json.dumps(vocabulary))
    with pytest.raises(InputError, match="cannot be resumed: the vocabulary is another one"):
        start((tmp_path / "renamed" / "corpus", inputs[1]), folder, resume=True)
    arguments = ["--corpus", other_corpus, "--graph", inputs[1], "-o", folder, *tiny.options(expand_from=0.0)]
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments), "--resume"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "the corpus is another one" in error
    assert error.count("\n") == 1


def test_other_labels_to_balance_by_are_refused(inputs, tmp_path):
    shutil.copytree(inputs[0], tmp_path / "corpus")
    start((tmp_path / "corpus", inputs[1]), tmp_path / "m", stop=5, balance="kind")
    cells = tiny.cells()
    cells.obs["kind"] = cells.obs["kind"].to_numpy()[::-1].copy()
    tokenize(cells, tmp_path / "corpus", obs=["kind"], overwrite=True)  # the same tokens, so the same hash
    with pytest.raises(InputError, match="cannot be resumed: the cells have other labels to balance by"):
        start((tmp_path / "corpus", inputs[1]), tmp_path / "m", resume=True, balance="kind")


def test_it_is_told_that_no_checkpoint_is_whole(inputs, whole, tmp_path):
    start(inputs, tmp_path / "m", stop=5)
    (tmp_path / "m" / "checkpoints" / "step-000003" / "vocabulary.json").write_text("{}")
    with pytest.warns(InputWarning, match="none of its 1 checkpoints is whole, so the run starts anew"):
        start(inputs, tmp_path / "m", resume=True)
    assert weights_of(tmp_path / "m") == weights_of(whole)


def test_without_a_checkpoint_it_starts_from_the_beginning(inputs, whole, tmp_path):
    start(inputs, tmp_path / "m", stop=2, lr=1.0)
    record = start(inputs, tmp_path / "m", resume=True)  # nothing is there that another lr could spoil
    assert [session["from_step"] for session in record["sessions"]] == [0]
    assert weights_of(tmp_path / "m") == weights_of(whole)
    assert log_of(tmp_path / "m") == log_of(whole)


def test_a_damaged_record_is_refused(inputs, tmp_path):
    start(inputs, tmp_path / "m", stop=5)
    (tmp_path / "m" / "training.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        start(inputs, tmp_path / "m", resume=True)


def test_two_runs_in_one_folder_are_refused(inputs, tmp_path):
    def second(stage, done, total):
        if done == 1 and stage == "pretrain":
            with pytest.raises(InputError, match="another run is at work"):
                start(inputs, tmp_path / "m", resume=True)

    pretrain(inputs[0], tmp_path / "m", tiny.settings(steps=2), graph=inputs[1], progress=second)


def test_overwrite_deletes_no_input(inputs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "m")
    shutil.copytree(inputs[0], tmp_path / "m" / "corpus")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    corpus = Corpus.open(tmp_path / "m" / "corpus")
    for output in ("m", "link"):
        for given in (corpus, tmp_path / "m" / "corpus"):
            with pytest.raises(InputError, match="would replace the input"):
                pretrain(given, tmp_path / output, tiny.settings(mask="random"), overwrite=True)
    assert corpus.n_cells == Corpus.open(tmp_path / "m" / "corpus").n_cells


def test_overwrite_replaces_all_of_an_earlier_run_and_nothing_else(inputs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "m")
    (tmp_path / "m" / "cells-embedded.h5ad").write_text("mine")
    with pytest.raises(InputError, match=r"'cells-embedded\.h5ad' in it would be lost"):
        pretrain(inputs[0], tmp_path / "m", tiny.settings(steps=2), graph=inputs[1], overwrite=True)
    assert weights_of(tmp_path / "m") == weights_of(whole)
    (tmp_path / "m" / "checkpoints" / "best").mkdir()
    (tmp_path / "m" / "cells-embedded.h5ad").rename(tmp_path / "cells-embedded.h5ad")
    with pytest.raises(InputError, match=r"m/checkpoints': 'best' in it would be lost"):
        pretrain(inputs[0], tmp_path / "m", tiny.settings(steps=2), graph=inputs[1], overwrite=True)
    (tmp_path / "m" / "checkpoints" / "best").rmdir()
    pretrain(inputs[0], tmp_path / "m", tiny.settings(steps=2), graph=inputs[1], overwrite=True)
    assert [line["step"] for line in read_metrics(tmp_path / "m") if line["kind"] == "train"] == [1, 2]
    assert max(path.name for path in (tmp_path / "m" / "checkpoints").iterdir()) == "step-000002"


def test_interrupted_at_the_keyboard(inputs, tmp_path, capsys, monkeypatch):
    from corrmask.training import loop

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "update", interrupt)
    arguments = ["--corpus", inputs[0], "--graph", inputs[1], "-o", tmp_path / "m", *tiny.options()]
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments)])
    assert caught.value.code == 130
    assert "--resume" in capsys.readouterr().err


def test_a_full_disk_at_a_checkpoint_leaves_the_earlier_ones(inputs, whole, tmp_path, monkeypatch):
    from corrmask.training import checkpoint

    save = checkpoint.save_model

    def full(model, vocabulary, folder, *rest):
        if "000006" in folder.name:
            raise OSError(28, "No space left on device")
        save(model, vocabulary, folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_model", full)
        with pytest.raises(InputError, match=r"no space left.*go on with --resume"):
            start(inputs, tmp_path / "m")
    assert [path.name for path in (tmp_path / "m" / "checkpoints").iterdir()] == ["step-000003"]
    told = InputError(explain(OSError(28, ""), "m"))  # by another process of the run: words alone
    again = run_folder.opened(tmp_path / "m", resume=True, overwrite=False)
    with pytest.raises(InputError, match=r"no space left.*go on with --resume"), again:
        raise told
    start(inputs, tmp_path / "m", resume=True)
    assert weights_of(tmp_path / "m") == weights_of(whole)


def test_truncate_keeps_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = b'{"kind": "train", "step": 1}\n{"kind": "validation", "step": 1}\n'
    for rest in (b"", b'{"kind": "train", "step": 2}\n', b'{"kind": "tr', b"\0\0\0\n"):
        path.write_bytes(kept + rest)
        truncate(path, 1)
        assert path.read_bytes() == kept
