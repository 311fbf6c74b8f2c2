"""The command itself: its commands, and how any of them ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import click

from replay.cli import (
    checkpoint,
    diff,
    export,
    head,
    import_git,
    import_jsonl,
    log,
    rebuild,
    recover,
    restore,
    salvage,
    search,
    show,
    stats,
    verify,
)
from replay.cli.common import CONTEXT_SETTINGS, debug_option
from replay.cli.failures import FINE, Carried, Run, report, shown_warnings
from replay.cli.output import flush

__all__ = ["replay"]


class Replay(click.Group):
    """A group whose errors are one line each and whose exit codes are this product's, not click's."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit; shell completion, and calls that want no exit, are left to click."""
        if not standalone_mode or os.environ.get(complete_var or "_REPLAY_COMPLETE"):
            return super().main(args, prog_name, complete_var, standalone_mode, **extra)
        run = Run()
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character shows its number; that is no reason to fail.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with shown_warnings():
                code = super().main(args, prog_name, complete_var, False, obj=run, **extra) or FINE
                flush()
        except BaseException as error:
            code = report(error, run)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what click's `main` would answer in its own way is carried past it."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise Carried from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added: from looking to changing."""
        return list(self.commands)


def _version() -> str:
    try:
        return metadata.version("asof")
    except metadata.PackageNotFoundError:
        return "(not installed)"


@click.group(cls=Replay, context_settings=CONTEXT_SETTINGS)
@click.version_option(_version(), prog_name="replay", message="%(prog)s %(version)s")
@debug_option
def replay() -> None:
    """Look at, verify, rewind and rebuild a history of memories.

    DB is the history's database file. An instant T is ISO 8601 with a zone (2026-11-24T06:50:00Z), a position
    in the history (1932), an age (90s, 15m, 2h, 3d, 1w) or "now".

    Exit codes: 0 fine, 1 a check found something, 2 wrong usage, 3 could not do it, 130 interrupted.
    """


@click.group("import", context_settings=CONTEXT_SETTINGS)
def import_() -> None:
    """Record a foreign history, with its own times."""


for each in (
    log.log,
    show.show,
    search.search,
    diff.diff,
    stats.stats,
    head.head,
    verify.verify,
    recover.recover,
    salvage.salvage,
    restore.restore,
    rebuild.rebuild,
    checkpoint.checkpoint,
    import_,
    export.export,
):
    replay.add_command(each)
import_.add_command(import_git.git)
import_.add_command(import_jsonl.jsonl)
