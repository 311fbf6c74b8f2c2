"""A process killed at any moment: nothing acknowledged is lost, nothing is there in part, and work goes on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from eventstore import EventStore
from eventstore.schema import PAGE_SIZE
from replay import verify
from tests.crash import faults, lab
from tests.crash.lab import LONG, Ack
from tests.crash.scenarios import (
    DIMENSION,
    SCENARIOS,
    Acknowledge,
    add,
    check_index,
    database,
    open_store,
    prepare_store,
    small_log,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process that has everything imported")

KILLS_A_SCENARIO = 250 if LONG else 7
KILLS_AT_RANDOM = 200 if LONG else 10
KILLS_IN_SQLITE = 200 if LONG else 10

LIVES_OF_A_HISTORY = 20
FIRST_CALLS = 12

WAYS = [faults.Then.KILL_BEFORE, faults.Then.KILL_AFTER, faults.Then.KILL_HALFWAY]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The faults, compiled."""
    return faults.compiled(tmp_path_factory.mktemp("faults"))


# -- at every file call -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_process_killed_at_a_file_call(name: str, tmp_path: Path, library: Path) -> None:
    """Killed before, after or halfway through a write, a sync, a rename ...: every one of them in the long run."""
    done = lab.run(kill_at_file_calls, tmp_path, name, KILLS_A_SCENARIO, library=library)
    assert done["kills"] >= min(KILLS_A_SCENARIO, done["calls"]) // 2


def kill_at_file_calls(directory: Path, name: str, most: int) -> dict[str, int]:
    """In the lab: the scenario again and again, each time killed at another call."""
    scenario, start = SCENARIOS[name], directory / "start"
    faults.watch(directory)
    start.mkdir()
    scenario.prepare(start)
    calls = _calls_of(scenario.act, start, directory / "counting")
    moments = [(nth, then) for nth in range(1, calls + 1) for then in WAYS]
    if len(moments) > most:
        moments = sorted(random.sample(moments, most))
    kills = 0
    for nth, then in moments:
        acks, status = _killed(scenario.act, start, directory / "work", nth, then)
        assert status in (0, -signal.SIGKILL), f"{name}: ended with {status} at call {nth}, {then!r}"
        try:
            scenario.check(directory / "work", acks)
        except BaseException as error:
            raise AssertionError(f"{name}, killed at call {nth} of {calls}, {then!r}, after {acks}") from error
        kills += status != 0
    return {"calls": calls, "kills": kills}


def test_a_process_killed_while_it_creates_the_file(tmp_path: Path, library: Path) -> None:
    """At every one of its first calls: the next one to open the file makes a history of it that lasts."""
    assert lab.run(kill_at_first_calls, tmp_path, library=library) == {"kills": 3 * FIRST_CALLS}


def kill_at_first_calls(directory: Path) -> dict[str, int]:
    """In the lab."""
    scenario, start, kills = SCENARIOS["create"], directory / "start", 0
    faults.watch(directory)
    start.mkdir()
    for nth in range(1, FIRST_CALLS + 1):
        for then in WAYS:
            acks, status = _killed(scenario.act, start, directory / "work", nth, then)
            kills += status == -signal.SIGKILL
            scenario.check(directory / "work", acks)
    return {"kills": kills}


