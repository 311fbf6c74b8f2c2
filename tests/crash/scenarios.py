"""What is attacked: one piece of work each, what it starts from, and what must hold whenever it was cut short.

A scenario's `act` acknowledges what it has finished with `ack(what, position, hash)`. Whatever happens to it, `check`
is given what was acknowledged and looks at what is left on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from eventstore import Add, Delete, EventStore, NewerSchema, Operation, Update, read_json_lines
from eventstore.schema import PAGE_SIZE
from projections import VectorIndex
from replay import recover, restore, salvage, verify
from tests.crash.lab import Ack
from tests.data import make_v1
from tests.next_version import next_version

DIMENSION = 4
SEGMENT_ROWS = 8
START = 12
"""How many events there are before an append, a restore or an import."""

Acknowledge = Callable[..., None]


@dataclass(frozen=True)
class Scenario:
    """`prepare(directory)` once, `act(directory, ack)` under attack, `check(directory, acks)` on what it left."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, Acknowledge], None]
    check: Callable[[Path, Sequence[Ack]], None]


def database(directory: Path) -> Path:
    """The history of every scenario."""
    return directory / "agent.db"


def vector_of(text: str) -> list[float]:
    """A vector that follows from the text."""
    seed = sum((number + 1) * byte for number, byte in enumerate(text.encode()))
    return np.sin(np.arange(1, DIMENSION + 1) * (seed % 9973 + 1)).astype(np.float32).tolist()


def add(name: str) -> Add:
    """An ADD whose every part follows from the memory's id."""
    return Add(memory_id=name, content=f"text of {name}", metadata={"name": name}, vector=vector_of(name))


def open_store(directory: Path, **keywords: Any) -> EventStore:
    """The scenario's store."""
    return EventStore(database(directory), timeout=5, **keywords)


def open_index(store: EventStore) -> VectorIndex:
    """An index with small segments, so that a few events make several files."""
    return VectorIndex(store, segment_rows=SEGMENT_ROWS)


def open_lists(store: EventStore) -> VectorIndex:
    """An approximate index: inverted lists from the second segment on."""
    with mock.patch("projections.approximate.LISTS_FROM", 1):
        return VectorIndex(store, kind="ivf", segment_rows=SEGMENT_ROWS // 2)


def small_log() -> Any:
    """Let SQLite fold the write-ahead log into the file every few pages instead of every 64 MB."""
    return mock.patch("eventstore.connections.LOG_LIMIT", 20 * 16384)


# -- what must always hold ----------------------------------------------------------------------------------


def check_store(directory: Path, acks: Iterable[Ack], allowed: Iterable[int], expected: Sequence[Operation]) -> int:
    """The history is whole, has all that was acknowledged and nothing in part, and takes events; its position.

    `allowed` are the positions at which an append ends, `expected` is what was to be recorded, in order.
    """
    path = database(directory)
    report = verify(path)
    assert report.ok, report.faults[:5]
    with open_store(directory) as store:
        position = store.position
        assert position in set(allowed), f"the history ends at {position}, inside an append"
        for _, acknowledged, digest in acks:
            assert acknowledged <= position, f"{acknowledged} was acknowledged and the history ends at {position}"
            assert store.hash_at(acknowledged) == digest
        for event, operation in zip(store.events(), expected):
            assert (event.memory_id, event.type) == (operation.memory_id, operation.type)
            if isinstance(operation, (Add, Update)) and operation.content is not None:
                assert event.content == operation.content
        check_index(store)
        added = store.add("after all", vector=vector_of("after all"))
        assert added.position == position + 1
        with open_index(store) as index:
            assert index.search(vector_of("after all"), 1)[0].memory_id == added.memory_id
    report = verify(path)
    assert report.ok, report.faults[:5]
    return position


def check_index(store: EventStore) -> int:
    """The index beside the store opens, catches up to exactly the history and answers as brute force does.

    Returns the position at which it opened.
    """
    with open_index(store) as index:
        opened = index.position
        assert index.catch_up() == store.position
        assert index.faults() == []
        for as_of in {store.position, store.position // 2}:
            for query in ("text", "other"):
                found = index.search(vector_of(query), 5, as_of=as_of)
                assert found.position == as_of
                assert [hit.memory_id for hit in found] == brute_force(store, vector_of(query), 5, as_of)
    return opened


def brute_force(store: EventStore, query: Sequence[float], k: int, as_of: int) -> list[str]:
    """The ids of the nearest memories by cosine, from the recorded vectors."""
    ids, vectors = store.vectors(as_of=as_of)
    if not ids:
        return []
    matrix, wanted = vectors.astype(np.float64), np.asarray(query, dtype=np.float32).astype(np.float64)
    scores = matrix @ wanted / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted))
    return [ids[row] for row in np.argsort(-scores, kind="stable")[:k]]


