"""`replay restore`: the present becomes what it was, by appending."""

from __future__ import annotations

import shlex

import click

from eventstore import AsOf, EventStore
from replay.cli.common import as_of_option, command, database_argument
from replay.cli.diff import diff_table, summary, when
from replay.cli.output import print_json, say
from replay.cli.records import diff_record
from replay.cli.text import counted, path_text
from replay.restore import Restored
from replay.restore import restore as restore_memories

__all__ = ["restore"]


@command("restore", "Bring the memories back to what they were.")
@database_argument
@as_of_option(required=True, help="The instant to go back to.")
@click.option("--reason", metavar="TEXT", help="Why, recorded with every event.")
@click.option("--actor", "actor_id", metavar="ID", help="Who, recorded with every event.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would change, and change nothing.")
def restore(database: str, as_of: AsOf, reason: str | None, actor_id: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring the memories back to what they were as of T, by appending the events that undo what came after.

    Nothing is lost: the history stays, and restoring to the position before undoes the restore.
    """
    with EventStore(database) as store:
        done = restore_memories(store, as_of, reason=reason, actor_id=actor_id, dry_run=dry_run)
        if as_json:
            print_json(
                {
                    "dry_run": dry_run,
                    "events": len(done.events),
                    "position_before": done.position_before,
                    "position_after": done.position_after,
                    "diff": diff_record(done.diff),
                }
            )
            return
        if dry_run:
            diff_table(done.diff)
        say(_told(store, database, done, dry_run))


def _told(store: EventStore, database: str, done: Restored, dry_run: bool) -> str:
    target = when(store, done.diff.b)
    if not done.diff:
        return f"nothing to restore: the memories are as they were at {target}"
    if dry_run:
        return f"would change back to {target}: {summary(done.diff)}; nothing was changed"
    return (
        f"restored to {target}: {summary(done.diff)}, in {counted(len(done.events), 'new event')}\n"
        f"to undo it: replay restore {shlex.quote(path_text(database))} --as-of {done.position_before}"
    )
