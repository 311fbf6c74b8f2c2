"""What an index leaves in its checkpoint's files and reads from there: vectors past its memory, and metadata."""

from __future__ import annotations

import errno
import os
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eventstore import EventStore
from projections import CheckpointWarning, VectorIndex, segments
from projections import vectors as vectors_module
from projections.checkpoints import Checkpoints, DataFile
from projections.codes import Codes
from projections.metadata_index import MetadataIndex
from projections.vectors import StoredRows, VectorMemory
from replay import verify

RNG = np.random.default_rng(4)
ROWS, DIMENSION = 60, 8
QUERY = RNG.normal(size=DIMENSION)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        for number in range(ROWS):
            metadata = {"n": number, "tags": ["a", number], "kind": None if number % 2 else "even"}
            store.add(f"text {number}", vector=RNG.normal(size=DIMENSION), memory_id=f"m{number}", metadata=metadata)
        store.update("m3", metadata={"n": -1.5})
        store.delete("m5")
        yield store


def open_index(store: EventStore, memory: int = 0) -> VectorIndex:
    return VectorIndex(store, segment_rows=16, vector_memory=memory)


def stored(index: VectorIndex) -> list[Path]:
    """The files that hold vectors which are not in memory."""
    return [rows.path for rows in stored_rows(index) if not rows.in_memory]


def stored_rows(index: VectorIndex) -> list[StoredRows]:
    assert index._content.segments is not None
    return [part.vectors for part in index._content.segments.parts if isinstance(part.vectors, StoredRows)]


def answers(index: VectorIndex) -> list[Any]:
    """Searches that between them score every row."""
    return [list(index.search(QUERY, k, as_of=as_of)) for k in (5, ROWS) for as_of in (None, 30, ROWS)]


@pytest.fixture
def expected(store: EventStore) -> Any:
    """The answers of an index that holds everything in memory; leaves a checkpoint behind."""
    with open_index(store, memory=2**30) as index:
        found = answers(index)
        index.checkpoint()
    return found


def test_vectors_past_the_memory_stay_in_their_files(store: EventStore, expected: Any) -> None:
    """Opened again: as many in memory as asked for, once they are used, and the same answers to the last bit."""
    size = 16 * DIMENSION * 4
    for memory, files in ((0, 3), (size, 2), (2 * size, 1), (3 * size - 1, 1), (3 * size, 0)):
        index = open_index(store, memory)
        assert len(stored(index)) == 3
        for _ in range(3):
            assert answers(index) == expected
            assert len(stored(index)) == files


def test_opening_reads_no_full_vectors_that_a_file_holds(store: EventStore, expected: Any) -> None:
    """Only the newest rows', which no codes stand for."""
    read: list[str] = []
    original = Checkpoints.read_data

    def noted(self: Checkpoints, file: DataFile) -> bytes:
        read.append(file.name.rsplit("-", 1)[0])
        return original(self, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "read_data", noted)
        patch.setattr("projections.vectors._read", None)
        index = open_index(store, 2**30)
    assert read == ["vectors-000003"]
    assert answers(index) == expected


def test_vectors_stay_in_their_file_until_many_have_been_asked_for(store: EventStore, expected: Any) -> None:
    """A quarter of a segment, all at once or little by little; and none are given that differ from the file's."""
    index = open_index(store, 2**30)
    first, second, _ = stored_rows(index)
    vectors = store.embeddings(list(range(1, 33)))
    for row in (3, 0, 15, 3):
        assert (first.take(np.array([row])) == vectors[row]).all()
        assert not first.in_memory
    assert (first.take(np.array([7, 2])) == vectors[[7, 2]]).all()
    assert first.in_memory == 16 * DIMENSION * 4
    assert (second.take(np.array([9, 1, 2, 3, 4])) == vectors[[25, 17, 18, 19, 20]]).all()
    assert second.in_memory
    for rows, there in ((first, vectors[:16]), (second, vectors[16:])):
        for some in ([], [4], [4, 5, 6], list(range(16)), [9, 9, 1]):
            assert (rows.take(np.array(some, dtype=np.int64)) == there[some]).all()