# -- what there is at the start -----------------------------------------------------------------------------

BASE: list[Operation] = [
    *(add(f"base {number}") for number in range(9)),
    Update(memory_id="base 1", content="changed", vector=vector_of("changed")),
    Update(memory_id="base 2", metadata={"name": "other"}),
    Delete(memory_id="base 3"),
]
assert len(BASE) == START


def prepare_store(directory: Path) -> None:
    """A history of `BASE`."""
    with open_store(directory) as store:
        store.append(BASE)


def prepare_log(directory: Path) -> None:
    """The same, left by a process that died: the events are in the write-ahead log only."""
    prepare_store(directory)
    with open_store(directory) as store:
        store.append([add("logged")])
        copies = {path: path.read_bytes() for path in directory.glob("agent.db*") if path.suffix != ".db-shm"}
    for path, content in copies.items():
        path.write_bytes(content)


def prepare_index(directory: Path, open_one: Callable[[EventStore], VectorIndex] = open_index) -> None:
    """A history of `BASE`, and an index with a checkpoint of it."""
    prepare_store(directory)
    with open_store(directory) as store, open_one(store) as index:
        index.catch_up()
        index.checkpoint()


def prepare_lists(directory: Path) -> None:
    """The same, of an approximate index."""
    prepare_index(directory, open_lists)


def prepare_nothing(directory: Path) -> None:
    """An empty directory."""


# -- the work -----------------------------------------------------------------------------------------------

APPENDS: list[list[Operation]] = [
    [add("one")],
    [add("two"), add("three"), Update(memory_id="one", metadata={"seen": True})],
    [Update(memory_id="two", content="new text", vector=vector_of("new text"))],
    [Delete(memory_id="three"), add("four"), add("three")],
    [add(f"row {number}") for number in range(30)],
    [Delete(memory_id="four")],
]
APPENDED = [operation for operations in APPENDS for operation in operations]
ENDS = [START + sum(len(operations) for operations in APPENDS[:number]) for number in range(len(APPENDS) + 1)]


def _append(directory: Path, ack: Acknowledge, **keywords: Any) -> None:
    with small_log(), open_store(directory, **keywords) as store:
        for operations in APPENDS:
            last = store.append(operations)[-1]
            ack("append", last.position, last.hash)


def _append_normal(directory: Path, ack: Acknowledge) -> None:
    _append(directory, ack, durability="normal")


def _check_append(directory: Path, acks: Sequence[Ack]) -> None:
    check_store(directory, acks, ENDS, [*BASE, *APPENDED])


def _append_after_crash(directory: Path, ack: Acknowledge) -> None:
    """Opens what a dead process left, and goes on."""
    _append(directory, ack)


def _check_append_after_crash(directory: Path, acks: Sequence[Ack]) -> None:
    check_store(directory, acks, [end + 1 for end in ENDS], [*BASE, add("logged"), *APPENDED])


