"""`replay show`: one memory and how it came to be what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
import orjson
from rich.text import Text

from eventstore import AsOf, Event, EventStore, Memory, MemoryNotFound
from replay.cli.common import as_of_option, command, database_argument
from replay.cli.output import Cell, Column, facts, print_json, say, table
from replay.cli.records import event_record, memory_record
from replay.cli.styles import added_text, changed_metadata, changed_text, event_type, explained
from replay.cli.text import instant, one_line

__all__ = ["show"]

_COLUMNS = (
    Column("#", style="cyan", right=True),
    Column("recorded at"),
    Column("event"),
    Column("v", right=True),
    Column("by and why, and what changed", share=1, lines=0),
)


@command("show", "Show a memory and its timeline.")
@database_argument
@click.argument("memory_id")
@as_of_option(help="The memory as it was as of T, and its events up to then.")
def show(database: str, memory_id: str, as_of: AsOf, as_json: bool) -> None:
    """Show a memory and its timeline: every event of it, and what each changed."""
    with EventStore(database) as store:
        position = store.position_at(as_of)
        memory = store.get(memory_id, as_of=position)
        events = list(store.events(memory_id=memory_id, upto=position))
        if not events:
            raise MemoryNotFound(
                f"{database} has no memory {memory_id!r} as of position {position}: `replay log` lists what there is"
            )
    if as_json:
        print_json(
            {
                "position": position,
                "memory": None if memory is None else memory_record(memory),
                "events": [event_record(event) for event in events],
            }
        )
        return
    facts(_facts(memory_id, memory, events))
    if memory is not None:
        say(f"\n{memory.content}\n")
    table(_COLUMNS, _timeline(events))


def _facts(memory_id: str, memory: Memory | None, events: Sequence[Event]) -> Iterator[tuple[str, Cell]]:
    yield "memory", Text(one_line(memory_id), style="bold")
    if memory is None:
        yield "deleted at", f"{instant(events[-1].recorded_at)}, position {events[-1].position}"
        return
    yield "version", f"{memory.version}, position {memory.position}"
    yield "created at", instant(memory.created_at)
    yield "updated at", None if memory.updated_at is None else instant(memory.updated_at)
    yield "by", memory.actor_id if memory.role is None else f"{memory.actor_id or '?'} ({memory.role})"
    yield "metadata", orjson.dumps(memory.metadata).decode() if memory.metadata else None


def _timeline(events: Sequence[Event]) -> Iterator[list[Cell]]:
    for before, event in zip([None, *events[:-1]], events, strict=True):
        yield [
            str(event.position),
            instant(event.recorded_at),
            event_type(event.type),
            str(event.version),
            _what(before, event),
        ]


def _what(before: Event | None, event: Event) -> Text:
    parts = [explained(event, content=False)]
    if event.type == "ADD" and event.content:
        parts.append(added_text(event.content))
    elif event.type == "UPDATE" and before is not None:
        parts.append(changed_text(before.content or "", event.content or ""))
        parts.append(changed_metadata(before.metadata or {}, event.metadata or {}))
    text = Text("\n", no_wrap=True, overflow="ellipsis").join([part for part in parts if part])
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
