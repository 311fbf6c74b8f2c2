"""The SQL of every read, as text and parameters: what a test can ask SQLite to explain.

Each names its index, or says that positions are the order: left to itself the planner at times takes another
index and sorts, or after an ANALYZE scans one. `version > 0` is always so, and keeps it from sorting versions that
the index has in order already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventstore.schema import EVENT_COLUMNS

__all__ = ["CURRENT_POSITION", "HEAD", "HEADERS", "PAYLOADS", "PLAIN_HEADERS", "POSITION_AT", "WHOLE", "EventSelection"]

# A header is checked against the hash of the event before, so that comes with it.
_HEADER = ", ".join(f"e.{name}" for name in EVENT_COLUMNS)
HEADERS = f"SELECT {_HEADER}, (SELECT hash FROM events WHERE seq = e.seq - 1) FROM events e"
WHOLE = (
    f"SELECT {_HEADER}, (SELECT hash FROM events WHERE seq = e.seq - 1), p.seq, p.salt, p.content, p.metadata,"
    " p.embedding FROM events e NOT INDEXED LEFT JOIN payloads p ON p.seq = e.seq"
)
PLAIN_HEADERS = f"SELECT {', '.join(EVENT_COLUMNS)} FROM events NOT INDEXED"
PAYLOADS = "SELECT seq, salt, content, metadata, embedding FROM payloads"

CURRENT_POSITION = (
    "SELECT seq, type FROM events INDEXED BY events_memory"
    " WHERE memory_id = ? AND version > 0 AND seq <= ? ORDER BY version DESC LIMIT 1"
)

# The last event of an instant: recorded_at never decreases, so among equals the largest seq is the last.
POSITION_AT = (
    "SELECT seq FROM events INDEXED BY events_recorded_at"
    " WHERE recorded_at <= ? ORDER BY recorded_at DESC, seq DESC LIMIT 1"
)

HEAD = "SELECT seq, recorded_at, hash FROM events ORDER BY seq DESC LIMIT 1"


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
