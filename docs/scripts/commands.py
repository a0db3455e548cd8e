"""The page of the command line: every command's --help, as a terminal shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTH = "88"  # what the page holds without a bar

INTRODUCTION = """# Command line

Every command has `--help` with an example. Bad input is one line on stderr and exit code 2; an interrupted command
exits with 130. Nothing half-written is left. What follows is printed by the commands themselves.

"""


def helps() -> Iterator[tuple[str, str]]:
    """Each command (``corrmask evaluate genes``) and its --help."""
    # Read when typer is imported; a colour or a box drawn wider would differ from machine to machine.
    os.environ["TERMINAL_WIDTH"] = WIDTH
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
        os.environ.pop(name, None)
    import typer
    from typer.testing import CliRunner

    from corrmask.cli.app import app

    def walk(command: Any, words: list[str]) -> Iterator[list[str]]:
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*words, name])

    for words in walk(typer.main.get_command(app), []):
        result = CliRunner().invoke(app, [*words, "--help"], prog_name="corrmask", color=False)
        assert result.exit_code == 0, result.output
        lines = [line.rstrip() for line in result.output.splitlines()]
        yield " ".join(["corrmask", *words]), "\n".join(lines).strip("\n")


def page() -> str:
    """The page, in Markdown."""
    sections = [f"## {name}\n\n```text\n{text}\n```\n" for name, text in helps()]
    return INTRODUCTION + "\n".join(sections)


def write(path: Path) -> None:
    """Write the page, where it differs: Sphinx reads again what is new."""
    text = page()
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
