"""`EventStore`: the write side of asof, and reads of its history."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import orjson

from eventstore.append import Recorded
from eventstore.checks import check_content, check_count, check_id, check_matrix, metadata_json
from eventstore.connections import Connections, Durability
from eventstore.embedders import Embedder
from eventstore.errors import AsofError, InvalidOperation
from eventstore.events import Event, Memory, Vector
from eventstore.filters import Everything, parse_filter
from eventstore.instants import Clock
from eventstore.operations import Add, Context, Delete, Operation, Prepared, Update, column, prepare, prepare_context
from eventstore.parts import write_whole
from eventstore.queries import EventSelection
from eventstore.reading import AsOf, Filter, HistoryReads
from eventstore.reads import Reader
from eventstore.recent import RecentRows
from eventstore.slices import RecordedEvents
from eventstore.transfer import ImportResult, export_records, import_records
from eventstore.writer import Writer

__all__ = ["EventStore"]


class EventStore(HistoryReads):
    """An append-only history of memories in one SQLite file.

    Every write is recorded as an immutable event before anything else knows of it; reads can ask for any past
    position or instant. Safe to share between threads; several processes may have the same file open.

    Args:
        path: the database file, created if missing; `":memory:"` keeps the history in memory.
        embedder: turns a list of texts into vectors, one row each; needed where text is given without a vector.
            Its name is recorded, and another one is refused later.
        clock: returns the current time as an aware datetime; the machine's clock by default.
        durability: `"full"` syncs every append to disk before it is acknowledged; `"normal"` lets a power
            failure (not a crash) take the last appends, whole ones, from the end.
        timeout: seconds to wait while another process writes, before `StoreBusy`.
        accept_embedder_change: open although the recorded embedder has another name, and record the new one.
        allow_zero_vectors: take vectors of zeros, which have no direction: for indexes by "ip" or "l2".

    Raises:
        NotAStore, NewerSchema, CorruptHistory: the file is something else; it is left untouched.
        OlderSchema: the file is an older version's and can only be read, so that it cannot be brought up to date.
        EmbedderMismatch: the history's vectors come from another embedder.
        StorageError: the file system refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ":memory:",
        *,
        embedder: Embedder | None = None,
        clock: Clock | None = None,
        durability: Durability = "full",
        timeout: float = 30.0,
        accept_embedder_change: bool = False,
        allow_zero_vectors: bool = False,
    ) -> None:
        if durability not in ("full", "normal"):
            raise InvalidOperation(f"durability is {durability!r}: give 'full' or 'normal'")
        if not isinstance(timeout, (int, float)) or not 0 <= timeout <= threading.TIMEOUT_MAX:
            raise InvalidOperation(f"timeout is {timeout!r}: give seconds, 0 or more")
        self._connections = Connections(os.fsdecode(path), durability=durability, timeout=timeout)
        try:
            recent = RecentRows()
            self._reader = Reader(self._connections, recent)
            self._writer = Writer(
                self._connections,
                recent,
                clock=clock,
                embedder=embedder,
                accept_embedder_change=accept_embedder_change,
                allow_zero_vectors=allow_zero_vectors,
            )
        except BaseException:
            self._connections.close()
            raise
        self._allow_zero = allow_zero_vectors

    # The store itself

    @property
    def path(self) -> str:
        """The database file, as it was given."""
        return self._connections.path

    @property
    def file(self) -> str:
        """The absolute path of the database file; `":memory:"` for a history in memory."""
        return self._connections.file

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._connections.closed

    @property
    def read_only(self) -> bool:
        """Whether the file could only be opened for reading."""
        return self._connections.read_only

    @property
    def embedder_name(self) -> str | None:
        """The recorded name of the embedder; None if none was ever given."""
        return self._writer.embedder_name

    def embed(self, texts: Sequence[str]) -> Vector:
        """The embedder's vectors of texts, float32, shape `(len(texts), dimension)`; `EmbedderMissing` without."""
        self._connections.require_open()
        if isinstance(texts, str):
            raise InvalidOperation("texts is a str: give a list of texts")
        return self._writer.vectors_of([check_content(text) for text in texts], "text")

    def close(self) -> None:
        """Close the file; every later use raises `Closed`. Closing again does nothing.

        `StorageError` if the disk failed while the log was folded into the file: what was acknowledged is in the log.
        """
        self._connections.close()

    def __enter__(self) -> EventStore:
        self._connections.require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EventStore({self.path!r}{', closed' if self.closed else ''})"

    # Writing

    def add(
        self,
        content: str,
        *,
        vector: Any = None,
        memory_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        actor_id: str | None = None,
        role: str | None = None,
        reason: str | None = None,
        occurred_at: datetime | str | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Event:
        """Record a new memory and return its ADD event, durable.

        Args:
            content: the text, of any length.
            vector: its embedding, any array-like of `dimension` finite numbers; made by the embedder if absent.
            memory_id: 1 to 512 characters; a new time-ordered one if absent. A deleted memory can be added again.
            metadata: a JSON object, what filters look at.
            actor_id, role, reason: who did it, as what, and why.
            occurred_at: when it happened in the world, an instant with a zone.
            event_id: makes a retry safe: the same event again returns the one recorded.
            correlation_id, causation_id: what it belongs to, and the event that it follows from.

        Raises:
            MemoryExists: the memory is live.
            EventConflict: the event_id is recorded with other content.
            InvalidOperation, InvalidVector, InvalidMetadata, InvalidInstant, EmbedderMissing: a bad argument.
            StoreBusy, ReadOnlyStore, Closed: the file could not be written. Nothing was.
            StorageError: the same; where it says to open the store again, only that shows whether something was.
        """
        operation = Add(
            content=content,
            vector=vector,
            memory_id=memory_id,
            metadata=metadata,
            actor_id=actor_id,
            role=role,
            reason=reason,
            occurred_at=occurred_at,
            event_id=event_id,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        return self.append([operation])[0]

    def update(
        self,
        memory_id: str,
        content: str | None = None,
        *,
        vector: Any = None,
        metadata: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
        actor_id: str | None = None,
        role: str | None = None,
        reason: str | None = None,
        occurred_at: datetime | str | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Event:
        """Record a change of what is given, keep the rest, and return the UPDATE event, durable.

        New content without a vector is embedded; `metadata` replaces the whole object. With `expected_version`
        the memory must be at that version, so of many who read it and decide, one wins. Other arguments and
        errors as for `add`.

        Raises:
            MemoryNotFound: the memory is not live.
            VersionConflict: it is at another version; the error has both numbers.
        """
        operation = Update(
            memory_id=memory_id,
            content=content,
            vector=vector,
            metadata=metadata,
            expected_version=expected_version,
            actor_id=actor_id,
            role=role,
            reason=reason,
            occurred_at=occurred_at,
            event_id=event_id,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        return self.append([operation])[0]

    def delete(
        self,
        memory_id: str,
        *,
        expected_version: int | None = None,
        actor_id: str | None = None,
        role: str | None = None,
        reason: str | None = None,
        occurred_at: datetime | str | None = None,
        event_id: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Event:
        """Record the end of a memory and return the DELETE event, durable. Its history stays.

        Arguments and errors as for `update`.
        """
        operation = Delete(
            memory_id=memory_id,
            expected_version=expected_version,
            actor_id=actor_id,
            role=role,
            reason=reason,
            occurred_at=occurred_at,
            event_id=event_id,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        return self.append([operation])[0]

    def append(
        self,
        operations: Sequence[Operation],
        *,
        actor_id: str | None = None,
        role: str | None = None,
        reason: str | None = None,
        occurred_at: datetime | str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        expected_position: int | None = None,
    ) -> Sequence[Event]:
        """Record several operations, all or none, at one instant; return their events, durable.

        They happen in order and may build on each other. The keywords hold for every operation that does not say
        its own. `expected_position` refuses the append (`PositionConflict`) if the history has grown since.
        Errors as for `add` and `update`; the error's `operation` says which one was at fault.
        """
        self._connections.require_open()
        if isinstance(operations, (str, bytes, Mapping)) or not isinstance(operations, Sequence):
            raise InvalidOperation(
                f"operations is of type {type(operations).__name__}: give a list of Add, Update, Delete"
            )
        if not operations:
            raise InvalidOperation("the append is empty: give at least one operation")
        shared = {
            "actor_id": actor_id,
            "role": role,
            "reason": reason,
            "occurred_at": occurred_at,
            "correlation_id": correlation_id,
            "causation_id": causation_id,
        }
        dimension = self.dimension
        prepared: list[Prepared] = []
        try:
            for operation in operations:
                prepared.append(prepare(operation, shared, dimension, allow_zero=self._allow_zero))
        except AsofError as error:
            error.operation = len(prepared)
            raise
        if expected_position is not None:
            check_count("expected_position", expected_position, 0)
        return RecordedEvents(self._writer.append(prepared, expected_position))

    def add_many(
        self,
        contents: Sequence[str],
        *,
        vectors: Any = None,
        memory_ids: Sequence[str | None] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        event_ids: Sequence[str | None] | None = None,
        actor_id: str | None = None,
        role: str | None = None,
        reason: str | None = None,
        occurred_at: datetime | str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Sequence[Event]:
        """Record many new memories, all or none, at one instant: the bulk road, checked by column.

        `vectors` is array-like, shape `(len(contents), dimension)`; the other lists have one value, or None, for
        each content; the single keywords hold for all. Returns the ADD events in order. Errors as for `add`; the
        error's `operation` says which row was at fault.
        """
        self._connections.require_open()
        texts = column("contents", contents, len(contents) if isinstance(contents, Sequence) else 0)
        assert texts is not None
        if not texts:
            raise InvalidOperation("contents is empty: give at least one")
        rows = len(texts)
        ids, metas = column("memory_ids", memory_ids, rows), column("metadatas", metadatas, rows)
        events = column("event_ids", event_ids, rows)
        context = prepare_context(
            actor_id=actor_id,
            role=role,
            reason=reason,
            occurred_at=occurred_at,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        blobs: list[bytes] | None = None
        if vectors is not None:
            matrix = check_matrix("vectors", vectors, self.dimension, rows=rows, allow_zero=self._allow_zero)
            blob, width = matrix.tobytes(), 4 * matrix.shape[1]
            blobs = [blob[start : start + width] for start in range(0, len(blob), width)]
        prepared: list[Prepared] = []
        try:
            for row, text in enumerate(texts):
                prepared.append(
                    Prepared(
                        "ADD",
                        check_id("memory_id", ids[row]) if ids is not None and ids[row] is not None else None,
                        check_content(text),
                        metadata_json(metas[row]) if metas is not None and metas[row] is not None else "{}",
                        None if blobs is None else blobs[row],
                        None,
                        check_id("event_id", events[row]) if events is not None and events[row] is not None else None,
                        context,
                        embed=blobs is None,
                        vector_given=blobs is not None,
                    )
                )
        except AsofError as error:
            error.operation = len(prepared)
            raise
        return RecordedEvents(self._writer.append(prepared))

    def delete_where(
        self,
        filter: Filter = None,
        *,
        everything: bool = False,
        actor_id: str | None = None,
        role: str | None = None,
        reason: str | None = None,
        occurred_at: datetime | str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Sequence[Event]:
        """Delete all memories whose metadata match, in one append; return the DELETE events (none, if none match).

        Without a filter it refuses, unless told `everything=True`. History stays.
        """
        tree = parse_filter(filter)
        if isinstance(tree, Everything) and not everything:
            raise InvalidOperation("delete_where has no filter: give one, or everything=True to delete all")
        context = prepare_context(
            actor_id=actor_id,
            role=role,
            reason=reason,
            occurred_at=occurred_at,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        # Most of the looking is done before the lock; inside it only at what came since.
        before = self.position
        matching = set(self._matching(tree, self._reader.current_positions(before)))
        with self._writer.transaction() as transaction:
            # Nobody can write meanwhile, so what the read connections see is what the deletes will meet.
            alive = self._reader.current_positions(transaction.tail.position)
            matching.update(self._matching(tree, alive[alive > before]))
            doomed = [position for position in alive.tolist() if position in matching]
            recorded: list[Recorded] = []
            if doomed:
                memories = self._reader.memories(doomed)
                recorded = transaction.record([_deletion(memory, context) for memory in memories])
        return RecordedEvents(recorded)

    # Export and import

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        as_of: AsOf = None,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Write all events up to an instant or position as JSON lines, one event a line; return how many.

        The file appears whole or not at all. `progress` is called with events written and in all. The records
        are those of docs/reference/file-format.md; imported into an empty store they give the same history.
        """
        upto = self.position_at(as_of)
        beside = {f"{self.file}{ending}" for ending in ("", "-wal", "-shm", "-journal", "-failed")}
        if os.path.realpath(os.fsdecode(path)) in beside:
            raise InvalidOperation(f"{os.fsdecode(path)} is the history itself or belongs to it: give another path")
        with write_whole(path, overwrite=overwrite) as stream:
            for record in export_records(self._reader.salted_events(EventSelection(0, upto))):
                stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                if progress is not None and (record["position"] % 1000 == 0 or record["position"] == upto):
                    progress(record["position"], upto)
        return upto

    def import_events(
        self, records: Iterable[Mapping[str, Any]], *, source: str, keep_times: bool = True
    ) -> ImportResult:
        """Record foreign events, all or none: mappings as `export` writes them; what is absent has its default.

        With `keep_times` each record's `recorded_at` is kept: times must run forward from the head and not into
        the future, and records that share a time are one instant. Without, all are recorded now, at one
        instant, and the record's time becomes its `occurred_at`. Events are marked with `source`, unless the
        record says its own. A record without a vector is embedded; one whose event_id is there already is passed
        over, so an import can be repeated.

        Raises:
            ImportFailed: names the line, counted from 1, and what is wrong with it. Nothing was imported.
        """
        return import_records(self._writer, records, source=source, keep_times=keep_times, allow_zero=self._allow_zero)


def _deletion(memory: Memory, context: Context) -> Prepared:
    return Prepared("DELETE", memory.memory_id, None, None, None, memory.version, None, context)