def test_a_file_without_room_in_memory_is_not_read_whole_for_a_few_rows(store: EventStore, expected: Any) -> None:
    """However many have been asked for before."""
    index = open_index(store)
    rows = stored_rows(index)[0]
    sizes: list[int] = []
    original = vectors_module._read

    def noted(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return original(descriptor, size, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors_module, "_read", noted)
        for row in [*range(16)] * 2:
            rows.take(np.array([row]))
    assert set(sizes) == {4 * DIMENSION}
    assert not rows.in_memory


def test_an_interrupt_while_vectors_are_brought_into_memory_leaves_its_share_free(
    store: EventStore, expected: Any
) -> None:
    """Whatever came before it, the memory is used by what is in it and by nothing else."""
    index = open_index(store, 16 * DIMENSION * 4)
    rows = stored_rows(index)[0]
    every = np.arange(16)
    for name in ("_check", "_read"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StoredRows, name, _interrupted)
            with pytest.raises(KeyboardInterrupt):
                rows.take(every)
        assert not rows.in_memory
    with pytest.MonkeyPatch.context() as patch:
        hold = VectorMemory.hold
        patch.setattr(VectorMemory, "hold", lambda *held: (hold(*held), _interrupted()))
        with pytest.raises(KeyboardInterrupt):
            rows.take(every)
    assert rows.in_memory
    second = stored_rows(index)[1]
    second.take(every)
    assert not second.in_memory
    index.reset()
    rows = second
    index._vector_memory.hold(second, second.all())
    assert second.in_memory


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_file_that_is_removed_while_it_is_open_can_be_read(store: EventStore, expected: Any) -> None:
    """As when another process prunes the generation that named it. The next checkpoint writes it again."""
    index = open_index(store)
    files = {path: path.read_bytes() for path in stored(index)}
    for path in files:
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(index) == expected
        assert index.faults() == []
        index.checkpoint()
        assert {path: path.read_bytes() for path in files} == files
        assert answers(open_index(store)) == expected


def test_only_so_many_files_stay_open(store: EventStore, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has not many descriptors; the others are opened when they are read."""
    monkeypatch.setattr(vectors_module, "_MOST_OPEN", 2)
    index = open_index(store)
    assert answers(index) == expected
    assert [rows._file is not None for rows in stored_rows(index)].count(True) == 2


def test_an_index_keeps_an_eighth_of_the_descriptors_at_most(
    store: EventStore, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a process may have few; where it may have any number, as many as an index keeps."""
    for limit, kept in ((16, 2), (7, 0), (-1, 3), (1024, 3)):
        limits = SimpleNamespace(getrlimit=lambda which, limit=limit: (limit, limit), RLIMIT_NOFILE=7)
        monkeypatch.setattr(vectors_module, "resource", limits)
        index = open_index(store)
        assert answers(index) == expected
        assert [rows._file is not None for rows in stored_rows(index)].count(True) == kept


def test_a_process_without_descriptors_uses_its_checkpoint_all_the_same(
    store: EventStore, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that cannot be kept open are opened when they are read."""
    open_file = vectors_module._File.__init__

    def refused(self: Any, path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(vectors_module._File, "__init__", refused)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = open_index(store)
    assert index.position == store.position
    monkeypatch.setattr(vectors_module._File, "__init__", open_file)
    assert answers(index) == expected


def test_a_file_that_cannot_be_opened_makes_a_checkpoint_unusable(
    store: EventStore, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is found on opening, and not in the midst of a search; what may be good stays there."""

    def refused(self: Any, path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(vectors_module._File, "__init__", refused)
        with pytest.warns(CheckpointWarning, match="passed over: vectors-000000-.* Permission denied"):
            index = open_index(store)
        assert answers(index) == expected
    assert open_index(store).position == store.position


def test_closing_lets_go_of_the_files(store: EventStore, expected: Any) -> None:
    """And so does a reset."""
    for let_go in (VectorIndex.reset, VectorIndex.close):
        index = open_index(store)
        assert answers(index) == expected
        files = [weakref.ref(rows._file) for rows in stored_rows(index)]
        descriptors = [file().descriptor for file in files]
        let_go(index)
        assert [file() for file in files] == [None] * 3
        for descriptor in descriptors:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)


def test_where_files_cannot_stay_open_they_are_opened_each_time(
    store: EventStore, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, which removes no file that is open and has no `pread`."""
    monkeypatch.setattr(vectors_module, "_STAYS_OPEN", False)
    index = open_index(store)
    assert answers(index) == expected
    assert [rows._file for rows in stored_rows(index)] == [None] * 3


def test_memory_stays_bounded_while_catching_up(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be too much goes to files on the way, however soon it is."""
    size = 16 * DIMENSION * 4
    monkeypatch.setattr("projections.unsaved.BYTES", size)
    monkeypatch.setattr("projections.vector_index._EVENTS_AT_ONCE", 5)
    most = [0]

    def progress(done: int, total: int) -> None:
        most[0] = max(most[0], index._content.vector_bytes)

    index = open_index(store, size)
    index.catch_up(progress=progress)
    # One segment that may stay, one that is past it, one that is being filled, and what comes in one go.
    assert size < most[0] <= 3 * size
    assert index.position == store.position
    assert len(stored(index)) >= 1
    assert 0 < open_index(store).position <= store.position
    assert index.faults() == []


def test_a_checkpoint_lets_go_of_vectors_past_the_memory(store: EventStore, expected: Any) -> None:
    """Also in the process that wrote it."""
    index = open_index(store)
    index.rebuild()
    assert len(stored(index)) == 3
    assert answers(index) == expected
    assert index.faults() == []


def test_an_update_that_keeps_its_vector_finds_it_in_a_file(store: EventStore, expected: Any) -> None:
    """The row of the update holds a copy of what the first one has."""
    index = open_index(store)
    position = store.update("m1", metadata={"n": 1}).position
    index.catch_up()
    positions, vectors = index.contents()
    at = positions.tolist().index(position)
    assert (vectors[at] == store.embeddings([2])[0]).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "zeros"])
def test_a_damaged_file_of_vectors_is_mended_from_the_history(
    store: EventStore, expected: Any, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found when a row is read: a warning, the right answer, and the file as it was."""
    if damage == "remove":
        # One that is open can be read all the same: that is another test's.
        monkeypatch.setattr(vectors_module, "_STAYS_OPEN", False)
    index = open_index(store)
    path = stored(index)[1]
    whole = path.read_bytes()
    if damage == "flip":
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(whole[:40] if damage == "truncate" else bytes(len(whole)))
    with pytest.warns(CheckpointWarning, match=r"vectors-000001.*history fills in"):
        assert answers(index) == expected
    assert path.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(index) == expected
        assert answers(open_index(store)) == expected


def test_a_damaged_file_that_cannot_be_written_again_costs_no_answer(
    store: EventStore, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors are in memory then."""
    index = open_index(store)
    stored(index)[0].write_bytes(b"")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("projections.checkpoints._write_synced", full)
    with pytest.warns(CheckpointWarning):
        assert answers(index) == expected


def test_every_flipped_byte_of_a_file_of_vectors_is_found(store: EventStore, expected: Any) -> None:
    """By looking at the index whole, whatever a search would read."""
    index = open_index(store)
    path = stored(index)[0]
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        with pytest.warns(CheckpointWarning):
            assert any(path.name in fault for fault in index.faults())
        index = open_index(store)


def test_verify_reports_a_damaged_file_of_vectors(store: EventStore, expected: Any) -> None:
    """Though no search has read it yet."""
    with open_index(store) as index:
        path = stored(index)[2]
        path.write_bytes(bytes(path.stat().st_size))
        with pytest.warns(CheckpointWarning):
            report = verify(store, index)
    assert not report.ok
    assert path.name in str(report)


@pytest.fixture
def coded_early(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> VectorIndex:
    """An index whose newest segment, of 13 rows, has the codes of twelve; with a checkpoint."""
    monkeypatch.setattr(segments, "_UNCODED_ROWS", 4)
    monkeypatch.setattr("projections.vector_index._EVENTS_AT_ONCE", 4)
    index = open_index(store)
    index.catch_up(ROWS)
    assert index.faults() == []
    index.catch_up()
    index.checkpoint()
    assert index._content.segments is not None
    assert [(part.rows, part.codes.rows) for part in index._content.segments.parts][2:] == [(16, 16), (13, 12)]
    return index


def test_codes_of_a_segment_that_is_not_full_are_kept(
    store: EventStore, coded_early: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening makes none; and the segment grows on, to what it would have been."""
    expected = answers(coded_early)
    with monkeypatch.context() as patch:
        patch.setattr(Codes, "of", None)
        patch.setattr(Codes, "add", None)
        index = open_index(store)
        assert answers(index) == expected
    ours, theirs = (each._content.segments for each in (index, coded_early))
    assert ours is not None
    assert theirs is not None
    for rows in (13, 14, 16):
        kept, grown = ours.parts[3], theirs.parts[3]
        assert (kept.rows, kept.codes.rows, kept.full) == (grown.rows, grown.codes.rows, rows == 16)
        assert (kept.codes.codes == grown.codes.codes).all()
        assert kept.norms == pytest.approx(grown.norms, rel=1e-12)
        assert answers(index) == answers(coded_early)
        assert index.faults() == []
        for _ in range(2 - (rows == 13)):
            store.add("late", vector=RNG.normal(size=DIMENSION))
        assert index.catch_up() == coded_early.catch_up()
    assert (kept.codes.scale == grown.codes.scale).all()
    assert (kept.norms == grown.norms).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("kind", ["vectors", "codes"])
def test_damage_to_a_segment_that_is_not_full_is_found_on_opening(
    store: EventStore, coded_early: VectorIndex, kind: str, damage: str
) -> None:
    """All of it is read then."""
    expected = answers(coded_early)
    assert coded_early.directory is not None
    (path,) = coded_early.directory.glob(f"{kind}-000003-*")
    whole = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage == "flip" else whole[:-1])
    with pytest.warns(CheckpointWarning, match=f"set aside: {kind}-000003"):
        index = open_index(store)
    assert answers(index) == expected


FILTERS = [
    {"n": 7},
    {"n": {"gt": 20, "lte": 40}},
    {"n": {"lt": 0}},
    {"kind": "even"},
    {"kind": None},
    {"tags": {"contains": "a"}},
    {"NOT": {"tags": {"contains": 9}}},
    {"kind": {"exists": False}},
]


def filtered(index: VectorIndex) -> list[Any]:
    return [list(index.search(QUERY, 60, filter=filter, as_of=at)) for filter in FILTERS for at in (None, 33, 61)]


def filtered_and_written(store: EventStore) -> list[Any]:
    """The answers of an index that has written a checkpoint afterwards, its filters' columns too."""
    with open_index(store) as index:
        expected = filtered(index)
        index.checkpoint()
    return expected


def test_metadata_are_read_from_the_checkpoint_once_filters_have_been_used(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a long history again, the first filtered search reads none of it."""
    expected = filtered_and_written(store)
    reopened = open_index(store)
    store.add("late", vector=QUERY, metadata={"n": 7})
    read: list[int] = []
    original = store.metadata_json
    monkeypatch.setattr(store, "metadata_json", lambda at: (read.extend(at), original(at))[1])
    assert [list(reopened.search(QUERY, 60, filter=f, as_of=at)) for f in FILTERS for at in (62, 33, 61)] == expected
    assert [hit.content for hit in reopened.search(QUERY, 1, filter={"n": 7})] == ["late"]
    assert read == [63]
    reopened.checkpoint()
    assert filtered(open_index(store))[1:3] == expected[1:3]


def test_metadata_that_take_much_room_are_left_to_the_history(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None are written, and none that somebody else wrote are read."""
    expected = filtered_and_written(store)
    monkeypatch.setattr("projections.snapshot._METADATA_BYTES", 1)
    with pytest.warns(CheckpointWarning, match="is larger than any that is written"):
        index = open_index(store)
    assert filtered(index) == expected
    store.add("late", vector=QUERY)
    index.catch_up()
    index.checkpoint()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filtered(open_index(store))[1:3] == expected[1:3]


def test_a_checkpoint_without_metadata_gets_them_later(store: EventStore, expected: Any) -> None:
    """Filters are first used after the segments have been written."""
    with open_index(store) as index:
        found = filtered(index)
        index.checkpoint()
        assert index.directory is not None
        assert len(list(index.directory.glob("metadata-*"))) == 4
    assert filtered(open_index(store)) == found


def test_a_checkpoint_by_who_used_no_filter_keeps_the_metadata(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And reads, hashes and writes nothing of the full segments that are there."""
    expected = filtered_and_written(store)
    with open_index(store) as index:
        store.add("late", vector=QUERY)
        index.catch_up()
        written: list[str] = []
        checkpoints = index._checkpoints
        assert checkpoints is not None
        original = checkpoints.write_data
        monkeypatch.setattr(checkpoints, "write_data", lambda kind, c: (written.append(kind), original(kind, c))[1])
        index.checkpoint()
    assert written == ["vectors-000003", "rows"]
    read: list[int] = []
    metadata_json = store.metadata_json
    monkeypatch.setattr(store, "metadata_json", lambda at: (read.extend(at), metadata_json(at))[1])
    with open_index(store) as index:
        assert [list(index.search(QUERY, 60, filter=f, as_of=at)) for f in FILTERS for at in (62, 33, 61)] == expected
    assert min(read) > 48


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_metadata_that_are_gone_when_it_is_opened_are_passed_over(store: EventStore, damage: str) -> None:
    """All else of the checkpoint is good."""
    with open_index(store) as index:
        expected = filtered(index)
        index.checkpoint()
        assert index.directory is not None
        path = next(index.directory.glob("metadata-000001-*"))
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match="metadata-000001"):
        reopened = open_index(store)
    assert reopened.position == store.position
    assert filtered(reopened) == expected
    reopened.checkpoint()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filtered(open_index(store)) == expected


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_metadata_are_passed_over(store: EventStore, damage: str) -> None:
    """The history has them."""
    expected = filtered_and_written(store)
    reopened = open_index(store)
    assert reopened.directory is not None
    path = next(reopened.directory.glob("metadata-000002-*"))
    whole = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + b"\xff" if damage == "flip" else whole[:30])
    with pytest.warns(CheckpointWarning, match="metadata-000002"):
        assert filtered(reopened) == expected


def test_metadata_that_another_process_has_pruned_are_no_damage(store: EventStore) -> None:
    """They went with the generation that named them; the history fills in without a word."""
    expected = filtered_and_written(store)
    reopened = open_index(store)
    assert reopened.directory is not None
    for path in [*reopened.directory.glob("metadata-*"), *reopened.directory.glob("generation-*")]:
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filtered(reopened) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05\x00\x00\x00{}",
        b"\x02\x00\x00\x00{}",
        b'\x19\x00\x00\x00{"rows":1,"columns":[[1]]}',
        b'\x17\x00\x00\x00{"rows":2,"columns":[]}',
        b'\x22\x00\x00\x00{"rows":1,"columns":[["a",[1],2]]}' + bytes(16),
        b'\x22\x00\x00\x00{"rows":1,"columns":[["a",[1],1]]}' + bytes(16),
        b'\x22\x00\x00\x00{"rows":1,"columns":[["a",[1],1]]}\x00\x00\x00\x00\x07\x00\x00\x00',
    ],
)
def test_packed_metadata_that_make_no_sense_are_refused(content: bytes) -> None:
    """And leave nothing behind."""
    index = MetadataIndex()
    index.extend(['{"a":1}'])
    with pytest.raises(ValueError, match=r"."):
        index.extend_packed(content, 1)
    assert index.rows == 0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("file", range(4))
def test_an_interrupt_while_metadata_are_read_costs_no_answer(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, file: int, after: bool
) -> None:
    """Before a file's rows are taken, or right after: no file is taken twice, and none is left out."""
    expected = filtered_and_written(store)
    original, taken = MetadataIndex.extend_packed, [0]

    def interrupted(self: MetadataIndex, content: bytes, count: int) -> None:
        taken[0] += 1
        if taken[0] - 1 != file:
            return original(self, content, count)
        if after:
            original(self, content, count)
            raise KeyboardInterrupt
        self.__init__()  # type: ignore[misc]
        raise KeyboardInterrupt

    monkeypatch.setattr(MetadataIndex, "extend_packed", interrupted)
    reopened = open_index(store)
    with pytest.raises(KeyboardInterrupt):
        filtered(reopened)
    assert filtered(reopened) == expected
    assert reopened._content.metadata.rows == reopened._content.table.rows
