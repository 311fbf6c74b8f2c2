"""`replay stats`: a history in numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from eventstore import AsOf, EventStore
from replay.cli.common import as_of_option, command, database_argument
from replay.cli.output import Cell, facts, print_json
from replay.cli.records import instant_text
from replay.cli.text import counted, instant, path_text

__all__ = ["stats"]


@command("stats", "Show a history in numbers.")
@database_argument
@as_of_option(help="The numbers as they were as of T.")
def stats(database: str, as_of: AsOf, as_json: bool) -> None:
    """Count events by type, memories, actors and sources, and say when they are from."""
    with EventStore(database) as store:
        found = _counted(store, as_of)
    if as_json:
        print_json({name: instant_text(value) if name.endswith("_at") else value for name, value in found.items()})
    else:
        facts(_facts(found))


def _counted(store: EventStore, as_of: AsOf) -> dict[str, Any]:
    head = store.head_at(as_of)
    first = store.head_at(1).recorded_at if head.position else None
    # There is no call for totals, and streaming all events to count them would read every payload.
    fetch = store._connections.fetch
    types: dict[str, int] = dict(
        fetch("SELECT type, count(*) FROM events WHERE seq <= ? GROUP BY type", (head.position,))
    )
    (memories, actors, sources), *_ = fetch(
        "SELECT count(DISTINCT memory_id), count(DISTINCT actor_id), count(DISTINCT source) FROM events WHERE seq <= ?",
        (head.position,),
    )
    return {
        "database": path_text(store.path),
        "position": head.position,
        "hash": head.hash,
        "first_recorded_at": first,
        "last_recorded_at": head.recorded_at,
        "events": {type_: types.get(type_, 0) for type_ in ("ADD", "UPDATE", "DELETE")},
        "memories": store.count(as_of=head.position),
        "memories_ever": memories,
        "actors": actors,
        "sources": sources,
        "dimension": store.dimension,
        "embedder": store.embedder_name,
        "bytes": os.path.getsize(store.path),
    }


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, Cell]]:
    types = found["events"]
    yield "database", f"{found['database']} ({_size(found['bytes'])})"
    yield "events", f"{found['position']:,} ({', '.join(f'{count:,} {type_}' for type_, count in types.items())})"
    if found["position"]:
        yield "from", instant(found["first_recorded_at"])
        yield "to", instant(found["last_recorded_at"])
    yield "memories", f"{found['memories']:,} live, {found['memories_ever']:,} ever"
    yield "by", f"{counted(found['actors'], 'actor')}, from {counted(found['sources'], 'imported source')}"
    if found["dimension"] is not None:
        by = f"embedder {found['embedder']}" if found["embedder"] else "no embedder on record"
        yield "vectors", f"{found['dimension']} numbers, {by}"
    yield "head", f"{found['position']}:{found['hash']}"


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
