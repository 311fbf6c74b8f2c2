"""Migrations: the version-1 file that is kept becomes a later version's, or stays in use as it is."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventstore import CorruptHistory, EventStore, NewerSchema, OlderSchema, StorageError, StoreBusy, migrate, schema
from projections import VectorIndex
from replay import verify
from tests.data import make_v1
from tests.next_version import NEXT, later, next_version
from tests.test_store_opening import contents
from tests.test_version_1 import EXPECTED

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a file that is open cannot be replaced on Windows")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A copy of the kept file, in a folder of its own."""
    (tmp_path / "here").mkdir()
    return make_v1.unpack(tmp_path / "here" / "v1.db")


def names(path: Path) -> list[str]:
    """What there is in the folder of a database."""
    return sorted(os.listdir(path.parent))


def version_of(path: Path) -> int:
    """The last step of the schema that a file has, asked of the file alone."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        steps = connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id").fetchall()
    return int(steps[-1][0][1:4])


def assert_old_in_use(path: Path) -> None:
    """It is a version-1 file that answers as it did, with nothing beside it."""
    assert names(path) == [path.name]
    assert version_of(path) == 1
    assert make_v1.describe(path) == EXPECTED
    assert names(path) == [path.name]


# -- what comes of it -----------------------------------------------------------------------------------------


def test_the_kept_file_becomes_one_of_the_next_version(kept: Path) -> None:
    """Opening it is all that it takes; every read answers as before; it takes appends, and is sound."""
    with next_version():
        assert make_v1.describe(kept) == EXPECTED
        assert version_of(kept) == NEXT
        with EventStore(kept, embedder=make_v1.embed) as store:
            last = EXPECTED["head"]["position"]
            assert store._connections.fetch("SELECT count(*), max(seq) FROM later") == [(last, last)]
            assert store.add("today").position == last + 1
        report = verify(kept, against=[(last, EXPECTED["head"]["hash"])])
        assert report.faults == []


def test_the_old_file_stays_beside_it(kept: Path) -> None:
    """Under its version's name, a database of its own that this version reads and writes as ever."""
    with next_version():
        EventStore(kept).close()
        EventStore(kept).close()
    assert names(kept) == ["v1.db", "v1.db.v1"]
    old = kept.with_name("v1.db.v1")
    assert os.stat(old).st_nlink == os.stat(kept).st_nlink == 1
    assert verify(old).ok
    assert make_v1.describe(old) == EXPECTED
    old.replace(kept)  # the way back
    assert_old_in_use(kept)


def test_what_is_only_in_the_log_comes_along(kept: Path, tmp_path: Path) -> None:
    """As a process that was killed leaves it: the last appends are not in the file yet."""
    with EventStore(kept, embedder=make_v1.embed) as store:
        added = store.add("in the log")
        shutil.copytree(kept.parent, tmp_path / "killed")
    killed = tmp_path / "killed" / "v1.db"
    (tmp_path / "killed" / "v1.db-shm").unlink()
    assert (tmp_path / "killed" / "v1.db-wal").stat().st_size > 0
    with next_version(), EventStore(killed) as store:
        assert store.head.position == added.position
        assert store.hash_at(added.position) == added.hash
        assert names(killed) == ["v1.db", "v1.db-shm", "v1.db-wal", "v1.db.v1"]
    assert verify(tmp_path / "killed" / "v1.db.v1", against=[(added.position, added.hash)]).ok


def test_an_index_goes_on_with_the_new_file(kept: Path) -> None:
    """Its checkpoint names a hash of the chain, and that is the same."""
    with EventStore(kept, embedder=make_v1.embed) as store, VectorIndex(store) as index:
        index.catch_up()
        index.checkpoint()
    with next_version(), EventStore(kept, embedder=make_v1.embed) as store, VectorIndex(store) as index:
        assert index.position == EXPECTED["head"]["position"]
        assert index.faults() == []


def test_an_empty_history_is_migrated_too(tmp_path: Path) -> None:
    """One that was only opened so far."""
    EventStore(tmp_path / "a.db").close()
    with next_version(), EventStore(tmp_path / "a.db") as store:
        assert store.position == 0
        assert version_of(tmp_path / "a.db") == NEXT


