"""Export and import: the history as JSON lines, and foreign histories with their own times."""

from __future__ import annotations

import contextlib
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from eventstore.append import SALT_LENGTH, Recorded
from eventstore.checked import chunks
from eventstore.checks import MAX_DEPTH, check_id
from eventstore.errors import AsofError, ImportFailed, InvalidInstant, InvalidOperation, StorageError
from eventstore.events import Event, Vector, vector_of
from eventstore.hashing import payload_digest
from eventstore.instants import format_instant, parse_instant, to_microseconds
from eventstore.operations import Add, Delete, Operation, Prepared, Update, prepare
from eventstore.writer import Transaction, Writer

__all__ = ["ImportResult", "export_records", "import_records", "read_json_lines"]

_RECORDS_AT_ONCE = 1000

LINE_LIMIT = 256 * 2**20
"""Bytes of a line of JSON: a reader holds one whole, and has to stop somewhere."""

_OPERATIONS: dict[str, type[Add | Update | Delete]] = {
    "ADD": Add,
    "UPDATE": Update,
    "DELETE": Delete,
}
_TAKEN = frozenset(
    "type memory_id content metadata vector recorded_at occurred_at actor_id role reason event_id correlation_id"
    " causation_id source salt payload_digest embedding_position".split()
)
# In an export these are said for the reader; an import works them out again.
_DERIVED = frozenset({"position", "version", "hash", "prev_position", "add_position"})


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did: how many events it recorded, how many were there already, and where they are."""

    imported: int
    already_there: int
    first_position: int | None
    last_position: int | None


def export_records(events: Iterable[tuple[Event, bytes]]) -> Iterator[dict[str, Any]]:
    """The records of an export, from each event and its payload's salt."""
    for event, salt in events:
        own = event.embedding_seq == event.position
        yield {
            "position": event.position,
            "event_id": event.event_id,
            "memory_id": event.memory_id,
            "version": event.version,
            "type": event.type,
            "recorded_at": format_instant(to_microseconds(event.recorded_at)),
            "occurred_at": None if event.occurred_at is None else format_instant(to_microseconds(event.occurred_at)),
            "actor_id": event.actor_id,
            "role": event.role,
            "reason": event.reason,
            "correlation_id": event.correlation_id,
            "causation_id": event.causation_id,
            "source": event.source,
            "content": event.content,
            "metadata": event.metadata,
            # As doubles: a float32's own shortest decimal may round to its neighbour on the way back.
            "vector": vector_of(event.embedding).astype(np.float64).tolist() if own and event.embedding else None,
            "embedding_position": event.embedding_seq,
            "salt": salt.hex(),
            "payload_digest": event.payload_digest,
            "hash": event.hash,
        }


def import_records(
    writer: Writer, records: Iterable[Mapping[str, Any]], *, source: str, keep_times: bool, allow_zero: bool
) -> ImportResult:
    """Record foreign events in one transaction; see `EventStore.import_events`."""
    check_id("source", source)
    if not isinstance(records, Iterable) or isinstance(records, (str, bytes, Mapping)):
        raise InvalidOperation(f"records is of type {type(records).__name__}: give an iterable of records")
    imported = there = 0
    first = last = None
    with writer.transaction() as transaction:
        chain = _ExportedChain(transaction.tail.position, keep_times)
        times = _Times(transaction, writer.now(), writer.settled_until, keep_times)
        for number, some in enumerate(chunks(records, _RECORDS_AT_ONCE)):
            start = number * _RECORDS_AT_ONCE + 1
            prepared = []
            for line, record in enumerate(some, start):
                with _at_line(line):
                    prepared.append(_prepare_record(record, source, transaction.dimension, allow_zero))
            times.assign(prepared, start)
            with _at_line(None, start):
                writer.embed(prepared)
                recorded = transaction.record(prepared)
            for line, (record, event) in enumerate(zip(some, recorded, strict=True), start):
                chain.check(line, record, event)
                imported += event.new
                there += not event.new
                if event.new:
                    first = first or event.row.seq
                    last = event.row.seq
    return ImportResult(imported, there, first, last)


