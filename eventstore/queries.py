"""The SQL of every read, as text and parameters: what a test can ask SQLite to explain.

Each names its index, or says that positions are the order: left to itself the planner at times takes another
index and sorts, or after an ANALYZE scans one. `version > 0` is always so, and keeps it from sorting versions that
the index has in order already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventstore.checks import MAX_DIMENSION
from eventstore.schema import EVENT_COLUMNS

__all__ = [
    "COMPARE_INDEXES",
    "CURRENT_POSITION",
    "DIMENSION",
    "HASH_AT",
    "HEAD",
    "HEADERS",
    "HEADER_RANGE",
    "LAST_OF_MEMORY",
    "PAYLOADS",
    "PAYLOAD_COLUMNS",
    "PAYLOAD_RANGE",
    "POSITION_AT",
    "WHOLE",
    "EventSelection",
]

# A header is checked against the hash of the event before, so that comes with it.
_HEADER = ", ".join(f"e.{name}" for name in EVENT_COLUMNS)
HEADERS = f"SELECT {_HEADER}, (SELECT hash FROM events WHERE seq = e.seq - 1) FROM events e"
HEADER_RANGE = f"SELECT {', '.join(EVENT_COLUMNS)} FROM events NOT INDEXED WHERE seq >= ? AND seq <= ? ORDER BY seq"

# A blob that is longer than any embedding is not read, so that a file cannot make its reader hold it: in its place
# comes its length, which no digest matches. (SQLite knows a blob's length without reading it.)
PAYLOAD_COLUMNS = (
    "seq, salt, content, metadata,"
    f" CASE WHEN length(embedding) > {4 * MAX_DIMENSION} THEN length(embedding) ELSE embedding END"
)
PAYLOADS = f"SELECT {PAYLOAD_COLUMNS} FROM payloads"
PAYLOAD_RANGE = f"{PAYLOADS} WHERE seq >= ? AND seq <= ? ORDER BY seq"
WHOLE = (
    f"SELECT {_HEADER}, (SELECT hash FROM events WHERE seq = e.seq - 1), p.*"
    f" FROM events e NOT INDEXED LEFT JOIN ({PAYLOADS}) p ON p.seq = e.seq"
)

LAST_OF_MEMORY = (
    f"{HEADERS} INDEXED BY events_memory WHERE e.memory_id = ? AND e.version > 0 ORDER BY e.version DESC LIMIT 1"
)

CURRENT_POSITION = (
    "SELECT seq, type FROM events INDEXED BY events_memory"
    " WHERE memory_id = ? AND version > 0 AND seq <= ? ORDER BY version DESC LIMIT 1"
)

# The last event of an instant: recorded_at never decreases, so among equals the largest seq is the last.
POSITION_AT = (
    "SELECT seq FROM events INDEXED BY events_recorded_at"
    " WHERE recorded_at <= ? ORDER BY recorded_at DESC, seq DESC LIMIT 1"
)

# With how many events SQLite has counted: fewer rows than that, and the end was cut off.
HEAD = (
    "SELECT e.seq, e.recorded_at, e.hash, c.seq FROM (SELECT max(seq) AS seq, recorded_at, hash FROM events) e"
    " LEFT JOIN sqlite_sequence c ON c.name = 'events'"
)

# What the settings say, and the bytes of the first embedding: the first event is an ADD and has one.
DIMENSION = (
    "SELECT (SELECT value FROM settings WHERE key = 'dimension'),"
    " (SELECT length(embedding) FROM payloads WHERE seq = 1)"
)

HASH_AT = "SELECT hash FROM events WHERE seq = ?"

COMPARE_INDEXES = "PRAGMA integrity_check(events)"


_EQUALITIES = ("memory_id", "correlation_id", "actor_id", "role", "type")  # the narrowest first
_INDEXES = {"memory_id": "events_memory", "correlation_id": "events_correlation", "actor_id": "events_actor"}


@dataclass(frozen=True, slots=True)
class EventSelection:
    """Which events: positions in `(after, upto]` and whatever else is given, each an equality."""

    after: int
    upto: int
    memory_id: str | None = None
    actor_id: str | None = None
    role: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    reverse: bool = False

    def page(self, limit: int) -> tuple[str, list[Any]]:
        """SQL and parameters of at most `limit` headers in the order asked for."""
        conditions, parameters = ["e.seq > ?", "e.seq <= ?"], [self.after, self.upto]
        given = [name for name in _EQUALITIES if getattr(self, name) is not None]
        for name in given:
            conditions.append(f"e.{name} = ?")
            parameters.append(getattr(self, name))
        if self.memory_id is not None:
            conditions.append("e.version > 0")
        by = next((f"INDEXED BY {_INDEXES[name]}" for name in given if name in _INDEXES), "NOT INDEXED")
        # A memory's versions run in the order of positions, and its index is sorted by them.
        order = "e.version" if self.memory_id is not None else "e.seq"
        way = "DESC" if self.reverse else "ASC"
        sql = f"{HEADERS} {by} WHERE {' AND '.join(conditions)} ORDER BY {order} {way} LIMIT ?"
        return sql, [*parameters, limit]

    @property
    def is_whole_range(self) -> bool:
        """Whether every event of the range is asked for, so that none may be missing."""
        return all(getattr(self, name) is None for name in _EQUALITIES)

    def past(self, seq: int) -> EventSelection:
        """What is left of the selection once `seq` has been read."""
        after, upto = (self.after, seq - 1) if self.reverse else (seq, self.upto)
        return EventSelection(
            after,
            upto,
            self.memory_id,
            self.actor_id,
            self.role,
            self.type,
            self.correlation_id,
            self.reverse,
        )
