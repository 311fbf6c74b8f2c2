"""Checkpoints: an index that is damaged, cut, strange or ahead is never believed, and never costs an event."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from eventstore import EventStore, IndexMismatch, InvalidOperation, StorageError
from projections import CheckpointWarning, VectorIndex
from projections.checkpoints import Checkpoints, Unusable

RNG = np.random.default_rng(3)


def filled(path: Path, events: int = 40, dimension: int = 6) -> EventStore:
    """A store with adds, updates of both kinds, and deletes."""
    store = EventStore(path, durability="normal")
    for number in range(events):
        store.add(f"text {number}", vector=RNG.normal(size=dimension), memory_id=f"m{number}")
        if number % 3 == 1:
            store.update(f"m{number - 1}", f"new {number}", vector=RNG.normal(size=dimension))
        if number % 5 == 4:
            store.update(f"m{number - 3}", metadata={"n": number})
            store.delete(f"m{number - 2}")
    return store


def open_index(store: EventStore, **keywords: Any) -> VectorIndex:
    return VectorIndex(store, segment_rows=8, **keywords)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with filled(tmp_path / "agent.db") as store:
        yield store


@pytest.fixture
def directory(store: EventStore) -> Path:
    """The directory of an index that has been checkpointed."""
    index = open_index(store)
    index.catch_up()
    index.checkpoint()
    assert index.directory is not None
    return index.directory


QUERY = RNG.normal(size=6)


def test_the_index_lives_beside_the_database(store: EventStore, directory: Path) -> None:
    """`agent.db.index` beside `agent.db`."""
    assert directory == Path(f"{store.path}.index")


def test_a_store_in_memory_has_no_directory_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`:memory:` leaves no trace, and a checkpoint of it is refused."""
    monkeypatch.chdir(tmp_path)
    with EventStore() as store, VectorIndex(store) as index:
        store.add("x", vector=[1.0, 2.0])
        assert len(index.search([1.0, 0.0])) == 1
        with pytest.raises(InvalidOperation, match="directory"):
            index.checkpoint()
    assert os.listdir(tmp_path) == []


