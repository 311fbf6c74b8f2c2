"""Many at once: threads that share a store, processes that share a file. Nothing is lost, one of many wins."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import Add, Event, EventStore, PositionConflict, StoreBusy, VersionConflict
from tests.store_support import vector

ROOT = str(Path(__file__).resolve().parent.parent)
THREADS = 8


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    opened = EventStore(":memory:" if request.param == "memory" else tmp_path / "a.db", durability="normal")
    yield opened
    # Not by this thread: where a test ended with a deadlock, closing would join it.
    closer = threading.Thread(target=opened.close, daemon=True)
    closer.start()
    closer.join(60)


def at_once(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """The results of `work(0)` to `work(count - 1)`, begun together; the first error of any is raised."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def begin(number: int) -> None:
        barrier.wait(30)
        try:
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)

    # Daemons, so that a deadlock is a failure of the test and not its last act.
    threads = [threading.Thread(target=begin, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "some wait for each other"
    if errors:
        raise errors[0]
    return results


def check(store: EventStore) -> None:
    """The invariants of a history: no gaps, times that go on, versions by one, links."""
    events = list(store.events())
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    assert [event.recorded_at for event in events] == sorted(event.recorded_at for event in events)
    last: dict[str, Event] = {}
    for event in events:
        before = last.get(event.memory_id)
        assert (event.version, event.prev_seq) == (before.version + 1 if before else 1, before and before.position)
        last[event.memory_id] = event


# -- threads ------------------------------------------------------------------------------------------------


def test_threads_that_write_lose_nothing(store: EventStore) -> None:
    """Each gets its own events back, and all are there."""

    def work(number: int) -> list[Event]:
        return [store.add(f"{number}", vector=vector()) for _ in range(25)]

    returned = [event for events in at_once(work) for event in events]
    assert sorted(returned, key=lambda event: event.position) == list(store.events())
    assert Counter(event.content for event in returned) == {str(number): 25 for number in range(THREADS)}
    check(store)


def test_threads_that_write_and_read_agree(store: EventStore) -> None:
    """What one was acknowledged all see, and a past position is the same to everyone at any time."""
    store.add_many(["x"] * 10, vectors=[vector()] * 10, metadatas=[{"n": n} for n in range(10)])
    expected = store.memories(as_of=10)

    def work(number: int) -> None:
        for _ in range(12):
            if number % 2:
                event = store.add("y", vector=vector(), metadata={"n": number})
                memory = store.get(event.memory_id)
                assert memory is not None
                assert memory.position == event.position <= store.position
            else:
                assert store.memories(as_of=10) == expected
                assert store.count(as_of=10) == len(store.vectors(as_of=10)[0]) == 10
                assert store.count() >= 10
                assert len(list(store.events(limit=10))) == 10

    at_once(work)
    assert store.count() == 10 + 12 * THREADS // 2


def test_of_many_that_expect_a_version_one_wins(store: EventStore) -> None:
    """Each time; the others learn which version it is at now."""
    store.add("x", vector=vector(), memory_id="m")
    for version in range(1, 6):

        def work(number: int, version: int = version) -> tuple[int, int] | None:
            return update_at(store, number, version)

        lost = Counter(at_once(work))
        assert lost == {None: 1, (version, version + 1): THREADS - 1}
    check(store)


def update_at(store: EventStore, number: int, version: int) -> tuple[int, int] | None:
    """None, or the versions that were expected and found."""
    try:
        store.update("m", metadata={"n": number}, expected_version=version)
    except VersionConflict as conflict:
        return conflict.expected, conflict.actual
    return None


def test_of_many_that_expect_a_position_one_wins(store: EventStore) -> None:
    """The whole append, or PositionConflict."""

    def work(number: int) -> bool:
        try:
            store.append([Add(content=str(number), vector=vector())] * 2, expected_position=0)
        except PositionConflict:
            return False
        return True

    assert sum(at_once(work)) == 1
    assert store.position == 2


def test_of_many_that_retry_an_event_one_records_it(store: EventStore) -> None:
    """All get the same event."""
    events = at_once(lambda number: store.add("x", vector=vector(), event_id="e"))
    assert store.position == 1
    assert all(event == events[0] for event in events)


def test_appends_of_threads_are_not_mixed(store: EventStore) -> None:
    """The events of one are next to each other, at one instant."""
    at_once(lambda number: [store.add_many([str(number)] * 7, vectors=[vector()] * 7) for _ in range(4)])
    events = list(store.events())
    for start in range(0, len(events), 7):
        some = events[start : start + 7]
        assert len({(event.content, event.recorded_at) for event in some}) == 1
    check(store)


def test_deleting_and_reading_at_once_does_not_stop(store: EventStore) -> None:
    """Whoever holds one lock does not wait for who holds the other."""
    store.add_many(["x"] * 400, vectors=np.ones((400, 3)), metadatas=[{"n": n} for n in range(400)])

    def work(number: int) -> None:
        for turn in range(20):
            if number % 2:
                store.delete_where({"n": number * 20 + turn})
            else:
                assert store.count() >= 0
                store.add("y", vector=vector())

    at_once(work)
    assert store.count({"n": {"exists": True}}) == 400 - 20 * THREADS // 2


def test_closing_under_readers_ends_them_with_closed(store: EventStore) -> None:
    """And with nothing else."""
    store.add_many(["x"] * 2000, vectors=np.ones((2000, 3)))

    def work(number: int) -> str:
        if number == 0:
            store.close()
            return "closed"
        try:
            while True:
                assert len(list(store.events())) == 2000
        except ValueError as error:
            return type(error).__name__.lower()

    assert at_once(work) == ["closed"] * THREADS


# -- processes ----------------------------------------------------------------------------------------------

PROCESSES = 3

# A worker waits for a line, does its turn, and answers with a line: so each turn begins in all at once.
WORKER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from eventstore import *
path, number = sys.argv[2], int(sys.argv[3])
{before}
for turn, _ in enumerate(sys.stdin, 1):
{each}
    print(json.dumps(answer), flush=True)
"""


def in_processes(path: Path, turns: int, *, before: str = "", each: str) -> list[list[Any]]:
    """The answers of some processes to each of some turns, whose code sets `answer`."""
    program = WORKER.format(before=textwrap.dedent(before), each=textwrap.indent(textwrap.dedent(each), "    "))
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, ROOT, path, str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(PROCESSES)
        ]
        return [_one_turn(workers) for _ in range(turns)]


def _one_turn(workers: list[subprocess.Popen[str]]) -> list[Any]:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    answers = []
    for worker in workers:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line, "a worker ended: its error is above"
        answers.append(json.loads(line))
    return answers


def test_processes_that_create_a_file_at_once_all_write_to_it(tmp_path: Path) -> None:
    """None is told that it is locked, or that it is something else; none replaces what another made."""
    files = 40
    in_processes(
        tmp_path,
        files,
        each="""
        with EventStore(f"{path}/{turn}.db") as store:
            answer = store.add(str(number), vector=[1, 2]).position
        """,
    )
    for file in range(1, files + 1):
        with EventStore(tmp_path / f"{file}.db") as store:
            assert sorted(event.content or "" for event in store.events()) == [str(n) for n in range(PROCESSES)]
            check(store)


def test_processes_that_open_and_close_a_file_all_the_time_lose_nothing(tmp_path: Path) -> None:
    """The last to close folds the log in, while another may just open it."""
    turns = 10
    in_processes(
        tmp_path / "a.db",
        turns,
        each="""
        for _ in range(4):
            with EventStore(path, durability="normal") as store:
                answer = store.add("x", vector=[1, 2]).position
        """,
    )
    with EventStore(tmp_path / "a.db") as store:
        assert store.position == 4 * turns * PROCESSES
        check(store)


def test_of_processes_that_expect_a_version_one_wins(tmp_path: Path) -> None:
    """Each time; and what else they write is all there."""
    turns = 20
    with EventStore(tmp_path / "a.db") as store:
        store.add("x", vector=[1, 2], memory_id="m")
    answers = in_processes(
        tmp_path / "a.db",
        turns,
        before="store = EventStore(path, durability='normal')",
        each="""
        answer = None
        try:
            store.update("m", metadata={"n": number}, expected_version=turn)
        except VersionConflict as conflict:
            answer = [conflict.expected, conflict.actual]
        event = store.add(str(number), vector=[1, 2])
        assert store.get(event.memory_id).position == event.position
        """,
    )
    for version, each in enumerate(answers, 1):
        assert sorted(each, key=str) == sorted([None] + [[version, version + 1]] * (PROCESSES - 1), key=str)
    with EventStore(tmp_path / "a.db") as store:
        assert store.count() == 1 + turns * PROCESSES
        check(store)


# -- two stores on one file ---------------------------------------------------------------------------------


def test_what_one_store_wrote_another_sees_at_once(tmp_path: Path) -> None:
    """By every read, though it had read before."""
    with EventStore(tmp_path / "a.db") as one, EventStore(tmp_path / "a.db") as other:
        assert (other.position, other.count(), other.memories()) == (0, 0, [])
        one.add("x", vector=vector(), memory_id="m")
        assert (other.position, other.count(), other.dimension) == (1, 1, 3)
        assert other.get("m") == one.get("m")
        other.delete("m")
        assert (one.position, one.count(), one.get("m")) == (2, 0, None)


def test_instants_of_two_stores_go_on(tmp_path: Path) -> None:
    """Each append is later than the other store's before it."""
    with EventStore(tmp_path / "a.db") as one, EventStore(tmp_path / "a.db") as other:
        times = [store.add("x", vector=vector()).recorded_at for store in (one, other) * 10]
        assert times == sorted(set(times))


def test_a_store_that_is_kept_waiting_says_for_how_long(tmp_path: Path) -> None:
    """StoreBusy, a TimeoutError; nothing is written, and reading goes on meanwhile."""
    with EventStore(tmp_path / "a.db") as one, EventStore(tmp_path / "a.db", timeout=0) as other:
        one.add("x", vector=vector())
        with one._writer.transaction():
            with pytest.raises(StoreBusy, match="locked by another writer for 0 s"):
                other.add("y", vector=vector())
            assert (other.position, other.count()) == (1, 1)
        assert other.add("y", vector=vector()).position == 2
