"""`replay log`: the events of a history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from eventstore import AsOf, Event, EventStore, EventType
from replay.cli.common import command, database_argument
from replay.cli.output import Cell, Column, print_line, say, table
from replay.cli.parameters import AS_OF, BOUND
from replay.cli.records import event_record
from replay.cli.styles import event_type, explained
from replay.cli.text import instant

__all__ = ["log"]

_COLUMNS = (
    Column("#", style="cyan", right=True),
    Column("recorded at"),
    Column("event"),
    Column("v", right=True),
    Column("memory", share=1, is_id=True),
    Column("by and why", share=1, lines=2),
)


@command("log", "List events, oldest first.")
@database_argument
@click.option("--memory", "memory_id", metavar="ID", help="Only events of this memory.")
@click.option("--actor", "actor_id", metavar="ID", help="Only events by this actor.")
@click.option("--role", metavar="ROLE", help="Only events by actors in this role.")
@click.option(
    "--type",
    "type_",
    metavar="TYPE",
    type=click.Choice(["ADD", "UPDATE", "DELETE"], case_sensitive=False),
    help="Only events of this type: ADD, UPDATE or DELETE.",
)
@click.option("--since", metavar="T", type=BOUND, help="Only events recorded at T or later.")
@click.option("--until", metavar="T", type=BOUND, help="Only events recorded at T or earlier.")
@click.option("--correlation", "correlation_id", metavar="ID", help="Only events with this correlation id.")
@click.option("--after", metavar="POSITION", type=click.IntRange(min=0), default=0, help="Only events past POSITION.")
@click.option("--upto", metavar="T", type=AS_OF, help="The history as of T: no event after it.")
@click.option("--reverse", is_flag=True, help="Newest first.")
@click.option("-n", "--limit", metavar="N", type=click.IntRange(min=1), help="At most N events.")
def log(
    database: str,
    memory_id: str | None,
    actor_id: str | None,
    role: str | None,
    type_: EventType | None,
    since: AsOf,
    until: AsOf,
    correlation_id: str | None,
    after: int,
    upto: AsOf,
    reverse: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """List events, oldest first. All filters must hold; times bound what is listed, both ends included.

    With --json one event a line.
    """
    with EventStore(database) as store:
        last = store.position_at(upto)
        if isinstance(since, int):
            since, after = None, max(after, store.position_at(since) - 1)
        if isinstance(until, int):
            until, last = None, min(last, store.position_at(until))
        events = store.events(
            after=after,
            upto=last,
            memory_id=memory_id,
            actor_id=actor_id,
            role=role,
            type=type_,
            since=since,
            until=until,
            correlation_id=correlation_id,
            reverse=reverse,
            limit=limit,
        )
        if as_json:
            for event in events:
                print_line(event_record(event))
        elif not table(_COLUMNS, _rows(events)):
            say("no events", style="dim")


def _rows(events: Iterable[Event]) -> Iterator[list[Cell]]:
    for event in events:
        yield [
            str(event.position),
            instant(event.recorded_at),
            event_type(event.type),
            str(event.version),
            event.memory_id,
            explained(event),
        ]
