"""`VectorIndex`: search by similarity, now or as of any past instant, over FAISS."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from eventstore import (
    AsOf,
    Closed,
    CorruptHistory,
    Event,
    EventRange,
    EventStore,
    InvalidOperation,
    InvalidVector,
    StorageError,
    Vector,
)
from eventstore import Filter as FilterDict
from eventstore.checks import check_content, check_count, check_matrix, check_vector
from eventstore.filters import Everything, parse_filter
from eventstore.reads import EventColumns
from eventstore.versions import Positions
from projections.audit import Audit
from projections.checkpoints import Checkpoints, CheckpointWarning, DataFile
from projections.columns import columns_of
from projections.hits import Hit, Hits
from projections.locks import SharedLock
from projections.metadata_index import MetadataIndex
from projections.nearest import nearest
from projections.projection import Progress, project
from projections.rows import RowTable
from projections.scoring import Floats, Metric, check_metric
from projections.segments import SEGMENT_ROWS, Rows, Segments
from projections.snapshot import Snapshot, newest_good, write_snapshot

__all__ = ["VectorIndex"]

# While catching up on a long history, so that a killed rebuild goes on from there; on closing, so that a few
# new events do not make every short-lived process write a checkpoint.
_CHECKPOINT_EVERY = 100_000
_CHECKPOINT_ON_CLOSE = 1_000

_BYTES_AT_ONCE = 16 * 2**20
_METADATA_AT_ONCE = 4096


class VectorIndex:
    """An exact index over a store's vectors, every version of them, in FAISS.

    It is a projection: it pulls events from the history, keeps a checkpoint beside it, and can be thrown away.
    Every search first catches up with what any process has committed. Safe to share between threads.

    Args:
        store: the history; the index does not close it.
        metric: `"cosine"`, `"ip"` (inner product) or `"l2"` (minus the squared distance).
        directory: where checkpoints go; `<database>.index` beside the database by default, nowhere for `:memory:`.
        segment_rows: how many rows share a FAISS index; a checkpoint made with another number is not used.

    Raises:
        IndexMismatch: the directory's checkpoint is of another history or dimension.
    """

    name = "vectors"

    def __init__(
        self,
        store: EventStore,
        *,
        metric: Metric = "cosine",
        directory: str | os.PathLike[str] | None = None,
        segment_rows: int = SEGMENT_ROWS,
    ) -> None:
        self._store = store
        self.metric: Metric = check_metric(metric)
        self._segment_rows = check_count("segment_rows", segment_rows)
        if directory is None and store.path != ":memory:":
            directory = f"{store.file}.index"
        self._checkpoints = None if directory is None else Checkpoints(Path(directory))
        self._lock = SharedLock()
        # Reentrant: a progress callback may search.
        self._catching_up = threading.RLock()
        self._checkpointing = threading.Lock()
        self._indexing_metadata = threading.Lock()
        self._closed = False
        self._empty()
        if self._checkpoints is not None:
            self._load(newest_good(self._checkpoints, store, self.metric, self._segment_rows))

    def _empty(self) -> None:
        self._position = self._checkpoint_position = 0
        self._table = RowTable()
        self._segments: Segments | None = None
        self._metadata = MetadataIndex()
        self._written: dict[int, DataFile] = {}

    def _load(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._position = self._checkpoint_position = snapshot.position
            self._table, self._segments, self._written = snapshot.table, snapshot.segments, snapshot.written

    # The projection

    @property
    def position(self) -> int:
        """The position of the last event that the index holds."""
        return self._position

    @property
    def directory(self) -> Path | None:
        """Where checkpoints go; None if nowhere."""
        return None if self._checkpoints is None else self._checkpoints.directory

    def apply(self, events: Sequence[Event]) -> None:
        """Take the next events; those the index holds already are passed over.

        Raises:
            InvalidOperation: there is a gap between the index's position and the events.
            CorruptHistory: the events do not fit together. The index stays at its position.
        """
        self._check_open()
        while True:
            # Read beside searches; only taking what was read needs the index alone.
            before = self._position
            columns = self._columns_past(before, events)
            with self._lock.exclusive():
                if self._position != before:
                    continue  # another thread was faster
                if not len(columns.seqs):
                    return
                if columns.seqs[0] != before + 1:
                    raise InvalidOperation(
                        f"the index is at position {before} and the events begin at {columns.seqs[0]}: "
                        "apply those in between first"
                    )
                self._take(columns)
                return

    def _columns_past(self, position: int, events: Sequence[Event]) -> EventColumns:
        if not isinstance(events, EventRange):
            return columns_of(events, position)
        if events.after < position:
            events = self._store.event_range(min(position, events.upto), events.upto)
        return events.columns()

    def _take(self, columns: EventColumns) -> None:
        vectors = self._vectors_of_rows(columns)
        try:
            self._table.extend(columns.seqs, columns.prev_seqs, columns.is_delete)
            if len(vectors):
                if self._segments is None:
                    self._segments = Segments(self.metric, vectors.shape[1], self._segment_rows)
                self._segments.add(vectors)
            self._position = int(columns.seqs[-1])
        except CorruptHistory:
            raise  # found before anything was changed
        except BaseException:
            # Interrupted between the two halves of a row: start over, the history has everything.
            self._empty()
            raise

    def _vectors_of_rows(self, columns: EventColumns) -> Vector:
        """The vector of each event that is not a DELETE: its own, one before it in the columns, or an indexed one."""
        held_by = columns.embedding_seqs[~columns.is_delete]
        if len(held_by) == len(columns.embedding_at) and (held_by == columns.embedding_at).all():
            return columns.embeddings
        vectors = np.empty((len(held_by), columns.embeddings.shape[1]), dtype=np.float32)
        indexed = held_by <= self._position
        at = np.searchsorted(columns.embedding_at, held_by[~indexed])
        vectors[~indexed] = columns.embeddings[at]
        if indexed.any():
            assert self._segments is not None
            vectors[indexed] = self._segments.vectors(self._table.rows_of(held_by[indexed]))
        return vectors

    def reset(self) -> None:
        """Forget everything held in memory; checkpoints stay on disk."""
        self._check_open()
        with self._catching_up, self._lock.exclusive():
            self._empty()

    def catch_up(self, upto: AsOf = None, progress: Progress | None = None) -> int:
        """Take what the history has up to an instant or position, the head by default; return the position.

        In bounded memory, with a checkpoint every 100,000 events, so a long one that is killed goes on from there.
        `progress` is called with events taken and to be taken.
        """
        self._check_open()
        target = self._store.position_at(upto)
        if self._position >= target:
            return self._position
        with self._catching_up:
            at_once = max(256, _BYTES_AT_ONCE // (4 * (self._store.dimension or 1)))
            start = self._position
            while self._position < target:
                before = self._position
                step = min(target, self._checkpoint_position + _CHECKPOINT_EVERY)
                upper = step if step > before else target

                def report(done: int, total: int, before: int = before) -> None:
                    if progress is not None:
                        progress(before - start + done, target - start)

                project(self, self._store, upto=upper, progress=report, events_at_once=min(at_once, 16_384))
                if self._checkpoints is not None and self._position - self._checkpoint_position >= _CHECKPOINT_EVERY:
                    self._checkpoint_if_possible()
        return self._position

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the index again from the history alone, checkpoint it, and return its position."""
        self.reset()
        position = self.catch_up(progress=progress)
        if self._checkpoints is not None and position and not self._store.read_only:
            self.checkpoint()
        return position

    def checkpoint(self) -> int:
        """Write the index to its directory, so that opening it need not replay the history; return its position.

        Raises:
            InvalidOperation: the index has no directory.
            StorageError: the directory could not be written; the older checkpoint stays good.
        """
        self._check_open()
        if self._checkpoints is None:
            raise InvalidOperation("this index has no directory: give directory=... to keep checkpoints")
        with self._checkpointing, self._lock.shared():
            position = self._position
            if position and self._segments is not None:
                head_hash = self._store.hash_at(position)
                assert head_hash is not None
                snapshot = Snapshot(position, self._table, self._segments, self._written)
                write_snapshot(self._checkpoints, snapshot, head_hash)
                self._checkpoint_position = position
        return position

    def _checkpoint_if_possible(self) -> None:
        try:
            self.checkpoint()
        except StorageError as error:
            # The index is whole in memory and the history on disk: only time is lost, at the next opening.
            warnings.warn(f"no index checkpoint was written: {error}", CheckpointWarning, stacklevel=3)

    def close(self) -> None:
        """Write a checkpoint if much is new, and let go of the memory; every later use raises `Closed`."""
        if self._closed:
            return
        behind = self._position - self._checkpoint_position
        if (
            self._checkpoints is not None
            and behind
            and (behind >= _CHECKPOINT_ON_CLOSE or not self._checkpoint_position)
            and not (self._store.closed or self._store.read_only)
        ):
            self._checkpoint_if_possible()
        self._closed = True
        with self._lock.exclusive():
            self._empty()

    def __enter__(self) -> VectorIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VectorIndex({self._store!r}, metric={self.metric!r}, position={self._position})"

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the index is closed: open it again")

    # Searching

    def search(
        self,
        query: Any,
        k: int = 10,
        *,
        filter: FilterDict = None,
        as_of: AsOf = None,
        min_score: float | None = None,
    ) -> Hits:
        """The `k` memories nearest to a query, best first, as of an instant or position; now by default.

        The filter and the instant are applied inside the search: `k` hits come back whenever so many exist.
        Scores are computed in float64 from the recorded vectors; equal ones are in the order of positions.

        Args:
            query: text (needs the store's embedder) or a vector of the store's dimension.
            k: how many, at least 1.
            filter: over metadata, as everywhere; docs/reference/filters.md.
            as_of: an aware datetime, ISO 8601 with a zone, or a position.
            min_score: leave out what scores lower.

        Raises:
            InvalidVector, DimensionMismatch, EmbedderMissing: the query cannot be searched for.
            InvalidFilter, InvalidInstant, InvalidOperation: another argument is wrong.
            CorruptHistory: the history is damaged where an answer lies.
        """
        self._check_open()
        return self._search([query], k, filter, as_of, min_score)[0]

    def search_many(
        self,
        queries: Sequence[Any] | Vector,
        k: int = 10,
        *,
        filter: FilterDict = None,
        as_of: AsOf = None,
        min_score: float | None = None,
    ) -> list[Hits]:
        """`search` for each of several queries, texts or vectors, all answered at the same position."""
        self._check_open()
        if isinstance(queries, (str, bytes)) or not hasattr(queries, "__len__"):
            raise InvalidOperation(
                f"queries is of type {type(queries).__name__}: give a list of texts, or one vector a row"
            )
        return self._search(queries, k, filter, as_of, min_score)

    def _search(
        self, queries: Sequence[Any] | Vector, k: int, filter: FilterDict, as_of: AsOf, min_score: float | None
    ) -> list[Hits]:
        most, tree = check_count("k", k), parse_filter(filter)
        if min_score is not None and (not isinstance(min_score, (int, float, np.number)) or min_score != min_score):
            raise InvalidOperation(f"min_score is {min_score!r}: give a number")
        position = self._store.position_at(as_of)
        vectors = self._query_vectors(queries)
        found = []
        with self._at(position, with_metadata=not isinstance(tree, Everything)):
            selected = self._table.alive(position)
            if not isinstance(tree, Everything):
                selected &= self._metadata.matching(tree, len(selected))
            for vector in vectors:
                rows, scores = self._nearest(vector, most, selected)
                if min_score is not None:
                    rows, scores = rows[scores >= min_score], scores[scores >= min_score]
                found.append((self._table.born[rows], scores))
        return [self._hits(positions, scores, position) for positions, scores in found]

    @contextlib.contextmanager
    def _at(self, position: int, *, with_metadata: bool = False) -> Iterator[None]:
        """Share the lock over an index that is at `position` or past it, its filters too where they are needed."""
        while True:
            if self._position < position:
                self.catch_up(position)
            if with_metadata:
                self._index_metadata()
            with self._lock.shared():
                # A rebuild by another thread may have come in between: then it has to be caught up with again.
                rows = len(self._table.alive(position))
                if self._position >= position and not (with_metadata and self._metadata.rows < rows):
                    yield
                    return

    def _query_vectors(self, queries: Sequence[Any] | Vector) -> list[Vector]:
        if not len(queries):
            return []
        dimension = self._store.dimension
        if all(isinstance(query, str) for query in queries):
            vectors = list(self._store.embed([check_content(query) for query in queries]))
        elif isinstance(queries, np.ndarray) and queries.ndim == 2:
            vectors = list(check_matrix("queries", queries, dimension))
        else:
            vectors = [check_vector("query", query, dimension, allow_zero=True) for query in queries]
        if self.metric == "cosine" and not all(vector.any() for vector in vectors):
            raise InvalidVector("query is all zeros: it has no direction, so cosine is not defined for it")
        return vectors

    def _nearest(self, query: Vector, k: int, selected: Any) -> tuple[Rows, Floats]:
        if self._segments is None:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
        return nearest(self._segments, query, k, selected)

    def _hits(self, positions: Any, scores: Floats, position: int) -> Hits:
        memories = self._store.states(positions.tolist())
        return Hits(
            [
                Hit(
                    memory_id=memory.memory_id,
                    score=score,
                    content=memory.content,
                    metadata=memory.metadata,
                    version=memory.version,
                    position=memory.position,
                    created_at=memory.created_at,
                    updated_at=memory.updated_at,
                )
                for memory, score in zip(memories, scores.tolist(), strict=True)
            ],
            position,
        )

    def _index_metadata(self) -> None:
        """Bring the filters' bitmaps up to the rows. Only searches with a filter need them, so only they pay.

        Reading is done beside other searches; only taking what was read needs the index alone.
        """
        with self._indexing_metadata:
            while True:
                with self._lock.shared():
                    metadata, table = self._metadata, self._table
                    missing = table.born[metadata.rows : metadata.rows + _METADATA_AT_ONCE].tolist()
                if not missing:
                    return
                texts = [text for _, text in self._store.metadata_json(missing)]
                with self._lock.exclusive():
                    if self._metadata is metadata:
                        metadata.extend(texts)

    # Looking inside

    def contents(self, as_of: AsOf = None) -> tuple[Positions, Vector]:
        """Positions of the versions alive at an instant or position, ascending, and their vectors as recorded."""
        position = self._store.position_at(as_of)
        with self._at(position):
            rows = np.flatnonzero(self._table.alive(position)).astype(np.int64)
            born = self._table.born[rows].astype(np.int64)
            if self._segments is None:
                return born, np.empty((0, self._store.dimension or 0), dtype=np.float32)
            return born, self._segments.vectors(rows)

    def faults(self, progress: Progress | None = None) -> list[str]:
        """Compare every row with the history, vectors bit for bit; say in words what differs. Empty if nothing."""
        self._check_open()
        faults: list[str] = []
        with self._lock.shared():
            position = self._position
            audit = Audit(self._table, self._segments, position)
        for after in range(0, position, 4096):
            upto = min(position, after + 4096)
            columns = self._store.event_range(after, upto).columns()
            with self._lock.shared():
                faults += audit.compare(columns)
            if progress is not None:
                progress(upto, position)
        return faults + audit.ends()
