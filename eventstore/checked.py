"""Rows of the history, each checked as it is read: a header against the hash chain, a payload against its digest.

So no read returns what was changed in the file since it was recorded; it raises `CorruptHistory` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

from eventstore.errors import CorruptHistory
from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.instants import FIRST_INSTANT, LAST_INSTANT
from eventstore.proofs import WRONG_TYPE, headers_hold, payloads_hold
from eventstore.queries import HEADER_RANGE, HEADERS, LAST_OF_MEMORY, PAYLOAD_RANGE, PAYLOADS, WHOLE, EventSelection
from eventstore.recent import RecentRows

__all__ = ["CheckedRows", "RowSource", "chunks", "require_counted"]

_SOME = 500
_BRIEF = 100
_MANY = 4  # from so many rows on, holding them to the chain together costs less than one after the other
_TYPES = ("ADD", "UPDATE", "DELETE")
_NO_ROWS = RecentRows()
T = TypeVar("T")


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` values."""
    iterator = iter(values)
    while some := list(islice(iterator, size)):
        yield some


def require_counted(path: str, position: int, counter: object) -> None:
    """Refuse a history that ends elsewhere than SQLite's own count of its events: its end was cut off."""
    if (counter or 0) != position:
        raise CorruptHistory(
            f"{path} ends at position {position}, and {counter!r} events were recorded: run `replay verify`"
        )


class RowSource(Protocol):
    """Where rows come from: the read connections of a store, or the one that it writes through."""

    path: str

    def fetch(self, sql: str, parameters: Sequence[Any] = (), *, brief: bool = False) -> list[tuple[Any, ...]]:
        """All rows of one query; a `brief` one has a hundred at most."""


