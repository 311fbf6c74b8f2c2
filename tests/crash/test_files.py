"""Files that are taken away, replaced, or may not be touched, and clocks that jump, while a store is open."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from eventstore import AsofError, EventStore, ReadOnlyStore, StorageError, read_json_lines
from projections import CheckpointWarning, VectorIndex
from replay import recover, verify
from tests.crash import faults, lab
from tests.crash.scenarios import (
    BASE,
    START,
    add,
    check_index,
    check_store,
    database,
    open_index,
    open_store,
    prepare_index,
    prepare_store,
    vector_of,
)

posix = pytest.mark.skipif(os.name != "posix", reason="Windows keeps open files from being deleted")
WAL = "agent.db-wal"


# -- the database -------------------------------------------------------------------------------------------


def delete(directory: Path) -> None:
    database(directory).unlink()


def delete_all(directory: Path) -> None:
    for path in directory.glob("agent.db*"):
        path.unlink()


def delete_log(directory: Path) -> None:
    (directory / WAL).unlink()


def move(directory: Path) -> None:
    database(directory).rename(directory / "moved.db")


def replace_by_copy(directory: Path) -> None:
    shutil.copyfile(database(directory), directory / "copy.db")
    (directory / "copy.db").replace(database(directory))


def replace_by_another(directory: Path) -> None:
    delete_all(directory)
    with open_store(directory) as other:
        other.append([add("of another history")])


def remove_directory(directory: Path) -> None:
    shutil.rmtree(directory)


@posix
@pytest.mark.parametrize(
    "loss", [delete, delete_all, delete_log, move, replace_by_copy, replace_by_another, remove_directory]
)
def test_nothing_is_acknowledged_that_goes_into_a_lost_file(tmp_path: Path, loss: Callable[[Path], None]) -> None:
    """SQLite would write on, into a file that nobody can open again."""
    directory = tmp_path / "here"
    directory.mkdir()
    prepare_store(directory)
    with open_store(directory) as store:
        acknowledged = store.append([add("before")])[-1]
        loss(directory)
        for _ in range(2):
            with pytest.raises(StorageError, match=r"deleted or replaced .* open the store again"):
                store.append([add("after")])
        assert store.position == acknowledged.position


@posix
def test_an_append_is_not_acknowledged_when_the_file_goes_while_it_is_written(tmp_path: Path) -> None:
    """Checked again after the commit."""
    prepare_store(tmp_path)

    with open_store(tmp_path) as store:
        with contextlib.ExitStack() as stack:
            transaction = stack.enter_context(store._writer.transaction())
            assert transaction.tail.position == START
            database(tmp_path).rename(tmp_path / "moved.db")
            with pytest.raises(StorageError, match="lost"):
                stack.close()


@posix
def test_a_log_deleted_while_open_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The store that has it open puts it into the file when it is closed."""
    prepare_store(tmp_path)
    with open_store(tmp_path) as store:
        last = store.append([add("before")])[-1]
        delete_log(tmp_path)
        with pytest.raises(StorageError):
            store.append([add("after")])
    check_store(tmp_path, [("append", last.position, last.hash)], [START + 1], [*BASE, add("before")])


@posix
def test_reads_do_not_mix_two_files(tmp_path: Path) -> None:
    """A connection that is opened later would read the file that is there now: it is refused."""
    prepare_store(tmp_path)
    with open_store(tmp_path) as store:
        store._connections._idle.clear()
        replace_by_another(tmp_path)
        with pytest.raises(StorageError, match="deleted or replaced"):
            store.get("base 1")
    with open_store(tmp_path) as store:
        assert [event.memory_id for event in store.events()] == ["of another history"]


@posix
def test_closing_a_store_whose_file_was_replaced_leaves_the_other_alone(tmp_path: Path) -> None:
    """Its log, too, with what was acknowledged in it."""
    prepare_store(tmp_path)
    old = open_store(tmp_path)
    old.append([add("before")])
    for path in tmp_path.glob("agent.db*"):
        path.rename(path.with_name(f"old-{path.name}"))
    with open_store(tmp_path) as new:
        new.append([add("one")])
        old.close()
        new.append([add("two")])
        with open_store(tmp_path) as third:
            assert [event.memory_id for event in third.events()] == ["one", "two"]
    assert verify(database(tmp_path)).ok


