"""Appends that are committed together: each sees what those before it have made, and none what failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from eventstore import (
    Add,
    AsofError,
    CorruptHistory,
    Delete,
    DimensionMismatch,
    Event,
    EventConflict,
    EventStore,
    InvalidInstant,
    InvalidOperation,
    MemoryExists,
    MemoryNotFound,
    Operation,
    PositionConflict,
    Update,
    VersionConflict,
)
from eventstore import group as group_module
from eventstore.group import AppendGroup, Job
from eventstore.operations import prepare
from eventstore.slices import RecordedEvents
from replay import verify
from tests.store_support import Appended, Clock, histories, vector

Outcome = Sequence[Event] | AsofError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    """A store in a file, with a clock that stands still."""
    with EventStore(tmp_path / "agent.db", clock=Clock()) as store:
        yield store


def job(store: EventStore, operations: Sequence[Operation], expected_position: int | None = None) -> Job:
    """An append as a thread hands it to its group."""
    return Job([prepare(one, {}, store.dimension, allow_zero=False) for one in operations], expected_position)


def committed(store: EventStore, *appends: Sequence[Operation] | Job) -> list[Outcome]:
    """What came of appends that were committed in one transaction."""
    jobs = [append if isinstance(append, Job) else job(store, append) for append in appends]
    store._writer._commit(jobs)
    return [outcome(one) for one in jobs]


def outcome(job: Job) -> Outcome:
    """The events of an append, or its error."""
    assert (job.error is None) != (job.recorded is None)
    return RecordedEvents(job.recorded or []) if job.error is None else job.error


def add(memory_id: str | None = None, content: str = "x", **more: Any) -> Add:
    """An operation with a vector."""
    return Add(content=content, vector=more.pop("vector", vector()), memory_id=memory_id, **more)


def kinds(outcomes: Sequence[Outcome]) -> list[type[AsofError] | int]:
    """How many events each append has, or its error."""
    return [type(one) if isinstance(one, AsofError) else len(one) for one in outcomes]


def as_told(event: Event) -> tuple[Any, ...]:
    """What of an event does not depend on when and with which ids it was recorded."""
    numbers = event.position, event.version, event.prev_seq, event.add_seq, event.embedding_seq
    return (*numbers, event.type, event.memory_id, event.content, event.metadata, event.embedding)


def test_an_append_that_fails_leaves_nothing_to_the_rest_of_its_group(store: EventStore) -> None:
    """Neither events, nor states, nor positions: what it would have added can be added by the next."""
    outcomes = committed(
        store,
        [add("a")],
        [add("b"), Update(memory_id="a", content="changed", vector=vector(3, 3, 3)), add("a")],
        [add("b", "mine")],
        [Update(memory_id="c", content="x", vector=vector(1))],
        [Update(memory_id="a", metadata={"n": 1}, expected_version=1)],
    )
    assert kinds(outcomes) == [1, MemoryExists, 1, MemoryNotFound, 1]
    assert isinstance(outcomes[1], AsofError)
    assert outcomes[1].operation == 2
    events = list(store.events())
    assert [(event.position, event.memory_id, event.version) for event in events] == [
        (1, "a", 1),
        (2, "b", 1),
        (3, "a", 2),
    ]
    assert [event.content for event in events] == ["x", "mine", "x"]
    assert [list(one) for one in outcomes if not isinstance(one, AsofError)] == [[event] for event in events]
    assert verify(store.path).ok


def test_an_append_builds_on_the_ones_before_it_in_its_group(store: EventStore) -> None:
    """Content, metadata, embedding, version and the links between events come from events that are not yet written."""
    store.add("before", vector=vector(), memory_id="before", metadata={"kept": True})
    outcomes = committed(
        store,
        [add("a", metadata={"n": 1}), Update(memory_id="before", content="after", vector=vector(7, 8, 9))],
        [Update(memory_id="a", metadata={"n": 2}), Update(memory_id="before", metadata={"kept": False})],
        [Update(memory_id="a", content="y", vector=vector(), expected_version=2)],
        [Update(memory_id="a", content="z", vector=vector(), expected_version=2)],
        [Delete(memory_id="a", expected_version=3)],
        [Update(memory_id="a", content="z", vector=vector())],
        [add("a", "again")],
    )
    assert kinds(outcomes) == [2, 2, 1, VersionConflict, 1, MemoryNotFound, 1]
    history = [
        (event.version, event.prev_seq, event.add_seq, event.embedding_seq, event.content, event.metadata)
        for event in store.events(memory_id="a")
    ]
    assert history == [
        (1, None, 2, 2, "x", {"n": 1}),
        (2, 2, 2, 2, "x", {"n": 2}),
        (3, 4, 2, 2, "y", {"n": 2}),
        (4, 6, 2, None, None, None),
        (5, 7, 8, 8, "again", {}),
    ]
    last = list(store.events(memory_id="before"))[-1]
    assert (last.content, last.metadata, last.embedding_seq) == ("after", {"kept": False}, 3)
    assert verify(store.path).ok


def test_each_append_of_a_group_has_an_instant_of_its_own(store: EventStore) -> None:
    """Later than the one before, though the clock stand still; the events of one share theirs, and failed ones none."""
    committed(store, [add(), add()], [Delete(memory_id="none")], [add()], [add()])
    first, second, third, fourth = (event.recorded_at for event in store.events())
    assert first == second < third < fourth
    assert (fourth - first).microseconds == 2


def test_a_retry_finds_the_event_of_its_own_group(store: EventStore) -> None:
    """It is recorded once, and each hears of it; one that says something else is refused."""
    outcomes = committed(
        store,
        [add("a", "x", event_id="once", metadata={"n": 1})],
        [add("b"), add("a", "x", event_id="once", metadata={"n": 1}), add("c")],
        [add("a", "y", event_id="once", metadata={"n": 1})],
        [Update(memory_id="a", content="y", vector=vector(5, 5, 5), event_id="twice")],
        [Update(memory_id="a", content="y", vector=vector(5, 5, 5), event_id="twice")],
        [Delete(memory_id="a", event_id="end")],
        [Delete(memory_id="a", event_id="end")],
    )
    assert kinds(outcomes) == [1, 3, EventConflict, 1, 1, 1, 1]
    events = list(store.events())
    assert [event.event_id for event in events if len(event.event_id) < 6] == ["once", "twice", "end"]
    assert len(events) == 5
    for first, again in ((0, 1), (3, 4), (5, 6)):
        one, other = outcomes[first], outcomes[again]
        assert not isinstance(one, AsofError)
        assert not isinstance(other, AsofError)
        assert one[0] in other
    assert committed(store, [add("a", "x", event_id="once", metadata={"n": 1})])[0] == [events[0]]
    # What an index catches up with from memory is each of them once.
    kept = store._writer._recent.between(0, store.position)
    assert kept is not None
    assert [row.seq for row, _ in kept] == [payload.seq for _, payload in kept] == [1, 2, 3, 4, 5]
    assert verify(store.path).ok


def test_an_event_id_of_an_append_that_failed_is_free(store: EventStore) -> None:
    """And one that is given twice in an append fails that one alone."""
    outcomes = committed(
        store,
        [add("a", event_id="one"), Delete(memory_id="none")],
        [add("b", event_id="one")],
        [add("c", event_id="two"), add("d", event_id="two")],
        [add("e", event_id="two")],
    )
    assert kinds(outcomes) == [MemoryNotFound, 1, InvalidOperation, 1]
    assert [(event.memory_id, event.event_id) for event in store.events()] == [("b", "one"), ("e", "two")]


def test_a_guarded_append_sees_where_its_group_has_got_to(store: EventStore) -> None:
    """`expected_position` is that of the history with what the appends before it have added."""
    store.add("x", vector=vector())
    outcomes = committed(
        store,
        job(store, [add(), add()], 1),
        job(store, [add()], 1),
        job(store, [add(event_id="x")], 3),
        job(store, [add(event_id="x")], 3),
    )
    assert kinds(outcomes) == [2, PositionConflict, 1, 1]
    assert store.position == 4


def test_the_first_vector_that_is_recorded_fixes_the_dimension(store: EventStore) -> None:
    """Not that of an append that failed; the rest of the group is held to it."""
    outcomes = committed(
        store,
        [add(vector=[1.0]), Delete(memory_id="none")],
        [add(vector=[1.0, 2.0])],
        [add(vector=[1.0])],
        [add(vector=[3.0, 4.0])],
    )
    assert kinds(outcomes) == [MemoryNotFound, 1, DimensionMismatch, 1]
    assert store.dimension == 2
    assert store._connections.fetch("SELECT value FROM settings WHERE key = 'dimension'") == [("2",)]
    with EventStore(store.path) as other:
        assert other.dimension == 2


def test_a_group_in_which_all_fail_writes_nothing(store: EventStore) -> None:
    """Not even the dimension."""
    assert kinds(committed(store, [add(), Delete(memory_id="a")], [Delete(memory_id="b")])) == [MemoryNotFound] * 2
    assert store.position == 0
    assert store.dimension is None


def test_damage_that_one_append_meets_fails_that_one_alone(store: EventStore) -> None:
    """A retry and an update of what was changed in the file are refused; the others are recorded."""
    store.append([add("a", event_id="a"), add("b")])
    store._connections._writer.execute("DROP TRIGGER payloads_no_update")
    store._connections._writer.execute("UPDATE payloads SET content = 'changed' WHERE seq = 1")
    jobs = [
        job(store, [add("c")]),
        job(store, [add("a", event_id="a")]),
        job(store, [Update(memory_id="a", metadata={"n": 1})]),
        job(store, [Update(memory_id="b", metadata={"n": 1})]),
    ]
    store._writer._group._settle(jobs, jobs[0])
    assert kinds([outcome(one) for one in jobs]) == [1, CorruptHistory, CorruptHistory, 1]


def test_a_damaged_embedding_fails_every_append_that_keeps_it(store: EventStore) -> None:
    """Also the second of a group: what the first had read of the memory by then is no state to build on."""
    store.append([add("a"), Update(memory_id="a", metadata={"n": 1})])
    store._connections._writer.execute("DROP TRIGGER payloads_no_update")
    store._connections._writer.execute("UPDATE payloads SET embedding = zeroblob(length(embedding)) WHERE seq = 1")
    jobs = [job(store, [Update(memory_id="a", metadata={"n": number})]) for number in (2, 3)]
    store._writer._group._settle(jobs, jobs[0])
    assert kinds([outcome(one) for one in jobs]) == [CorruptHistory, CorruptHistory]
    assert store.position == 2


def test_the_end_of_time_is_each_appends_own_error(store: EventStore) -> None:
    """When no later instant is left, what was before it in the group is recorded."""
    clock = Clock()
    store._writer._clock = clock
    clock.now = clock.now.replace(year=9999, month=12, day=31, hour=23, minute=59, second=59, microsecond=999_998)
    assert kinds(committed(store, [add()], [add()], [add()], [add()])) == [1, 1, InvalidInstant, InvalidInstant]
    assert store.position == 2


def test_a_group_is_written_with_one_statement_a_table(store: EventStore) -> None:
    """However many appends share it: statements are what a group of many would pay for."""
    statements: list[str] = []
    jobs = [[add(f"{number}")] for number in range(16)]
    store._connections._writer.set_trace_callback(statements.append)
    assert kinds(committed(store, *jobs)) == [1] * 16
    store._connections._writer.set_trace_callback(None)
    # A statement is traced again with each trigger that it sets off.
    written = [one.split()[2] for one in dict.fromkeys(statements) if one.startswith("INSERT")]
    assert written == ["events", "payloads", "settings"]
    assert sum(statement.startswith("SELECT") and "column1" in statement for statement in statements) == 1
    assert not any("ORDER BY e.version" in statement for statement in statements)


@given(appends=histories())
def test_a_group_records_what_its_appends_would_one_by_one(appends: list[Appended]) -> None:
    """The same events in the same order, and the same errors at the same operations."""
    with EventStore(clock=Clock()) as apart, EventStore(clock=Clock()) as together:
        one_by_one: list[Outcome] = []
        for append in appends:
            try:
                one_by_one.append(apart.append(append.operations))
            except AsofError as error:
                one_by_one.append(error)
        jobs: list[Job] = []
        left: list[Outcome] = []
        for append, alone in zip(appends, one_by_one, strict=True):
            # What is refused at the door never comes to a group.
            with contextlib.suppress(AsofError):
                jobs.append(job(together, append.operations))
                left.append(alone)
        if jobs:
            outcomes = committed(together, *jobs)
            assert kinds(outcomes) == kinds(left)
            errors = [[one.operation for one in some if isinstance(one, AsofError)] for some in (outcomes, left)]
            assert errors[0] == errors[1]
        assert [as_told(event) for event in together.events()] == [as_told(event) for event in apart.events()]


# Gathering


def gathered(monkeypatch: pytest.MonkeyPatch, last: int, coming: Sequence[int]) -> tuple[list[int], int]:
    """The sizes of groups, the first after one of `last`, and how often its leader waited; while it did, some came."""
    sizes: list[int] = []
    pauses = iter(coming)
    waits = 0

    def commit(jobs: list[Job]) -> None:
        sizes.append(len(jobs))
        for one in jobs:
            one.recorded = []

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        assert 0 < seconds < 0.001
        with group._gate:
            group._waiting += [Job([], None) for _ in range(next(pauses, 0))]

    group = AppendGroup(commit)
    group._last = last
    monkeypatch.setattr(group_module.time, "sleep", sleep)
    group.run(Job([], None))
    return sizes, waits


@pytest.mark.parametrize(
    ("last", "coming", "size", "waits"),
    [
        (1, [5], 1, 0),  # an append that nobody shares is not kept waiting
        (4, [2, 1, 1], 4, 2),
        (4, [1, 0, 5], 2, 2),
        (4, [0, 5], 1, 1),
        (3, [8], 9, 1),
    ],
)
def test_a_leader_waits_for_those_of_the_last_group_as_long_as_some_come(
    monkeypatch: pytest.MonkeyPatch, last: int, coming: list[int], size: int, waits: int
) -> None:
    """And no longer than until there are as many."""
    assert gathered(monkeypatch, last, coming) == ([size], waits)


def test_who_appends_alone_after_a_group_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next time it knows better."""
    waits: list[float] = []
    monkeypatch.setattr(group_module.time, "sleep", waits.append)

    def commit(jobs: list[Job]) -> None:
        for one in jobs:
            one.recorded = []

    group = AppendGroup(commit)
    group._last = 16
    for _ in range(3):
        group.run(Job([], None))
    assert len(waits) == 1
