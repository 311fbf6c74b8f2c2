"""The disk fails while several threads append: each is told what became of its own append, and that is true."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest

from eventstore import AsofError, EventStore, StorageError
from tests.crash import faults, lab
from tests.crash.lab import LONG, Ack
from tests.crash.scenarios import START, add, check_store, open_store, prepare_store, small_log
from tests.crash.test_faults import FAULTS

MOMENTS = 1500 if LONG else 24
THREADS = 4
APPENDS = 5
DEADLINE = 120


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_file_call_fails_while_threads_append(durability: str, tmp_path: Path) -> None:
    """Each append is acknowledged and there, or refused and not there in part; the store goes on or says what to do."""
    library = faults.compiled(tmp_path)
    done = lab.run(fail_while_threads_append, tmp_path, durability, MOMENTS, library=library)
    assert done["refused"] > 0
    assert done["went on"] > 0
    assert done["to be opened again"] > 0


class Appending:
    """Threads that start together and append some times each, and what they were told."""

    def __init__(self, store: EventStore) -> None:
        self.acks: list[Ack] = []
        self.errors: list[AsofError] = []
        self.others: list[BaseException] = []
        self._store = store
        self._start = threading.Barrier(THREADS)
        threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"

    def _run(self, thread: int) -> None:
        self._start.wait(DEADLINE)
        for number in range(APPENDS):
            try:
                pair = self._store.append([add(f"{thread}.{number}.{row}") for row in range(2)])
                assert [event.memory_id for event in pair] == [f"{thread}.{number}.0", f"{thread}.{number}.1"]
                self.acks.append(("append", pair[1].position, pair[1].hash))
            except AsofError as error:
                self.errors.append(error)
            except BaseException as error:
                self.others.append(error)
                raise


def fail_while_threads_append(directory: Path, durability: str, most: int) -> dict[str, int]:
    """In the lab: again and again, each time with another fault."""
    start, work = directory / "start", directory / "work"
    faults.watch(directory)
    start.mkdir()
    prepare_store(start)

    def begin() -> EventStore:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)
        return open_store(work, durability=durability)

    moments = []
    with small_log():
        for fault, (kinds, _, _) in FAULTS.items():
            with begin() as store, faults.counted(kinds) as counts:
                Appending(store)
            # How many calls there are depends on how the threads meet.
            moments += [(fault, nth) for nth in range(1, counts[0] + 1)]
    done = {"moments": 0, "refused": 0, "went on": 0, "to be opened again": 0}
    for fault, nth in moments if len(moments) <= most else random.sample(moments, most):
        kinds, error, always = FAULTS[fault]
        with small_log(), begin() as store:
            faults.arm(kinds, nth, error=error, always=always)
            told = Appending(store)
            faults.disarm()
            try:
                assert not told.others
                assert len(told.acks) + len(told.errors) == THREADS * APPENDS
                # Not one error raised by several threads: it would have all their tracebacks.
                assert len({id(error) for error in told.errors}) == len(told.errors)
                assert all(str(error) for error in told.errors)
                for _, position, digest in told.acks:
                    assert store.hash_at(position) == digest
                if store._connections._failure is None:
                    last = store.append([add("next"), add("next, too")])[-1]
                    told.acks.append(("append", last.position, last.hash))
                    done["went on"] += 1
                else:
                    with pytest.raises(StorageError, match="open the store again"):
                        store.append([add("next")])
                    done["to be opened again"] += 1
                done["moments"] += 1
                done["refused"] += len(told.errors)
            except BaseException as problem:
                raise AssertionError(f"{fault}, at call {nth}; {told.errors}, {told.others}") from problem
        try:
            check_threads(work, told.acks)
        except BaseException as problem:
            raise AssertionError(f"{fault}, at call {nth}; {told.errors}, {told.acks}") from problem
    return done


def check_threads(directory: Path, acks: list[Ack]) -> None:
    """The store is sound, has what was acknowledged, and every append that is there is there with both its events."""
    with open_store(directory) as store:
        names = [event.memory_id for event in store.events(after=START)]
    assert len(set(names)) == len(names)
    for first, second in zip(names[::2], names[1::2], strict=True):
        assert second in (first[:-1] + "1", "next, too")
    check_store(directory, acks, [START + len(names)], [])
