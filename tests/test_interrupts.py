"""Ctrl-C at any moment: whoever comes next is not kept waiting, and finds everything right."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore, StorageError
from eventstore.group import AppendGroup, Job
from projections import VectorIndex
from projections.locks import SharedLock

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers"),
    # A file that was being opened is closed when it is collected.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """And collected here, not in another test."""
    yield
    gc.collect()


class Interrupted(BaseException):
    """What the timer's signal raises."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """Have a signal raise `Interrupted` in the main thread after some seconds; 0 takes it back."""

    def ring(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def ends(work: Callable[[], Any], seconds: float = 60) -> bool:
    """Whether work in another thread ends."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def interrupt(alarm: Callable[[float], None], work: Callable[[], Any], times: int) -> int:
    """Do work again and again, interrupted after ever other whiles; how many times it was."""
    count = 0
    for number in range(times):
        try:
            alarm(1e-5 + 7e-6 * (number % 97))
            while True:
                work()
        except Interrupted:
            count += 1
        finally:
            alarm(0)
    return count


class Raising:
    """A lock whose n-th release, from the next on, raises once it is done: where CPython hears of a signal."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.left = -1

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)
        self.left -= 1
        if self.left == 0:
            raise Interrupted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


@pytest.mark.parametrize("at", range(1, 5))
def test_an_interrupt_at_any_step_of_an_append_keeps_nobody_waiting(at: int) -> None:
    """The lead is taken over, and what the interrupted one had taken is committed once."""
    committed: list[Job] = []

    def commit(jobs: list[Job]) -> None:
        committed.extend(jobs)
        for job in jobs:
            job.recorded = []

    group = AppendGroup(commit)
    gate = group._gate = Raising(group._gate)  # type: ignore[assignment]
    gate.left = at
    own = Job([], None)
    with contextlib.suppress(Interrupted):
        group.run(own)
    gate.left = -1
    others = [Job([], None) for _ in range(3)]
    for job in others:
        assert ends(lambda job=job: group.run(job))  # type: ignore[misc]
    assert [committed.count(job) for job in others] == [1, 1, 1]
    assert committed.count(own) <= 1


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("block", ["transaction", "writing"])
def test_an_interrupt_at_the_end_of_a_write_keeps_nothing_until_garbage_is_collected(
    block: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block is not left then, but let go of: at once, and with it the lock."""
    leave, left = contextlib._GeneratorContextManager.__exit__, [block]

    def interrupted(manager: Any, *error: Any) -> Any:
        if left and manager.gen.gi_code.co_name == left[0]:
            left.clear()
            raise Interrupted
        return leave(manager, *error)

    with EventStore(":memory:" if where == "memory" else tmp_path / "m.db") as store:
        store.add("tea", vector=[1.0])
        gc.collect()
        gc.disable()
        try:
            monkeypatch.setattr(contextlib._GeneratorContextManager, "__exit__", interrupted)
            with contextlib.suppress(Interrupted):
                store.add("milk", vector=[1.0])
            monkeypatch.undo()
            assert not left
            assert ends(lambda: store.add("bread", vector=[1.0]), 20)
            assert [event.content for event in store.events()] == ["tea", "bread"]
        finally:
            gc.enable()
            gc.collect()


def test_what_an_interrupted_leader_left_of_another_append_is_forgotten() -> None:
    """It had refused the append and not said so: tried anew, that has no error of then."""

    def commit(jobs: list[Job]) -> None:
        for job in jobs:
            job.recorded = []

    group, job, returned = AppendGroup(commit), Job([], None), list[Any]()
    group._leader = interrupted = Job([], None)
    waiting = threading.Thread(target=lambda: returned.append(group.run(job)), daemon=True)
    waiting.start()
    until = time.monotonic() + 30
    while job not in group._waiting:
        assert time.monotonic() < until
    assert group._take(interrupted) == [job, interrupted]
    job.error = StorageError("refused")
    interrupted.given_up = True
    waiting.join(30)
    assert returned == [[]]


@pytest.mark.parametrize(("way", "at"), list(itertools.product(["shared", "exclusive"], range(1, 3))))
def test_an_interrupt_at_any_step_of_a_lock_keeps_nobody_waiting(way: str, at: int) -> None:
    """Neither a reader nor a writer stays in it."""
    lock = SharedLock()
    gate = lock._gate = Raising(lock._gate)  # type: ignore[assignment]
    gate.left = at
    with pytest.raises(Interrupted), getattr(lock, way)():
        pass
    gate.left = -1

    def use() -> None:
        with lock.exclusive():
            pass
        with lock.shared():
            pass

    assert ends(use)


def test_brief_reads_that_are_interrupted_again_and_again(tmp_path: Path, alarm: Callable[[float], None]) -> None:
    """By real signals: the connection that writes, which they are asked of, is free for others afterwards."""
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        store.add("first", vector=[1.0])
        lock: Any = store._connections._writer_use

        def read() -> None:
            assert store._connections.fetch("SELECT max(seq) FROM events", brief=True) == [(1,)]

        for _ in range(30):
            assert interrupt(alarm, read, 10)
            assert not lock._is_owned()
        assert ends(lambda: store.add("second", vector=[1.0]))
        assert store.position == 2


@pytest.mark.timeout(240)
def test_appends_that_are_interrupted_again_and_again(tmp_path: Path, alarm: Callable[[float], None]) -> None:
    """By real signals, while three threads append: none of those stops, and the history verifies."""
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        store.add("first", vector=[1.0])
        stop, done = threading.Event(), [0, 0, 0]

        def write(number: int) -> None:
            while not stop.is_set():
                store.add(f"thread {number}", vector=[1.0])
                done[number] += 1

        threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(3)]
        for thread in threads:
            thread.start()
        assert interrupt(alarm, lambda: store.add("main", vector=[1.0]), 300)
        before, until = list(done), time.monotonic() + 60
        while any(now <= then for now, then in zip(done, before, strict=True)):
            assert time.monotonic() < until, "a thread stopped for good"
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        by_thread = [sum(event.content == f"thread {n}" for event in store.events()) for n in range(3)]
        assert by_thread == done


@pytest.mark.timeout(240)
def test_searches_that_are_interrupted_again_and_again(tmp_path: Path, alarm: Callable[[float], None]) -> None:
    """By real signals: the next add and search go on, and filters are right."""
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        vectors = [[1.0, number / 200] for number in range(200)]
        store.add_many([""] * 200, vectors=vectors, metadatas=[{"n": number // 64} for number in range(200)])
        with VectorIndex(store, segment_rows=64) as index:
            index.search([1.0, 0.0], filter={"n": 1})
            index.checkpoint()
        for _ in range(10):
            index = VectorIndex(store, segment_rows=64)
            assert interrupt(alarm, lambda index=index: index.search([1.0, 0.0], 64, filter={"n": 1}), 20)

            def go_on(index: VectorIndex = index) -> None:
                store.add("", vector=[1.0, 2.0], metadata={"n": 9})
                assert [hit.metadata["n"] for hit in index.search([1.0, 0.0], 64, filter={"n": 2})] == [2] * 64
                assert len(index.search([1.0, 0.0], 300)) == min(300, store.count())

            assert ends(go_on)