def _create(directory: Path, ack: Acknowledge) -> None:
    """A new store and its first events."""
    with open_store(directory) as store:
        ack("create", 0, "0" * 64)
        last = store.append([add("one"), add("two")])[-1]
        ack("append", last.position, last.hash)


def _check_create(directory: Path, acks: Sequence[Ack]) -> None:
    if not database(directory).exists() or not database(directory).stat().st_size:
        # Power lost before the first sync, or a process that died before the first page.
        assert not acks
        return
    with open_store(directory):
        pass  # a file without a schema yet gets it now
    check_store(directory, acks, [0, 2], [add("one"), add("two")])


def _checkpoint(directory: Path, ack: Acknowledge) -> None:
    """Two checkpoints of a growing index; the older of the two that were there goes."""
    with open_store(directory) as store, open_index(store) as index:
        for operations in ([add(f"row {number}") for number in range(10)], [add("last")]):
            last = store.append(operations)[-1]
            index.catch_up()
            ack("checkpoint", index.checkpoint(), last.hash)


def _check_checkpoint(directory: Path, acks: Sequence[Ack]) -> None:
    # What was acknowledged is used: not the generation before it, and nothing is set aside.
    with open_store(directory) as store, open_index(store) as index:
        assert index.position >= max([START, *(position for _, position, _ in acks)])
    rows = [add(f"row {number}") for number in range(10)]
    check_store(directory, acks, [START, START + 10, START + 11], [*BASE, *rows, add("last")])


def _checkpoint_lists(directory: Path, ack: Acknowledge) -> None:
    """The same of an approximate index, after a rebuild of it: its lists and centroids are files of their own."""
    with open_store(directory) as store, open_lists(store) as index:
        index.rebuild()
        ack("rebuilt", index.position, store.head.hash)
        last = store.append([add(f"row {number}") for number in range(10)])[-1]
        index.catch_up()
        ack("checkpoint", index.checkpoint(), last.hash)


def _check_lists(directory: Path, acks: Sequence[Ack]) -> None:
    with (
        mock.patch.multiple("projections.approximate", FEW_ROWS=0, PER_HIT=1, SPARE=0),
        open_store(directory) as store,
        open_lists(store) as index,
        open_lists(store) as fresh,
    ):
        assert index.position >= max([START, *(position for _, position, _ in acks)])
        fresh.rebuild()
        assert index.catch_up() == fresh.catch_up()
        assert index.faults() == []
        found, expected = index.search(vector_of("text"), 3), fresh.search(vector_of("text"), 3)
        assert (list(found), found.kind) == (list(expected), "ivf")
    rows = [add(f"row {number}") for number in range(10)]
    check_store(directory, acks, [START, START + 10], [*BASE, *rows])


def _prepare_long(directory: Path) -> None:
    with open_store(directory) as store:
        store.append(BASE)
        store.append([add(f"row {number}") for number in range(60)])


def _rebuild(directory: Path, ack: Acknowledge) -> None:
    """An index made again from the history, with a checkpoint every 20 events."""
    with (
        mock.patch.multiple("projections.unsaved", EVENTS=20, SECONDS=0.0),
        mock.patch("projections.vector_index._EVENTS_AT_ONCE", 20),
        open_store(directory) as store,
        open_index(store) as index,
    ):

        def progress(done: int, total: int) -> None:
            ack("rebuilt", index._checkpoint_position, "")

        index.rebuild(progress)
        ack("rebuilt", index._checkpoint_position, "")


def _check_rebuild(directory: Path, acks: Sequence[Ack]) -> None:
    done = max((position for _, position, _ in acks), default=0)
    with open_store(directory) as store, open_index(store) as index:
        assert index.position >= done, f"the rebuild had a checkpoint at {done}, and goes on from {index.position}"
    check_store(directory, [], [START + 60], BASE)


def _recover(directory: Path, ack: Acknowledge) -> None:
    """The history up to position 9, in a new file."""
    with open_store(directory) as store:
        head = recover(store, 9, directory / "recovered.db")
        ack("recover", head.position, head.hash)