def test_a_reopened_index_starts_at_its_checkpoint_and_answers_the_same(store: EventStore, directory: Path) -> None:
    """Grown, reopened and rebuilt: the same hits to the last bit, and the same rows."""
    grown = open_index(store, directory=directory.parent / "elsewhere")
    reopened = open_index(store)
    assert reopened.position == store.position
    for as_of in (None, 7, store.position // 2):
        expected = grown.search(QUERY, 20, as_of=as_of)
        assert reopened.search(QUERY, 20, as_of=as_of) == expected
        reopened.rebuild()
        assert reopened.search(QUERY, 20, as_of=as_of) == expected
    assert reopened.faults() == []


def test_an_index_behind_the_history_catches_up(store: EventStore, directory: Path) -> None:
    """Events after the checkpoint come from the history."""
    added = store.add("late", vector=QUERY)
    assert open_index(store).search(QUERY, 1)[0].memory_id == added.memory_id


def test_a_later_checkpoint_writes_full_segments_only_once(store: EventStore, directory: Path) -> None:
    """Generations share the files of what did not change."""
    before = {path.name: path.stat().st_ino for path in directory.glob("vectors-*")}
    index = open_index(store)
    store.add("more", vector=QUERY)
    index.catch_up()
    index.checkpoint()
    after = {path.name: path.stat().st_ino for path in directory.glob("vectors-*")}
    full = [name for name in before if not name.startswith(f"vectors-{len(before) - 1:06d}")]
    assert full
    assert all(after[name] == before[name] for name in full)


def test_old_generations_and_their_files_are_removed(store: EventStore, directory: Path) -> None:
    """The last two generations stay, with the files that they name and no others."""
    for _ in range(4):
        index = open_index(store)
        store.add("more", vector=QUERY)
        index.catch_up()
        index.checkpoint()
    manifests = sorted(directory.glob("generation-*.json"))
    assert len(manifests) == 2
    named = set()
    for path in manifests:
        fields = json.loads(path.read_text())
        named.add(fields["table"]["name"])
        named |= {file["name"] for segment in fields["segments"] for file in segment.values() if file}
    assert {path.name for path in directory.glob("*.bin")} == named


@pytest.mark.parametrize(
    "pattern", ["generation-*.json", "rows-*.bin", "vectors-000000-*.bin", "codes-000000-*.bin", "vectors-000003-*.bin"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_checkpoint_is_set_aside_and_the_history_fills_in(
    store: EventStore, directory: Path, pattern: str, damage: str
) -> None:
    """Invariant 5: a warning, no wrong answer, and the next checkpoint is good again."""
    expected = open_index(store).search(QUERY, 20)
    every = open_index(store).search(QUERY, 100)
    (path,) = directory.glob(pattern)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
    elif damage == "remove" and not pattern.startswith("generation"):
        path.unlink()
    elif damage == "remove":
        path.write_bytes(b"not json at all")
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"")
    # What is in the vectors of a full segment is looked at when they are read, and then mended.
    when_read = damage == "flip" and pattern.startswith("vectors")
    with pytest.warns(CheckpointWarning, match="history fills in" if when_read else "set aside"):
        index, position, found = opened_and_asked(store)
    assert position == (store.position if when_read else 0)
    assert found == every
    assert index.search(QUERY, 20) == expected
    assert index.faults() == []
    index.checkpoint()
    assert open_index(store).position == store.position


def opened_and_asked(store: EventStore) -> tuple[VectorIndex, int, Any]:
    """An index that is opened, the position it opens at, and an answer that reads every row."""
    index = open_index(store)
    return index, index.position, index.search(QUERY, 100)


def test_every_flipped_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    """A small checkpoint, every byte in turn: set aside or refused, and never another answer."""
    with filled(tmp_path / "small.db", 6, 2) as store:
        index = open_index(store)
        query = [0.3, -1.0]
        expected = index.search(query, 20)
        index.checkpoint()
        assert index.directory is not None
        kept = tmp_path / "kept"
        shutil.copytree(index.directory, kept)
        for path in sorted(kept.iterdir()):
            content = path.read_bytes()
            for at in range(len(content)):
                shutil.rmtree(index.directory)
                shutil.copytree(kept, index.directory)
                (index.directory / path.name).write_bytes(
                    content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
                )
                with pytest.warns(CheckpointWarning):
                    assert open_index(store).search(query, 20) == expected


def test_an_index_of_another_history_is_refused(store: EventStore, directory: Path, tmp_path: Path) -> None:
    """The same length and dimension, other events: their hashes differ."""
    with (
        filled(tmp_path / "other.db") as other,
        pytest.raises(IndexMismatch, match="another history"),
    ):
        open_index(other, directory=directory)
    assert sorted(directory.glob("generation-*.json"))


def test_an_index_of_another_dimension_is_refused(directory: Path, tmp_path: Path) -> None:
    """Both dimensions are named."""
    with filled(tmp_path / "other.db", 60, 7) as other, pytest.raises(IndexMismatch, match=r"dimension 6.* 7"):
        open_index(other, directory=directory)


def test_an_index_newer_than_the_database_is_set_aside(store: EventStore, directory: Path, tmp_path: Path) -> None:
    """As when the database was brought back from a backup: the history is the truth."""
    from replay import recover

    recover(store, 10, tmp_path / "backup.db")
    with EventStore(tmp_path / "backup.db") as backup:
        with pytest.warns(CheckpointWarning, match="ends at 10"):
            index = open_index(backup, directory=directory)
        assert index.search(QUERY, 20).position == 10
        assert index.faults() == []


def test_an_index_opens_a_checkpoint_that_another_metric_made(store: EventStore, directory: Path) -> None:
    """Rows hold the recorded vectors, so they serve every metric."""
    for metric in ("ip", "l2"):
        index = VectorIndex(store, metric=metric, segment_rows=8)  # type: ignore[arg-type]
        assert index.position == store.position
        fresh = VectorIndex(store, metric=metric, directory=directory.parent / "none")  # type: ignore[arg-type]
        assert index.search(QUERY, 20) == fresh.search(QUERY, 20)


def test_two_indexes_checkpoint_into_one_directory(store: EventStore, directory: Path) -> None:
    """Neither destroys the other's: whichever is newest is whole."""
    first, second = open_index(store), open_index(store)
    store.add("more", vector=QUERY)
    first.catch_up()
    first.checkpoint()
    store.add("and more", vector=QUERY)
    second.catch_up()
    second.checkpoint()
    first.checkpoint()
    assert open_index(store).search(QUERY, 30) == first.search(QUERY, 30)


def test_a_directory_that_cannot_be_made_is_an_error_that_costs_nothing(store: EventStore, tmp_path: Path) -> None:
    """An explicit checkpoint says so; closing warns; searching works; opening with such a directory is refused."""
    index = open_index(store, directory=tmp_path / "file" / "index")
    (tmp_path / "file").write_text("in the way")
    assert len(index.search(QUERY, 5)) == 5
    with pytest.raises(StorageError, match="index directory"):
        index.checkpoint()
    with pytest.warns(CheckpointWarning, match="no index checkpoint"):
        index.close()
    with pytest.raises(StorageError, match="another directory"):
        open_index(store, directory=tmp_path / "file" / "index")


def test_closing_writes_a_first_checkpoint(store: EventStore) -> None:
    """So that the next process need not replay the history."""
    with open_index(store) as index:
        index.catch_up()
    assert open_index(store).position == store.position


@pytest.mark.parametrize("damaged", [(), (4,), (2, 5), (0, 1, 2, 3, 4, 5)])
def test_files_are_read_side_by_side(
    store: EventStore, directory: Path, monkeypatch: pytest.MonkeyPatch, damaged: tuple[int, ...]
) -> None:
    """As one after the other: the rows in their order, and the first damage told."""
    expected = open_index(store).search(QUERY, 100)
    monkeypatch.setattr("projections.snapshot._BYTES_PER_THREAD", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for number in damaged:
        (path,) = directory.glob(f"codes-{number:06d}-*")
        path.write_bytes(bytes(path.stat().st_size))
    if not damaged:
        assert open_index(store).faults() == []
        assert open_index(store).search(QUERY, 100) == expected
        return
    with pytest.warns(CheckpointWarning, match=f"set aside: codes-{damaged[0]:06d}-"):
        index = open_index(store)
    assert index.position == 0
    assert index.search(QUERY, 100) == expected


def test_names_in_a_manifest_cannot_leave_the_directory(store: EventStore, directory: Path, tmp_path: Path) -> None:
    """A hostile manifest, digest and all, reads nothing elsewhere."""
    (path,) = directory.glob("generation-*.json")
    fields = json.loads(path.read_text())
    fields.pop("sha256")
    fields["table"]["name"] = "rows-/../../secret"
    digest = sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()
    path.write_bytes(orjson.dumps({**fields, "sha256": digest}))
    with pytest.warns(CheckpointWarning, match="no manifest"):
        open_index(store)


def test_a_generation_written_while_opening_is_not_set_aside(store: EventStore, directory: Path) -> None:
    """Another process appends and checkpoints between two looks at the history: its checkpoint is good."""

    class Racing:
        """The store, with another process at work the first time that its position is asked for."""

        def __getattr__(self, name: str) -> Any:
            if name == "position" and not raced:
                raced.append(True)
                before = store.position
                store.add("raced", vector=QUERY)
                other = open_index(store)
                other.catch_up()
                other.checkpoint()
                return before
            return getattr(store, name)

    raced: list[bool] = []
    from projections.content import Content
    from projections.snapshot import newest_good
    from projections.vectors import VectorMemory

    for _ in range(2):
        snapshot = newest_good(Checkpoints(directory), Racing(), lambda: Content("cosine", 8), VectorMemory(2**20))  # type: ignore[arg-type]
        assert snapshot is not None
    assert not list(directory.glob("*.set-aside"))


def test_a_long_catch_up_leaves_checkpoints_on_its_way(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed later, it goes on from the last of them."""
    from projections import unsaved, vector_index

    monkeypatch.setattr(unsaved, "EVENTS", 10)
    monkeypatch.setattr(unsaved, "SECONDS", 0.0)
    monkeypatch.setattr(vector_index, "_EVENTS_AT_ONCE", 10)

    def killed(done: int, total: int) -> None:
        if done >= 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_index(store).catch_up(progress=killed)
    resumed = open_index(store)
    assert resumed.position == 30
    assert resumed.catch_up() == store.position
    assert resumed.faults() == []


def test_a_quick_catch_up_leaves_no_checkpoint_on_its_way(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events it takes: to write one would take longer than to take them again."""
    from projections import unsaved, vector_index

    monkeypatch.setattr(unsaved, "EVENTS", 10)
    monkeypatch.setattr(vector_index, "_EVENTS_AT_ONCE", 10)
    index = open_index(store)
    assert index.catch_up() == store.position
    assert index.directory is not None
    assert not index.directory.exists()


def test_a_file_is_hashed_whole_though_it_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into several buffers, of any lengths: each byte counts, and so does the length."""
    monkeypatch.setattr("projections.checkpoints._BYTES_AT_ONCE", 4)
    content = RNG.bytes(27)
    file = Checkpoints(tmp_path).write_data("rows", content)
    path = tmp_path / file.name

    def read() -> bytes:
        buffers = [np.empty(size, dtype=np.uint8) for size in (9, 0, 1, 17)]
        Checkpoints(tmp_path).read_into(file, buffers)
        return b"".join(buffer.tobytes() for buffer in buffers)

    assert read() == content
    for damaged in (*(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :] for at in range(27)), content[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(Unusable, match="digest" if len(damaged) == 27 else "26 bytes instead of 27"):
            read()
    path.write_bytes(content + b"x")
    with pytest.raises(Unusable, match="28 bytes, more than 27"):
        read()


def test_what_nobody_finished_or_named_is_removed_after_a_while(store: EventStore, directory: Path) -> None:
    """Fresh ones may be another process's, under way."""
    for name in ("rows-00.bin", "vectors-00.bin.1.part", "generation-000001.json.set-aside"):
        (directory / name).write_bytes(b"x")
        os.utime(directory / name, (0, 0))
    (directory / "vectors-01.bin").write_bytes(b"x")
    index = open_index(store)
    store.add("more", vector=QUERY)
    index.catch_up()
    index.checkpoint()
    left = {path.name for path in directory.iterdir()}
    assert "vectors-01.bin" in left
    assert not left & {"rows-00.bin", "vectors-00.bin.1.part", "generation-000001.json.set-aside"}
    assert open_index(store).faults() == []
