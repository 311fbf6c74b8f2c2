"""Power lost at any moment, with any part of what was not synced: what was acknowledged is on disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from eventstore import StorageError
from eventstore.connections import Durability
from tests.crash import disk, faults, lab
from tests.crash.lab import LONG, Ack
from tests.crash.scenarios import (
    APPENDED,
    BASE,
    DIMENSION,
    ENDS,
    SCENARIOS,
    START,
    Acknowledge,
    add,
    check_store,
    open_index,
    open_store,
    small_log,
)

LOSSES_A_SCENARIO = 1500 if LONG else 30


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The faults, compiled."""
    return faults.compiled(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", [name for name in SCENARIOS if "normal" not in name])
def test_power_lost_with_full_durability(name: str, tmp_path: Path, library: Path) -> None:
    """After any change to any file: nothing acknowledged is lost, and nothing is left in part."""
    # States that are the same count once, and short works have few: enough are drawn that five differ.
    assert lab.run(lose_power, tmp_path, name, 2 * LOSSES_A_SCENARIO, library=library)["losses"] >= 5


def test_power_lost_with_normal_durability(tmp_path: Path, library: Path) -> None:
    """Appends may be lost, whole ones and only from the end; what is left is sound."""
    done = lab.run(lose_power, tmp_path, "append, normal", 2 * LOSSES_A_SCENARIO, library=library)
    assert done["lost"] > 0, "the simulation lost nothing where something may be lost"


def lose_power(directory: Path, name: str, most: int) -> dict[str, int]:
    """In the lab: the scenario once, its changes written down; then what may be left after each of them."""
    scenario, work, log = SCENARIOS[name], directory / "work", directory / "log"
    faults.watch(directory)
    work.mkdir()
    scenario.prepare(work)
    start = directory / "start"
    shutil.copytree(work, start)
    faults.watch(work)
    # Read before anything changes, for the inodes.
    before = disk.Disk(work)
    faults.log_to(log)
    scenario.act(work, lambda *what: faults.mark(json.dumps(what)))
    faults.log_to(None)
    faults.watch(directory)
    changes, seed = disk.read_log(log), random.randrange(2**32)
    losses = lost = 0
    for after, kind, acks, left in disk.losses(before, changes, most, random.Random(seed)):
        lost_here = directory / "left"
        shutil.rmtree(lost_here, ignore_errors=True)
        disk.write_out(left, work, lost_here)
        losses += 1
        try:
            if name == "append, normal":
                lost = max(lost, check_tail_lost(lost_here, acks))
            else:
                scenario.check(lost_here, acks)
        except BaseException as error:
            raise AssertionError(
                f"{name}: power lost after {after} of {len(changes)} changes, {kind} (seed {seed}), after {acks}"
            ) from error
    return {"losses": losses, "changes": len(changes), "lost": lost}


def check_tail_lost(directory: Path, acks: Sequence[Ack]) -> int:
    """The history is a sound beginning of what was acknowledged; how many acknowledged events are missing."""
    with open_store(directory) as store:
        position = store.position
        kept = [ack for ack in acks if ack[1] <= position]
    check_store(directory, kept, ENDS, [*BASE, *APPENDED])
    return max([0, *(ack[1] - position for ack in acks)])


def test_a_checkpoint_is_named_after_what_it_names_is_on_disk(tmp_path: Path, library: Path) -> None:
    """The new directory's own name too; a file system may put names on disk in any order."""
    lab.run(checkpoint_in_a_new_directory, tmp_path, library=library)


def checkpoint_in_a_new_directory(directory: Path) -> None:
    """In the lab."""
    work, log = directory / "work", directory / "log"
    work.mkdir()
    SCENARIOS["append"].prepare(work)
    faults.watch(work)
    with open_store(work) as store, open_index(store) as index:
        index.catch_up()
        faults.log_to(log)
        index.checkpoint()
        faults.log_to(None)
        made = str(index.directory)
    calls = [
        (change.kind, Path(change.second).suffix or change.first)
        for change in disk.read_log(log)
        if change.kind in (disk.MKDIR, disk.SYNC_DIRECTORY, disk.RENAME)
    ]
    names = [calls.index((disk.RENAME, ".bin")), calls.index((disk.RENAME, ".json"))]
    syncs = [at for at, call in enumerate(calls) if call == (disk.SYNC_DIRECTORY, made)]
    assert calls.index((disk.SYNC_DIRECTORY, str(work))) < names[1]
    assert any(calls[at - 1] == (disk.RENAME, ".bin") and at < names[1] for at in syncs)
    assert syncs[-1] > names[1]


def test_power_lost_in_a_long_life_with_normal_durability(tmp_path: Path, library: Path) -> None:
    """At most what came after the last time that the log was folded into the file is lost."""
    done = lab.run(lose_power_of_a_long_life, tmp_path, library=library)
    assert 0 < done["lost"] <= done["most"]


def lose_power_of_a_long_life(directory: Path) -> dict[str, int]:
    """In the lab: single appends past several checkpoints of the log, power lost after each acknowledgement."""
    work, log = directory / "work", directory / "log"
    work.mkdir()
    faults.watch(work)
    with small_log(), open_store(work, durability="normal") as store:
        store.add("first", vector=[1.0] * DIMENSION)
    before = disk.Disk(work)
    faults.log_to(log)
    with small_log(), open_store(work, durability="normal") as store:
        for _ in range(30):
            added = store.add("text", vector=[1.0] * DIMENSION)
            faults.mark(json.dumps(("append", added.position, added.hash)))
        faults.log_to(None)
    state, losses = before, []
    for change in disk.read_log(log):
        state.take(change)
        if change.kind == disk.MARK:
            left = directory / "left"
            shutil.rmtree(left, ignore_errors=True)
            disk.write_out(state.left(disk.LOSSES[0], random.Random(0)), work, left)
            with open_store(left) as store:
                losses.append(state.acks[-1][1] - store.position)
                for _, position, digest in state.acks[: len(state.acks) - losses[-1]]:
                    assert store.hash_at(position) == digest
    # A log of 20 pages, and each append writes at least three.
    return {"lost": max(losses), "most": 20 // 3 + 1}


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_power_lost_after_a_sync_that_failed(tmp_path: Path, library: Path, end: str) -> None:
    """What the failed sync left out is gone for good; what is acknowledged once the store is open again is not."""
    done = lab.run(lose_power_after_failed_sync, tmp_path, end, 2 * LOSSES_A_SCENARIO, library=library)
    assert done["losses"] > 10


def lose_power_after_failed_sync(directory: Path, end: str, most: int) -> dict[str, int]:
    """In the lab: appends, one whose sync fails, the store opened again, more appends; then no power."""
    work, log, left = directory / "work", directory / "log", directory / "left"
    losses, chance = 0, random.Random(1)
    for number in range(3):
        shutil.rmtree(work, ignore_errors=True)
        log.unlink(missing_ok=True)
        work.mkdir()
        faults.watch(work)
        SCENARIOS["append"].prepare(work)
        before = disk.Disk(work)
        faults.log_to(log)
        for life in range(2):

            def live(ack: Acknowledge, life: int = life, fails: int = 4 if life else number + 1) -> None:
                store = open_store(work)
                for row in range(4):
                    if row == fails:
                        faults.arm(faults.Calls.SYNC, 1)
                    with contextlib.suppress(StorageError):
                        last = store.append([add(f"life {life}, {row}"), add(f"life {life}, {row}, too")])[-1]
                        faults.mark(json.dumps(("append", last.position, last.hash)))
                    faults.disarm()
                if end == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                store.close()

            lab.collected(*lab.forked(live))
        faults.log_to(None)
        faults.watch(directory)
        ends = range(START, START + 20, 2)
        for after, kind, acks, state in disk.losses(before, disk.read_log(log), most // 3, chance):
            shutil.rmtree(left, ignore_errors=True)
            disk.write_out(state, work, left)
            losses += 1
            try:
                check_store(left, acks, ends, BASE)
            except BaseException as error:
                raise AssertionError(f"power lost after {after} changes, {kind}, after {acks}") from error
    return {"losses": losses}


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_power_lost_after_folding_the_log_failed(tmp_path: Path, library: Path, end: str) -> None:
    """With "normal" the log is first synced when it is folded into the file. What that sync left out is forgotten by
    the system, so it must not go on to be folded: half of it would reach the file."""
    done = lab.run(lose_power_after_failed_fold, tmp_path, end, 2 * LOSSES_A_SCENARIO, library=library)
    assert done["losses"] > 10
    assert done["failed"] == 3


def lose_power_after_failed_fold(directory: Path, end: str, most: int) -> dict[str, int]:
    """In the lab: a life with "normal" in which a sync of a fold fails, then one with "full"; then no power."""
    work, log, left = directory / "work", directory / "log", directory / "left"
    losses, failed, chance = 0, 0, random.Random(1)
    # The first is of the log's beginning, the second of its directory (of which SQLite says nothing, and which was
    # synced when the store was opened); then those of a fold, of the log and of the file.
    for nth in (1, 3, 4):
        shutil.rmtree(work, ignore_errors=True)
        log.unlink(missing_ok=True)
        work.mkdir()
        faults.watch(work)
        SCENARIOS["append"].prepare(work)
        before = disk.Disk(work)
        faults.log_to(log)

        def live(ack: Acknowledge, durability: Durability, nth: int = nth) -> None:
            with small_log():
                store = open_store(work, durability=durability)
                if durability == "normal":
                    faults.arm(faults.Calls.SYNC, nth)
                for row in range(12):
                    try:
                        last = store.append([add(f"{durability} {row}"), add(f"{durability} {row}, too")])[-1]
                    except StorageError:
                        ack("refused", row)
                        break
                    faults.mark(json.dumps((durability, last.position, last.hash)))
                faults.disarm()
                if end == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                store.close()

        told, _ = lab.collected(*lab.forked(lambda ack, live=live: live(ack, "normal")))
        failed += len(told)
        told, _ = lab.collected(*lab.forked(lambda ack, live=live: live(ack, "full")))
        assert not told
        faults.log_to(None)
        faults.watch(directory)
        for after, kind, acks, state in disk.losses(before, disk.read_log(log), most // 3, chance):
            shutil.rmtree(left, ignore_errors=True)
            disk.write_out(state, work, left)
            losses += 1
            # What "full" acknowledged is there, with all before it; of "normal" the end may be missing.
            synced = max((position for durability, position, _ in acks if durability == "full"), default=0)
            try:
                with open_store(left) as store:
                    position = store.position
                kept = [ack for ack in acks if ack[1] <= max(synced, position)]
                check_store(left, kept, range(START, START + 50, 2), BASE)
            except BaseException as error:
                raise AssertionError(f"sync {nth}: power lost after {after} changes, {kind}, after {acks}") from error
    return {"losses": losses, "failed": failed}
