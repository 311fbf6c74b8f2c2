"""Threads that append at the same time share a sync, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventstore import Add, EventStore, MemoryExists, PositionConflict, StorageError
from eventstore.group import AppendGroup, Job

THREADS = 16


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """What `work` returned or raised in each of some threads that start together."""
    results: list[Any] = [None] * THREADS
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait(30)
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return results


def commits(store: EventStore, counted: list[int]) -> Any:
    """Count the store's transactions and how many appends each took."""
    original = store._writer._group._commit

    def counting(jobs: list[Job]) -> None:
        counted.append(len(jobs))
        original(jobs)

    store._writer._group._commit = counting


def test_appends_that_wait_are_committed_together(tmp_path: Path) -> None:
    """Fewer transactions than appends; each append at an instant of its own, each event returned to its caller."""
    counted: list[int] = []
    with EventStore(tmp_path / "agent.db") as store:
        commits(store, counted)
        results = at_once(
            lambda number: [
                store.add(f"{number}/{row}", vector=[1.0], memory_id=f"{number}/{row}") for row in range(20)
            ]
        )
        events = list(store.events())
        assert sum(counted) == len(events) == 20 * THREADS
        assert len(counted) < len(events)
        assert len({event.recorded_at for event in events}) == len(events)
        by_position = {event.position: event for event in events}
        for number, mine in enumerate(results):
            assert [event.content for event in mine] == [f"{number}/{row}" for row in range(20)]
            assert all(by_position[event.position] == event for event in mine)


def test_one_append_that_fails_leaves_the_rest_of_its_group_alone(tmp_path: Path) -> None:
    """Many race to add the same memory: one wins, the others hear of it, and their other appends are there."""
    with EventStore(tmp_path / "agent.db") as store:

        def work(number: int) -> Any:
            store.add("own", vector=[1.0], memory_id=f"own {number}")
            return store.append([Add(content="x", vector=[1.0]), Add(content="y", vector=[1.0], memory_id="shared")])

        results = at_once(work)
        refused = [result for result in results if isinstance(result, MemoryExists)]
        assert len(refused) == THREADS - 1
        assert all(error.operation == 1 for error in refused)
        assert store.position == THREADS + 2
        assert [event.position for event in store.events()] == list(range(1, THREADS + 3))


def test_a_guarded_append_sees_the_appends_of_its_own_group(tmp_path: Path) -> None:
    """`expected_position` lets exactly one of many through, in one group or not."""
    with EventStore(tmp_path / "agent.db") as store:
        results = at_once(lambda number: store.append([Add(content="x", vector=[1.0])], expected_position=0))
        assert sum(not isinstance(result, PositionConflict) for result in results) == 1
        assert store.position == 1


def test_a_retry_in_the_same_group_is_recorded_once(tmp_path: Path) -> None:
    """The same event_id from many threads at once is one event."""
    with EventStore(tmp_path / "agent.db") as store:
        results = at_once(lambda number: store.add("x", vector=[1.0], event_id="once"))
        assert store.position == 1
        assert all(result == results[0] for result in results)


def test_when_the_commit_fails_nobody_is_told_that_it_worked(tmp_path: Path) -> None:
    """All of a group share the fate of its transaction."""

    def failing(jobs: list[Job]) -> None:
        for job in jobs:
            job.recorded = []
        raise StorageError("disk full")

    group = AppendGroup(failing)
    results = at_once(lambda number: group.run(Job([], None)))
    assert all(isinstance(result, StorageError) for result in results)
    assert {str(result) for result in results} == {"disk full"}


def test_where_nobody_can_tell_whether_it_was_committed_it_is_not_written_again() -> None:
    """Interrupted, and the history cannot be read: the others are told of that, and do not append a second time."""
    commits = []
    gathered = threading.Event()

    def commit(jobs: list[Job]) -> None:
        commits.append(len(jobs))
        if len(commits) == 1:
            assert gathered.wait(30)  # the leader alone, so that the others gather
            raise StorageError("disk full")
        raise KeyboardInterrupt

    def cannot_tell(jobs: list[Job]) -> bool:
        raise StorageError("cannot be read")

    group = AppendGroup(commit, cannot_tell)
    outcomes: list[BaseException] = []

    def run() -> None:
        try:
            group.run(Job([], None))
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(5)]
    threads[0].start()
    while not commits:
        pass
    for thread in threads[1:]:
        thread.start()
    while len(group._waiting) < 4:
        pass
    gathered.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert commits == [1, 4]
    told = sorted(type(error).__name__ for error in outcomes)
    assert told == ["KeyboardInterrupt", *["StorageError"] * 4]
    assert sum(str(error) == "cannot be read" for error in outcomes) == 3
    # Each has an error of its own: one that several threads raise gets the traceback of all of them.
    assert len({id(error) for error in outcomes}) == 5


def test_an_interrupted_leader_hands_over_to_the_next() -> None:
    """Its own append is given up, the others' are committed by one of them, once."""
    led: list[int] = []
    interrupted = threading.Event()
    gathered = threading.Event()

    def commit(jobs: list[Job]) -> None:
        if not interrupted.is_set():
            assert gathered.wait(30)
            interrupted.set()
            raise KeyboardInterrupt
        led.extend(id(job) for job in jobs)
        for job in jobs:
            job.recorded = []

    group = AppendGroup(commit)
    first = Job([], None)
    outcome: list[type[BaseException]] = []

    def lead() -> None:
        try:
            group.run(first)
        except KeyboardInterrupt as error:
            outcome.append(type(error))

    leader = threading.Thread(target=lead, daemon=True)
    leader.start()
    others = [Job([], None) for _ in range(4)]
    threads = [threading.Thread(target=group.run, args=(job,), daemon=True) for job in others]
    for thread in threads:
        thread.start()
    while len(group._waiting) < len(others):
        pass
    gathered.set()
    for thread in [leader, *threads]:
        thread.join(30)
        assert not thread.is_alive()
    assert outcome == [KeyboardInterrupt]
    assert sorted(led) == sorted(id(job) for job in others)
    assert not group._waiting


@pytest.mark.parametrize("events", [1, 6_000])
def test_a_group_is_of_moderate_size(events: int) -> None:
    """Large appends do not pile up into one transaction without end."""
    sizes: list[int] = []

    def commit(jobs: list[Job]) -> None:
        sizes.append(sum(len(job.operations) for job in jobs))
        for job in jobs:
            job.recorded = []

    group = AppendGroup(commit)
    operations: Any = [None] * events
    at_once(lambda number: group.run(Job(operations, None)))
    assert sum(sizes) == THREADS * events
    assert max(sizes) <= 10_000 + events


@pytest.mark.parametrize("place", [0, 1, 2, 5])
def test_the_leaders_own_append_counts_wherever_it_waits(place: int) -> None:
    """Large ones before it do not make a group larger, nor does it wait for a later one; the order stays."""
    group = AppendGroup(lambda jobs: None)
    waiting = [Job([None] * 6_000, None) for _ in range(6)]  # type: ignore[list-item]
    group._waiting = list(waiting)
    taken = group._take(waiting[place])
    assert waiting[place] in taken
    assert len(taken) == 2
    assert taken == sorted(taken, key=waiting.index)
    assert group._waiting == [job for job in waiting if job not in taken]
