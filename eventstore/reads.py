"""Reads of the history. Positions are resolved first; what lies at or before one never changes.

So a read is a series of short queries and needs no transaction held open: a page read later belongs to the same
past. Every row is checked as it is read; see `CheckedRows`. (The states of memories that were read lately are kept, and
not read again.) What is selected by anything but its position is another matter: there damage could leave something
out, a memory's last version above all. So before the first such read the whole history is gone through; see
`Reader._require_whole`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eventstore.checked import CheckedRows, chunks, require_counted
from eventstore.connections import Connections
from eventstore.errors import CorruptHistory, StorageError
from eventstore.events import (
    Event,
    EventRow,
    Head,
    HistoryRecord,
    Memory,
    PayloadRow,
    Vector,
    event_from,
)
from eventstore.hashing import GENESIS
from eventstore.instants import from_microseconds
from eventstore.queries import COMPARE_INDEXES, CURRENT_POSITION, HASH_AT, HEAD, POSITION_AT, EventSelection
from eventstore.ranges import CheckedRanges, EventColumns
from eventstore.recent import RecentRows
from eventstore.states import LateStates, State
from eventstore.versions import Positions, VersionTable

__all__ = ["EventColumns", "Reader"]

_PAGE = 1000
_FEW = 100
_HEADERS_AT_ONCE = 10_000


class Reader:
    """Reads one history through its connections."""

    def __init__(self, connections: Connections, recent: RecentRows) -> None:
        self._connections = connections
        self._rows = CheckedRows(connections, recent)
        self._ranges = CheckedRanges(connections, self._rows, recent)
        self._versions = VersionTable()
        self._late = LateStates()
        self._checked_head: tuple[int, int | None, bytes] | None = None
        # In memory there is no file that could be damaged.
        self._whole = connections.in_memory
        # So that of several threads one reads. In memory the one connection sees to that, and a thread that holds
        # it may come here: taking two locks in either order would end in a deadlock.
        self._catching_up = contextlib.nullcontext() if connections.in_memory else threading.Lock()

    def head(self) -> tuple[int, int | None, bytes]:
        """Position, recorded_at and hash of the last event; `CorruptHistory` where the end was cut off or changed."""
        row = self._connections.fetch(HEAD, brief=True)[0]
        head: tuple[int, int | None, bytes] = (0, None, GENESIS) if row[0] is None else row[:3]
        if head != self._checked_head and head not in self._rows.recent_heads(head[0]):
            require_counted(self._connections.path, head[0], row[3])
            if head[0]:
                last = self._rows.headers([head[0]])[head[0]]
                head = (last.seq, last.recorded_at, last.hash)
            self._require_same_history(head)
            self._checked_head = head
        return head

    def _require_same_history(self, head: tuple[int, int | None, bytes]) -> None:
        """Refuse a file whose events up to the last head that was seen are others: what is known of those is wrong.

        So it is where a file that is read without locks was replaced; see `Connections.fetch`.
        """
        if self._checked_head is None or not self._checked_head[0]:
            return
        position, _, known = self._checked_head
        rows = [(head[2],)] if head[0] == position else self._connections.fetch(HASH_AT, (position,), brief=True)
        if rows != [(known,)]:
            raise StorageError(
                f"{self._connections.path} no longer holds the events up to position {position} that it held: "
                "they were changed, or another file or an older copy has taken its place; "
                "run `replay verify`, or open the store again"
            )

    def hash_at(self, position: int) -> str | None:
        """The chain's hash at a position, hexadecimal; None beyond the head."""
        if position == 0:
            return GENESIS.hex()
        if not 1 <= position <= self.head()[0]:
            return None
        return self._rows.headers([position])[position].hash.hex()

    def last_at(self, microseconds: int) -> int:
        """Position of the last event that was recorded no later; 0 if none was."""
        rows = self._connections.fetch(POSITION_AT, (microseconds,), brief=True)
        found = int(rows[0][0]) if rows else 0
        # Times never decrease, so the events on both sides of the cut prove it, whatever the index said.
        head = self.head()[0]
        if not 0 <= found <= head:
            raise self._rows.damaged(found, "is in the index of times and nowhere else")
        beside = [seq for seq in (found, found + 1) if 1 <= seq <= head]
        for header in self._rows.headers(beside).values():
            if (header.recorded_at <= microseconds) != (header.seq == found):
                raise self._rows.damaged(header.seq, "is not where the index of times says")
        return found

    def head_at(self, position: int) -> Head:
        """The head as it was at a position."""
        if position == 0:
            return Head(0, None, GENESIS.hex())
        header = self._rows.headers([position])[position]
        return Head(position, from_microseconds(header.recorded_at), header.hash.hex())

    # Events

    def events(self, selection: EventSelection, limit: int | None = None) -> Iterator[Event]:
        """The selected events, a page at a time."""
        return (event for event, _ in self.salted_events(selection, limit))

    def salted_events(self, selection: EventSelection, limit: int | None = None) -> Iterator[tuple[Event, bytes]]:
        """The selected events, each with the salt of its payload's digest."""
        for headers in self._pages(selection, limit):
            payloads = self._rows.payloads(headers)
            embeddings = self._embeddings_of(headers, payloads)
            for header in headers:
                payload = payloads[header.seq]
                event = event_from(header, payload.content, payload.metadata, embeddings.get(header.seq))
                yield event, payload.salt

    def _embeddings_of(self, headers: list[EventRow], payloads: dict[int, PayloadRow]) -> dict[int, bytes]:
        """The embedding in force after each event that is not a DELETE, by position."""
        holders = {header.embedding_seq for header in headers if header.embedding_seq is not None}
        elsewhere = self._rows.headers(sorted(holders - payloads.keys()))
        held = {**payloads, **self._rows.payloads(elsewhere.values())}
        embeddings = {}
        for header in headers:
            if header.embedding_seq is not None:
                embedding = held[header.embedding_seq].embedding
                if embedding is None:
                    raise self._rows.damaged(header.seq, "has no embedding")
                embeddings[header.seq] = embedding
        return embeddings

    def history(self, selection: EventSelection, limit: int | None = None) -> Iterator[HistoryRecord]:
        """The selected events as rows of the `history` view."""
        for headers in self._pages(selection, limit):
            known = {header.seq: header for header in headers}
            added = {header.add_seq for header in headers}
            before = {header.prev_seq for header in headers if header.prev_seq is not None and header.type != "ADD"}
            others = self._rows.headers(sorted((added | before) - known.keys()))
            payloads = self._rows.payloads([*headers, *(others[seq] for seq in before - known.keys())])
            for header in headers:
                added_by = known.get(header.add_seq) or others[header.add_seq]
                is_add = header.type == "ADD"
                yield HistoryRecord(
                    id=header.event_id,
                    memory_id=header.memory_id,
                    old_memory=None if is_add or header.prev_seq is None else payloads[header.prev_seq].content,
                    new_memory=payloads[header.seq].content,
                    event=header.type,
                    created_at=from_microseconds(added_by.recorded_at),
                    updated_at=None if is_add else from_microseconds(header.recorded_at),
                    is_deleted=header.type == "DELETE",
                    actor_id=header.actor_id,
                    role=header.role,
                    position=header.seq,
                    version=header.version,
                    reason=header.reason,
                )

    def _pages(self, selection: EventSelection, limit: int | None) -> Iterator[list[EventRow]]:
        if not selection.is_whole_range:
            self._require_whole()
        left = limit
        while (left is None or left > 0) and selection.after < selection.upto:
            size = _PAGE if left is None else min(left, _PAGE)
            headers = self._rows.page(selection, size)
            if headers:
                yield headers
            if len(headers) < size:
                return
            left = None if left is None else left - len(headers)
            selection = selection.past(headers[-1].seq)

    # Memories

    def current_position(self, memory_id: str, position: int) -> int | None:
        """Position of the event that gave a memory its state as of `position`; None where it is not live."""
        self._require_whole()
        rows = self._connections.fetch(CURRENT_POSITION, (memory_id, position), brief=True)
        return int(rows[0][0]) if rows and rows[0][1] != "DELETE" else None

    def current_positions(self, position: int) -> Positions:
        """Positions of all events that are current as of `position`, ascending."""
        self._catch_up(position)
        return self._versions.current(position)

    def count(self, position: int) -> int:
        """How many memories are live as of `position`."""
        self._catch_up(position)
        return self._versions.count(position)

    def _require_whole(self) -> None:
        """Once: hold all headers against the chain, and have SQLite hold its indexes against them.

        So that a selection leaves nothing out. A row whose key was changed, or an entry of an index, is one that a
        query does not find: of what it does find nothing is wrong, and yet the answer may be an older version.
        """
        if self._whole:
            return
        self._catch_up(self.head()[0])
        problem = self._connections.fetch(COMPARE_INDEXES)[0][0]
        if problem != "ok":
            text = " ".join(str(problem).split())[:200]
            raise CorruptHistory(f"an index of {self._connections.path} is damaged ({text}): run `replay verify`")
        self._whole = True

    def _catch_up(self, position: int) -> None:
        with self._catching_up:
            while self._versions.position < position:
                after = self._versions.position
                links = self._ranges.links(after, min(position, after + _HEADERS_AT_ONCE))
                self._versions.extend(*links)

    def memories(self, positions: Iterable[int]) -> Iterator[Memory]:
        """The memories as the events at `positions` left them, in that order."""
        for some in chunks(positions, _PAGE):
            # Of a long list little will be asked for again soon: it would only push out what is.
            late = self._late if len(some) <= _FEW else LateStates(0)
            kept = [late.get(position) for position in some]
            read = {}
            if None in kept:
                missing = [position for position, state in zip(some, kept, strict=True) if state is None]
                read = {state.header.seq: state for state in self._states(missing)}
                for made in read.values():
                    late.put(made)
            for position, state in zip(some, kept, strict=True):
                yield (state or read[position]).memory()

    def _states(self, positions: list[int]) -> Iterator[State]:
        if not positions:
            return
        headers, payloads = self._rows.whole(positions)
        added = self._rows.headers(sorted({header.add_seq for header in headers.values()} - headers.keys()))
        for header in headers.values():
            payload = payloads[header.seq]
            if payload.content is None or payload.metadata is None:
                raise self._rows.damaged(header.seq, "is no state of a memory")
            added_by = headers.get(header.add_seq) or added[header.add_seq]
            updated_at = None if header.type == "ADD" else from_microseconds(header.recorded_at)
            created_at = from_microseconds(added_by.recorded_at)
            yield State(header, created_at, updated_at, payload.content, payload.metadata)

    def memory_ids(self, positions: Iterable[int]) -> list[str]:
        """The memories that the events at `positions` belong to, in that order."""
        ids: list[str] = []
        for some in chunks(positions, _PAGE):
            headers = self._rows.headers(some)
            ids += [headers[position].memory_id for position in some]
        return ids

    def sorted_positions(self, positions: Positions, order: str) -> Positions:
        """`positions` in the order of when their memories were added, or of their ids."""
        keys: list[tuple[int | str, int]] = []
        for some in chunks(positions.tolist(), _PAGE):
            headers = self._rows.headers(some).values()
            keys += [(header.add_seq if order == "created_at" else header.memory_id, header.seq) for header in headers]
        return np.array([position for _, position in sorted(keys)], dtype=np.int64)

    def metadata(self, positions: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Position and metadata, as JSON text, of the events at `positions`, in that order."""
        for some in chunks(positions, _PAGE):
            payloads = self._rows.payloads(self._rows.headers(some).values())
            for position in some:
                metadata = payloads[position].metadata
                if metadata is None:
                    raise self._rows.damaged(position, "has no metadata")
                yield position, metadata

    # Embeddings

    def embeddings(self, positions: Sequence[int], dimension: int) -> Vector:
        """The embeddings in force after the events at `positions`, shape `(len(positions), dimension)`."""
        vectors = np.empty((len(positions), dimension), dtype="<f4")
        done = 0
        for some in chunks(positions, _PAGE):
            headers = self._rows.headers(some)
            embeddings = self._embeddings_of(list(headers.values()), {})
            for position in some:
                embedding = embeddings.get(position)
                if embedding is None or len(embedding) != 4 * dimension:
                    raise self._rows.damaged(int(position), "has no embedding of the store's dimension")
                vectors[done] = np.frombuffer(embedding, dtype="<f4")
                done += 1
        return vectors

    def columns(self, after: int, upto: int, dimension: int) -> EventColumns:
        """The columns of the events in `(after, upto]`."""
        return self._ranges.columns(after, upto, dimension)
