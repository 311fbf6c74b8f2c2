"""What the tests of replay share: random histories, a naive fold of events, and a way round the triggers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from hypothesis import strategies as st

import eventstore.testing as kit
from eventstore import Event, EventStore, Head, Operation
from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from replay import Diff, State

# Equal to Python, not to the history: True and 1 and 1.0.
METADATA = ({}, {"n": 1}, {"n": True}, {"n": 1.0}, {"tags": ["x"], "user": None})

Content = tuple[str, bytes, bytes]
"""What a memory is apart from when and how it came to be so: content, metadata and embedding as they are recorded."""


def histories(*, most: int = 6) -> st.SearchStrategy[kit.History]:
    """Up to `most` appends on four memories, with adds, updates, deletes and adds again."""
    return kit.histories(0, most, dim=2, ids=("a", "b", "c", "d"), batch=4, metadata=st.sampled_from(METADATA))


def told(appends: Iterable[Sequence[Operation]], path: str | Path = ":memory:") -> EventStore:
    """A store that was told a history."""
    store = EventStore(path)
    for operations in appends:
        store.append(operations)
    return store


def folded_to(store: EventStore, position: int) -> dict[str, Content]:
    """The kit's naive fold of a store's first events, in the order in which each memory got its state."""
    live = kit.ModelStore.of(store.events(upto=position)).state()
    return {name: (each.content or "", as_json(each.metadata), each.embedding or b"") for name, each in live.items()}


def seen(state: State) -> dict[str, Content]:
    """A state in the form of the naive fold."""
    return {
        memory_id: (memory.content, as_json(memory.metadata), state.vectors[memory_id].tobytes())
        for memory_id, memory in state.memories.items()
    }


def as_json(value: Any) -> bytes:
    """JSON, which tells 1 from True."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def summary(diff: Diff) -> tuple[list[str], list[str], list[str]]:
    """The ids that were added, updated and deleted."""
    return (
        [memory.memory_id for memory in diff.added],
        [change.after.memory_id for change in diff.updated],
        [memory.memory_id for memory in diff.deleted],
    )


# -- tampering ----------------------------------------------------------------------------------------------


def tamper(path: Path, *statements: str | tuple[str, Sequence[Any]], reseal: bool = False) -> None:
    """Run SQL on a history as somebody does who drops the triggers first and puts them back.

    With `reseal` the digests and the whole chain are computed anew, so that they show nothing.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            sql, parameters = (statement, ()) if isinstance(statement, str) else statement
            connection.execute(sql, parameters)
        if reseal:
            _reseal(connection)
        for _, sql in triggers:
            connection.execute(sql)


def _reseal(connection: sqlite3.Connection) -> None:
    payloads = {row[0]: PayloadRow(*row) for row in connection.execute("SELECT * FROM payloads")}
    before = GENESIS
    for row in connection.execute("SELECT * FROM events ORDER BY seq").fetchall():
        header = EventRow(*row)
        if header.seq in payloads:
            header = header._replace(payload_digest=payload_digest(*payloads[header.seq][1:]))
        before = event_hash(before, *header[:-1])
        connection.execute(
            "UPDATE events SET payload_digest = ?, hash = ? WHERE seq = ?", (header.payload_digest, before, header.seq)
        )


@dataclass(frozen=True)
class Sound:
    """A sound history: the bytes of its file, its events and its head."""

    content: bytes = field(repr=False)
    events: list[Event] = field(repr=False)
    head: Head

    def at(self, position: int) -> Event:
        """The event at a position."""
        return self.events[position - 1]


def sound(store: EventStore, path: Path) -> Sound:
    """Close a store and take what it held."""
    events, head = list(store.events()), store.head
    store.close()
    return Sound(path.read_bytes(), events, head)


def large_history(path: Path) -> Sound:
    """A history of 600 events of as many memories, on some thirty pages, in a tree of two levels."""
    with EventStore(path) as store:
        for start in range(0, 600, 50):
            ids = [f"{number:04d}" for number in range(start, start + 50)]
            store.add_many(["text " * 30] * 50, vectors=[[float(start), 2.0] * 16] * 50, memory_ids=ids)
        return sound(store, path)
