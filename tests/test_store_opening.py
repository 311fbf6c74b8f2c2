"""Opening: what a path may hold, what is refused untouched, and what of a history can be read without writing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    AsofError,
    CorruptHistory,
    EmbedderMismatch,
    EventStore,
    InvalidOperation,
    NewerSchema,
    NotAStore,
    StorageError,
    StoreBusy,
)
from eventstore.connections import Connections
from eventstore.schema import APPLICATION_ID
from tests.profiles import scaled
from tests.store_support import vector

ROOT = Path(__file__).resolve().parent.parent


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to the byte."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def written(path: Path, events: int = 3) -> Path:
    """A closed history of some events."""
    with EventStore(path) as store:
        for number in range(events):
            store.add(f"text {number}", vector=[1, number], memory_id=str(number))
    return path


# -- a new file ---------------------------------------------------------------------------------------------


def test_a_new_path_becomes_a_history(tmp_path: Path) -> None:
    """Known as ours by its header, in WAL mode, its schema recorded in it."""
    with EventStore(tmp_path / "a.db") as store:
        assert (store.position, store.read_only, store.closed) == (0, False, False)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "journal_mode")]
        assert found == [APPLICATION_ID, "wal"]
        steps = connection.execute("SELECT migration_set, name FROM _sqlite_migrations").fetchall()
        assert steps == [("eventstore", "m001_history")]


def test_an_empty_file_becomes_a_history(tmp_path: Path) -> None:
    """As `mktemp` leaves one."""
    (tmp_path / "a.db").touch()
    assert len(contents(written(tmp_path / "a.db").parent)) == 1
    with EventStore(tmp_path / "a.db") as store:
        assert store.position == 3


def test_a_history_opens_again_as_it_was(tmp_path: Path) -> None:
    """Events, head and dimension."""
    with EventStore(tmp_path / "a.db") as store:
        store.add("x", vector=vector(), metadata={"n": 1})
        events, head = list(store.events()), store.head
    with EventStore(tmp_path / "a.db") as store:
        assert (list(store.events()), store.head, store.dimension) == (events, head, 3)


def test_closing_leaves_one_file(tmp_path: Path) -> None:
    """The write-ahead log is folded in, so that the file can be copied."""
    assert list(contents(written(tmp_path / "a.db").parent)) == ["a.db"]


def test_a_history_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one named `:memory:`."""
    monkeypatch.chdir(tmp_path)
    with EventStore() as store:
        store.add("x", vector=vector())
        assert store.path == ":memory:"
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "name",
    ["with space.db", "what?.db", "a#b.db", "100%.db", "%41.db", "ü☕.db", "a&mode=ro.db", "file:x.db", "'\".db"],
)
def test_any_name_of_a_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    """What means something in a URI or in SQL is just a character here; readers find it too."""
    path = written(tmp_path / name)
    assert list(contents(tmp_path)) == [name]
    with EventStore(path) as store:
        assert len(list(store.events())) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")
def test_a_name_that_is_no_text_is_taken_as_it_is(tmp_path: Path) -> None:
    """Bytes, as Linux has them."""
    path = os.fsencode(tmp_path) + b"/\xff.db"
    with EventStore(path) as store:  # type: ignore[arg-type]
        store.add("x", vector=vector())
        assert store.count() == 1
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.db"]


def test_a_relative_path_stays_what_it_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the program changes its directory, where there may even be another history of that name."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    written(tmp_path / "two" / "a.db", events=1)
    monkeypatch.chdir(tmp_path / "one")
    with EventStore("a.db") as store:
        monkeypatch.chdir(tmp_path / "two")
        store.add_many(["x"] * 2, vectors=[vector()] * 2)
        assert (store.position, store.count(), store.path) == (2, 2, "a.db")
    assert sorted(contents(tmp_path)) == ["one/a.db", "two/a.db"]


