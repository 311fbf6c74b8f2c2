"""What every event of a history must fulfil, given the events before it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np
import orjson

from eventstore.append import SALT_LENGTH
from eventstore.checks import metadata_json
from eventstore.errors import InvalidMetadata
from eventstore.events import EventRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.instants import to_microseconds
from eventstore.proofs import WRONG_TYPE, headers_hold, payloads_hold
from replay.damaged import Row
from replay.report import Fault, FaultKind, Ranges

__all__ = ["HistoryCheck", "is_recorded_form"]

_FIRST_INSTANT = to_microseconds(datetime.min.replace(tzinfo=timezone.utc))
_LAST_INSTANT = to_microseconds(datetime.max.replace(tzinfo=timezone.utc))
_HASH_LENGTH = 32
_TYPES = ("ADD", "UPDATE", "DELETE")
_SHORT = 500
_MOST_IN_FORM = 1000


_State = tuple[int, int, bool, int, "int | None"]
"""Version, seq, live, add_seq and embedding_seq of a memory's last event; the fields of `_Latest`."""


class _Latest(NamedTuple):
    """A memory's last event so far."""

    version: int
    seq: int
    live: bool
    add_seq: int
    embedding_seq: int | None


class HistoryCheck:
    """Takes the events of a history in order and collects what is wrong with each.

    One fault is reported once: after it the checks go on from what is stored, and what an event says about
    another one that is lost or at fault is believed. Holds one small tuple for each memory that ever was; with
    `unique_ids` also every event_id, for histories whose index cannot be trusted to keep them apart.
    """

    def __init__(self, dimension: int | None, *, unique_ids: bool = False) -> None:
        self.faults: list[Fault] = []
        self.unproven = Ranges()  # events that follow a lost one, so that their hash could not be computed
        self._bytes = None if dimension is None else 4 * dimension
        self._latest: dict[str, _State] = {}
        self._ids: dict[str, int] | None = {} if unique_ids else None
        self._before: tuple[bytes, ...] = (GENESIS,)  # what the next event may follow; nothing: unknown
        self._recorded_at = _FIRST_INSTANT
        self._doubtful = Ranges()
        self._embeddings: list[bytes] = []
        self._embedding_seqs: list[int] = []
        self._in_form = {"{}"}  # metadata that was found to be in the form in which it is recorded: it repeats

    def _fault(self, kind: FaultKind, seq: int, message: str) -> None:
        self.faults.append(Fault(kind, seq, f"event {seq} {message}"))

    def lose(self, first: int, last: int) -> None:
        """Pass over events that are not there to be checked."""
        self._doubtful.add(first, last)
        self._before = ()

    def take(self, row: Row) -> None:
        """Check the next event's header, a row of `events`."""
        seq, known = row[0], len(self.faults)
        try:
            self._check_hash(row)
            self._check_header(row)
        except WRONG_TYPE:
            self._fault("event", seq, "holds a value of the wrong type")
            self._before = (row[-1],) if isinstance(row[-1], bytes) else ()
        if len(self.faults) > known:
            self._doubtful.add(seq, seq)

    def take_whole(self, headers: Sequence[Row], payloads: Sequence[Row]) -> bool:
        """Check the next events with their payloads, many at once; False where one is at fault, and none was taken.

        Nearly all are sound, and this says so in a third of the time; of one that is not, `take` says what it is.
        """
        if len(self._before) != 1 or self._ids is not None or not headers:
            return False
        befores = [*self._before, *(row[-1] for row in headers[:-1])]
        if not headers_hold(befores, headers) or not payloads_hold(headers, payloads):
            return False
        latest, taken, recorded_at = self._latest, dict[str, _State](), self._recorded_at
        embeddings: list[bytes] = []
        for header, (_, salt, content, metadata, embedding) in zip(headers, payloads, strict=True):
            seq, _, memory_id, version, prev_seq, add_seq, embedding_seq, type, at = header[:9]
            before = taken.get(memory_id) or latest.get(memory_id, _NOTHING)
            if at < recorded_at or not _follows(before, seq, version, prev_seq, add_seq, embedding_seq, type):
                return False
            recorded_at, live = at, type != "DELETE"
            taken[memory_id] = (version, seq, live, add_seq, embedding_seq)
            if embedding is not None:
                embeddings.append(embedding)
            if (
                len(salt) != SALT_LENGTH
                or (embedding is not None) != (embedding_seq == seq)
                or (content is not None) != live
                or (metadata is not None) != live
                or (live and metadata not in self._in_form and not self._has_form(metadata))
            ):
                return False
        if not {self._bytes}.issuperset(map(len, embeddings)):
            return False
        if not np.isfinite(np.frombuffer(b"".join(embeddings), dtype="<f4")).all():
            return False
        latest.update(taken)
        self._before, self._recorded_at = (headers[-1][-1],), recorded_at
        return True

    def _has_form(self, metadata: str) -> bool:
        if not is_recorded_form(metadata):
            return False
        if len(metadata) <= _SHORT and len(self._in_form) < _MOST_IN_FORM:
            self._in_form.add(metadata)
        return True

    def _check_hash(self, row: Row) -> None:
        found = row[-1]
        if not isinstance(found, bytes):
            raise TypeError
        computed = GENESIS
        if not self._before:
            self.unproven.add(row[0], row[0])
        for before in self._before:
            computed = event_hash(before, *row[:-1])
            if computed == found:
                break
        else:
            if self._before:
                self._fault(
                    "hash",
                    row[0],
                    "does not match its hash: it was changed or moved, or an event before it removed or put in",
                )
                # If it is the stored hash that was changed, then the next event follows the computed one.
                self._before = (found, computed)
                return
        if len(found) != _HASH_LENGTH:
            self._fault("event", row[0], f"has a hash of {len(found)} bytes")
        self._before = (found,)

    def _check_header(self, row: Row) -> None:
        seq, event_id, memory_id, version, prev_seq, add_seq, embedding_seq, type, recorded_at, occurred_at = row[:10]
        if not self._recorded_at <= recorded_at <= _LAST_INSTANT or occurred_at is not None:
            self._check_time(seq, recorded_at, occurred_at)
        self._recorded_at = recorded_at
        before = self._latest.get(memory_id, _NOTHING)
        if not _follows(before, seq, version, prev_seq, add_seq, embedding_seq, type):
            self._explain(EventRow._make(row), _Latest(*before))
        # From what is stored, not from what it should be, so that one fault is one.
        self._latest[memory_id] = (version, seq, type != "DELETE", add_seq, embedding_seq)
        if self._ids is not None and self._ids.setdefault(event_id, seq) != seq:
            self._fault("id", seq, f"has the event_id of event {self._ids[event_id]}")

    def _check_time(self, seq: int, recorded_at: int, occurred_at: int | None) -> None:
        if recorded_at < self._recorded_at:
            self._fault("time", seq, "was recorded before the event before it")
        elif recorded_at > _LAST_INSTANT:
            self._fault("time", seq, "was recorded after the year 9999")
        if occurred_at is not None and not _FIRST_INSTANT <= occurred_at <= _LAST_INSTANT:
            self._fault("time", seq, "occurred outside of the years 1 to 9999")

    def _explain(self, header: EventRow, before: _Latest) -> None:
        """What exactly is wrong with an event of a memory, if anything is."""
        seq, type = header.seq, header.type
        if type not in _TYPES:
            self._fault("transition", seq, f"has the type {type[:20]!r}")
            return
        if header.prev_seq is not None and header.prev_seq in self._doubtful:
            return
        if header.version != before.version + 1:
            self._fault("version", seq, f"has version {header.version}, and its memory's event before {before.version}")
        if header.prev_seq != (before.seq or None):
            self._fault(
                "link", seq, f"has prev_seq {header.prev_seq}, and its memory's event before {before.seq or None}"
            )
        if type == "ADD" and before.live:
            self._fault("transition", seq, f"adds memory {header.memory_id!r}, which is live")
        elif type != "ADD" and not before.live:
            self._fault("transition", seq, f"is an {type} of memory {header.memory_id!r}, which is not live")
        add_seq = seq if type == "ADD" else before.add_seq
        if header.add_seq != add_seq:
            self._fault("link", seq, f"has add_seq {header.add_seq}, and its memory was added by event {add_seq}")
        allowed = _holders(header, before)
        if header.embedding_seq not in allowed:
            names = " or ".join(str(each) for each in allowed)
            self._fault("link", seq, f"has embedding_seq {header.embedding_seq}, not {names}")

    def take_payload(self, header: Row, payload: Row) -> None:
        """Check an event's payload: its row of `events` and its row of `payloads`."""
        seq, type, embedding_seq = header[0], header[7], header[6]
        _, salt, content, metadata, embedding = payload
        if isinstance(embedding, int):
            # Its length, in its place: it was not read.
            self._fault("embedding", seq, f"has an embedding of {embedding} bytes, longer than any")
            return
        try:
            if payload_digest(salt, content, metadata, embedding) != header[-2]:
                self._fault("digest", seq, "does not match the digest of its payload: the payload was changed")
            if len(salt) != SALT_LENGTH:
                self._fault("event", seq, f"has a salt of {len(salt)} bytes")
            if embedding is not None and embedding_seq == seq and len(embedding) == self._bytes:
                self._embeddings.append(embedding)
                self._embedding_seqs.append(seq)
            elif embedding is not None or embedding_seq == seq:
                self._explain_embedding(seq, embedding_seq, embedding)
            deletes = type == "DELETE"
            if (content is None) != deletes:
                self._fault("content", seq, "is a DELETE and has content" if deletes else "has no content")
            if (metadata is None) != deletes:
                self._fault("metadata", seq, "is a DELETE and has metadata" if deletes else "has no metadata")
            elif metadata is not None and metadata != "{}":
                self._check_metadata(seq, metadata)
        except WRONG_TYPE:
            self._fault("event", seq, "has a payload with a value of the wrong type")

    def _explain_embedding(self, seq: int, embedding_seq: int | None, embedding: bytes | None) -> None:
        if embedding is None:
            self._fault("embedding", seq, "has no embedding")
        elif embedding_seq != seq:
            self._fault("embedding", seq, "has an embedding, and its header does not say so")
        else:
            numbers = "no dimension" if self._bytes is None else f"vectors of {self._bytes // 4} numbers"
            self._fault("embedding", seq, f"has an embedding of {len(embedding)} bytes, and the store {numbers}")

    def _check_metadata(self, seq: int, text: str) -> None:
        try:
            metadata: Any = orjson.loads(text)
        except orjson.JSONDecodeError:
            metadata = None
        if not isinstance(metadata, dict):
            self._fault("metadata", seq, "has metadata that is not a JSON object")
        elif not _is_canonical(metadata, text):
            self._fault("metadata", seq, "has metadata that is not in the form in which it is recorded")

    def flush(self) -> None:
        """Check what is checked for many events at once; to be called now and then, and at the end."""
        if not self._embeddings:
            return
        numbers = np.frombuffer(b"".join(self._embeddings), dtype="<f4").reshape(len(self._embeddings), -1)
        finite = np.isfinite(numbers)
        if not finite.all():
            for row in np.flatnonzero(~finite.all(axis=1)).tolist():
                self._fault("embedding", self._embedding_seqs[row], "has an embedding with NaN or infinity")
        self._embeddings.clear()
        self._embedding_seqs.clear()


