"""Closing and being interrupted: what a closed store says, and what an interrupt leaves."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import Add, Closed, EventStore, InvalidOperation
from eventstore.group import Job
from eventstore.operations import prepare
from tests.store_support import Clock, lead_of, vector


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    with EventStore(":memory:" if request.param == "memory" else tmp_path / "a.db") as opened:
        opened.add("x", vector=vector(), memory_id="m")
        yield opened


USES: dict[str, Callable[[EventStore], Any]] = {
    "add": lambda s: s.add("x", vector=vector()),
    "add without a vector": lambda s: s.add("x"),
    "update": lambda s: s.update("m", metadata={}),
    "delete": lambda s: s.delete("m"),
    "append": lambda s: s.append([Add(content="x", vector=vector())]),
    "add_many": lambda s: s.add_many(["x"], vectors=[vector()]),
    "add_many without vectors": lambda s: s.add_many(["x"]),
    "delete_where": lambda s: s.delete_where({"n": 1}),
    "export": lambda s: s.export("/nowhere/a.jsonl"),
    "import_events": lambda s: s.import_events([], source="s"),
    "embed": lambda s: s.embed(["x"]),
    "position": lambda s: s.position,
    "dimension": lambda s: s.dimension,
    "head": lambda s: s.head,
    "hash_at": lambda s: s.hash_at(1),
    "head_at": lambda s: s.head_at(1),
    "position_at": lambda s: s.position_at(1),
    "position_at an instant": lambda s: s.position_at("2026-01-01T00:00:00Z"),
    "events": lambda s: s.events(),
    "history": lambda s: s.history("m"),
    "get": lambda s: s.get("m"),
    "memories": lambda s: s.memories(),
    "count": lambda s: s.count(),
    "vectors": lambda s: s.vectors(),
    "event_range": lambda s: s.event_range(0, 1),
    "current_positions": lambda s: s.current_positions(),
    "states": lambda s: s.states([1]),
    "metadata_json": lambda s: s.metadata_json([1]),
    "embeddings": lambda s: s.embeddings([]),
    "with": lambda s: s.__enter__(),
}


@pytest.mark.parametrize("use", USES)
def test_a_closed_store_says_so(store: EventStore, use: str) -> None:
    """Every use of it, before anything else is looked at."""
    store.close()
    with pytest.raises(Closed, match="is closed: open it again"):
        USES[use](store)


def test_every_public_method_is_tried() -> None:
    """The list above is whole."""
    quiet = {"close", "closed", "path", "file", "read_only", "embedder_name"}
    public = {name for name in dir(EventStore) if not name.startswith("_")} - quiet
    assert public - {use.split()[0] for use in USES} == set()


def test_closing_again_does_nothing(store: EventStore) -> None:
    """What it is called, and that it is closed, can still be asked."""
    assert not store.closed
    store.close()
    store.close()
    assert store.closed
    assert (store.read_only, store.embedder_name) == (False, None)
    assert "closed" in repr(store)


def test_leaving_the_block_closes(tmp_path: Path) -> None:
    """Also by an error."""
    with pytest.raises(ZeroDivisionError), EventStore(tmp_path / "a.db") as store:
        raise ZeroDivisionError
    assert store.closed


def test_an_iterator_left_over_ends_with_closed(store: EventStore) -> None:
    """It gives what it has read and then says why there is no more."""
    store.add_many(["x"] * 2500, vectors=np.ones((2500, 3)))
    events = store.events()
    next(events)
    store.close()
    with pytest.raises(Closed):
        list(events)


def test_events_outlive_the_store(store: EventStore) -> None:
    """What was read is a value, also the events of an append that nobody looked at yet."""
    events = store.add_many(["a", "b"], vectors=[vector(), vector()])
    memory = store.get("m")
    store.close()
    assert [event.content for event in events] == ["a", "b"]
    assert events[1].vector is not None
    assert memory is not None
    assert memory.content == "x"


def test_closing_waits_for_the_append_under_way(tmp_path: Path) -> None:
    """What was begun is recorded; what comes after is refused."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Clock):
        def __call__(self) -> Any:  # read inside the transaction
            if threading.current_thread() is thread:
                begun.set()
                go_on.wait(30)
            return super().__call__()

    with EventStore(tmp_path / "a.db", clock=Slow()) as store:
        thread = threading.Thread(target=lambda: store.add("x", vector=vector()))
        thread.start()
        begun.wait(30)
        closer = threading.Thread(target=store.close)
        closer.start()
        go_on.set()
        thread.join(30)
        closer.join(30)
        assert store.closed
    with EventStore(tmp_path / "a.db") as store:
        assert store.position == 1


