"""Reads of the history. Positions are resolved first; what lies at or before one never changes.

So a read is a series of short queries and needs no transaction held open: a page read later belongs to the same
past. Every payload is checked against its digest as it is read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from eventstore.connections import Connections
from eventstore.errors import CorruptHistory
from eventstore.events import Event, EventRow, Head, HistoryRecord, Memory, Vector, event_from
from eventstore.hashing import GENESIS, payload_digest
from eventstore.instants import from_microseconds
from eventstore.queries import (
    CURRENT_POSITION,
    HEAD,
    MEMORY_SELECT,
    POSITION_AT,
    EventSelection,
    event_page,
    history_page,
)
from eventstore.schema import EVENT_COLUMNS
from eventstore.versions import Positions, VersionTable

__all__ = ["EventColumns", "Reader"]

_PAGE = 1000
_SOME = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EventColumns:
    """What an index needs of the events in `(after, upto]`, by column; all int64 but the last two.

    `prev_seqs` and `embedding_seqs` are 0 where there is none. `embedding_at` names the events that hold an
    embedding of their own, ascending, and `embeddings` holds those, float32, shape `(len(embedding_at), dim)`.
    """

    seqs: Positions
    prev_seqs: Positions
    embedding_seqs: Positions
    is_delete: npt.NDArray[np.bool_]
    embedding_at: Positions
    embeddings: Vector


class _Header(NamedTuple):
    """A row of MEMORY_SELECT."""

    seq: int
    memory_id: str
    version: int
    type: str
    recorded_at: int
    actor_id: str | None
    role: str | None
    digest: bytes
    created_at: int | None
    salt: bytes | None
    content: str | None
    metadata: str | None
    embedding: bytes | None


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` values."""
    iterator = iter(values)
    while some := list(islice(iterator, size)):
        yield some