def test_a_new_history_is_made_in_place(tmp_path: Path) -> None:
    """There is nothing to keep."""
    with next_version():
        EventStore(tmp_path / "a.db").close()
    assert names(tmp_path / "a.db") == ["a.db"]


def test_a_link_leads_to_the_new_file(kept: Path, tmp_path: Path) -> None:
    """The file that it names is replaced, not the link."""
    (tmp_path / "link.db").symlink_to(kept)
    with next_version():
        EventStore(tmp_path / "link.db").close()
    assert (tmp_path / "link.db").is_symlink()
    assert names(kept) == ["v1.db", "v1.db.v1"]
    assert version_of(kept) == NEXT


def test_the_new_file_is_as_open_to_others_as_the_old_one(kept: Path) -> None:
    """Permissions are those of the old file."""
    kept.chmod(0o640)
    with next_version():
        EventStore(kept).close()
    assert [os.stat(path).st_mode & 0o777 for path in kept.parent.iterdir()] == [0o640, 0o640]


def test_a_name_that_is_taken_is_not_taken_away(kept: Path) -> None:
    """Of a migration before, whose old file was put back, say."""
    kept.with_name("v1.db.v1").write_text("mine")
    with next_version():
        EventStore(kept).close()
    assert names(kept) == ["v1.db", "v1.db.v1", "v1.db.v1-2"]
    assert kept.with_name("v1.db.v1").read_text() == "mine"
    assert version_of(kept.with_name("v1.db.v1-2")) == 1