# -- interrupts ---------------------------------------------------------------------------------------------


def test_an_interrupt_inside_an_append_leaves_no_event(store: EventStore) -> None:
    """As by Ctrl-C while the lock is held; the store goes on."""

    class Interrupting(Clock):
        def __call__(self) -> Any:
            raise KeyboardInterrupt

    store._writer._clock = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        store.add("y", vector=vector())
    store._writer._clock = None
    assert store.position == 1
    assert store.add("y", vector=vector()).position == 2


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21, 34, 55])
def test_an_interrupt_at_any_statement_leaves_all_or_nothing(store: EventStore, steps: int) -> None:
    """SQLite calls back after so many of its steps, and Ctrl-C comes then; what did not raise is there."""
    connection = store._connections._writer
    acknowledged = 0
    # C to C: the interrupt is raised by the interpreter, after the statement and before the next line.
    connection.set_progress_handler(_thread.interrupt_main, steps)
    try:
        store.add_many(["a", "b", "c"], vectors=[vector()] * 3)
        acknowledged = 3
    except KeyboardInterrupt:
        pass
    finally:
        _without_interrupts(lambda: connection.set_progress_handler(None, 0))
    assert not connection.in_transaction
    assert store.position in ({1, 4} if acknowledged == 0 else {4})
    assert store.add("y", vector=vector()).position == store.position


def _without_interrupts(action: Callable[[], Any]) -> None:
    """One more may be pending."""
    try:
        action()
    except KeyboardInterrupt:
        action()


def test_an_interrupt_after_the_commit_records_nothing_twice(store: EventStore) -> None:
    """Appends of other threads that went in with the interrupted one are told of it, and not made again."""
    group, gathered = store._writer._group, threading.Event()
    commit = group._commit

    def interrupted(jobs: list[Any]) -> None:
        commit(jobs)
        group._commit = commit
        raise KeyboardInterrupt

    def lead() -> None:
        with lead_of(group):  # until the other has joined the group
            threading.Thread(target=follow).start()
            while not group._waiting:
                gathered.wait(0.001)
            group._commit = interrupted
            own = Job([prepare(Add(content="leader", vector=vector()), {}, 3, allow_zero=False)], None)
            group._waiting.append(own)
            with pytest.raises(KeyboardInterrupt):
                group._lead(own)

    returned: list[int] = []

    def follow() -> None:
        returned.append(store.add("follower", vector=vector()).position)
        gathered.set()

    lead()
    assert gathered.wait(30)
    assert sorted(event.content or "" for event in store.events(after=1)) == ["follower", "leader"]
    assert [event.content for event in store.events(after=returned[0] - 1, upto=returned[0])] == ["follower"]


def test_a_write_inside_a_write_does_not_wait_for_itself(store: EventStore) -> None:
    """As a clock or a signal handler might try: it is refused, and the outer one goes on."""
    refused: list[Exception] = []

    class Writing(Clock):
        def __call__(self) -> Any:
            try:
                store.add("inner", vector=vector())
            except InvalidOperation as error:
                refused.append(error)
            return super().__call__()

    store._writer._clock = Writing()
    assert store.add("outer", vector=vector()).content == "outer"
    assert ["inside another one" in str(error) for error in refused] == [True]


def test_an_interrupt_inside_an_import_leaves_nothing(store: EventStore) -> None:
    """However far it had come."""

    def records() -> Iterator[dict[str, Any]]:
        for _ in range(2500):
            yield {"content": "x", "vector": vector()}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.import_events(records(), source="s")
    assert store.position == 1
    assert store.add("y", vector=vector()).position == 2
