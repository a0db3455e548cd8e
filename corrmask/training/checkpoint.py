"""Checkpoints: folders that `transformers` opens, with the optimizer's state beside the weights.

    checkpoints/step-000300/config.json, model.safetensors, vocabulary.json    a model as any other
                            optimizer.safetensors                              moments of AdamW, by parameter name
                            state.json                                         step, and a hash of the other files

A checkpoint is written under another name, flushed and renamed; what its hashes do not confirm is passed over.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from corrmask.files import replacing, sync
from corrmask.model import CONFIG_FILE, WEIGHTS_FILE, load_weights, save_model
from corrmask.vocabulary import FILE_NAME, Vocabulary

FOLDER = "checkpoints"
_STATE = "state.json"
_OPTIMIZER = "optimizer.safetensors"
_HASHED = (CONFIG_FILE, WEIGHTS_FILE, FILE_NAME, _OPTIMIZER)
_NAME = re.compile(r"step-(\d{6,})")


def checkpoints(output: Path) -> list[tuple[int, Path]]:
    """(step, folder) of what is named as a checkpoint, by ascending step; whole or not."""
    found = [(match, path) for path in (output / FOLDER).glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def write_checkpoint(
    output: Path, step: int, model: Any, optimizer: torch.optim.Optimizer, vocabulary: Vocabulary, *, keep: int
) -> Path:
    """Write the checkpoint after `step` updates, whole or not at all, and remove all but the last `keep`.

    Raises
    ------
    InputError
        The disk is full or the folder is not writable; earlier checkpoints stay.
    """
    from safetensors.torch import save_file

    (output / FOLDER).mkdir(exist_ok=True)
    target = output / FOLDER / f"step-{step:06d}"
    with replacing(target, overwrite=True) as folder:
        folder.mkdir()
        save_model(model, vocabulary, folder)
        moments = {
            f"{name}.{key}": value.detach().contiguous().cpu()
            for name, parameter in model.named_parameters()
            for key, value in optimizer.state[parameter].items()
        }
        save_file(moments, folder / _OPTIMIZER)
        state = {"format": 1, "step": step, "hashes": {name: _hash(folder / name) for name in _HASHED}}
        (folder / _STATE).write_text(json.dumps(state, indent=2))
    sync(output / FOLDER)
    for _, path in checkpoints(output)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    return target


def newest_checkpoint(output: Path) -> tuple[int, Path] | None:
    """The newest whole checkpoint; those that a fault left damaged are passed over. None if there is none."""
    for step, path in reversed(checkpoints(output)):
        try:
            state = json.loads((path / _STATE).read_text())
            if state["step"] == step and all(_hash(path / name) == state["hashes"][name] for name in _HASHED):
                return step, path
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def read_checkpoint(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Bring model and optimizer to where they stood."""
    from safetensors.torch import load_file

    load_weights(model, path)
    moments = load_file(path / _OPTIMIZER)
    for name, parameter in model.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"{name}.{key}" in moments:  # a parameter that took no part in the loss has none
                # Copied: rounding may depend on how memory is aligned. AdamW keeps its step on the CPU.
                device = torch.device("cpu") if key == "step" else parameter.device
                optimizer.state[parameter][key] = moments[f"{name}.{key}"].clone().to(device)


def remove_leftovers(output: Path, after: int) -> None:
    """Remove what a killed run left half-written, and damaged checkpoints beyond step `after`."""
    for folder in (output, output / FOLDER):
        for path in [*folder.glob(".*.part*"), *folder.glob(".*.old")]:
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
