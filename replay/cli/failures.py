"""How a command ends badly: one line on stderr that says what to do, and an exit code."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import click

from eventstore import AsofError
from replay.cli.text import one_line

__all__ = [
    "FAILED",
    "FINE",
    "FOUND",
    "WRONG_USAGE",
    "Carried",
    "OutputClosed",
    "Run",
    "report",
    "shown_warnings",
    "warn",
]

FINE = 0
FOUND = 1
WRONG_USAGE = 2
FAILED = 3
INTERRUPTED = 130  # 128 + SIGINT and, below, 128 + SIGPIPE: what a shell says of a program that a signal ended
OUTPUT_CLOSED = 141

# The library's errors say what to do in Python; these are the same remedies on the command line.
_REMEDIES = {
    r"import with keep_times=False": "import with --no-keep-times",
    r"open the store with allow_zero_vectors=True": "import with --allow-zero-vectors",
    r"(?:open )?with accept_embedder_change=True": "with --accept-embedder-change",
    r"open the store with embedder=\.\.\.": "name one with --embedder MODULE:ATTRIBUTE",
    r"give an aware datetime or ISO 8601 with a zone": "give ISO 8601 with a zone",
}


@dataclass
class Run:
    """What is true of one run of the command: whether a failure is shown with its traceback."""

    debug: bool = False


class Carried(Exception):
    """Carries its cause past click's `main`, which would answer it in its own way."""


class OutputClosed(Exception):
    """Nobody reads standard output any more, as when piped into `head`."""


def report(error: BaseException, run: Run) -> int:
    """Say what went wrong, in one line on stderr, and return the exit code for it."""
    if isinstance(error, Carried) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    if isinstance(error, OutputClosed):
        _abandon_stdout()
        return OUTPUT_CLOSED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help(), err=True)
        return WRONG_USAGE
    if run.debug:
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        _say("error", _usage(error))
        return WRONG_USAGE
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        _say("interrupted", "nothing is left half done")
        return INTERRUPTED
    _say("error", _failure(error))
    return FAILED


def _usage(error: click.ClickException) -> str:
    message = error.format_message().strip().removesuffix(".")
    message = message[:1].lower() + message[1:]
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        return message  # ours, or click's as good: it says what to give
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = "replay" if context is None else context.command_path
    return f"{message}; `{command} --help` shows what it takes"


def _failure(error: BaseException) -> str:
    if isinstance(error, AsofError):
        message = str(error)
        for pattern, remedy in _REMEDIES.items():
            message = re.sub(pattern, remedy, message)
        return message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the operating system refused'}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "out of memory: nothing was changed; free some, or work on less at a time"
    return f"{type(error).__name__}: {error}; --debug shows where it comes from"


def warn(message: str) -> None:
    """One line on stderr about what the user should know and the command can do without."""
    _say("warning", message)


def _say(kind: str, message: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        colour = {"warning": "yellow", "error": "red"}.get(kind)
        styled = kind if colour is None or os.environ.get("NO_COLOR") else click.style(kind, fg=colour)
        click.echo(f"{styled}: {one_line(message)}", err=True)


@contextlib.contextmanager
def shown_warnings() -> Iterator[None]:
    """Show the library's warnings as one line each on stderr, not as Python shows them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        warn(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("always", RuntimeWarning)
        # Typed as any: mypy takes a module's function for a constant.
        module: Any = warnings
        module.showwarning = show
        yield


def _abandon_stdout() -> None:
    # Python flushes stdout once more as it ends, and would complain.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
