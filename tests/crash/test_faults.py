"""The disk is full, or fails: at every file call in turn. What happens is said, and nothing acknowledged is lost."""

from __future__ import annotations

import errno
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from eventstore import AsofError, StorageError
from projections import CheckpointWarning
from tests.crash import faults, lab
from tests.crash.faults import Calls
from tests.crash.lab import LONG, Ack
from tests.crash.scenarios import DIMENSION, SCENARIOS, START, add, check_store, open_store, prepare_store, small_log

FAULTS_A_SCENARIO = 3000 if LONG else 20

ANY = faults.CHANGES | Calls.READ
SPACE = Calls.WRITE | Calls.TRUNCATE | Calls.OPEN | Calls.MKDIR | Calls.RENAME
NAMES = Calls.OPEN | Calls.MKDIR | Calls.RENAME | Calls.UNLINK

FAULTS = {
    "no space, once": (SPACE, errno.ENOSPC, False),
    "no space from then on": (SPACE, errno.ENOSPC, True),
    "an I/O error, once": (ANY, errno.EIO, False),
    "I/O errors from then on": (ANY, errno.EIO, True),
    "a failed sync": (Calls.SYNC, errno.EIO, False),
    "permission denied, once": (NAMES, errno.EACCES, False),
    "no more file descriptors": (Calls.OPEN, errno.EMFILE, True),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The faults, compiled."""
    return faults.compiled(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_file_call_fails(name: str, tmp_path: Path, library: Path) -> None:
    """Either the work is done all the same, or an `AsofError` says why not; what is left is sound."""
    assert lab.run(fail_at_file_calls, tmp_path, name, FAULTS_A_SCENARIO, library=library)["failed"] > 0


def _appending(acks: list[Ack]) -> Callable[..., None]:
    return lambda *what: acks.append(what)


def fail_at_file_calls(directory: Path, name: str, most: int) -> dict[str, int]:
    """In the lab: the scenario again and again, each time with another fault."""
    scenario, start, work = SCENARIOS[name], directory / "start", directory / "work"
    faults.watch(directory)
    start.mkdir()
    scenario.prepare(start)
    moments = []
    for fault, (kinds, _, _) in FAULTS.items():
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)
        with faults.counted(kinds) as counts:
            scenario.act(work, lambda *what: None)
        moments += [(fault, nth) for nth in range(1, counts[0] + 1)]
    if len(moments) > most:
        moments = random.sample(moments, most)
    failed = 0
    for fault, nth in moments:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)
        acks: list[Ack] = []
        raised: BaseException | None = None
        kinds, error, always = FAULTS[fault]
        with warnings.catch_warnings():
            # That a checkpoint could not be read or written may be said by a warning.
            warnings.simplefilter("ignore", CheckpointWarning)
            faults.arm(kinds, nth, error=error, always=always)
            try:
                scenario.act(work, _appending(acks))
            except BaseException as problem:
                raised = problem
            faults.disarm()
        try:
            if raised is not None:
                failed += 1
                if not isinstance(raised, AsofError):
                    raise raised
                assert str(raised)
            scenario.check(work, acks)
        except BaseException as problem:
            raise AssertionError(f"{name}: {fault}, at call {nth}; raised {raised!r} after {acks}") from problem
    return {"failed": failed, "moments": len(moments)}


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_store_goes_on_after_a_fault_or_says_to_open_it_again(durability: str, tmp_path: Path, library: Path) -> None:
    """After a failed append the next one is recorded, or refused with what to do; a retry records once."""
    done = lab.run(go_on_after_faults, tmp_path, durability, 4 * FAULTS_A_SCENARIO, library=library)
    assert done["went on"] > 0
    assert done["refused"] > 0


def go_on_after_faults(directory: Path, durability: str, most: int) -> dict[str, int]:
    """In the lab: an append with a fault in it, then one without, in the same store; then a retry in a new one."""
    start, work = directory / "start", directory / "work"
    faults.watch(directory)
    start.mkdir()
    prepare_store(start)
    done = {"went on": 0, "refused": 0}
    moments = [(fault, nth) for fault in FAULTS for nth in range(1, 80)]
    if len(moments) > most:
        # An append has a dozen file calls or so: those are where something happens, by luck or not.
        first = [moment for moment in moments if moment[1] <= 8]
        moments = first + random.sample([moment for moment in moments if moment[1] > 8], most)
    for fault, nth in moments:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)
        kinds, error, always = FAULTS[fault]
        operations = [add("one"), add("two").model_copy(update={"event_id": "the event"})]
        recorded = [[add("before")]]
        with small_log(), open_store(work, durability=durability) as store:  # type: ignore[arg-type]
            acks = [("append", store.append(recorded[0])[-1].position, store.head.hash)]
            faults.arm(kinds, nth, error=error, always=always)
            try:
                last = store.append(operations)[-1]
                acks.append(("append", last.position, last.hash))
                acknowledged = True
            except AsofError:
                acknowledged = False
            finally:
                faults.disarm()
            if not faults.fired():
                continue
            # What was refused cannot be seen.
            assert (store.get("two") is not None) == acknowledged
            went_on = store._connections._failure is None
            if went_on:
                last = store.append([add("next")])[-1]
                acks.append(("append", last.position, last.hash))
                done["went on"] += 1
            else:
                for _ in range(2):
                    with pytest.raises(StorageError, match="open the store again"):
                        store.append([add("next")])
                assert store.position == acks[-1][1]
                done["refused"] += 1
        try:
            with open_store(work) as store:
                store.append([add("again")])
                names = [event.memory_id for event in store.events(after=START)]
            whole = ["before", *(["one", "two"] if "two" in names else []), *(["next"] if went_on else []), "again"]
            assert names == whole
            assert "two" in names or not acknowledged
            if "two" in names:
                with open_store(work) as store:
                    retried = operations[1].model_copy(update={"memory_id": "two"})
                    assert store.append([retried])[0].position == START + 3
            check_store(work, acks, [START + len(names)], [])
        except BaseException as problem:
            raise AssertionError(f"{fault}, at call {nth}; acknowledged: {acknowledged}; {acks}") from problem
    return done


def test_a_sync_that_failed_is_not_tried_again_as_if_it_had_worked(tmp_path: Path, library: Path) -> None:
    """The system forgets what it could not write: a later sync would succeed without it (danluu.com/fsyncgate)."""
    assert lab.run(append_after_failed_sync, tmp_path, library=library) == {"syncs": 0}


def append_after_failed_sync(directory: Path) -> dict[str, int]:
    """In the lab: how often the store syncs after the sync that failed, while it is open."""
    faults.watch(directory)
    prepare_store(directory)
    with open_store(directory) as store:
        store.add("before", vector=[1.0] * DIMENSION)
        faults.arm(Calls.SYNC, 1)
        with pytest.raises(StorageError, match="open the store again"):
            store.add("lost?", vector=[1.0] * DIMENSION)
        with faults.counted(Calls.SYNC) as counts:
            for _ in range(3):
                with pytest.raises(StorageError, match="open the store again"):
                    store.add("refused", vector=[1.0] * DIMENSION)
        assert store.position == START + 1
    return {"syncs": counts[0]}
