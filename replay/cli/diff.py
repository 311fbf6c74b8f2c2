"""`replay diff`: what differs between two instants."""

from __future__ import annotations

from collections.abc import Iterator

import click
from rich.text import Text

from eventstore import AsOf, EventStore, Memory
from replay.cli.common import command, database_argument
from replay.cli.failures import FOUND
from replay.cli.output import Cell, Column, print_json, say, table
from replay.cli.parameters import AS_OF
from replay.cli.records import diff_record
from replay.cli.styles import added_text, changed_metadata, changed_text, removed_text
from replay.cli.text import instant
from replay.diff import Diff
from replay.diff import diff as compare

__all__ = ["diff", "diff_table", "summary", "when"]

_COLUMNS = (
    Column(""),
    Column("memory", share=3, is_id=True),
    Column("v", right=True),
    Column("what", share=4, lines=0),
)


@command("diff", "Show what differs between two instants.")
@database_argument
@click.argument("a", metavar="A", type=AS_OF)
@click.argument("b", metavar="[B]", type=AS_OF, default="now")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there are differences.")
def diff(database: str, a: AsOf, b: AsOf, exit_code: bool, as_json: bool) -> None:
    """Show which memories were added (+), updated (~) and deleted (-) from A to B, both instants.

    B is now unless given, and may be earlier than A. What was undone in between does not show.
    """
    with EventStore(database) as store:
        found = compare(store, a, b)
        if as_json:
            print_json(diff_record(found))
        else:
            diff_table(found)
            say(f"{summary(found)} from {when(store, found.a)} to {when(store, found.b)}")
    if exit_code and found:
        raise click.exceptions.Exit(FOUND)


def summary(diff: Diff) -> str:
    """How many memories a diff adds, updates and deletes."""
    return f"{len(diff.added):,} added, {len(diff.updated):,} updated, {len(diff.deleted):,} deleted"


def when(store: EventStore, position: int) -> str:
    """A position, and when it was recorded."""
    head = store.head_at(position)
    return f"position {position}" + (f" ({instant(head.recorded_at)})" if head.recorded_at else "")


def diff_table(diff: Diff) -> None:
    """Print a diff; nothing for an empty one."""
    if table(_COLUMNS, _rows(diff)):
        say("")


def _rows(diff: Diff) -> Iterator[list[Cell]]:
    for memory in diff.added:
        yield [Text("+", style="green"), memory.memory_id, _version(memory), added_text(memory.content)]
    for change in diff.updated:
        before, after = change.before, change.after
        parts = [changed_text(before.content, after.content), changed_metadata(before.metadata, after.metadata)]
        what = Text("\n").join([part for part in parts if part]) or Text("another vector", style="dim")
        what.no_wrap, what.overflow = True, "ellipsis"
        yield [Text("~", style="yellow"), after.memory_id, f"{_version(before)}→{_version(after)}", what]
    for memory in diff.deleted:
        yield [Text("-", style="red"), memory.memory_id, _version(memory), removed_text(memory.content)]


def _version(memory: Memory) -> str:
    return str(memory.version)
