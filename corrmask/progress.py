"""How long work reports where it is: a callback, so that the library needs no terminal."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as ``progress("tokenize", done, total)``; ``total`` is None where it is not known."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


def silent(stage: str, done: int, total: int | None) -> None:
    """Report nothing: the default of every ``progress`` argument."""