def test_where_a_file_can_have_one_name_only_the_old_one_is_copied(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT, some network and container file systems."""
    monkeypatch.setattr("os.link", fail(OSError(errno.EPERM, os.strerror(errno.EPERM))))
    with next_version():
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", fail(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                EventStore(kept)
        assert names(kept) == ["v1.db"]
        EventStore(kept).close()
        assert make_v1.describe(kept) == EXPECTED
    assert names(kept) == ["v1.db", "v1.db.v1"]
    assert make_v1.describe(kept.with_name("v1.db.v1")) == EXPECTED


# -- what stops it --------------------------------------------------------------------------------------------


def fail(error: BaseException) -> Callable[..., Any]:
    """A function that raises."""

    def function(*args: Any, **kwargs: Any) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=["Ctrl-C", "no space"]
)
@pytest.mark.parametrize(
    "where",
    ["_create_like", "_copy", "apply_migrations", "_require_same", "_broken_chain", "sync_file", "_keep", "os.replace"],
)
def test_what_stops_it_leaves_the_old_file_in_use(
    kept: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    """At any stage, and nothing beside it; the next opening does it."""
    with next_version():
        with monkeypatch.context() as patch:
            patch.setattr(where if where == "os.replace" else f"eventstore.migrate.{where}", fail(error))
            with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StorageError) as raised:
                EventStore(kept)
            if isinstance(error, OSError):
                assert f"{kept} could not be brought to schema version {NEXT}" in str(raised.value)
                assert "No space left" in str(raised.value)
    assert_old_in_use(kept)
    with next_version():
        assert make_v1.describe(kept) == EXPECTED


def then(statement: str) -> Callable[[Any], None]:
    """A step of the schema with something wrong in it."""

    def step(db: Any) -> None:
        objects = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
        later(db)
        for trigger in [name for name in objects if objects[name].startswith("CREATE TRIGGER")]:
            db.execute(f"DROP TRIGGER {trigger}")
        db.execute(statement)
        for trigger in [name for name in objects if objects[name].startswith("CREATE TRIGGER")]:
            db.execute(objects[trigger])

    return step


BAD_STEPS = {
    "loses a payload": ("DELETE FROM payloads WHERE seq = 7", "payloads has 45 rows of 46"),
    "loses events": ("DELETE FROM events WHERE seq > 40", "events has 40 rows of 46"),
    "changes a text": ("UPDATE payloads SET content = content || ' ' WHERE seq = 9", "event 9 .* digest"),
    "changes an embedding": ("UPDATE payloads SET embedding = zeroblob(20) WHERE seq = 9", "event 9 .* digest"),
    "changes a time": ("UPDATE events SET recorded_at = recorded_at + 1 WHERE seq = 46", "event 46 .* hash chain"),
    "changes a hash": ("UPDATE events SET hash = zeroblob(32) WHERE seq = 46", "event 46 .* hash chain"),
    "moves an event": ("UPDATE events SET seq = 47 WHERE seq = 46", "event 46 is missing"),
    "moves a payload": ("UPDATE payloads SET seq = 47 WHERE seq = 46", "event 46 has no payload"),
    "loses the counter": ("DELETE FROM sqlite_sequence", "the counter of events"),
    "loses a setting": ("DELETE FROM settings WHERE key = 'embedder'", "a setting is missing"),
    "changes a setting": ("UPDATE settings SET value = '6' WHERE key = 'dimension'", "a setting is missing or another"),
}


@pytest.mark.parametrize("what", BAD_STEPS)
def test_a_copy_that_is_not_the_same_history_is_not_used(kept: Path, what: str) -> None:
    """Whatever a step of the schema does to it; the old file stays."""
    statement, found = BAD_STEPS[what]
    with next_version(then(statement)), pytest.raises(CorruptHistory, match=found) as raised:
        EventStore(kept)
    assert "it is as it was" in str(raised.value)
    assert_old_in_use(kept)


def test_a_view_that_answers_otherwise_is_noticed(kept: Path) -> None:
    """By reading the same events from both files."""

    def step(db: Any) -> None:
        sql = db.execute("SELECT sql FROM sqlite_master WHERE name = 'history'").fetchone()[0]
        db.execute("DROP VIEW history")
        db.execute(sql.replace("before.content AS old_memory", "after.content AS old_memory"))

    with next_version(step), pytest.raises(CorruptHistory, match="event 1 is not the same, read in the view"):
        EventStore(kept)
    assert_old_in_use(kept)


def test_a_schema_that_is_not_that_of_a_new_history_is_noticed(kept: Path) -> None:
    """Here somebody dropped an index before."""
    with closing(sqlite3.connect(kept)) as connection:
        connection.execute("DROP INDEX events_actor")
    with next_version(), pytest.raises(CorruptHistory, match="events_actor is not as it is made in a new history"):
        EventStore(kept)
    assert names(kept) == ["v1.db"]


def test_a_damaged_history_is_not_migrated(kept: Path) -> None:
    """It stays as it is, for the version that wrote it and for `replay verify`."""
    content = kept.read_bytes()
    assert content.count(b"said so \xe2\x98\x95") > 1
    kept.write_bytes(content.replace(b"said so \xe2\x98\x95", b"said no \xe2\x98\x95", 1))
    with next_version(), pytest.raises(CorruptHistory, match="does not fit into the hash chain"):
        EventStore(kept)
    assert names(kept) == ["v1.db"]
    with EventStore(kept) as store:
        assert store.position == EXPECTED["head"]["position"]


def test_a_step_that_fails_says_so(kept: Path) -> None:
    """SQLite's own error, and that nothing is lost."""
    with next_version(lambda db: db.execute("CREATE TABLE events (x)")):
        with pytest.raises(StorageError, match=r"table events already exists.*nothing of it is lost"):
            EventStore(kept)
    assert_old_in_use(kept)


# -- others ---------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from eventstore import EventStore
with EventStore(sys.argv[1]) as store:
    print("open", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextlib.contextmanager
def elsewhere(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has this version of the schema."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_history_that_another_process_has_open_is_not_migrated(kept: Path) -> None:
    """It would go on writing to the old file. It is waited for, and the error says for what."""
    with elsewhere(HOLD, kept, 60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with next_version(), pytest.raises(StoreBusy, match=f"close it everywhere.* version {NEXT}"):
            EventStore(kept, timeout=0.2)
        process.kill()
        process.wait()
    assert names(kept) == ["v1.db", "v1.db-shm", "v1.db-wal"]
    assert make_v1.describe(kept) == EXPECTED
    assert_old_in_use(kept)


def test_it_is_migrated_as_soon_as_the_other_has_closed_it(kept: Path) -> None:
    """Within the timeout."""
    with elsewhere(HOLD, kept, 0.3) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with next_version():
            EventStore(kept).close()
    assert names(kept) == ["v1.db", "v1.db.v1"]


def test_a_store_of_the_same_process_keeps_it_from_being_migrated(kept: Path) -> None:
    """It is another one for SQLite too."""
    with EventStore(kept) as store:
        with next_version(), pytest.raises(StoreBusy, match="close it everywhere"):
            EventStore(kept, timeout=0)
        assert store.get("memory 0") is not None
    assert_old_in_use(kept)


def test_of_many_that_open_it_at_once_one_migrates_it(kept: Path) -> None:
    """The others wait and use the new file; none is told that anything is wrong."""
    outcomes: list[Any] = []
    start = threading.Barrier(6)

    def run() -> None:
        start.wait(30)
        try:
            with EventStore(kept, embedder=make_v1.embed) as store:
                outcomes.append(store.add("after").position)
        except Exception as error:
            outcomes.append(error)

    with next_version():
        threads = [threading.Thread(target=run, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        last = EXPECTED["head"]["position"]
        assert sorted(outcomes, key=str) == list(range(last + 1, last + 7))
        assert verify(kept).ok
    assert names(kept) == ["v1.db", "v1.db.v1"]
    assert version_of(kept.with_name("v1.db.v1")) == 1


def test_who_waited_does_not_migrate_the_file_that_was_put_aside(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the old file open, and gets the lock on it when the other has put the new one in its place."""
    really, overtaken = migrate._take_alone, []

    def overtake(connection: sqlite3.Connection) -> bool:
        if not overtaken:
            overtaken.append(True)
            with EventStore(kept, embedder=make_v1.embed) as store:
                overtaken.append(store.add("in the new file").hash)
        return really(connection)

    monkeypatch.setattr(migrate, "_take_alone", overtake)
    with next_version(), EventStore(kept) as store:
        assert store.head.hash == overtaken[1]
        assert names(kept) == ["v1.db", "v1.db-shm", "v1.db-wal", "v1.db.v1"]


OPEN = """
import sys
from eventstore import AsofError, EventStore
try:
    with EventStore(sys.argv[1], timeout=float(sys.argv[2])) as store:
        print(store.position)
except AsofError as error:
    print(type(error).__name__, error)
"""


def test_who_opens_it_meanwhile_waits_and_is_told_for_what(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who has waited, having the old file open already, sees the new one."""
    checking, go_on = threading.Event(), threading.Event()
    really = migrate._require_same

    def slowly(*arguments: Any) -> None:
        checking.set()
        assert go_on.wait(60)
        really(*arguments)

    monkeypatch.setattr(migrate, "_require_same", slowly)
    with next_version():
        thread = threading.Thread(target=lambda: EventStore(kept).close(), daemon=True)
        thread.start()
        assert checking.wait(60)
        with elsewhere(OPEN, kept, 0.1) as impatient:
            assert impatient.communicate(timeout=60)[0].startswith("StoreBusy ")
        with pytest.raises(StoreBusy, match="is being brought to a newer schema version by another process"):
            EventStore(kept, timeout=0.1)
        with elsewhere(OPEN, kept, 60) as patient:
            deadline = time.monotonic() + 60
            while not _waits_for(patient.pid, kept):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            go_on.set()
            told = patient.communicate(timeout=60)[0]
        assert told.startswith("NewerSchema ")
        assert f"its schema has version {NEXT}" in told
        assert f"versions up to {NEXT - 1}" in told
        thread.join(60)
        assert not thread.is_alive()
        assert names(kept) == ["v1.db", "v1.db.v1"]
        assert make_v1.describe(kept) == EXPECTED


def _waits_for(pid: int, path: Path) -> bool:
    """Whether the process has the file open, as one that waits for its lock has."""
    if not os.path.isdir("/proc/self/fd"):
        time.sleep(2)
        return True
    with contextlib.suppress(OSError):
        return any(os.path.samefile(f"/proc/{pid}/fd/{each}", path) for each in os.listdir(f"/proc/{pid}/fd"))
    return False


# -- what a process that died left ------------------------------------------------------------------------------


@pytest.mark.parametrize("second_name", [os.link, shutil.copyfile])
def test_what_a_killed_migration_left_is_removed_by_the_next_to_open(
    kept: Path, second_name: Callable[[Path, Path], object]
) -> None:
    """Also where that one is of the old version, and does not migrate."""
    kept.with_name(".v1.db.migrating").write_bytes(b"half of a copy")
    kept.with_name(".v1.db.keeping").write_bytes(b"half of a copy")
    second_name(kept, kept.with_name(".v1.db.migrated"))
    EventStore(kept).close()
    assert_old_in_use(kept)


def test_an_old_file_that_a_killed_migration_put_aside_gets_its_name(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the rename that puts the new file in place and the one that names the old one."""
    with next_version():
        with monkeypatch.context() as patch:
            patch.setattr("eventstore.connections.finish", fail(KeyboardInterrupt()))
            patch.setattr("eventstore.migrate.finish", lambda file, db: None)
            patch.setattr("eventstore.connections.Connections._open_for_writing", lambda self: None)
            patch.setattr("time.sleep", fail(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                EventStore(kept)
        assert names(kept) == [".v1.db.migrated", "v1.db"]
        EventStore(kept).close()
        assert names(kept) == ["v1.db", "v1.db.v1"]
        assert version_of(kept) == NEXT
    assert make_v1.describe(kept.with_name("v1.db.v1")) == EXPECTED


def test_nothing_is_recorded_while_the_old_file_may_come_back(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename is on disk when its directory is synced; a power failure before would bring the old file back."""
    really = migrate.sync_directory

    def failing(directory: Path) -> None:
        if not (directory / ".v1.db.migrating").exists():  # the new file is in place
            raise OSError(errno.EIO, "Input/output error")
        really(directory)

    with next_version():
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "sync_directory", failing)
            for _ in range(2):
                with pytest.raises(StorageError, match=r"tidied up.*Input/output error"):
                    EventStore(kept)
                assert names(kept) == [".v1.db.migrated", "v1.db"]
        assert version_of(kept) == NEXT
        assert make_v1.describe(kept) == EXPECTED
    assert names(kept) == ["v1.db", "v1.db.v1"]


# -- permissions ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that another user can enter; pytest's own cannot be."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o777)
    yield made
    made.chmod(0o777)
    shutil.rmtree(made)


OPENED_BY_ANOTHER = """
import json, os, sys
from eventstore import AsofError, EventStore
from tests.next_version import next_version
with next_version():
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        EventStore(sys.argv[1])
    except AsofError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def opened_by_another_user(path: Path) -> tuple[str, str]:
    """The error that a user without rights is told."""
    with elsewhere(OPENED_BY_ANOTHER, path) as process:
        kind, message = json.loads(process.communicate(timeout=60)[0])
    return kind, message


def test_an_older_file_that_can_only_be_read_says_what_to_do(folder: Path) -> None:
    """What this version's reads rely on may not be in it."""
    path = make_v1.unpack(folder / "v1.db")
    path.chmod(0o444)
    folder.chmod(0o555)
    kind, message = opened_by_another_user(path)
    assert kind == OlderSchema.__name__
    assert f"has schema version 1, lacks the schema step 'm{NEXT:03}_later'" in message
    assert "make it writable and open it once" in message
    assert contents(folder) == {"v1.db": path.read_bytes()}


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs another user")
def test_a_file_is_not_taken_from_its_owner(folder: Path) -> None:
    """A new one in its place would be the other user's; so the owner has to open it once."""
    path = make_v1.unpack(folder / "v1.db")
    path.chmod(0o666)
    kind, message = opened_by_another_user(path)
    assert (kind, "as the user that it belongs to" in message) == ("StorageError", True)
    assert names(path) == ["v1.db"]
    with next_version():
        EventStore(path).close()
    assert names(path) == ["v1.db", "v1.db.v1"]


# -- versions ---------------------------------------------------------------------------------------------------


def test_a_newer_file_is_refused_with_both_versions(kept: Path) -> None:
    """It is left as it is."""
    with next_version():
        EventStore(kept).close()
    before = contents(kept.parent)
    with pytest.raises(NewerSchema) as raised:
        EventStore(kept)
    assert f"its schema has version {NEXT} (step 'm{NEXT:03}_later')" in str(raised.value)
    assert f"this one knows versions up to {schema.newest_version()}" in str(raised.value)
    assert contents(kept.parent) == before
