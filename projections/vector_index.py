"""`VectorIndex`: search by similarity, now or as of any past instant, over FAISS."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from eventstore import (
    AsOf,
    Closed,
    CorruptHistory,
    Event,
    EventRange,
    EventStore,
    InvalidOperation,
    StorageError,
    Vector,
)
from eventstore import Filter as FilterDict
from eventstore.checks import check_count
from eventstore.filters import Everything, parse_filter
from eventstore.filters import Filter as FilterTree
from eventstore.reads import EventColumns
from eventstore.versions import Positions
from projections.ahead import Ahead
from projections.answers import Answer, hits_of, query_vectors
from projections.approximate import Kind, check_effort, check_kind, search
from projections.audit import Audit, named
from projections.checkpoints import Checkpoints, CheckpointWarning, DataFile, Unusable
from projections.columns import columns_of
from projections.content import Content
from projections.hits import Hits
from projections.locks import SharedLock
from projections.projection import Progress, advance
from projections.scoring import Metric, check_metric
from projections.segments import SEGMENT_ROWS
from projections.snapshot import move_to_files, newest_good, write_snapshot
from projections.unsaved import Unsaved
from projections.vectors import Damaged, HeldRows, VectorMemory

__all__ = ["VectorIndex"]

# So that a few new events do not make every short-lived process write a checkpoint.
_CHECKPOINT_ON_CLOSE = 1_000

_BYTES_AT_ONCE = 16 * 2**20
_EVENTS_AT_ONCE = 16_384
_METADATA_AT_ONCE = 4096
_VECTOR_MEMORY = 256 * 2**20

T = TypeVar("T")


class VectorIndex:
    """An index over a store's vectors, every version of them, in FAISS.

    It is a projection: it pulls events from the history, keeps a checkpoint beside it, and can be thrown away.
    Every search first catches up with what any process has committed. Safe to share between threads.

    Args:
        store: the history; the index does not close it.
        metric: `"cosine"`, `"ip"` (inner product) or `"l2"` (minus the squared distance).
        directory: where checkpoints go; `<database>.index` beside the database by default, nowhere for `:memory:`.
        kind: `"flat"` is exact; `"ivf"` (inverted lists) and `"hnsw"` (a graph) find nearly all of the nearest, sooner;
            `"auto"`, the default, is exact up to 250,000 rows and then `"ivf"`. Hits say how they were found.
        effort: how much of an approximate index a search goes through: 2 is twice the usual, finds more, takes longer.
        segment_rows: how many rows share a FAISS index; a checkpoint made with another number is not used.
        vector_memory: how many bytes of full vectors may be in memory once a checkpoint holds them, 256 MB by default.
            Others are read from there, some dozens a search; their 8-bit codes, a quarter, stay.

    Raises:
        IndexMismatch: the directory's checkpoint is of another history or dimension.
    """

    name = "vectors"

    def __init__(
        self,
        store: EventStore,
        *,
        metric: Metric = "cosine",
        kind: Kind = "auto",
        effort: float = 1.0,
        directory: str | os.PathLike[str] | None = None,
        segment_rows: int = SEGMENT_ROWS,
        vector_memory: int = _VECTOR_MEMORY,
    ) -> None:
        self._store = store
        self.metric: Metric = check_metric(metric)
        self.kind: Kind = check_kind(kind)
        self.effort = check_effort(effort)
        self._segment_rows = check_count("segment_rows", segment_rows)
        self._vector_memory = VectorMemory(check_count("vector_memory", vector_memory, least=0))
        if directory is None and store.path != ":memory:":
            directory = f"{store.file}.index"
        self._checkpoints = None if directory is None else Checkpoints(Path(directory))
        self._lock = SharedLock()
        # Reentrant: a progress callback may search.
        self._catching_up = threading.RLock()
        self._checkpointing = threading.Lock()
        self._indexing_metadata = threading.Lock()
        self._closed = False
        self._ahead = Ahead()
        self._empty()
        if self._checkpoints is not None:
            found = newest_good(self._checkpoints, store, self._nothing, self._vector_memory)
            if found is not None:
                self._content, self._checkpoint_position = found, found.position
                self._unsaved = Unsaved(found.position)

    def _nothing(self) -> Content:
        return Content(self.metric, self._segment_rows, self.kind)

    def _empty(self) -> None:
        self._ahead.stop()
        self._content, self._checkpoint_position, self._unsaved = self._nothing(), 0, Unsaved()

    # The projection

    @property
    def position(self) -> int:
        """The position of the last event that the index holds."""
        return self._content.position

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
        self._mending(lambda: self._apply(events))

    def _apply(self, events: Sequence[Event]) -> None:
        while True:
            # Read beside searches; only taking what was read needs the index alone.
            before = self.position
            columns = self._columns_past(before, events)
            with self._lock.exclusive():
                if self.position != before:
                    continue  # another thread was faster
                if not len(columns.seqs):
                    return
                if columns.seqs[0] != before + 1:
                    raise InvalidOperation(
                        f"the index is at position {before} and the events begin at {columns.seqs[0]}: "
                        "apply those in between first"
                    )
                try:
                    self._content.take(columns)
                except (CorruptHistory, Damaged):
                    raise  # found before anything was changed
                except BaseException:
                    # Interrupted between the two halves of a row: start over, the history has everything.
                    self._empty()
                    raise
                self._ahead.begin(self._content.ahead())
                return

    def _columns_past(self, position: int, events: Sequence[Event]) -> EventColumns:
        if not isinstance(events, EventRange):
            return columns_of(events, position)
        if events.after < position:
            events = self._store.event_range(min(position, events.upto), events.upto)
        return events.columns()

    def reset(self) -> None:
        """Forget everything held in memory; checkpoints stay on disk."""
        self._check_open()
        with self._catching_up, self._lock.exclusive():
            self._empty()

    def catch_up(self, upto: AsOf = None, progress: Progress | None = None) -> int:
        """Take what the history has up to an instant or position, the head by default; return the position.

        In bounded memory: vectors past `vector_memory` go to a checkpoint, 256 MB at a time. One is written too after
        100,000 events that took 30 seconds, so a long one that is killed goes on from there.
        `progress` is called with events taken and to be taken.
        """
        self._check_open()
        return self._catch_up(self._store.position_at(upto), progress)

    def _catch_up(self, target: int, progress: Progress | None = None) -> int:
        if self.position >= target:
            return self.position
        with self._catching_up:
            event_bytes = 4 * (self._store.dimension or 1)
            at_once = min(max(256, _BYTES_AT_ONCE // event_bytes), _EVENTS_AT_ONCE)
            start = self.position
            while self.position < target:
                before = self.position

                def report(done: int, total: int, before: int = before) -> None:
                    if progress is not None:
                        progress(before - start + done, target - start)

                began = time.monotonic()
                advance(self, self._store, min(target, before + at_once), report, at_once)
                self._unsaved.seconds += time.monotonic() - began
                if self._unsaved.due(self.position, event_bytes, self._past_memory):
                    self._checkpoint_if_possible()
        return self.position

    def _past_memory(self) -> int:
        return self._content.vector_bytes - self._vector_memory.most

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
        checkpoints = self._checkpoints
        with self._checkpointing:
            return self._mending(lambda: self._checkpoint(checkpoints))

    def _checkpoint(self, checkpoints: Checkpoints) -> int:
        with self._lock.shared():
            content = self._content
            position = content.position
            if position and content.segments is not None:
                head_hash = self._store.hash_at(position)
                assert head_hash is not None
                write_snapshot(checkpoints, content, head_hash)
                self._checkpoint_position, self._unsaved = position, Unsaved(position)
                move_to_files(checkpoints, content, self._vector_memory)
        return position

    def _checkpoint_if_possible(self) -> None:
        if self._checkpoints is None:
            return
        try:
            self.checkpoint()
        except StorageError as error:
            # The index is whole in memory and the history on disk: only time is lost, at the next opening.
            self._unsaved = Unsaved(self.position)
            warnings.warn(f"no index checkpoint was written: {error}", CheckpointWarning, stacklevel=3)

    def close(self) -> None:
        """Write a checkpoint if much is new, and let go of the memory; every later use raises `Closed`."""
        if self._closed:
            return
        behind = self.position - self._checkpoint_position
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
        return f"VectorIndex({self._store!r}, metric={self.metric!r}, position={self.position})"

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

        The filter and the instant are applied inside the search: `k` hits come back whenever so many exist, in an
        approximate index too; where they leave few rows, or for a graph an earlier one, it is searched exactly.
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
        vectors = query_vectors(self._store, self.metric, queries)
        answers = self._mending(lambda: self._answers(vectors, most, tree, position, min_score))
        return [hits_of(self._store, answer, position) for answer in answers]

    def _answers(
        self, vectors: list[Vector], most: int, tree: FilterTree, position: int, min_score: float | None
    ) -> list[Answer]:
        with self._at(position, with_metadata=not isinstance(tree, Everything)) as content:
            if content.segments is None:
                return [Answer.nothing() for _ in vectors]
            selection, answers = content.selection(position, tree), []
            for rows, scores, kind in search(
                content.segments, content.structure, vectors, most, selection, self.effort
            ):
                if min_score is not None:
                    rows, scores = rows[scores >= min_score], scores[scores >= min_score]
                answers.append(Answer(content.table.born[rows].astype(np.int64), scores, kind))
            return answers

    @contextlib.contextmanager
    def _at(self, position: int, *, with_metadata: bool = False) -> Iterator[Content]:
        """Share the lock over content that is at `position` or past it, its filters too where they are needed."""
        while True:
            if self.position < position:
                self._catch_up(position)
            if with_metadata:
                self._index_metadata()
            with self._lock.shared():
                # A rebuild by another thread may have come in between: then it has to be caught up with again.
                content = self._content
                if content.position >= position and not (
                    with_metadata and content.metadata.rows < content.table.born_by(position)
                ):
                    yield content
                    return

    def _index_metadata(self) -> None:
        """Bring the filters' bitmaps up to the rows. Only searches with a filter need them, so only they pay.

        Reading is done beside other searches; only taking what was read needs the index alone.
        """
        with self._indexing_metadata:
            while True:
                with self._lock.shared():
                    content = self._content
                    missing = content.table.born[content.metadata.rows :][:_METADATA_AT_ONCE].tolist()
                if not missing:
                    return
                number, inside = divmod(content.metadata.rows, self._segment_rows)
                if not inside and number < len(content.metadata_files):
                    file, rows = content.metadata_files[number]
                    if file is not None:
                        self._read_metadata(content, file, rows)
                        continue
                texts = [text for _, text in self._store.metadata_json(missing)]
                with self._lock.exclusive():
                    if self._content is content:
                        content.metadata.extend(texts)

    def _read_metadata(self, content: Content, file: DataFile, rows: int) -> None:
        """Take the next rows' metadata from the checkpoint; what cannot be read there the history has."""
        assert self._checkpoints is not None
        try:
            packed = self._checkpoints.read_data(file)
            with self._lock.exclusive():
                content.metadata.extend_packed(packed, rows)
        except (Unusable, ValueError) as error:
            content.metadata_files.clear()
            # Another process may have removed the generation that named it, and its files.
            if not isinstance(error.__cause__, FileNotFoundError) or self._checkpoints.is_named(file):
                warnings.warn(
                    f"metadata in {self.directory} were passed over: {error}", CheckpointWarning, stacklevel=5
                )

    def _mending(self, work: Callable[[], T]) -> T:
        """Do what may read vectors from a checkpoint's files; where one is damaged the history fills in."""
        while True:
            try:
                return work()
            except Damaged as damage:
                self._mend(damage)

    def _mend(self, damage: Damaged) -> None:
        with self._lock.shared():
            content, parts = self._content, self._content.segments.parts if self._content.segments else []
            number = next((n for n, part in enumerate(parts) if part.vectors is damage.rows), None)
            if number is None:
                return  # another thread was faster
            start = number * self._segment_rows
            born = content.table.born[start : start + self._segment_rows].tolist()
        message = f"index checkpoint {damage.rows.path}: {damage}; the history fills in"
        warnings.warn(message, CheckpointWarning, stacklevel=5)
        vectors = self._store.embeddings(born)
        parts[number].vectors = HeldRows.of(vectors)
        files = content.written.get(number)
        if self._checkpoints is not None and files is not None and not self._store.read_only:
            with contextlib.suppress(StorageError):  # it is whole in memory, and made again at the next opening
                self._checkpoints.write_again(files.vectors, vectors.data.cast("B"))

    # Looking inside

    def contents(self, as_of: AsOf = None) -> tuple[Positions, Vector]:
        """Positions of the versions alive at an instant or position, ascending, and their vectors as recorded."""
        position = self._store.position_at(as_of)
        return self._mending(lambda: self._alive(position))

    def _alive(self, position: int) -> tuple[Positions, Vector]:
        with self._at(position) as content:
            born, vectors = content.alive(position)
            return born, vectors if vectors.shape[1] else np.empty((0, self._store.dimension or 0), dtype=np.float32)

    def faults(self, progress: Progress | None = None) -> list[str]:
        """Compare every row with the history, vectors bit for bit; say in words what differs. Empty if nothing."""
        self._check_open()
        faults = self._damaged_files()
        with self._lock.shared():
            position = self.position
            audit = Audit(self._content.table, self._content.segments, position)
        for after in range(0, position, 4096):
            upto = min(position, after + 4096)
            columns = self._store.event_range(after, upto).columns()
            with self._lock.shared():
                faults += audit.compare(columns)
            if progress is not None:
                progress(upto, position)
        return faults + audit.ends()

    def _damaged_files(self) -> list[str]:
        """Read all that checkpoints hold for this index; what was altered is named, and mended like what is gone."""
        faults = []
        for number, part in enumerate(self._content.segments.parts if self._content.segments else []):
            try:
                with self._lock.shared():
                    rows = part.misfits() + number * self._segment_rows
            except Damaged as damage:
                wrong = damage.wrong + number * self._segment_rows
                faults += [str(damage)] if damage.altered else []
                faults += named("its vector of the event at position {} is not the recorded one", self._born(wrong))
                self._mend(damage)
                continue
            faults += named("the codes of the event at position {} are not those of its vector", self._born(rows))
        return faults

    def _born(self, rows: Any) -> Any:
        with self._lock.shared():
            return self._content.table.born[rows]