class CheckedRows:
    """Reads rows of `events` and `payloads` by position."""

    def __init__(self, source: RowSource, recent: RecentRows | None = None) -> None:
        self._source = source
        self._recent = _NO_ROWS if recent is None else recent

    def headers(self, positions: Iterable[int]) -> dict[int, EventRow]:
        """The headers at `positions`; every one of them has to be there."""
        found: dict[int, EventRow] = {}
        for some in chunks(positions, _SOME):
            sql = f"{HEADERS} NOT INDEXED WHERE e.seq IN ({','.join('?' * len(some))})"
            rows = self._checked(self._few(sql, [int(position) for position in some]))
            found.update((header.seq, header) for header in rows)
            self._require(some, found)
        return found

    def whole(self, positions: Iterable[int]) -> tuple[dict[int, EventRow], dict[int, PayloadRow]]:
        """The headers and the payloads at `positions`; every one of them has to be there."""
        headers: dict[int, EventRow] = {}
        payloads: dict[int, PayloadRow] = {}
        width = len(EventRow._fields) + 1
        for some in chunks(positions, _SOME):
            sql = f"{WHOLE} WHERE e.seq IN ({','.join('?' * len(some))})"
            rows = self._few(sql, [int(position) for position in some])
            found = self._checked([row[:width] for row in rows])
            headers.update((header.seq, header) for header in found)
            self._require(some, headers)
            held = {row[0]: PayloadRow._make(row[width:]) for row in rows if row[width] is not None}
            self._check_payloads(found, held)
            payloads.update(held)
        return headers, payloads

    def _few(self, sql: str, positions: list[int]) -> list[tuple[Any, ...]]:
        """The rows at some positions."""
        return self._source.fetch(sql, positions, brief=len(positions) <= _BRIEF)

    def page(self, selection: EventSelection, limit: int) -> list[EventRow]:
        """The first `limit` headers of a selection, in its order; a whole range has to be without gaps."""
        headers = self._checked(self._source.fetch(*selection.page(limit)))
        if selection.is_whole_range:
            count = min(limit, selection.upto - selection.after)
            first = selection.upto - count if selection.reverse else selection.after
            self._require(range(first + 1, first + count + 1), {header.seq for header in headers})
        return headers

    def recent_heads(self, position: int) -> list[tuple[int, int | None, bytes]]:
        """Position, recorded_at and hash of the event at `position`, if this store has just recorded it."""
        recent = self._recent.between(position - 1, position) or []
        return [(header.seq, header.recorded_at, header.hash) for header, _ in recent]

    def last_of(self, memory_id: str) -> EventRow | None:
        """The header of a memory's last event; None where it has none."""
        headers = self._checked(self._source.fetch(LAST_OF_MEMORY, (memory_id,), brief=True))
        return headers[0] if headers else None

    def range(self, after: int, upto: int) -> list[EventRow]:
        """The headers at the positions in `(after, upto]`, ascending, without gaps."""
        if (recent := self._recent.between(after, upto)) is not None:
            return [header for header, _ in recent]
        # The row before comes along, so that each is checked against the one read before it.
        rows = self._source.fetch(HEADER_RANGE, (after, upto))
        headers = list(map(EventRow._make, rows))
        self._require(range(max(after, 1), upto + 1), {header.seq for header in headers})
        before = GENESIS if after == 0 else headers.pop(0).hash
        for header in headers:
            self._check_header(before, header)
            before = header.hash
        return headers

    def payloads(self, headers: Iterable[EventRow]) -> dict[int, PayloadRow]:
        """The payloads of the events with these headers, by position."""
        found: dict[int, PayloadRow] = {}
        for some in chunks(headers, _SOME):
            sql = f"{PAYLOADS} WHERE seq IN ({','.join('?' * len(some))})"
            rows = {row[0]: PayloadRow._make(row) for row in self._few(sql, [header.seq for header in some])}
            self._check_payloads(some, rows)
            found.update(rows)
        return found

    def embedding_of(self, header: EventRow) -> bytes | None:
        """The embedding in force after an event; None after a DELETE."""
        if header.embedding_seq is None:
            return None
        holder = header if header.embedding_seq == header.seq else self.headers([header.embedding_seq])
        found = self.payloads([holder] if isinstance(holder, EventRow) else holder.values())
        embedding = found[header.embedding_seq].embedding
        if embedding is None:
            raise self.damaged(header.seq, "has no embedding")
        return embedding

    def payload_range(self, headers: list[EventRow]) -> dict[int, PayloadRow]:
        """The payloads of headers that are a range of positions."""
        if not headers:
            return {}
        if (recent := self._recent.between(headers[0].seq - 1, headers[-1].seq)) is not None:
            return {payload.seq: payload for _, payload in recent}
        held = self._source.fetch(PAYLOAD_RANGE, (headers[0].seq, headers[-1].seq))
        rows = {row[0]: PayloadRow._make(row) for row in held}
        self._check_payloads(headers, rows)
        return rows

    def _checked(self, rows: list[tuple[Any, ...]]) -> list[EventRow]:
        """The headers of rows that end with the hash of the event before."""
        befores = [GENESIS if row[0] == 1 else row[-1] for row in rows]
        headers = [EventRow._make(row[:-1]) for row in rows]
        if len(rows) < _MANY or not headers_hold(befores, rows):
            for before, header in zip(befores, headers, strict=True):
                if before is None:
                    raise self.damaged(header.seq - 1, "is missing")
                self._check_header(before, header)
        return headers

    def _check_header(self, before: Any, header: EventRow) -> None:
        try:
            fits = event_hash(before, *header[:-1]) == header.hash
        except WRONG_TYPE:
            fits = False
        if not fits:
            raise self.damaged(header.seq, "does not fit into the hash chain")
        # Where somebody wrote the chain anew it proves nothing, and these would raise something else further on.
        occurred_at = FIRST_INSTANT if header.occurred_at is None else header.occurred_at
        if (
            header.type not in _TYPES
            or not FIRST_INSTANT <= header.recorded_at <= LAST_INSTANT
            or not FIRST_INSTANT <= occurred_at <= LAST_INSTANT
        ):
            raise self.damaged(header.seq, "holds what no append can have recorded")

    def _check_payloads(self, headers: Sequence[EventRow], rows: dict[int, PayloadRow]) -> None:
        if len(headers) >= _MANY and payloads_hold(
            headers, [rows[header.seq] for header in headers if header.seq in rows]
        ):
            return
        for header in headers:
            row = rows.get(header.seq)
            if row is None:
                raise self.damaged(header.seq, "has no payload")
            try:
                matches = payload_digest(row.salt, row.content, row.metadata, row.embedding) == header.payload_digest
            except WRONG_TYPE:
                matches = False
            if not matches:
                raise self.damaged(header.seq, "does not match the digest of its payload")

    def _require(self, positions: Iterable[int], found: Any) -> None:
        for position in positions:
            if position not in found:
                raise self.damaged(int(position), "is missing")

    def damaged(self, position: int, what: str) -> CorruptHistory:
        """The error that says so."""
        return CorruptHistory(f"event {position} of {self._source.path} {what}: run `replay verify`")