class _ExportedChain:
    """Holds an export that is imported whole against the hashes that it carries.

    From the first event on, as long as every record has its hash: then a changed header or a missing line shows.
    """

    def __init__(self, position: int, keep_times: bool) -> None:
        self._unbroken = position == 0 and keep_times

    def check(self, line: int, record: Mapping[str, Any], event: Recorded) -> None:
        # Without the salt it is no longer the record that was exported, and does not claim to be.
        carried = None if record.get("salt") is None else record.get("hash")
        self._unbroken = self._unbroken and event.new and carried is not None
        if self._unbroken and carried != event.row.hash.hex():
            raise ImportFailed(
                f"line {line}: the record does not have the hash that it was exported with: it was changed, or a line "
                "before it is missing; to import part of an export leave hash out; nothing was imported",
                line,
            )


@contextlib.contextmanager
def _at_line(line: int | None, start: int = 0) -> Iterator[None]:
    """Turn an error in a record into `ImportFailed` with its line; trouble with the file itself stays as it is."""
    try:
        yield
    except (StorageError, ImportFailed):
        raise
    except AsofError as error:
        at = line if line is not None else start + (error.operation or 0)
        raise ImportFailed(f"line {at}: {error}; nothing was imported", at) from error


class _Times:
    """Gives every new event its `recorded_at`: the source's own, as long as it runs forward, or the import's."""

    def __init__(self, transaction: Transaction, now: int, settled: int, keep: bool) -> None:
        self._transaction = transaction
        self._now = now
        self._keep = keep
        # What was answered of an instant past the head holds for an import too.
        self._before = max(settled, settled if transaction.tail.recorded_at is None else transaction.tail.recorded_at)
        self._last: int | None = None

    def assign(self, prepared: list[Prepared], start: int) -> None:
        known = self._known(prepared)
        for line, operation in enumerate(prepared, start):
            own = operation.recorded_at
            if not self._keep:
                operation.context.occurred_at = (
                    own if operation.context.occurred_at is None else operation.context.occurred_at
                )
                operation.recorded_at = None
            elif operation.event_id not in known:
                with _at_line(line):
                    operation.recorded_at = self._next(self._transaction.instant if own is None else own)

    def _next(self, instant: int) -> int:
        if self._last is not None and instant < self._last:
            raise InvalidInstant(
                f"recorded_at {format_instant(instant)} is earlier than the line before, {format_instant(self._last)}: "
                "sort the records by time, or import with keep_times=False"
            )
        if self._last is None and instant <= self._before:
            raise InvalidInstant(
                f"recorded_at {format_instant(instant)} is not later than {format_instant(self._before)}, "
                "up to which the history is settled: it only grows forward; import with keep_times=False"
            )
        if instant > max(self._now, self._transaction.instant):
            raise InvalidInstant(
                f"recorded_at {format_instant(instant)} lies in the future: "
                "mend the record, or import with keep_times=False"
            )
        self._last = instant
        return instant

    def _known(self, prepared: list[Prepared]) -> set[str]:
        ids = [operation.event_id for operation in prepared if operation.event_id is not None]
        places = ",".join("?" * len(ids))
        sql = f"SELECT event_id FROM events WHERE event_id IN ({places})"
        return {row[0] for row in self._transaction.connection.execute(sql, ids)} if ids else set()


def _prepare_record(record: Any, source: str, dimension: int | None, allow_zero: bool) -> Prepared:
    if not isinstance(record, Mapping):
        raise InvalidOperation(f"a record is of type {type(record).__name__}: give an object with type, memory_id, ...")
    unknown = [key for key in record if key not in _TAKEN and key not in _DERIVED]
    if unknown:
        raise InvalidOperation(
            f"unknown key {unknown[0]!r}: put it into metadata or leave it out; known are {', '.join(sorted(_TAKEN))}"
        )
    kind = "ADD" if record.get("type") is None else record["type"]
    model = _OPERATIONS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise InvalidOperation(f"type {kind!r} is not ADD, UPDATE or DELETE")
    given = {name: record.get(name) for name in model.model_fields if name not in ("type", "expected_version")}
    keeps_embedding = model is Update and record.get("vector") is None and record.get("embedding_position") is not None
    make: Callable[..., Operation] = model
    operation = make(**given)
    # An export says of every event what its source was, also that it had none; so it comes back the same.
    shared = {"source": record.get("source", source)}
    prepared = prepare(operation, shared, dimension, allow_zero=allow_zero)
    if keeps_embedding:
        prepared.embed = False
    if record.get("recorded_at") is not None:
        prepared.recorded_at = parse_instant(record["recorded_at"], "recorded_at")
    if record.get("salt") is not None:
        prepared.salt = _hexadecimal("salt", record["salt"], SALT_LENGTH)
        _check_digest(record, prepared)
    return prepared


