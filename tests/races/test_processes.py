"""Four writing and four reading processes on one file, and two with one index directory."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore
from projections import VectorIndex
from projections.testing import brute_force_search
from tests.crash import lab
from tests.crash.lab import LONG
from tests.races import work

SECONDS = 60 if LONG else 4


def in_processes(folder: Path, tasks: list[tuple[Callable[..., Any], list[Any]]]) -> list[Any]:
    """What functions return, each in a process of its own, all at once. A warning in one is an error."""

    def run(number: int) -> Any:
        function, arguments = tasks[number]
        own = folder / f"process-{number}"
        own.mkdir()
        return lab.run(function, own, *arguments)

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, range(len(tasks))))


def wait_for_all(folder: Path, count: int) -> float:
    """When to stop: from the moment on that all processes are there."""
    (folder / "ready").touch()
    deadline = time.monotonic() + 120
    while len(list(folder.parent.glob("process-*/ready"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return time.monotonic() + SECONDS


def writer(folder: Path, path: str, name: str, count: int) -> dict[str, Any]:
    """Write until the time is over."""
    with EventStore(path) as store:
        return work.noted(folder, work.write(store, name, wait_for_all(folder, count)))


def reader(folder: Path, path: str, name: str, count: int) -> dict[str, Any]:
    """Search with an index of one's own until the time is over."""
    with EventStore(path) as store, VectorIndex(store, directory=folder / "index", segment_rows=64) as index:
        return work.read(store, index, name, wait_for_all(folder, count))


@pytest.mark.timeout(SECONDS + 240)
def test_writing_and_reading_processes(tmp_path: Path) -> None:
    """Nothing is lost or doubled, no one sees half an append, and nobody is told that the database is locked."""
    path = tmp_path / "agent.db"
    work.prepare(path)
    done = in_processes(
        tmp_path,
        [
            *((writer, [str(path), str(n), 8]) for n in range(4)),
            *((reader, [str(path), str(n), 8]) for n in range(4)),
        ],
    )
    assert all(one["searches"] for one in done[4:])
    written = [work.notes(tmp_path / f"process-{n}") for n in range(4)]
    assert all(one["acknowledged"] for one in written), "a writer never got its turn"
    print(work.check(path, written))


RETRIED = 40


def retrier(folder: Path, path: str, count: int) -> dict[str, int]:
    """Send the same events as everyone else, in an order of one's own, some of them twice."""
    with EventStore(path) as store:
        numbers = [*range(RETRIED), *random.choices(range(RETRIED), k=RETRIED // 2)]
        random.shuffle(numbers)
        wait_for_all(folder, count)
        answers = []
        for number in numbers:
            event = store.add(
                f"text {number}", vector=work.vector(number), memory_id=f"m{number}", event_id=f"event {number}"
            )
            answers.append([number, event.position, event.hash])
        return work.noted(folder, {"answers": answers})


@pytest.mark.timeout(240)
def test_an_event_that_many_processes_retry_is_recorded_once(tmp_path: Path) -> None:
    """A client that lost its acknowledgement, many times over: each hears of the same event."""
    path = tmp_path / "agent.db"
    work.prepare(path)
    in_processes(tmp_path, [(retrier, [str(path), 6])] * 6)
    answers = [answer for n in range(6) for answer in work.notes(tmp_path / f"process-{n}")["answers"]]
    with EventStore(path) as store:
        recorded = {event.event_id: [event.position, event.hash] for event in store.events(after=1)}
    assert len(recorded) == RETRIED
    assert all(recorded[f"event {number}"] == [position, digest] for number, position, digest in answers)


def keeper(folder: Path, path: str, directory: str, name: str, count: int) -> dict[str, Any]:
    """Write and checkpoint into a directory that another process checkpoints into too."""
    until = wait_for_all(folder, count)
    acknowledged: work.Acknowledged = []
    written = 0
    with EventStore(path) as store:
        while time.monotonic() < until:
            with VectorIndex(store, directory=directory, segment_rows=16, vector_memory=0) as index:
                for _ in range(5):
                    written += 1
                    event = store.add(name, vector=work.vector(written), event_id=f"e-{name}-{written}")
                    acknowledged.append((event.event_id, event.position))
                    index.catch_up()
                    index.checkpoint()
    return work.noted(folder, {"acknowledged": acknowledged, "won": []})


def opener(folder: Path, path: str, directory: str, count: int) -> dict[str, Any]:
    """Open the directory again and again: what is loaded is whole, and of a position that the history has."""
    until = wait_for_all(folder, count)
    opened = loaded = 0
    with EventStore(path) as store:
        while time.monotonic() < until:
            with VectorIndex(store, directory=directory, segment_rows=16, vector_memory=0) as index:
                opened += 1
                loaded += index.position > 0
                assert index.position <= store.position
                hits = index.search(work.vector(opened), 3)
                expected = brute_force_search(store, work.vector(opened), 3, as_of=hits.position)
                assert [(hit.position, hit.score) for hit in hits] == [(one.position, one.score) for one in expected]
    return {"opened": opened, "loaded": loaded}


@pytest.mark.timeout(SECONDS + 240)
def test_two_processes_with_one_index_directory(tmp_path: Path) -> None:
    """Checkpoints do not destroy each other, and nobody loads half of one: a warning would fail the process."""
    path, directory = tmp_path / "agent.db", tmp_path / "index"
    work.prepare(path)
    done = in_processes(
        tmp_path,
        [
            (keeper, [str(path), str(directory), "a", 3]),
            (keeper, [str(path), str(directory), "b", 3]),
            (opener, [str(path), str(directory), 3]),
        ],
    )
    assert done[2]["loaded"]
    work.check(path, [work.notes(tmp_path / f"process-{n}") for n in range(2)])
    with EventStore(path) as store, VectorIndex(store, directory=directory, segment_rows=16) as index:
        assert index.position > 1
        assert index.faults() == []