@pytest.mark.parametrize("written", [50, PAGE_SIZE // 2, PAGE_SIZE], ids=["a header", "half a page", "a page"])
def test_a_file_left_half_created_becomes_a_history_that_lasts(written: int, tmp_path: Path) -> None:
    """The journal beside it says that it was empty; SQLite takes it back to that, and then it has to be made ours."""
    with EventStore(database(tmp_path)):
        pass
    page = database(tmp_path).read_bytes()[:PAGE_SIZE]
    page = page[:18] + b"\1\1" + page[20:]  # as it was before the switch to write-ahead logging
    database(tmp_path).write_bytes(page[:written])
    journal = bytes.fromhex("d9d505f920a163d7") + bytes(12) + (512).to_bytes(4, "big") + PAGE_SIZE.to_bytes(4, "big")
    Path(f"{database(tmp_path)}-journal").write_bytes(journal.ljust(512, b"\0"))
    for _ in range(2):
        with open_store(tmp_path) as store:
            store.append([add(f"memory {store.position}")])
    report = verify(database(tmp_path))
    assert report.faults == []
    assert report.events == 2


def _calls_of(act: Callable[[Path, Acknowledge], None], start: Path, work: Path) -> int:
    shutil.copytree(start, work)
    with faults.counted(faults.CHANGES) as counts:
        act(work, lambda *what: None)
    return counts[0]


def _killed(
    act: Callable[[Path, Acknowledge], None], start: Path, work: Path, nth: int, then: faults.Then
) -> tuple[list[Ack], int]:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)

    def attacked(ack: Acknowledge) -> None:
        faults.arm(faults.CHANGES, nth, then)
        act(work, ack)

    return lab.collected(*lab.forked(attacked))


# -- at random moments, one life after the other --------------------------------------------------------------


def _write_for_ever(directory: Path, life: int, ack: Acknowledge, watch: Callable[[EventStore], None]) -> None:
    with small_log(), open_store(directory) as store:
        watch(store)
        for number in range(10**6):
            operations = [add(f"life {life}.{number}.{row}") for row in range(number % 5 + 1)]
            last = store.append(operations)[-1]
            ack("append", last.position, last.hash)


class Lives:
    """The history of a writer with many lives, and all that it acknowledged in them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.acknowledged: dict[int, str] = {}
        directory.mkdir()
        prepare_store(directory)

    def check(self, acks: Sequence[Ack]) -> None:
        """After one more life."""
        self.acknowledged.update({position: digest for _, position, digest in acks})
        report = verify(database(self.directory))
        assert report.ok, report.faults[:5]
        with open_store(self.directory) as store:
            self.check_appends(store)
            check_index(store)

    def check_appends(self, store: EventStore) -> None:
        """Each append is there with all its rows, and each acknowledged one where it was acknowledged."""
        rows: dict[str, int] = {}
        for event in store.events():
            if event.memory_id.startswith("life "):
                append, _, row = event.memory_id.rpartition(".")
                assert int(row) == rows.get(append, 0)
                rows[append] = int(row) + 1
        for append, count in rows.items():
            assert count == int(append.split(".")[1]) % 5 + 1, f"append {append} is there in part"
        for position, digest in self.acknowledged.items():
            assert store.hash_at(position) == digest, f"what was acknowledged at {position} is gone"


def test_a_writer_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL after a random while, again and again on the same file, while another process has it open."""
    done = lab.run(kill_at_random, tmp_path, KILLS_AT_RANDOM)
    assert done["kills"] == KILLS_AT_RANDOM
    assert done["acknowledged"] > 0


def kill_at_random(directory: Path, most: int) -> dict[str, int]:
    """In the lab. Every other life is watched by a store of this process, which outlives the writer."""
    kills = acknowledged = 0
    for life in range(most):
        if life % LIVES_OF_A_HISTORY == 0:
            lives = Lives(directory / f"history {life}")
        here = lives.directory
        pid, reading = lab.forked(
            lambda ack, here=here, life=life: _write_for_ever(here, life, ack, lambda store: None)
        )
        with contextlib.ExitStack() as stack:
            survivor = stack.enter_context(open_store(here)) if life % 2 else None
            time.sleep(random.uniform(0.005, 0.15))
            os.kill(pid, signal.SIGKILL)
            acks, status = lab.collected(pid, reading)
            kills += status == -signal.SIGKILL
            if survivor is not None:
                assert survivor.position >= max((position for _, position, _ in acks), default=0)
                lives.check_appends(survivor)
                survivor.add("the survivor writes", vector=[1.0] * DIMENSION)
            lives.check(acks)
            acknowledged += len(acks)
    return {"kills": kills, "acknowledged": acknowledged}


def test_a_writer_killed_inside_sqlite(tmp_path: Path) -> None:
    """SIGKILL at a random instruction of SQLite's own machine: this needs no C compiler."""
    done = lab.run(kill_in_sqlite, tmp_path, KILLS_IN_SQLITE)
    assert done["kills"] == KILLS_IN_SQLITE


def kill_in_sqlite(directory: Path, most: int) -> dict[str, int]:
    """In the lab."""
    kills = 0
    for life in range(most):
        if life % LIVES_OF_A_HISTORY == 0:
            lives = Lives(directory / f"history {life}")

        def watch(store: EventStore) -> None:
            left = random.randrange(1, 6000)

            def step() -> int:
                nonlocal left
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return 0

            store._connections._writer.set_progress_handler(step, 1)

        acks, status = lab.collected(
            *lab.forked(
                lambda ack, here=lives.directory, life=life, watch=watch: _write_for_ever(here, life, ack, watch)
            )
        )
        kills += status == -signal.SIGKILL
        lives.check(acks)
    return {"kills": kills}