def _check_recover(directory: Path, acks: Sequence[Ack]) -> None:
    recovered = directory / "recovered.db"
    if recovered.exists():
        report = verify(recovered)
        assert report.ok, report.faults[:5]
        assert report.head is not None
        assert report.head.position == 9
        with EventStore(recovered) as store:
            assert [event.memory_id for event in store.events()] == [operation.memory_id for operation in BASE[:9]]
    else:
        assert not acks
    check_store(directory, [], [START], BASE)


def _prepare_damaged(directory: Path) -> None:
    """A history, and a copy of it without its first page."""
    prepare_store(directory)
    (directory / "damaged.db").write_bytes(bytes(PAGE_SIZE) + database(directory).read_bytes()[PAGE_SIZE:])


def _salvage(directory: Path, ack: Acknowledge) -> None:
    """What is left of a file that does not open, in a new one."""
    report = salvage(directory / "damaged.db", to=directory / "salvaged.db")
    ack("salvage", report.head.position, report.head.hash)


def _check_salvage(directory: Path, acks: Sequence[Ack]) -> None:
    whole, damaged = database(directory).read_bytes(), (directory / "damaged.db").read_bytes()
    assert damaged == bytes(PAGE_SIZE) + whole[PAGE_SIZE:]
    new = directory / "salvaged.db"
    if new.exists():
        report = verify(new)
        assert report.ok, report.faults[:5]
        with open_store(directory) as store, EventStore(new) as copy:
            assert list(copy.events()) == list(store.events())
    else:
        assert not acks
    check_store(directory, [], [START], BASE)


def _restore(directory: Path, ack: Acknowledge) -> None:
    """The present becomes what it was at position 9: two updates and an add, in one append."""
    with small_log(), open_store(directory) as store:
        restored = restore(store, 9)
        ack("restore", restored.position_after, "")


def _check_restore(directory: Path, acks: Sequence[Ack]) -> None:
    with open_store(directory) as store:
        position = store.position
        ids, vectors = store.vectors()
        old_ids, old_vectors = store.vectors(as_of=9)
    if acks or position > START:
        assert sorted(ids) == sorted(old_ids)
        assert {*map(bytes, vectors)} == {*map(bytes, old_vectors)}
    check_store(directory, [], [max(START, *(ack[1] for ack in acks))] if acks else [START, START + 3], BASE)


IMPORTED = [add(f"imported {number}") for number in range(40)]


def _prepare_import(directory: Path) -> None:
    prepare_store(directory)
    with (directory / "foreign.jsonl").open("w") as stream:
        for operation in IMPORTED:
            stream.write(json.dumps(operation.model_dump(include={"memory_id", "content", "metadata", "vector"})))
            stream.write("\n")


def _import(directory: Path, ack: Acknowledge) -> None:
    """Forty foreign events, a few at a time, in one transaction."""
    with mock.patch("eventstore.transfer._RECORDS_AT_ONCE", 7), small_log(), open_store(directory) as store:
        done = store.import_events(read_json_lines(directory / "foreign.jsonl"), source="test", keep_times=False)
        assert done.last_position is not None
        ack("import", done.last_position, store.hash_at(done.last_position))


def _check_import(directory: Path, acks: Sequence[Ack]) -> None:
    check_store(directory, acks, [START, START + len(IMPORTED)], [*BASE, *IMPORTED])


def _export(directory: Path, ack: Acknowledge) -> None:
    """The history as JSON lines, over an older export."""
    with open_store(directory) as store:
        ack("export", store.export(directory / "export.jsonl", overwrite=True), "")


def _prepare_export(directory: Path) -> None:
    prepare_store(directory)
    with open_store(directory) as store:
        store.export(directory / "export.jsonl", as_of=5)