def test_a_link_leads_to_the_history(tmp_path: Path) -> None:
    """Its side files are beside the file itself."""
    (tmp_path / "deep").mkdir()
    written(tmp_path / "deep" / "a.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "deep" / "a.db")
    with EventStore(tmp_path / "link.db") as store:
        store.add("x", vector=[1, 2])
        assert not any(path.name.startswith("link.db-") for path in tmp_path.iterdir())
    with EventStore(tmp_path / "deep" / "a.db") as store:
        assert store.position == 4


@pytest.mark.parametrize(("durability", "level"), [({}, 2), ({"durability": "full"}, 2), ({"durability": "normal"}, 1)])
def test_durability_is_sqlites_synchronous(tmp_path: Path, durability: Any, level: int) -> None:
    """Full, the default, syncs at every commit."""
    with EventStore(tmp_path / "a.db", **durability) as store:
        assert store._connections._writer.execute("PRAGMA synchronous").fetchone()[0] == level


@pytest.mark.skipif(sys.platform == "win32", reason="SQLite looks for the directory elsewhere")
@pytest.mark.parametrize("setting", ["MEMORY", "FILE"])
def test_an_append_makes_no_temporary_file(tmp_path: Path, setting: str) -> None:
    """As SQLite comes, an insert with a trigger makes one, with pages as large as these; a directory shows it."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = (
        "import os, sys; from eventstore import EventStore\n"
        "with EventStore(sys.argv[1]) as store:\n"
        "    if sys.argv[2] == 'FILE': store._connections._writer.execute('PRAGMA temp_store = FILE')\n"
        "    os.utime(sys.argv[3], ns=(0, 0))\n"
        "    store.add('x', vector=[1, 2]); store.add_many(['y'] * 300, vectors=[[1, 2]] * 300)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.db"), setting, str(temporary)]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "SQLITE_TMPDIR": str(temporary)})
    assert (temporary.stat().st_mtime_ns == 0) == (setting == "MEMORY")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"durability": "max"}, "durability is 'max'"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": "long"}, "timeout is 'long'"),
        ({"embedder": "minilm"}, "embedder is of type str"),
        ({"clock": 5}, "clock is of type int"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    """Nothing stays open."""
    with pytest.raises(InvalidOperation, match=says):
        EventStore(tmp_path / "a.db", **arguments)


def test_a_file_that_is_locked_just_now_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite refuses some steps of opening at once; for as long as the store's timeout they are begun again."""
    original, refusals = Connections._open_for_writing, iter(range(3))

    def refusing(self: Connections) -> Any:
        if next(refusals, None) is not None:
            raise sqlite3.OperationalError("database is locked")
        return original(self)

    monkeypatch.setattr(Connections, "_open_for_writing", refusing)
    with pytest.raises(StoreBusy):
        EventStore(tmp_path / "a.db", timeout=0)
    with EventStore(tmp_path / "a.db") as store:
        assert store.position == 0


# -- what is no history -------------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE events (seq); INSERT INTO events VALUES (1)")


def foreign_in_wal_mode(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA application_id = 7; CREATE TABLE history (id)")


def newer(path: Path) -> None:
    written(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('eventstore', 'm999_later', '')"
        )
        connection.commit()


def newer_with_another_journal(path: Path) -> None:
    newer(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def truncated(path: Path) -> None:
    data = written(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


NOT_OURS: dict[str, tuple[Callable[[Path], Any], type[AsofError], str]] = {
    "a directory": (lambda path: path.mkdir(), NotAStore, "is a directory"),
    "text": (lambda path: path.write_text("not a database\n" * 20), NotAStore, "not an SQLite database"),
    "a short text": (lambda path: path.write_text("x"), NotAStore, "not an SQLite database"),
    "the magic word alone": (lambda path: path.write_bytes(b"SQLite format 3\0"), NotAStore, "not an SQLite database"),
    "another application's database": (foreign, NotAStore, "another application"),
    "another application's, in WAL mode": (foreign_in_wal_mode, NotAStore, "another application"),
    "a newer history": (newer, NewerSchema, "m999_later.*upgrade asof"),
    "a newer history with another journal": (newer_with_another_journal, NewerSchema, "upgrade asof"),
    "a truncated history": (truncated, CorruptHistory, "cut off"),
    "the first page of a history": (
        lambda path: path.write_bytes(written(path).read_bytes()[:16384]),
        CorruptHistory,
        "cut off",
    ),
    "the header of a history": (
        lambda path: path.write_bytes(written(path).read_bytes()[:100]),
        CorruptHistory,
        "cut off",
    ),
    "a named pipe": (os.mkfifo, NotAStore, "not a regular file"),
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_what_is_not_ours_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    """To the byte, and no file appears beside it."""
    make, error, says = NOT_OURS[what]
    make(tmp_path / "a.db")
    before, names = contents(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=says) as raised:
        EventStore(tmp_path / "a.db")
    assert type(raised.value) is error
    assert str(tmp_path / "a.db") in str(raised.value)
    assert contents(tmp_path) == before
    assert sorted(tmp_path.rglob("*")) == names


@settings(max_examples=scaled(20))
@given(share=st.floats(0.001, 0.999))
def test_a_file_cut_anywhere_is_refused(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No length short of the whole passes for a history."""
    folder = tmp_path_factory.mktemp("cut")
    path = written(folder / "a.db")
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * share))])
    before = contents(folder)
    with pytest.raises((NotAStore, CorruptHistory)):
        EventStore(path)
    assert contents(folder) == before


def test_garbage_behind_a_good_header_is_an_error_of_ours(tmp_path: Path) -> None:
    """It says what to do."""
    data = written(tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db").write_bytes(data[:100] + bytes(255 - byte for byte in data[100:]))
    with pytest.raises(CorruptHistory, match="replay verify"):
        EventStore(tmp_path / "a.db")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_cannot_be_a_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """And creates nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotAStore, match="cannot be a path"):
        EventStore(path)
    assert contents(tmp_path) == {}


def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    """A slip in a path should not become a new history."""
    with pytest.raises(StorageError, match="its directory does not exist"):
        EventStore(tmp_path / "missing" / "a.db")
    assert contents(tmp_path) == {}


def test_a_file_in_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    """Also of ours."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        EventStore(tmp_path / "file" / "a.db")


# -- what can only be read ----------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that another user can enter; pytest's own cannot be."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o777)
    yield made
    made.chmod(0o777)
    shutil.rmtree(made)


def by_another_user(code: str, *arguments: object) -> Any:
    """What a program prints as JSON that has no rights: root's are given up, others have none here anyway."""
    program = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from eventstore import *
path = sys.argv[2]
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
def error(action):
    try:
        action()
    except Exception as fault:
        return [type(fault).__name__, str(fault)]
"""
    program += textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


READ_AND_TRY = """
with EventStore(path) as store:
    print(json.dumps({
        "read_only": store.read_only,
        "events": [event.content for event in store.events()],
        "memory": store.get("1").content,
        "past": store.count(as_of=1),
        "now": store.position_at("2026-01-02T00:00:00Z"),
        "add": error(lambda: store.add("x", vector=[1, 2]))[0],
        "delete_where": error(lambda: store.delete_where(everything=True))[0],
        "import": error(lambda: store.import_events([{"content": "x", "vector": [1, 2]}], source="s"))[0],
    }))
"""


@pytest.mark.parametrize(
    ("file", "directory"), [(0o444, 0o555), (0o444, 0o777), (0o666, 0o555)], ids=["both", "file", "directory"]
)
def test_what_cannot_be_written_can_be_read(folder: Path, file: int, directory: int) -> None:
    """A read-only file, or a directory that takes no files: reading works, writing says that it cannot."""
    path = written(folder / "a.db")
    before = path.read_bytes()
    path.chmod(file)
    folder.chmod(directory)
    answer = by_another_user(READ_AND_TRY, path)
    assert answer == {
        "read_only": True,
        "events": ["text 0", "text 1", "text 2"],
        "memory": "text 1",
        "past": 1,
        "now": answer["now"],
        "add": "ReadOnlyStore",
        "delete_where": "ReadOnlyStore",
        "import": "ReadOnlyStore",
    }
    assert path.read_bytes() == before


def test_a_directory_that_does_not_show_its_files_will_do(folder: Path) -> None:
    """It takes files, and cannot be synced."""
    folder.chmod(0o333)
    code = "with EventStore(path) as store: print(json.dumps(store.add('x', vector=[1, 2]).position))"
    assert by_another_user(code, folder / "a.db") == 1


def test_the_logs_name_is_on_disk_before_anything_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is synced on opening, and where that fails the store is not opened."""
    written(tmp_path / "a.db")

    def failing(directory: Path) -> None:
        assert (directory / "a.db-wal").exists()
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("eventstore.connections.sync_directory", failing)
        with pytest.raises(StorageError, match=r"cannot open .*Input/output error"):
            EventStore(tmp_path / "a.db")
    with EventStore(tmp_path / "a.db") as store:
        assert store.position == 3


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs another user")
def test_a_reader_without_rights_sees_what_a_writer_has_just_written(folder: Path) -> None:
    """The write-ahead log is read although it is not folded in yet."""
    path = written(folder / "a.db", events=2)
    with EventStore(path) as store:
        store.add("text 2", vector=[1, 2])
        assert (folder / "a.db-wal").stat().st_size > 0
        path.chmod(0o644)
        folder.chmod(0o755)
        assert by_another_user(READ_AND_TRY, path)["events"] == ["text 0", "text 1", "text 2"]


def test_an_older_schema_that_cannot_be_written_is_refused(folder: Path) -> None:
    """It says how to bring it up to date."""
    path = written(folder / "a.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM _sqlite_migrations")
        connection.commit()
    path.chmod(0o444)
    folder.chmod(0o555)
    kind, message = by_another_user("print(json.dumps(error(lambda: EventStore(path))))", path)
    assert (kind, "make it writable and open it once" in message) == ("OlderSchema", True)


@pytest.mark.parametrize(
    ("make", "file", "directory"),
    [(True, 0o000, 0o777), (False, 0, 0o555)],
    ids=["a file that cannot be read", "a new file in a directory that takes none"],
)
def test_what_cannot_be_opened_is_an_error_that_names_it(folder: Path, make: bool, file: int, directory: int) -> None:
    """StorageError, an OSError too; nothing appears."""
    path = folder / "a.db"
    if make:
        written(path).chmod(file)
    folder.chmod(directory)
    kind, message = by_another_user("print(json.dumps(error(lambda: EventStore(path))))", path)
    assert (kind, str(path) in message) == ("StorageError", True)
    assert len(list(folder.iterdir())) == int(make)


# -- the embedder's name ------------------------------------------------------------------------------------


class Named:
    """An embedder of this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, texts: list[str]) -> Any:
        return [[1, len(text) + 1] for text in texts]


def test_the_embedders_name_is_recorded(tmp_path: Path) -> None:
    """It is known without an embedder, and the same one opens it again."""
    with EventStore(tmp_path / "a.db", embedder=Named("one")) as store:
        assert store.embedder_name == "one"
    with EventStore(tmp_path / "a.db") as store:
        assert store.embedder_name == "one"
    with EventStore(tmp_path / "a.db", embedder=Named("one")) as store:
        assert store.add("x").vector is not None


def test_another_embedder_is_refused(tmp_path: Path) -> None:
    """Both names are named; the recorded one stays."""
    EventStore(tmp_path / "a.db", embedder=Named("one")).close()
    with pytest.raises(EmbedderMismatch, match="'one', and 'two' was given"):
        EventStore(tmp_path / "a.db", embedder=Named("two"))
    with EventStore(tmp_path / "a.db") as store:
        assert store.embedder_name == "one"


def test_another_embedder_is_accepted_where_the_caller_says_so(tmp_path: Path) -> None:
    """And it is recorded in the place of the first."""
    EventStore(tmp_path / "a.db", embedder=Named("one")).close()
    EventStore(tmp_path / "a.db", embedder=Named("two"), accept_embedder_change=True).close()
    with EventStore(tmp_path / "a.db") as store:
        assert store.embedder_name == "two"


def test_a_history_without_an_embedder_takes_one(tmp_path: Path) -> None:
    """From then on it is the one."""
    written(tmp_path / "a.db")
    EventStore(tmp_path / "a.db", embedder=Named("one")).close()
    with pytest.raises(EmbedderMismatch):
        EventStore(tmp_path / "a.db", embedder=Named("two"))


def test_of_two_embedders_at_once_one_is_recorded(tmp_path: Path) -> None:
    """The second sees what the first recorded, though both looked when there was none."""
    with EventStore(tmp_path / "a.db") as early:
        EventStore(tmp_path / "a.db", embedder=Named("one")).close()
        assert early._writer.embedder_name is None
        with pytest.raises(EmbedderMismatch):
            early._writer._take_embedder("two", False)
    with EventStore(tmp_path / "a.db") as store:
        assert store.embedder_name == "one"


def test_embed_gives_the_embedders_vectors(tmp_path: Path) -> None:
    """For texts that are asked about, not recorded: float32, one row each."""
    with EventStore(embedder=Named("one")) as store:
        vectors = store.embed(["a", "bcd"])
        assert (vectors.tolist(), str(vectors.dtype), store.position) == ([[1, 2], [1, 4]], "float32", 0)
        assert store.embed([]).shape[0] == 0
        with pytest.raises(InvalidOperation, match="texts is a str"):
            store.embed("text")


@pytest.mark.parametrize(
    "result",
    [
        [[1.0, float("nan")]],
        [[0.0, 0.0]],
        [[1.0], [2.0]],
        [1.0, 2.0],
        [["a", "b"]],
        None,
        [[1.0, 2.0, 3.0]],
    ],
)
def test_what_is_no_vector_is_not_recorded(result: Any) -> None:
    """An embedder is checked like a caller; nothing is written."""
    with EventStore(embedder=lambda texts: result) as store:
        store.add("first", vector=[1, 2])
        with pytest.raises(ValueError, match="embedder"):
            store.add("x")
        assert store.position == 1


def test_an_embedders_own_error_comes_through() -> None:
    """As it is, and nothing is written."""

    def embed(texts: list[str]) -> Any:
        raise ConnectionError("model is asleep")

    with EventStore(embedder=embed) as store:
        with pytest.raises(ConnectionError, match="model is asleep"):
            store.add("x")
        assert store.position == 0
