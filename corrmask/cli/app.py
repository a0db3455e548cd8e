"""`corrmask`: the commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import typer

from corrmask.cli.audit import audit
from corrmask.cli.bench import app as bench_app
from corrmask.cli.console import err
from corrmask.cli.demo import demo
from corrmask.cli.embed import embed
from corrmask.cli.enrich import enrich
from corrmask.cli.evaluate import app as evaluate_app
from corrmask.cli.graph import graph
from corrmask.cli.pretrain import pretrain
from corrmask.cli.simulate import simulate
from corrmask.cli.tokenize import tokenize
from corrmask.errors import InputError, InputWarning
from corrmask.files import explain

app = typer.Typer(
    name="corrmask",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Mask correlated genes jointly when single-cell foundation models are pre-trained.",
)


def _click_errors(name: str) -> Any:
    """A kind of error of click: of click itself, on which older typer stands, and of the copy inside newer ones."""
    found = []
    for module in ("click.exceptions", "typer._click.exceptions"):
        try:
            found.append(getattr(import_module(module), name))
        except (ImportError, AttributeError):
            continue
    return tuple(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit code 0 on success, 2 with one line on stderr for bad input, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_note, warnings.showwarning, set())
            code = app(args=None if arguments is None else list(arguments), prog_name="corrmask", standalone_mode=False)
    except InputError as error:
        fail(str(error))
    except _click_errors("NoArgsIsHelpError") as error:
        err.print(error.format_message(), markup=False)
        raise SystemExit(2) from None
    except _click_errors("ClickException") as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "corrmask")
        said = error.format_message().rstrip(".")
        given = _given(error, sys.argv[1:] if arguments is None else arguments)
        fail(f"{said}{'' if given in said else f', got {given!r}'}; see {command} --help")
    except (*_click_errors("Abort"), KeyboardInterrupt):
        err.print("corrmask: interrupted", markup=False)
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("corrmask"):
            raise
        fail(f"this command needs the package {error.name!r}: pip install 'corrmask[train,eval]'")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        fail(explain(error, error.filename or "the output folder"))
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _given(error: Exception, arguments: Sequence[str]) -> str:
    """The value of the option that an error is about, if it has one: not every typer says it."""
    for option in getattr(getattr(error, "param", None), "opts", ()):
        for one, following in zip(arguments, [*arguments[1:], ""]):
            if one == option:
                return following
            if one.startswith(f"{option}="):
                return one.removeprefix(f"{option}=")
    return ""


def _note(
    show: Callable[..., None], said: set[str], message: Warning | str, category: type[Warning], *rest: Any
) -> None:
    """Show a warning: one line, once, for those that are the user's to judge."""
    if issubclass(category, InputWarning):
        if str(message) not in said:
            said.add(str(message))
            err.print(f"corrmask: {message}", markup=False)
    else:
        show(message, category, *rest)


def _terminate(signum: int, frame: Any) -> None:
    """End by way of the handlers that remove what is half-written."""
    raise SystemExit(128 + signum)


def fail(message: str) -> None:
    """Print `message` as one line on stderr and exit with code 2."""
    err.print("corrmask: " + " ".join(message.split()), markup=False)
    raise SystemExit(2)


app.add_typer(evaluate_app, name="evaluate")
app.add_typer(bench_app, name="bench")


@app.callback()
def commands() -> None:
    """Keep the command's name part of the line even while there is only one."""


app.command()(simulate)
app.command()(tokenize)
app.command()(graph)
app.command()(pretrain)
app.command()(embed)
app.command()(audit)
app.command()(enrich)
app.command()(demo)
