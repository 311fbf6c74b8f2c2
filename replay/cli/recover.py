"""`replay recover`: the history up to an instant as a new database file."""

from __future__ import annotations

import click

from eventstore import AsOf, EventStore
from replay.cli.common import as_of_option, command, database_argument
from replay.cli.output import print_json, say
from replay.cli.parameters import NEW_DATABASE
from replay.cli.progress import progress
from replay.cli.records import head_record
from replay.cli.text import counted, instant, path_text
from replay.recover import recover as recover_history

__all__ = ["recover"]


@command("recover", "Make a new database of the history up to T.")
@database_argument
@as_of_option(required=True, help="The instant to recover.")
@click.option("--to", metavar="NEW", type=NEW_DATABASE, required=True, help="The new database file; it must not exist.")
def recover(database: str, as_of: AsOf, to: str, as_json: bool) -> None:
    """Make NEW a database that is the history of DB up to T, with the same chain, ready to open.

    DB is only read. NEW appears whole or not at all.
    """
    with EventStore(database) as store, progress("Recovering") as report:
        head = recover_history(store, as_of, to, progress=report)
    if as_json:
        print_json({"database": path_text(to), **head_record(head)})
    else:
        at = "" if head.recorded_at is None else f", as of {instant(head.recorded_at)}"
        say(f"{path_text(to)} holds {counted(head.position, 'event')}{at}")