_NOTHING: _State = (0, 0, False, 0, None)


def _follows(
    before: _State, seq: int, version: int, prev_seq: int | None, add_seq: int, embedding_seq: int | None, type: str
) -> bool:
    """Whether an event has the version and the links that one of its type has after the memory's state before."""
    before_version, before_seq, live, before_add_seq, before_embedding_seq = before
    if version != before_version + 1 or prev_seq != (before_seq or None):
        return False
    if type == "ADD":
        return not live and add_seq == embedding_seq == seq
    if not live or add_seq != before_add_seq:
        return False
    if type == "UPDATE":
        return embedding_seq in (seq, before_embedding_seq)
    return type == "DELETE" and embedding_seq is None


def _holders(header: EventRow, before: _Latest) -> tuple[int | None, ...]:
    """Which events can hold the embedding that is in force after an event."""
    if header.type == "DELETE":
        return (None,)
    return (header.seq,) if header.type == "ADD" else (header.seq, before.embedding_seq)


_SCALARS = {str, int, bool, type(None)}


def is_recorded_form(text: str) -> bool:
    """Whether a JSON text is the one in which an append records that metadata."""
    try:
        metadata = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(metadata, dict):
        return False
    if _SCALARS.issuperset(map(type, metadata.values())):
        # Which come out of JSON, and go into it, in one way only: no need to look through them.
        return orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS).decode() == text
    return _is_canonical(metadata, text)


def _is_canonical(metadata: dict[str, Any], text: str) -> bool:
    try:
        return metadata_json(metadata) == text
    except InvalidMetadata:
        return False