def _check_digest(record: Mapping[str, Any], prepared: Prepared) -> None:
    """An exported record carries the digest of its payload: what does not match was changed on the way."""
    if record.get("payload_digest") is None or prepared.embed or prepared.salt is None:
        return
    digest = payload_digest(prepared.salt, prepared.content, prepared.metadata, prepared.embedding)
    if digest != _hexadecimal("payload_digest", record["payload_digest"], 32):
        raise InvalidOperation("the record does not match its payload_digest: it was changed since it was exported")


def _hexadecimal(name: str, value: Any, length: int) -> bytes:
    try:
        decoded = bytes.fromhex(value)
    except (TypeError, ValueError):
        decoded = b""
    if len(decoded) != length:
        raise InvalidOperation(f"{name} is not {2 * length} hexadecimal digits")
    return decoded


def read_json_lines(path: str | os.PathLike[str], vectors: Vector | None = None) -> Iterator[dict[str, Any]]:
    """The records of a JSON lines file, one object a line; `ImportFailed` names the first malformed line.

    Where `vectors`, shape `(rows, dimension)`, is given, a whole number as a record's `vector` is a row of it.
    """
    try:
        with Path(path).open("rb") as stream:
            yield from _records(stream, vectors)
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from error


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream, numbered from 1, without the empty ones at its end; none is longer than the limit."""
    line, empty = 0, None
    while text := stream.readline(LINE_LIMIT + 1):
        line += 1
        if len(text) > LINE_LIMIT:
            raise ImportFailed(
                f"line {line}: longer than {LINE_LIMIT // 2**20} MiB, so no record; nothing was imported", line
            )
        if not text.strip():
            empty = empty or (line, text)
            continue
        if empty is not None:
            yield empty  # many tools end a file with empty lines; this one is not at the end
        yield line, text


def _records(stream: IO[bytes], vectors: Vector | None) -> Iterator[dict[str, Any]]:
    for line, text in _lines(stream):
        try:
            record = orjson.loads(text)
            if isinstance(record, dict) and any(_is_vast(value) for key, value in record.items() if key != "vector"):
                # Perhaps a whole number past 64 bits, which orjson rounds to a float: that must not be recorded for it.
                record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ImportFailed(f"line {line}: not JSON ({error}); nothing was imported", line) from None
        if not isinstance(record, dict):
            raise ImportFailed(f"line {line}: not a JSON object; nothing was imported", line)
        row = record.get("vector")
        if row is not None and not isinstance(row, list):
            record["vector"] = _vector_row(row, vectors, line)
        yield record


def _is_vast(value: Any, depth: int = 0) -> bool:
    if isinstance(value, float):
        return abs(value) >= 2**63
    if depth > MAX_DEPTH:
        return False  # refused for that soon enough
    if isinstance(value, dict):
        return any(_is_vast(inner, depth + 1) for inner in value.values())
    return isinstance(value, list) and any(_is_vast(inner, depth + 1) for inner in value)


def _vector_row(row: Any, vectors: Vector | None, line: int) -> Vector:
    if vectors is None:
        raise ImportFailed(
            f"line {line}: vector is {row!r}, not a list: to use row numbers give their file with --vectors; "
            "nothing was imported",
            line,
        )
    try:
        number = operator.index(row)
        if isinstance(row, bool) or not 0 <= number < len(vectors):
            raise TypeError
    except TypeError:
        raise ImportFailed(
            f"line {line}: vector {row!r} is no row of a file of {len(vectors)}; nothing was imported", line
        ) from None
    chosen: Vector = vectors[number]
    return chosen
