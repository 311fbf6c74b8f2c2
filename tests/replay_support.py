"""What the tests of replay share: random histories, a naive fold of events, and a way round the triggers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
from hypothesis import strategies as st

from eventstore import Add, Delete, Event, EventStore, Operation, Update
from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from replay import Diff, State

IDS = ("a", "b", "c", "d")
CONTENTS = ("tea", "coffee", "", "tee ☕")
# Equal to Python, not to the history: True and 1 and 1.0, and the two zeros of a vector.
METADATA = ({}, {"n": 1}, {"n": True}, {"n": 1.0}, {"tags": ["x"], "user": None})
VECTORS = ((1.0, 0.0), (1.0, -0.0), (0.5, -2.0), (3.0, 4.0))

Content = tuple[str, bytes, bytes]
"""What a memory is apart from when and how it came to be so: content, metadata and embedding as they are recorded."""


@st.composite
def histories(draw: st.DrawFn, *, most: int = 6) -> list[list[Operation]]:
    """Up to `most` appends on four memories, with adds, updates, deletes and adds again."""
    live: set[str] = set()
    appends: list[list[Operation]] = []
    for _ in range(draw(st.integers(0, most))):
        operations: list[Operation] = []
        for _ in range(draw(st.integers(1, 4))):
            memory_id = draw(st.sampled_from(IDS))
            content, metadata, vector = (
                draw(st.sampled_from(CONTENTS)),
                draw(st.sampled_from(METADATA)),
                draw(st.sampled_from(VECTORS)),
            )
            if memory_id not in live:
                live.add(memory_id)
                operations.append(Add(memory_id=memory_id, content=content, metadata=metadata, vector=vector))
            elif draw(st.integers(0, 2)) == 0:
                live.remove(memory_id)
                operations.append(Delete(memory_id=memory_id))
            elif draw(st.booleans()):
                operations.append(Update(memory_id=memory_id, metadata=metadata))  # keeps the embedding
            else:
                operations.append(Update(memory_id=memory_id, content=content, vector=vector))
        appends.append(operations)
    return appends


def told(appends: Iterable[Sequence[Operation]], path: str | Path = ":memory:") -> EventStore:
    """A store that was told a history."""
    store = EventStore(path)
    for operations in appends:
        store.append(operations)
    return store


def fold(events: Iterable[Event]) -> dict[str, Content]:
    """The memories that are live after some events, in the order in which each got its state."""
    live: dict[str, Content] = {}
    for event in events:
        live.pop(event.memory_id, None)
        if event.type != "DELETE":
            assert event.content is not None
            assert event.embedding is not None
            live[event.memory_id] = (event.content, as_json(event.metadata), event.embedding)
    return live


def folded_to(store: EventStore, position: int) -> dict[str, Content]:
    """The naive fold of a store's first events."""
    return fold(store.events(upto=position))


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