# -- permissions --------------------------------------------------------------------------------------------


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that another user can get to: those of pytest are the user's own."""
    directory = Path(tempfile.mkdtemp(prefix="asof-"))
    directory.chmod(0o777)
    yield directory
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o777)
    shutil.rmtree(directory)


def _as_nobody() -> None:
    """Permissions mean nothing to root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def _refused(work: Callable[[], object]) -> str:
    """The `AsofError` that the work ends with: its class and message."""
    try:
        work()
    except AsofError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def without_permission(directory: Path) -> dict[str, str]:
    """In the lab: what another user is told."""
    prepare_index(directory)
    with open_store(directory) as store:
        store.append([add("seen")])
        check_index(store)
    told: dict[str, str] = {}

    def attempt(name: str, changed: Path, mode: int, work: Callable[[], object]) -> None:
        before = changed.stat().st_mode
        changed.chmod(mode)

        def asked(ack: Callable[..., None]) -> None:
            _as_nobody()
            ack(_refused(work))

        acks, status = lab.collected(*lab.forked(asked))
        assert status == 0, name
        told[name] = acks[0][0]
        changed.chmod(before & 0o7777)

    def searches() -> None:
        with open_store(directory) as store, open_index(store) as index:
            assert index.search(vector_of("seen"), 1)[0].memory_id == "seen"

    def checkpoints() -> None:
        with open_store(directory) as store, open_index(store) as index:
            index.catch_up()
            index.checkpoint()

    def appends() -> None:
        with open_store(directory) as store:
            store.append([add("after")])

    index = Path(f"{database(directory)}.index")
    database(directory).chmod(0o666)
    attempt("database not readable", database(directory), 0o000, lambda: open_store(directory))
    attempt("directory closed", directory, 0o000, lambda: open_store(directory))
    attempt("no new store", directory, 0o555, lambda: EventStore(directory / "new.db"))
    attempt("search with a read-only index", index, 0o555, searches)
    attempt("checkpoint into a read-only index", index, 0o555, checkpoints)
    attempt("search with a closed index", index, 0o000, searches)
    attempt("database read-only", database(directory), 0o444, appends)
    # A reader of a read-only file leaves a log and shared memory that are read-only as well.
    attempt("log read-only", database(directory), 0o666, appends)
    for path in directory.glob("agent.db-*"):
        path.unlink()
    with open_store(directory) as store:
        assert store.position == START + 1
        check_index(store)
    return told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs another user")
def test_what_may_not_be_touched_is_said(open_to_all: Path) -> None:
    """An error of the right kind that names the path; reading and searching go on where they can."""
    told = lab.run(without_permission, open_to_all)
    assert told.pop("database not readable").startswith("StorageError: cannot read")
    assert told.pop("directory closed").startswith("StorageError: ")
    assert told.pop("no new store").startswith("StorageError: cannot open")
    assert told.pop("database read-only").startswith(f"{ReadOnlyStore.__name__}: ")
    assert "those beside it" in told.pop("log read-only")
    assert told.pop("search with a read-only index") == "nothing"
    assert told.pop("checkpoint into a read-only index").startswith("StorageError: cannot write an index checkpoint")
    assert told.pop("search with a closed index").startswith("StorageError: cannot read the index directory")
    assert told == {}


# -- files that fail -----------------------------------------------------------------------------------------


def _failing(error: int) -> Callable[..., Any]:
    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


@pytest.mark.parametrize(
    "work",
    [lambda store, path: store.export(path), lambda store, path: recover(store, None, path)],
    ids=["export", "recover"],
)
def test_the_first_error_is_told_not_that_of_clearing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[EventStore, Path], object]
) -> None:
    """A disk that fails lets nothing be removed either."""
    prepare_store(tmp_path)
    with open_store(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", _failing(errno.EIO))
            patch.setattr("os.unlink", _failing(errno.EROFS))
            with pytest.raises(StorageError, match=r"cannot write .*new.*Input/output error"):
                work(store, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        work(store, tmp_path / "new")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read")
def test_a_file_of_records_that_cannot_be_read_is_an_error_of_storage() -> None:
    """Also where it fails after it was opened."""
    with pytest.raises(StorageError, match="cannot read /proc/self/mem"):
        list(read_json_lines("/proc/self/mem"))


# -- the index ----------------------------------------------------------------------------------------------


def test_an_index_whose_directory_vanished_goes_on_and_makes_it_again(tmp_path: Path) -> None:
    """Nothing in it was needed."""
    prepare_index(tmp_path)
    with open_store(tmp_path) as store:
        with open_index(store) as index:
            assert index.directory is not None
            shutil.rmtree(index.directory)
            store.append([add("more")])
            assert index.search(vector_of("more"), 1)[0].memory_id == "more"
            index.checkpoint()
        with open_index(store) as index:
            assert index.position == START + 1
            assert index.faults() == []


@pytest.mark.parametrize("suffix", [".json", ".bin"])
def test_a_checkpoint_that_cannot_be_read_just_now_stays_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """No more file descriptors, say: that is no reason to throw a good checkpoint away."""
    prepare_index(tmp_path)
    really = os.open

    def opened(path: Any, *arguments: Any, **keywords: Any) -> int:
        if str(path).endswith(suffix):
            _failing(errno.EMFILE)()
        return really(path, *arguments, **keywords)

    with open_store(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", opened)
            with pytest.warns(CheckpointWarning, match=r"passed over: .* cannot be read: Too many open files"):
                assert open_index(store).position == 0
        with open_index(store) as index:
            assert index.position == START


def full_index_directory(directory: Path) -> str:
    """In the lab: no space where the index is, plenty where the history is."""
    prepare_index(directory)
    with open_store(directory) as store:
        index = VectorIndex(store, segment_rows=8)
        assert index.directory is not None
        faults.watch(index.directory)
        faults.arm(faults.Calls.WRITE | faults.Calls.OPEN, 1, error=errno.ENOSPC, always=True)
        store.append([add("more")])
        assert index.search(vector_of("more"), 1)[0].memory_id == "more"
        told = _refused(index.checkpoint)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            index._checkpoint_if_possible()
        assert [warning.category for warning in caught] == [CheckpointWarning]
        faults.disarm()
        assert sorted(path.suffix for path in index.directory.iterdir() if path.suffix == ".part") == []
        index.checkpoint()
        index.close()
        check_index(store)
    return told


def test_a_full_index_directory_costs_checkpoints_only(tmp_path: Path) -> None:
    """Appends and searches go on; the checkpoint says why it was not written."""
    told = lab.run(full_index_directory, tmp_path, library=faults.compiled(tmp_path))
    assert told.startswith("StorageError: cannot write an index checkpoint")
    assert "No space left on device" in told


# -- the clock ----------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_an_hour_changes_no_order_and_no_answer(tmp_path: Path) -> None:
    """Also in the next process, and after a crash that left everything in the log."""
    now = datetime(2026, 3, 29, 3, 0, tzinfo=timezone.utc)
    seen = []
    with open_store(tmp_path, clock=lambda: now) as store:
        seen.append(store.append([add("first")])[-1])
        noon = now + timedelta(minutes=1)
        now += timedelta(minutes=2)
        answer = store.position_at(noon)
        now -= timedelta(hours=1)
        seen.append(store.append([add("second")])[-1])
        assert store.position_at(noon) == answer
    with open_store(tmp_path, clock=lambda: now - timedelta(hours=1)) as store:
        seen.append(store.append([add("third")])[-1])
        times = [event.recorded_at for event in store.events()]
        assert times == sorted(set(times))
        assert store.position_at(noon) == answer
        with open_index(store) as index:
            found = index.search(vector_of("second"), 5, as_of=seen[0].recorded_at)
            assert [hit.memory_id for hit in found] == ["first"]