class Reader:
    """Reads one history through its connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._versions = VersionTable()
        # So that of several threads one reads. In memory the one connection sees to that, and a thread that holds
        # it may come here: taking two locks in either order would end in a deadlock.
        self._catching_up = contextlib.nullcontext() if connections.in_memory else threading.Lock()

    def head(self) -> tuple[int, int | None, bytes]:
        """Position, recorded_at and hash of the last event."""
        rows = self._connections.fetch(HEAD)
        return rows[0] if rows else (0, None, GENESIS)

    def hash_at(self, position: int) -> str | None:
        """The chain's hash at a position, hexadecimal; None beyond the head."""
        if position == 0:
            return GENESIS.hex()
        rows = self._connections.fetch("SELECT hash FROM events WHERE seq = ?", (position,))
        return rows[0][0].hex() if rows else None

    def last_at(self, microseconds: int) -> int:
        """Position of the last event that was recorded no later; 0 if none was."""
        rows = self._connections.fetch(POSITION_AT, (microseconds,))
        return int(rows[0][0]) if rows else 0

    def head_at(self, position: int) -> Head:
        """The head as it was at a position."""
        if position == 0:
            return Head(0, None, GENESIS.hex())
        rows = self._connections.fetch("SELECT recorded_at, hash FROM events WHERE seq = ?", (position,))
        if not rows:
            raise self._damaged(position, "is missing")
        return Head(position, from_microseconds(rows[0][0]), rows[0][1].hex())

    # Events

    def events(self, selection: EventSelection, limit: int | None = None) -> Iterator[Event]:
        """The selected events, a page at a time."""
        return (event for event, _ in self.salted_events(selection, limit))

    def salted_events(self, selection: EventSelection, limit: int | None = None) -> Iterator[tuple[Event, bytes]]:
        """The selected events, each with the salt of its payload's digest."""
        whole_range = all(
            getattr(selection, name) is None for name in ("memory_id", "actor_id", "role", "type", "correlation_id")
        )
        for row in self._pages(event_page, selection, limit, whole_range):
            yield self._event(row), row[len(EVENT_COLUMNS)]

    def _event(self, row: tuple[Any, ...]) -> Event:
        width = len(EVENT_COLUMNS)
        header = EventRow(*row[:width])
        salt, content, metadata, own_embedding, pointed_embedding = row[width:]
        self._check_payload(header.seq, header.payload_digest, salt, content, metadata, own_embedding)
        embedding = own_embedding if header.embedding_seq == header.seq else pointed_embedding
        if (embedding is None) != (header.type == "DELETE"):
            raise self._damaged(header.seq, "has no embedding")
        return event_from(header, content, metadata, embedding)

    def history(self, selection: EventSelection, limit: int | None = None) -> Iterator[HistoryRecord]:
        """The selected events as rows of the `history` view."""
        for row in self._pages(history_page, selection, limit, False):
            (seq, event_id, memory_id, old, new, type, created, recorded, actor_id, role, version, reason) = row
            if created is None:
                raise self._damaged(seq, "belongs to no ADD")
            yield HistoryRecord(
                id=event_id,
                memory_id=memory_id,
                old_memory=old,
                new_memory=new,
                event=type,
                created_at=from_microseconds(created),
                updated_at=None if type == "ADD" else from_microseconds(recorded),
                is_deleted=type == "DELETE",
                actor_id=actor_id,
                role=role,
                position=seq,
                version=version,
                reason=reason,
            )

    def _pages(
        self, page: Any, selection: EventSelection, limit: int | None, whole_range: bool
    ) -> Iterator[tuple[Any, ...]]:
        left = limit
        while (left is None or left > 0) and selection.after < selection.upto:
            size = _PAGE if left is None else min(left, _PAGE)
            sql, parameters = page(selection, size)
            rows = self._connections.fetch(sql, parameters)
            if whole_range:
                self._require_gapless(selection, [row[0] for row in rows], size)
            yield from rows
            if len(rows) < size:
                return
            left = None if left is None else left - len(rows)
            selection = selection.past(rows[-1][0])

    def _require_gapless(self, selection: EventSelection, seqs: list[int], size: int) -> None:
        count = min(size, selection.upto - selection.after)
        first = selection.upto if selection.reverse else selection.after + 1
        expected = range(first, first - count, -1) if selection.reverse else range(first, first + count)
        if seqs != list(expected):
            missing = next(iter(set(expected) - set(seqs)), first)
            raise self._damaged(missing, "is missing")

    # Memories

    def current_position(self, memory_id: str, position: int) -> int | None:
        """Position of the event that gave a memory its state as of `position`; None where it is not live."""
        rows = self._connections.fetch(CURRENT_POSITION, (memory_id, position))
        return int(rows[0][0]) if rows and rows[0][1] != "DELETE" else None

    def current_positions(self, position: int) -> Positions:
        """Positions of all events that are current as of `position`, ascending."""
        self._catch_up(position)
        return self._versions.current(position)

    def count(self, position: int) -> int:
        """How many memories are live as of `position`."""
        self._catch_up(position)
        return self._versions.count(position)

    def _catch_up(self, position: int) -> None:
        with self._catching_up:
            while self._versions.position < position:
                after = self._versions.position
                upto = min(position, after + 20 * _PAGE)
                rows = self._connections.fetch(
                    "SELECT seq, type = 'DELETE', coalesce(prev_seq, 0) FROM events"
                    " WHERE seq > ? AND seq <= ? ORDER BY seq",
                    (after, upto),
                )
                if len(rows) != upto - after:
                    raise self._damaged(after + 1, "or one soon after is missing")
                table = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=3 * len(rows)).reshape(-1, 3)
                self._versions.extend(table[:, 0], table[:, 1].astype(np.bool_), table[:, 2])

    def memories(self, positions: Iterable[int]) -> Iterator[Memory]:
        """The memories as the events at `positions` left them, in that order."""
        for some in chunks(positions, _SOME):
            rows = {header.seq: header for header in self._headers(some)}
            for position in some:
                header = rows.get(position)
                if header is None:
                    raise self._damaged(position, "is missing")
                yield self._memory(header)

    def _headers(self, positions: Sequence[int]) -> list[_Header]:
        places = ",".join("?" * len(positions))
        rows = self._connections.fetch(
            f"{MEMORY_SELECT} WHERE e.seq IN ({places})", [int(position) for position in positions]
        )
        return [_Header(*row) for row in rows]

    def _memory(self, header: _Header) -> Memory:
        self._check_payload(header.seq, header.digest, header.salt, header.content, header.metadata, header.embedding)
        if header.created_at is None or header.content is None or header.metadata is None:
            raise self._damaged(header.seq, "is no state of a memory")
        return Memory(
            memory_id=header.memory_id,
            content=header.content,
            metadata=orjson.loads(header.metadata),
            version=header.version,
            position=header.seq,
            created_at=from_microseconds(header.created_at),
            updated_at=None if header.type == "ADD" else from_microseconds(header.recorded_at),
            actor_id=header.actor_id,
            role=header.role,
        )

    def sorted_positions(self, positions: Positions, order: str) -> Positions:
        """`positions` in the order of when their memories were added, or of their ids."""
        column = {"created_at": "add_seq", "memory_id": "memory_id"}[order]
        keys: dict[int, Any] = {}
        for some in chunks(positions.tolist(), _SOME):
            places = ",".join("?" * len(some))
            keys.update(self._connections.fetch(f"SELECT seq, {column} FROM events WHERE seq IN ({places})", some))
        return np.array(sorted(keys, key=keys.__getitem__), dtype=np.int64)

    def metadata(self, positions: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Position and metadata, as JSON text, of the events at `positions`, in ascending order in each 500."""
        for some in chunks(positions, _SOME):
            places = ",".join("?" * len(some))
            rows = self._connections.fetch(
                f"SELECT seq, metadata FROM payloads WHERE seq IN ({places}) AND metadata IS NOT NULL ORDER BY seq",
                [int(position) for position in some],
            )
            if len(rows) != len(some):
                raise self._damaged(some[0], "or one soon after has no metadata")
            yield from rows

    # Embeddings

    def embeddings(self, positions: Sequence[int], dimension: int) -> Vector:
        """The embeddings in force after the events at `positions`, shape `(len(positions), dimension)`."""
        vectors = np.empty((len(positions), dimension), dtype="<f4")
        done = 0
        for some in chunks(positions, _SOME):
            places = ",".join("?" * len(some))
            found: dict[int, bytes] = {}
            # The digest is that of the event which holds the embedding, and takes in all that this holds.
            for seq, held_at, digest, salt, content, metadata, embedding in self._connections.fetch(
                "SELECT e.seq, h.seq, h.payload_digest, v.salt, v.content, v.metadata, v.embedding FROM events e"
                " JOIN events h ON h.seq = e.embedding_seq JOIN payloads v ON v.seq = e.embedding_seq"
                f" WHERE e.seq IN ({places})",
                [int(position) for position in some],
            ):
                self._check_payload(held_at, digest, salt, content, metadata, embedding)
                found[seq] = embedding
            for position in some:
                embedding = found.get(position)
                if embedding is None or len(embedding) != 4 * dimension:
                    raise self._damaged(int(position), "has no embedding of the store's dimension")
                vectors[done] = np.frombuffer(embedding, dtype="<f4")
                done += 1
        return vectors

    def columns(self, after: int, upto: int, dimension: int) -> EventColumns:
        """The columns of the events in `(after, upto]`."""
        headers = self._connections.fetch(
            "SELECT seq, coalesce(prev_seq, 0), coalesce(embedding_seq, 0), type = 'DELETE' FROM events"
            " WHERE seq > ? AND seq <= ? ORDER BY seq",
            (after, upto),
        )
        if len(headers) != upto - after:
            raise self._damaged(after + 1, "or one soon after is missing")
        table = np.fromiter(chain.from_iterable(headers), dtype=np.int64, count=4 * len(headers)).reshape(-1, 4)
        own = table[:, 0][table[:, 2] == table[:, 0]]
        rows = self._connections.fetch(
            "SELECT embedding FROM payloads WHERE seq > ? AND seq <= ? AND embedding IS NOT NULL ORDER BY seq",
            (after, upto),
        )
        width = 4 * dimension
        if len(rows) != len(own) or any(len(row[0]) != width for row in rows):
            raise self._damaged(after + 1, "or one soon after has no embedding of the store's dimension")
        embeddings = np.frombuffer(b"".join([row[0] for row in rows]), dtype="<f4").reshape(len(rows), dimension)
        return EventColumns(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.bool_), own, embeddings)

    # Damage

    def _check_payload(
        self,
        seq: int,
        digest: bytes,
        salt: bytes | None,
        content: str | None,
        metadata: str | None,
        embedding: bytes | None,
    ) -> None:
        if salt is None or payload_digest(salt, content, metadata, embedding) != digest:
            raise self._damaged(seq, "does not match its digest")

    def _damaged(self, seq: int, what: str) -> CorruptHistory:
        return CorruptHistory(f"event {seq} of {self._connections.path} {what}: run `replay verify`")
