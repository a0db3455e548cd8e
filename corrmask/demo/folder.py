"""The folder of a run: what it was asked for, and which stages are finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corrmask.errors import InputError
from corrmask.files import Contents, check_own, replacing

RECORD = "settings.json"
_STAGES = ("corpus", "graph.h5ad", "audit", "models", "cells.h5ad", "genes", "evaluation.json", "index.html")
_CONTENTS = Contents((RECORD,), (RECORD, *_STAGES, ".*.part"))


def prepare(folder: Path, record: dict[str, Any], overwrite: bool) -> bool:
    """Make the folder, or take up the stages of the run that it holds; whether it is new."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        earlier = _read_record(folder)
        if earlier is None:
            raise InputError(f"output {str(folder)!r} exists and holds no demo; choose another name")
        changed = [
            name
            for name in ("input_hash", *record["settings"])
            if (earlier if name == "input_hash" else earlier["settings"]).get(name)
            != (record if name == "input_hash" else record["settings"])[name]
        ]
        if changed and not overwrite:
            raise InputError(
                f"output {str(folder)!r} holds a demo with other settings ({', '.join(changed)}); pass --overwrite "
                "(overwrite=True) or choose another name"
            )
        if not overwrite:
            record |= {name: earlier[name] for name in ("stages", "tokenize") if name in earlier}
            return False
        check_own(folder, _CONTENTS)
        shutil.rmtree(folder)
    created = not folder.exists()
    folder.mkdir(exist_ok=True)
    write_record(folder, record)
    return created


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        earlier = json.loads((folder / RECORD).read_text())
        if earlier["kind"] == "demo" and isinstance(earlier["stages"], dict) and isinstance(earlier["settings"], dict):
            return dict(earlier)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace ``settings.json`` in one step."""
    with replacing(folder / RECORD, overwrite=True) as path:
        path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
