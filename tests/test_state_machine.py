"""One machine drives a plain model, a store, an index kept open and indexes reopened, and compares them all.

It states invariants 2, 3, 4 and 6 of the design: after every step, at the head and at any earlier position or
instant, the store, the model and every index say the same, vectors bit for bit, searches to the last bit and order.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import replay
from eventstore import (
    Add,
    AsofError,
    Delete,
    DimensionMismatch,
    EventConflict,
    EventStore,
    HashingEmbedder,
    InvalidInstant,
    InvalidOperation,
    InvalidVector,
    MemoryExists,
    MemoryNotFound,
    Update,
    VersionConflict,
)
from projections import CheckpointWarning, VectorIndex
from tests.model import Model
from tests.profiles import scaled

DIMENSION = 8
EMBED = HashingEmbedder(DIMENSION)

IDS = ["a", "b", "c", "d", "e"]
ids = st.sampled_from(IDS)
contents = st.sampled_from(["tea", "coffee", "Alice prefers tea", "", "naïve 🫖", "x" * 300, "nul\0nul"])
metadata = st.dictionaries(
    st.sampled_from(["user", "n", "tag"]), st.sampled_from(["alice", "bob", 1, 2.5, True, None, ["x"]]), max_size=2
)
filters = st.sampled_from(
    [
        (None, None),
        ({"user": "alice"}, lambda m: m.get("user") == "alice"),
        ({"n": {"exists": False}}, lambda m: "n" not in m),
        ({"NOT": {"user": "bob"}}, lambda m: m.get("user") != "bob"),
        ({"n": {"gt": 1}}, lambda m: type(m.get("n")) in (int, float) and m["n"] > 1),
    ]
)

# Small whole numbers meet often and tie often; the others are near-ties, denormal and of extreme length.
grid = st.lists(st.integers(-1, 1), min_size=DIMENSION, max_size=DIMENSION).filter(any)
odd = st.tuples(grid, st.sampled_from([1e-42, 1e-20, 1 / 3, 1.0000001, 3.0, 1e18, 1e37])).map(
    lambda drawn: [number * drawn[1] for number in drawn[0]]
)
vectors = st.one_of(grid, odd).map(lambda numbers: np.array(numbers, dtype=np.float32)).filter(np.any)
maybe_vectors = st.one_of(st.none(), vectors)


def embedding_of(vector: Any, content: str) -> bytes:
    """The bytes that should be recorded for a vector, or for a text without one."""
    return (np.asarray(EMBED([content]))[0] if vector is None else vector).astype("<f4").tobytes()


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        """The time that it was set to, a little later each time."""
        self.now += timedelta(microseconds=1)
        return self.now


class MemoryMachine(RuleBasedStateMachine):
    """Operations, failures, time, checkpoints, reopenings, rebuilds and restores, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.model = Model()
        self.answered: dict[datetime, int] = {}
        self.store = self.open_store()

    @initialize(metric=st.sampled_from(["cosine", "ip", "l2"]))
    def choose_metric(self, metric: Any) -> None:
        self.metric = metric
        self.index = self.open_index()

    def open_store(self) -> EventStore:
        return EventStore(self.folder / "agent.db", embedder=EMBED, clock=self.clock, durability="normal")

    def open_index(self) -> VectorIndex:
        return VectorIndex(self.store, metric=self.metric, segment_rows=4)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    # Operations

    @rule(memory_id=ids, content=contents, vector=maybe_vectors, metadata=st.one_of(st.none(), metadata))
    def add(self, memory_id: str, content: str, vector: Any, metadata: Any) -> None:
        if memory_id in self.model.state(self.model.position):
            self.refused(MemoryExists, lambda: self.store.add(content, vector=vector, memory_id=memory_id))
            return
        event = self.store.add(content, vector=vector, memory_id=memory_id, metadata=metadata)
        self.model.take(event, "ADD", memory_id, content, metadata or {}, embedding_of(vector, content))

    @rule(memory_id=ids, content=st.one_of(st.none(), contents), vector=maybe_vectors, metadata=metadata)
    def update(self, memory_id: str, content: str | None, vector: Any, metadata: Any) -> None:
        if memory_id not in self.model.state(self.model.position):
            self.refused(MemoryNotFound, lambda: self.store.update(memory_id, content, metadata=metadata))
            return
        version = self.model.version(memory_id)
        event = self.store.update(memory_id, content, vector=vector, metadata=metadata, expected_version=version)
        new = None if vector is None and content is None else embedding_of(vector, content or "")
        self.model.take(event, "UPDATE", memory_id, content, metadata, new)

    @rule(memory_id=ids)
    def delete(self, memory_id: str) -> None:
        if memory_id not in self.model.state(self.model.position):
            self.refused(MemoryNotFound, lambda: self.store.delete(memory_id))
            return
        self.model.take(self.store.delete(memory_id), "DELETE", memory_id, None, None, None)

    @rule(memory_id=ids, contents=st.lists(contents, min_size=1, max_size=4), ends=st.booleans())
    def append_that_builds_on_itself(self, memory_id: str, contents: list[str], ends: bool) -> None:
        operations: list[Any] = []
        if memory_id not in self.model.state(self.model.position):
            operations.append(Add(content=contents[0], memory_id=memory_id))
        operations += [Update(memory_id=memory_id, content=content) for content in contents[1:]]
        if ends or not operations:
            operations.append(Delete(memory_id=memory_id))
        events = self.store.append(operations)
        assert len({event.recorded_at for event in events}) == 1
        for event, operation in zip(events, operations, strict=True):
            if isinstance(operation, Delete):
                self.model.take(event, "DELETE", memory_id, None, None, None)
            else:
                made = embedding_of(None, operation.content or "")
                kept = {} if isinstance(operation, Add) else None
                self.model.take(event, operation.type, memory_id, operation.content, kept, made)

    @rule(vectors=st.lists(vectors, min_size=1, max_size=9))
    def add_many(self, vectors: list[Any]) -> None:
        texts = [f"text {number}" for number in range(len(vectors))]
        for event, text, vector in zip(
            self.store.add_many(texts, vectors=np.stack(vectors)), texts, vectors, strict=True
        ):
            self.model.take(event, "ADD", event.memory_id, text, {}, embedding_of(vector, text))

    @rule(chosen=filters)
    def delete_where(self, chosen: Any) -> None:
        given, wanted = chosen
        if given is None:
            self.refused(InvalidOperation, lambda: self.store.delete_where(given))
            return
        doomed = [m for m in self.model.state(self.model.position).values() if wanted(m.metadata)]
        events = self.store.delete_where(given)
        assert [event.memory_id for event in events] == [m.memory_id for m in sorted(doomed, key=lambda m: m.position)]
        for event in events:
            self.model.take(event, "DELETE", event.memory_id, None, None, None)

    # Failures: nothing changes

    @rule(memory_id=ids, which=st.integers(0, 6))
    def failing_operation(self, memory_id: str, which: int) -> None:
        live = memory_id in self.model.state(self.model.position)
        good = Add(content="good", memory_id="never")
        wrong = self.model.version(memory_id) + 1
        cases: list[tuple[type[Exception] | tuple[type[Exception], ...], Any]] = [
            (InvalidVector, lambda: self.store.add("x", vector=[float("nan")] * DIMENSION)),
            (DimensionMismatch, lambda: self.store.add("x", vector=[1.0, 2.0])),
            (InvalidVector, lambda: self.store.add("x", vector=[0.0] * DIMENSION)),
            (InvalidOperation, lambda: self.store.append([])),
            ((VersionConflict, MemoryNotFound), lambda: self.store.delete(memory_id, expected_version=wrong)),
            (
                (MemoryExists, MemoryNotFound),
                lambda: self.store.append(
                    [good, Add(content="x", memory_id=memory_id) if live else Delete(memory_id=memory_id)]
                ),
            ),
            (InvalidInstant, lambda: self.store.add("x", occurred_at=datetime(2020, 1, 1))),
        ]
        if self.store.dimension is None and which == 1:
            return
        self.refused(*cases[which])

    def refused(self, error: Any, operation: Any) -> None:
        with pytest.raises(error) as refusal:
            operation()
        assert isinstance(refusal.value, AsofError)
        assert self.store.position == self.model.position

    @precondition(lambda self: self.model.events)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        event = data.draw(st.sampled_from(self.model.events))
        if event.correlation_id is not None:  # a restore's own event
            return
        if event.type == "ADD":
            again = self.store.add(
                event.content, memory_id=event.memory_id, metadata=event.metadata, event_id=event.event_id
            )
            assert again == event
            self.refused(EventConflict, lambda: self.store.add("other", event_id=event.event_id))
        elif event.type == "DELETE":
            assert self.store.delete(event.memory_id, event_id=event.event_id) == event

    # Time

    @rule(seconds=st.integers(-3600, 3600))
    def clock_jumps(self, seconds: int) -> None:
        self.clock.now += timedelta(seconds=seconds)

    @rule(seconds=st.integers(-3600, 1))
    def ask_an_instant(self, seconds: int) -> None:
        """What an instant means never changes once it has been answered."""
        instant = self.clock.now + timedelta(seconds=seconds)
        try:
            position = self.store.position_at(instant)
        except InvalidInstant:
            head = self.store.head.recorded_at
            assert instant > self.clock.now
            assert head is None or instant > head
            assert instant not in self.answered
            return
        assert position == sum(1 for event in self.model.events if event.recorded_at <= instant)
        self.answered[instant] = position

    # The index

    @rule()
    def checkpoint(self) -> None:
        self.index.checkpoint()

    @rule()
    def reopen_everything(self) -> None:
        self.index.close()
        self.store.close()
        self.store = self.open_store()
        # What was answered past the head holds for as long as the store is open: the floor is not on disk.
        head = self.store.head.recorded_at
        self.answered = {at: position for at, position in self.answered.items() if head is not None and at <= head}
        self.index = self.open_index()

    @rule()
    def crash(self) -> None:
        """Dropped without closing: a checkpoint may be behind, the history is not."""
        self.store.close()
        self.store = self.open_store()
        # What was answered past the head holds for as long as the store is open: the floor is not on disk.
        head = self.store.head.recorded_at
        self.answered = {at: position for at, position in self.answered.items() if head is not None and at <= head}
        self.index = self.open_index()

    @rule()
    def rebuild(self) -> None:
        assert replay.rebuild(self.index) == self.model.position

    @rule(at=st.integers(0, 10**6), bit=st.integers(0, 7))
    def a_bit_of_the_checkpoint_flips(self, at: int, bit: int) -> None:
        files = sorted(path for path in self.folder.glob("agent.db.index/*") if path.suffix in (".json", ".bin"))
        if not files:
            return
        path = files[at % len(files)]
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= 1 << bit
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            self.index = self.open_index()

    @rule()
    def the_index_directory_vanishes(self) -> None:
        shutil.rmtree(self.folder / "agent.db.index", ignore_errors=True)

    # Restoring

    @precondition(lambda self: self.model.position)
    @rule(fraction=st.floats(0, 1))
    def restore(self, fraction: float) -> None:
        position = round(fraction * self.model.position)
        then, start = self.model.state(position), self.model.state(self.model.position)
        restored = replay.restore(self.store, position, reason="undo")
        for event in restored.events:
            self.model.take(event, event.type, event.memory_id, event.content, event.metadata, event.embedding)
        assert plain(self.model.state(self.model.position)) == plain(then)
        again = replay.restore(self.store, restored.position_before)
        for event in again.events:
            self.model.take(event, event.type, event.memory_id, event.content, event.metadata, event.embedding)
        assert plain(self.model.state(self.model.position)) == plain(start)

    # What must hold

    @invariant()
    def positions_and_times_are_right(self) -> None:
        assert self.store.position == self.model.position
        last = self.model.events[-1:]
        assert self.store.head.recorded_at == (last[0].recorded_at if last else None)

    @invariant()
    def answered_instants_stay_answered(self) -> None:
        for instant, position in list(self.answered.items())[-3:]:
            assert self.store.position_at(instant) == position

    @rule(fraction=st.floats(0, 1), query=vectors, k=st.integers(1, 12), chosen=filters, low=st.booleans())
    def everything_agrees(self, fraction: float, query: Any, k: int, chosen: Any, low: bool) -> None:
        for position in {round(fraction * self.model.position), self.model.position}:
            self.check_state(position)
            self.check_search(position, query, k, chosen, None if low else 0.25)

    def check_state(self, position: int) -> None:
        expected = self.model.state(position)
        memories = self.store.memories(as_of=position)
        assert [m.position for m in memories] == sorted(m.position for m in expected.values())
        for memory in memories:
            model = expected[memory.memory_id]
            assert (memory.content, memory.metadata, memory.version) == (model.content, model.metadata, model.version)
            created = self.model.events[model.created_position - 1].recorded_at
            assert memory.created_at == created
            assert self.store.get(memory.memory_id, as_of=position) == memory
        assert self.store.count(as_of=position) == len(expected)
        for memory_id in set(IDS) - set(expected):
            assert self.store.get(memory_id, as_of=position) is None
        named, matrix = self.store.vectors(as_of=position)
        assert {i: v.tobytes() for i, v in zip(named, matrix, strict=True)} == {
            memory_id: memory.embedding for memory_id, memory in expected.items()
        }
        positions, rows = self.index.contents(as_of=position)
        assert positions.tolist() == [m.position for m in memories]
        assert rows.tobytes() == matrix.tobytes()
        state = replay.state(self.store, position)
        assert list(state.memories.values()) == memories

    def check_search(self, position: int, query: Any, k: int, chosen: Any, min_score: float | None) -> None:
        given, wanted = chosen
        numbers = [float(number) for number in query]
        expected = self.model.search(self.metric, numbers, k, position, wanted, min_score)
        hits = self.index.search(query, k, filter=given, as_of=position, min_score=min_score)
        assert hits.position == position
        assert [(hit.memory_id, hit.score) for hit in hits] == expected
        (many,) = self.index.search_many([query], k, filter=given, as_of=position, min_score=min_score)
        assert many == hits
        if position == self.model.position:
            assert self.index.search(query, k, filter=given, min_score=min_score) == hits
            fresh = VectorIndex(self.store, metric=self.metric, directory=self.folder / "none", segment_rows=3)
            assert fresh.search(query, k, filter=given, min_score=min_score) == hits

    def check_everything_recorded(self) -> None:
        assert list(self.store.events()) == self.model.events
        for before, after in zip(self.model.events, self.model.events[1:], strict=False):
            assert before.recorded_at <= after.recorded_at
            assert after.position == before.position + 1

    @rule()
    def verify(self) -> None:
        self.check_everything_recorded()
        self.index.catch_up()
        report = replay.verify(self.store, self.index)
        assert report.ok, report.faults


def plain(state: Any) -> dict[str, tuple[str, Any, bytes]]:
    """What a restore brings back: not versions and times, which only go forward."""
    return {memory_id: (m.content, m.metadata, m.embedding) for memory_id, m in state.items()}


MemoryMachine.TestCase.settings = settings(max_examples=scaled(100), stateful_step_count=30, deadline=None)
TestMemoryMachine = MemoryMachine.TestCase
