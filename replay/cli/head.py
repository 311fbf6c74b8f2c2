"""`replay head`: what to keep elsewhere, to be able to prove later what the history was."""

from __future__ import annotations

from eventstore import AsOf, EventStore
from replay.cli.common import as_of_option, command, database_argument
from replay.cli.output import facts, print_json
from replay.cli.records import head_record
from replay.cli.text import instant

__all__ = ["head"]


@command("head", "Print what proves later what the history was.")
@database_argument
@as_of_option(help="The head as it was as of T.")
def head(database: str, as_of: AsOf, as_json: bool) -> None:
    """Print the head: position, time and hash of the last event.

    Kept elsewhere, it shows later whether the history still contains it: verify --against.
    """
    with EventStore(database) as store:
        found = store.head_at(as_of)
    if as_json:
        print_json(head_record(found))
        return
    facts(
        [
            ("head", f"{found.position}:{found.hash}"),
            ("recorded at", None if found.recorded_at is None else instant(found.recorded_at)),
        ]
    )
