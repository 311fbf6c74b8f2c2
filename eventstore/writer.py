"""The one writer of a store: transactions, the next instant, the settings that the first event fixes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from eventstore.append import Batch, OwnRows, Recorded, Tail, read_tail
from eventstore.checked import RowSource
from eventstore.checks import check_matrix
from eventstore.connections import Connections
from eventstore.embedders import Embedder, embed_texts, embedder_name
from eventstore.errors import (
    AsofError,
    CorruptHistory,
    EmbedderMismatch,
    EmbedderMissing,
    InvalidInstant,
    InvalidOperation,
)
from eventstore.events import Vector
from eventstore.group import AppendGroup, Job
from eventstore.instants import LAST_INSTANT, Clock, to_microseconds, wall_clock
from eventstore.operations import Prepared
from eventstore.queries import DIMENSION
from eventstore.recent import RecentRows

__all__ = ["Transaction", "Writer", "recorded_dimension"]


class Transaction:
    """A write transaction: all that is recorded through it is committed together, or none of it.

    `instant` is that of the append under way: not before `earliest`, and later than the last event's.
    """

    def __init__(self, source: OwnRows, earliest: int, tail: Tail, dimension: int | None) -> None:
        self._source = source
        self.connection = source.connection
        self.tail = tail
        self.dimension = dimension
        self.instant = earliest
        self.begin_next_append()

    def begin_next_append(self) -> None:
        """Move `instant` past what has been recorded, so that the next append is at an instant of its own."""
        if self.tail.recorded_at is not None:
            self.instant = max(self.instant, self.tail.recorded_at + 1)
        if self.instant > LAST_INSTANT:
            raise InvalidInstant("the next instant lies after the year 9999: set the clock right")

    def record(self, operations: Sequence[Prepared], expected_position: int | None = None) -> list[Recorded]:
        """Record operations in order. Those without a time of their own get the transaction's instant.

        `PositionConflict` if something of it is new and the history does not end at `expected_position`.

        An `AsofError` is raised before anything of them is written, and leaves the transaction as it was.
        """
        batch = Batch(self._source, self.tail, self.dimension, operations)
        recorded = batch.take(operations, self.instant, expected_position)
        self._write(batch)
        return recorded

    def record_each(self, jobs: Sequence[Job]) -> None:
        """Record appends that share the transaction, each at an instant of its own; fill in their events or errors.

        One that fails leaves the others alone. All that do not are written together, at the end.
        """
        batch = Batch(self._source, self.tail, self.dimension, [one for job in jobs for one in job.operations])
        for job in jobs:
            try:
                self.tail = batch.tail
                self.begin_next_append()
                job.recorded = batch.take(job.operations, self.instant, job.expected_position)
            except AsofError as error:
                job.error = error
        self._write(batch)

    def _write(self, batch: Batch) -> None:
        batch.write()
        self.tail = batch.tail
        if self.dimension is None and batch.dimension is not None:
            self.connection.execute("INSERT INTO settings VALUES ('dimension', ?)", (str(batch.dimension),))
            self.dimension = batch.dimension


def recorded_dimension(source: RowSource) -> int | None:
    """The dimension of a history's vectors, None before the first; `CorruptHistory` where it was changed.

    The settings say it, which no hash covers; the first event has an embedding, which does.
    """
    # In one statement: another process may record the first event meanwhile.
    said, held = source.fetch(DIMENSION)[0]
    if said is None and held is None:
        return None
    if not isinstance(held, int) or not held or held % 4 or said != str(held // 4):
        raise CorruptHistory(
            f"the recorded dimension of {source.path} is not that of its first embedding: run `replay verify`"
        )
    return held // 4


class Writer:
    """Writes one history through its connections."""

    def __init__(
        self,
        connections: Connections,
        recent: RecentRows,
        *,
        clock: Clock | None,
        embedder: Embedder | None,
        accept_embedder_change: bool,
        allow_zero_vectors: bool,
    ) -> None:
        for name, given in (("embedder", embedder), ("clock", clock)):
            if given is not None and not callable(given):
                raise InvalidOperation(f"{name} is of type {type(given).__name__}: give a callable")
        self._connections = connections
        self._recent = recent
        self._allow_zero = allow_zero_vectors
        self._clock = clock
        self._floor = -(2**63)
        self._tail: Tail | None = None  # as it was last seen and found good
        self._group = AppendGroup(self._commit, self._is_committed)
        self.embedder = embedder
        settings: dict[str, str] = dict(connections.fetch("SELECT key, value FROM settings"))
        self._dimension: int | None = None
        self.embedder_name: str | None = settings.get("embedder")
        if embedder is not None:
            self._take_embedder(embedder_name(embedder), accept_embedder_change)

    def _take_embedder(self, name: str, accept_change: bool) -> None:
        if self.embedder_name == name:
            return
        if self._connections.read_only:
            self._require_embedder(name, accept_change)
        else:
            with self._connections.writing() as connection:
                # Another process may have recorded its own since.
                row = connection.execute("SELECT value FROM settings WHERE key = 'embedder'").fetchone()
                self.embedder_name = None if row is None else row[0]
                self._require_embedder(name, accept_change)
                connection.execute("INSERT OR REPLACE INTO settings VALUES ('embedder', ?)", (name,))
        self.embedder_name = name

    def _require_embedder(self, name: str, accept_change: bool) -> None:
        if self.embedder_name not in (None, name) and not accept_change:
            raise EmbedderMismatch(
                f"{self._connections.path} holds vectors of the embedder {self.embedder_name!r}, and {name!r} was "
                "given: vectors of different embedders cannot be compared; open with the first, or with "
                "accept_embedder_change=True"
            )

    def now(self) -> int:
        """The clock's time in microseconds."""
        return wall_clock() if self._clock is None else to_microseconds(self._clock())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Begin a write transaction with its own instant: later than the head's and than any answered before."""
        with self._connections.writing() as connection:
            earliest = max(self.now(), self._floor + 1)
            source = OwnRows(connection, self._connections.path)
            tail = read_tail(source, self._tail)
            transaction = Transaction(source, earliest, tail, self._dimension or recorded_dimension(source))
            yield transaction
        self._dimension = transaction.dimension
        self._tail = transaction.tail

    @property
    def dimension(self) -> int | None:
        """How many numbers a vector has; None before the first. Once there is one it never changes."""
        if self._dimension is None:
            self._dimension = recorded_dimension(self._connections)
        return self._dimension

    @property
    def settled_until(self) -> int:
        """The latest instant past the head that was answered: it stays answered, though the clock be set back."""
        return self._floor

    def settle(self, instant: int) -> None:
        """Make sure that nothing will be recorded at or before an instant that has passed by the clock.

        An append under way in any process may have taken its time already, so it is waited for; a later one of
        this store starts after `instant` even if the clock is set back.
        """
        if self._connections.read_only:
            return
        with self._connections.writing():
            self._floor = max(self._floor, instant)

    def append(self, operations: Sequence[Prepared], expected_position: int | None = None) -> list[Recorded]:
        """Embed what needs it, then record all operations as one transaction at one instant."""
        self._connections.refuse_nested_write()  # before waiting for a group that may be waiting for this thread
        self.embed(operations)
        return self._group.run(Job(operations, expected_position))

    def _commit(self, jobs: list[Job]) -> None:
        with self.transaction() as transaction:
            transaction.record_each(jobs)
        events = [event for job in jobs for event in job.recorded or ()]
        self._recent.put([(event.row, event.payload) for event in events if event.payload is not None])

    def _is_committed(self, jobs: list[Job]) -> bool:
        last = [event.row for job in jobs for event in job.recorded or () if event.new][-1:]
        return bool(last) and [(last[0].hash,)] == self._connections.fetch(
            "SELECT hash FROM events WHERE seq = ?", (last[0].seq,)
        )

    def embed(self, operations: Sequence[Prepared]) -> None:
        """Make the embeddings of the operations that have text only; before the lock, embedders are slow."""
        pending = [operation for operation in operations if operation.embed]
        if not pending:
            return
        try:
            vectors = self.vectors_of([operation.content or "" for operation in pending], "content")
        except AsofError as error:
            error.operation = operations.index(pending[0])
            raise
        for operation, vector in zip(pending, vectors, strict=True):
            operation.embedding = vector.tobytes()
            operation.embed = False

    def vectors_of(self, texts: list[str], name: str) -> Vector:
        """The embedder's vectors for texts, checked."""
        if self.embedder is None:
            raise EmbedderMissing(
                f"there is no embedder to turn {name} into a vector: give a vector, or open the store with embedder=..."
            )
        vectors = embed_texts(self.embedder, texts, self.dimension)
        if not texts:
            return vectors
        return check_matrix(f"the embedder's result for {name}", vectors, None, allow_zero=self._allow_zero)
