"""Checkpoints: folders that `transformers` opens, with the optimizer's state beside the weights.

    checkpoints/step-000300/config.json, model.safetensors, vocabulary.json    a model as any other
                            optimizer.safetensors                              moments of AdamW, by parameter name
                            optimizer-00001-of-00008.safetensors, ...          the same in place of it, one file a rank
                            state.json                                         step, and hashes of the other files

A checkpoint is written under another name, flushed and renamed; what its hashes do not confirm is passed over.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from corrmask.distributed import ALONE, Ranks
from corrmask.files import explaining, is_leftover, replacing, sync
from corrmask.model import CONFIG_FILE, WEIGHTS_FILE, save_model
from corrmask.training.sharding import is_sharded, moments, read_moments, weights
from corrmask.vocabulary import FILE_NAME, Vocabulary

FOLDER = "checkpoints"
_STATE = "state.json"
_OPTIMIZER = "optimizer"
_MODEL = (CONFIG_FILE, WEIGHTS_FILE, FILE_NAME)
_NAME = re.compile(r"step-(\d{6,})")


def checkpoints(output: Path) -> list[tuple[int, Path]]:
    """(step, folder) of what is named as a checkpoint, by ascending step; whole or not."""
    found = [(match, path) for path in (output / FOLDER).glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def write_checkpoint(
    output: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    vocabulary: Vocabulary,
    *,
    keep: int,
    ranks: Ranks = ALONE,
) -> Path:
    """Write the checkpoint after `step` updates, whole or not at all, and remove all but the last `keep`.

    All ranks call it. Of a sharded model each writes its own moments, into a folder that all of them see; else the
    first writes all there is.

    Raises
    ------
    InputError
        The disk is full or the folder is not writable; earlier checkpoints stay.
    """
    from safetensors.torch import save_file

    target = output / FOLDER / f"step-{step:06d}"
    sharded = is_sharded(model)
    whole = weights(model, ranks) if sharded else None
    with ExitStack() as stack:

        def begin() -> Path:
            target.parent.mkdir(exist_ok=True)
            folder = stack.enter_context(replacing(target, overwrite=True))
            folder.mkdir()
            return folder

        def write_moments() -> dict[str, str]:
            if ranks.rank > 0 and not sharded:
                return {}
            name = _OPTIMIZER + (
                f"-{ranks.rank + 1:05d}-of-{ranks.world:05d}.safetensors" if sharded else ".safetensors"
            )
            with explaining(target, folder):
                save_file(moments(model, optimizer), folder / name)
                return {name: _hash(folder / name)}

        def write_rest() -> Path:
            with explaining(target, folder):
                save_model(model, vocabulary, folder, whole)
                hashes = {name: _hash(folder / name) for name in _MODEL}
                for part in parts:
                    hashes |= part
                state = {"format": 1, "step": step, "hashes": hashes}
                (folder / _STATE).write_text(json.dumps(state, indent=2))
            stack.close()
            sync(target.parent)
            for _, path in checkpoints(output)[:-keep]:
                shutil.rmtree(path, ignore_errors=True)
            return target

        folder = ranks.first(begin)
        parts = ranks.gather(ranks.together(write_moments))
        return ranks.first(write_rest)


def newest_checkpoint(output: Path) -> tuple[int, Path] | None:
    """The newest whole checkpoint; those that a fault left damaged are passed over. None if there is none."""
    for step, path in reversed(checkpoints(output)):
        try:
            state = json.loads((path / _STATE).read_text())
            hashes = {name: state["hashes"][name] for name in (*_MODEL, *state["hashes"])}
            if state["step"] == step and all(_hash(path / name) == found for name, found in hashes.items()):
                return step, path
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def read_optimizer(path: Path, model: Any, optimizer: torch.optim.Optimizer, ranks: Ranks = ALONE) -> None:
    """Bring the optimizer to where it stood, written by however many ranks."""
    read_moments(sorted(path.glob(f"{_OPTIMIZER}*.safetensors")), model, optimizer, ranks)


def remove_leftovers(output: Path, after: int) -> None:
    """Remove what a killed run left half-written, and damaged checkpoints beyond step `after`."""
    for folder in (output, output / FOLDER):
        for path in folder.glob(".*"):
            if not is_leftover(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for step, path in checkpoints(output):
        if step > after:
            shutil.rmtree(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