def _check_export(directory: Path, acks: Sequence[Ack]) -> None:
    records = list(read_json_lines(directory / "export.jsonl"))
    assert len(records) in ((START,) if acks else (5, START)), f"an export of {len(records)} records"
    with EventStore() as copy:
        copy.import_events(records, source="test")
        assert copy.position == len(records)
    check_store(directory, [], [START], BASE)


OLD = database(Path()).with_suffix(".db.v1").name


def _prepare_migrate(directory: Path) -> None:
    """The version-1 file that is kept, with more in its write-ahead log, as a process that died leaves it."""
    make_v1.unpack(database(directory))
    with EventStore(database(directory), embedder=make_v1.embed) as store:
        store.add("logged")
        copies = {path: path.read_bytes() for path in directory.glob("agent.db*") if path.suffix != ".db-shm"}
    for path, content in copies.items():
        path.write_bytes(content)


def _migrate(directory: Path, ack: Acknowledge) -> None:
    """A file of an earlier version, opened by a later one, which then appends."""
    with next_version(), small_log(), EventStore(database(directory), timeout=5, embedder=make_v1.embed) as store:
        ack("migrate", store.position, store.head.hash)
        added = store.add("after it")
        ack("append", added.position, added.hash)


def _check_migrate(directory: Path, acks: Sequence[Ack]) -> None:
    logged = V1_EVENTS + 1
    try:
        _check_v1(directory, database(directory), logged)
        migrated = False
        assert not acks
        assert not (directory / OLD).exists()
    except NewerSchema:
        migrated = True
    with next_version():
        with EventStore(database(directory), timeout=5, embedder=make_v1.embed) as store:
            position = store.position
            assert position in ((logged, logged + 1) if migrated else (logged,))
            for _, acknowledged, digest in acks:
                assert store.hash_at(acknowledged) == digest
            assert store._connections.fetch("SELECT count(*), max(seq) FROM later") == [(logged, logged)]
            store.add("after all")
        report = verify(database(directory))
        assert report.ok, report.faults[:5]
        assert report.events == position + 1
    assert sorted(path.name for path in directory.iterdir()) == ["agent.db", OLD]
    assert (directory / OLD).stat().st_nlink == database(directory).stat().st_nlink == 1
    _check_v1(directory, directory / OLD, logged)


def _check_v1(directory: Path, path: Path, events: int) -> None:
    """It is the version-1 file, whole; opening it tidies up what a migration left."""
    with EventStore(path, timeout=5) as store:
        assert store.position == events
        assert store.hash_at(V1_EVENTS) == V1_HEAD
    report = verify(path)
    assert report.ok, report.faults[:5]
    assert not [each.name for each in directory.iterdir() if each.name.startswith(".")]


_V1_HEAD = json.loads((make_v1.HERE / "v1.json").read_text(encoding="utf-8"))["head"]
V1_EVENTS, V1_HEAD = int(_V1_HEAD["position"]), str(_V1_HEAD["hash"])


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("append", prepare_store, _append, _check_append),
        Scenario("append, normal", prepare_store, _append_normal, _check_append),
        Scenario("append after a crash", prepare_log, _append_after_crash, _check_append_after_crash),
        Scenario("create", prepare_nothing, _create, _check_create),
        Scenario("migrate", _prepare_migrate, _migrate, _check_migrate),
        Scenario("checkpoint", prepare_index, _checkpoint, _check_checkpoint),
        Scenario("checkpoint of lists", prepare_lists, _checkpoint_lists, _check_lists),
        Scenario("rebuild", _prepare_long, _rebuild, _check_rebuild),
        Scenario("recover", prepare_store, _recover, _check_recover),
        Scenario("salvage", _prepare_damaged, _salvage, _check_salvage),
        Scenario("restore", prepare_store, _restore, _check_restore),
        Scenario("import", _prepare_import, _import, _check_import),
        Scenario("export", _prepare_export, _export, _check_export),
    )
}
