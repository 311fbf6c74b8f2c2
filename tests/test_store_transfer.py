"""Export and import: the same history elsewhere, and foreign ones with times of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    CorruptHistory,
    Delete,
    EventStore,
    ImportFailed,
    InvalidInstant,
    InvalidOperation,
    Operation,
    StorageError,
    Update,
    read_json_lines,
)
from tests.profiles import scaled
from tests.store_support import START, STEPS, Clock, dump

NOW = START + timedelta(days=100)


@pytest.fixture
def store() -> Iterator[EventStore]:
    with EventStore(clock=Clock(NOW)) as opened:
        yield opened


def line(**values: Any) -> dict[str, Any]:
    """A foreign record: an ADD at START unless it says otherwise."""
    return {"content": "x", "vector": [1, 2], "recorded_at": "2026-01-01T00:00:00Z", **values}


def at(day: int) -> str:
    return (START + timedelta(days=day)).isoformat()


# -- the round trip -----------------------------------------------------------------------------------------

text = st.text(max_size=8) | st.sampled_from(["\0", "a\0b", "\u2028", "🍵\u200d", "\ufeff", '"\\', "\x7f\x80", ""])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
objects = st.dictionaries(
    text,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)),
    max_size=3,
)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
identifiers = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=5)
contexts = st.fixed_dictionaries(
    {},
    optional={
        "actor_id": identifiers,
        "role": identifiers,
        "reason": text,
        "correlation_id": identifiers,
        "causation_id": identifiers,
        "occurred_at": st.datetimes(timezones=st.just(timezone.utc)),
    },
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["a", "☕\n", " "]), st.sampled_from("AUUD"), text, objects, st.tuples(floats, floats), contexts
    ),
    min_size=1,
    max_size=3,
)


def write(store: EventStore, clock: Clock, appends: list[tuple[timedelta, list[Any]]]) -> None:
    """Turn the draws into valid appends: what is not live is added, what is live changed or ended."""
    live = set()
    for step, draws in appends:
        clock.now += step
        operations: list[Operation] = []
        for memory_id, kind, content, metadata, vector, context in draws:
            if memory_id not in live:
                operations.append(
                    Add(memory_id=memory_id, content=content, metadata=metadata, vector=vector, **context)
                )
                live.add(memory_id)
            elif kind == "D":
                operations.append(Delete(memory_id=memory_id, **context))
                live.discard(memory_id)
            elif kind == "U":
                operations.append(Update(memory_id=memory_id, content=content, vector=vector, **context))
            else:
                operations.append(Update(memory_id=memory_id, metadata=metadata, **context))
        store.append(operations)


denormal = [("a", "A", "x", {}, (1e-45, -1.1754942e-38), {})]
numbers = [("a", "A", "", {"": [2**64 - 1, -(2**63), 5e-324, -0.0, 1.0, 1, True]}, (-0.0, 3.4028235e38), {})]


@settings(max_examples=scaled(100))
@example(appends=[(timedelta(0), denormal), (timedelta(0), numbers)])
@given(appends=st.lists(st.tuples(st.sampled_from(STEPS), steps), min_size=1, max_size=5))
def test_an_export_imported_is_the_same_history(
    appends: list[tuple[timedelta, list[Any]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Events, instants, vectors bit for bit, and head hash; and exported again the same file."""
    folder = tmp_path_factory.mktemp("export")
    clock = Clock()
    with EventStore(clock=clock, allow_zero_vectors=True) as store:
        write(store, clock, appends)
        assert store.export(folder / "a.jsonl") == store.position
        with EventStore(clock=Clock(NOW), allow_zero_vectors=True) as copy:
            result = copy.import_events(read_json_lines(folder / "a.jsonl"), source="copy")
            assert (result.imported, result.already_there) == (store.position, 0)
            assert list(copy.events()) == list(store.events())
            assert copy.head == store.head
            copy.export(folder / "b.jsonl")
    assert (folder / "b.jsonl").read_bytes() == (folder / "a.jsonl").read_bytes()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[EventStore]:
    """A history in a file: three appends, an embedding that is pointed at, a deletion."""
    clock = Clock()
    with EventStore(tmp_path / "source.db", clock=clock) as opened:
        opened.append(
            [
                Add(content="x", vector=[1, 2], memory_id="m", metadata={"n": 1}),
                Add(content="y", vector=[3, 4], memory_id="n"),
            ]
        )
        clock.move(days=1)
        opened.update("m", metadata={"n": 2}, actor_id="ann")
        clock.move(days=1)
        opened.delete("n")
        yield opened


@pytest.fixture
def exported(source: EventStore, tmp_path: Path) -> list[dict[str, Any]]:
    """Its records."""
    source.export(tmp_path / "source.jsonl")
    return [json.loads(line) for line in (tmp_path / "source.jsonl").read_text().splitlines()]


def test_an_exported_record_has_all_that_the_event_has(source: EventStore, exported: list[dict[str, Any]]) -> None:
    """One JSON object a line, by the names of the events; the embedding where the event holds it."""
    event = next(source.events(after=2))
    record = exported[2]
    assert {name: record.pop(name) for name in ("salt", "payload_digest", "hash")}.keys() == {
        "salt",
        "payload_digest",
        "hash",
    }
    assert record == {
        "position": 3,
        "event_id": event.event_id,
        "memory_id": "m",
        "version": 2,
        "type": "UPDATE",
        "recorded_at": "2026-01-02T00:00:00.000000+00:00",
        "occurred_at": None,
        "actor_id": "ann",
        "role": None,
        "reason": None,
        "correlation_id": None,
        "causation_id": None,
        "source": None,
        "content": "x",
        "metadata": {"n": 2},
        "vector": None,
        "embedding_position": 1,
    }


def test_an_export_up_to_a_point_is_that_history(source: EventStore, store: EventStore, tmp_path: Path) -> None:
    """By position or instant: imported it has the head of then."""
    assert source.export(tmp_path / "a.jsonl", as_of=START) == 2
    store.import_events(read_json_lines(tmp_path / "a.jsonl"), source="copy")
    assert store.head == source.head_at(START)


def test_an_export_of_nothing_is_an_empty_file(store: EventStore, tmp_path: Path) -> None:
    """It can be imported too."""
    assert store.export(tmp_path / "a.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    result = store.import_events(read_json_lines(tmp_path / "a.jsonl"), source="copy")
    assert (result.imported, result.already_there, result.first_position, result.last_position) == (0, 0, None, None)


def test_an_export_tells_its_progress(store: EventStore, tmp_path: Path) -> None:
    """Events written and in all, in the end all."""
    store.add_many(["x"] * 2500, vectors=np.ones((2500, 1)))
    seen: list[tuple[int, int]] = []
    store.export(tmp_path / "a.jsonl", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_an_existing_file_is_kept_unless_told_otherwise(source: EventStore, tmp_path: Path) -> None:
    """And then replaced as a whole."""
    (tmp_path / "a.jsonl").write_text("mine")
    with pytest.raises(InvalidOperation, match="exists already"):
        source.export(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == "mine"
    source.export(tmp_path / "a.jsonl", overwrite=True)
    assert len(list(read_json_lines(tmp_path / "a.jsonl"))) == 4


def test_a_history_is_not_exported_over_itself(source: EventStore, tmp_path: Path) -> None:
    """Not even where told to overwrite, nor by another name of the file."""
    (tmp_path / "link").symlink_to(tmp_path / "source.db")
    for path in ("source.db", "link"):
        with pytest.raises(InvalidOperation, match="is the history itself"):
            source.export(tmp_path / path, overwrite=True)
    assert len(list(source.events())) == 4


def test_an_export_that_fails_leaves_no_file(source: EventStore, tmp_path: Path) -> None:
    """Neither a part of one under its name nor beside it."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        source.export(tmp_path / "a.jsonl", progress=stop)
    with pytest.raises(InvalidInstant):
        source.export(tmp_path / "a.jsonl", as_of=99)
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_of_damage_is_refused(source: EventStore, tmp_path: Path) -> None:
    """What does not match its digest is not passed on."""
    source._connections._writer.execute("DROP TRIGGER payloads_no_update")
    source._connections._writer.execute("UPDATE payloads SET content = 'forged' WHERE seq = 2")
    with pytest.raises(CorruptHistory, match="event 2"):
        source.export(tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("path", ["missing/a.jsonl", "folder"])
def test_an_export_to_where_no_file_can_be_is_an_error(source: EventStore, tmp_path: Path, path: str) -> None:
    """A directory that is not there, or one in its place."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        source.export(tmp_path / path, overwrite=True)
    assert list((tmp_path / "folder").iterdir()) == []


# -- importing an export ------------------------------------------------------------------------------------


def test_an_import_can_be_repeated(store: EventStore, exported: list[dict[str, Any]]) -> None:
    """What is there is passed over, and what is new goes on from it."""
    store.import_events(exported[:2], source="copy")
    result = store.import_events(exported, source="copy")
    assert (result.imported, result.already_there, result.first_position, result.last_position) == (2, 2, 3, 4)
    head = store.head
    result = store.import_events(exported, source="copy")
    assert (result.imported, result.already_there, result.first_position, result.last_position) == (0, 4, None, None)
    assert store.head == head


def test_an_import_without_times_can_be_repeated(store: EventStore, exported: list[dict[str, Any]]) -> None:
    """Although the second one is at another instant."""
    store.import_events(exported, source="copy", keep_times=False)
    result = store.import_events(exported, source="copy", keep_times=False)
    assert (result.imported, result.already_there) == (0, 4)


def test_an_import_into_a_history_goes_on_from_its_head(exported: list[dict[str, Any]]) -> None:
    """The embedding that an update points at is where it is now."""
    with EventStore(clock=Clock(START - timedelta(days=1))) as store:
        store.add_many(["before"] * 3, vectors=[[1, 1]] * 3)
        store._writer._clock = Clock(NOW)
        result = store.import_events(exported, source="copy")
        assert (result.first_position, result.last_position) == (4, 7)
        assert [event.embedding_seq for event in store.events(after=3)] == [4, 5, 4, None]
        assert store.vectors(["m"])[1].tolist() == [[1, 2]]


def test_imported_updates_without_a_vector_keep_what_the_export_kept(exported: list[dict[str, Any]]) -> None:
    """Although there is an embedder and the content is there: it was not asked then either."""

    def embed(texts: list[str]) -> Any:
        raise AssertionError("not to be asked")

    with EventStore(clock=Clock(NOW), embedder=embed) as store:
        store.import_events(exported, source="copy")
        assert store.position == 4


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"content": "forged"}),
        (0, {"metadata": {"n": 2}}),
        (0, {"metadata": None}),
        (0, {"vector": [1, 2.0000002]}),
        (0, {"salt": "00" * 16}),
        (0, {"payload_digest": "00" * 32}),
        (2, {"content": None}),
        (2, {"metadata": {}}),
        (2, {"vector": [9, 9], "embedding_position": None}),
    ],
)
def test_a_record_changed_since_its_export_is_refused(
    store: EventStore, exported: list[dict[str, Any]], number: int, change: dict[str, Any]
) -> None:
    """Its digest says so; the line is named and nothing is imported."""
    exported[number].update(change)
    before = dump(store)
    with pytest.raises(ImportFailed, match=f"line {number + 1}: .*does not match its payload_digest"):
        store.import_events(exported, source="copy")
    assert dump(store) == before


def test_an_imported_event_says_where_it_is_from(store: EventStore, exported: list[dict[str, Any]]) -> None:
    """The import's source, unless the record has one of its own."""
    store.import_events([line(event_id="1"), line(event_id="2", source="elsewhere")], source="git:repo")
    assert [event.source for event in store.events()] == ["git:repo", "elsewhere"]


# -- foreign records ----------------------------------------------------------------------------------------


def test_what_a_record_leaves_out_has_its_default(store: EventStore) -> None:
    """Type ADD, a new memory, no metadata; and of the rest nothing."""
    store.import_events(
        [{"content": "x", "vector": [1, 2]}, {"type": None, "content": "y", "vector": [1, 2]}], source="s"
    )
    for event in store.events():
        assert (event.type, event.version, event.metadata, event.recorded_at) == ("ADD", 1, {}, NOW)
        assert [event.actor_id, event.role, event.reason, event.occurred_at] == [None] * 4


def test_a_record_may_be_any_operation(store: EventStore) -> None:
    """They build on each other, across the thousands in which they are read."""
    records = [line(memory_id="m", vector=np.array([1, 2]))]
    records += [line(type="UPDATE", memory_id="m", content=None, vector=None, metadata={"n": n}) for n in range(1500)]
    records += [line(type="DELETE", memory_id="m", content=None, vector=None)]
    result = store.import_events(iter(records), source="s")
    assert (result.imported, result.first_position, result.last_position) == (1502, 1, 1502)
    assert [event.version for event in store.events(memory_id="m")] == list(range(1, 1503))
    assert store.count() == 0


def test_times_are_kept_and_lines_that_share_one_are_one_instant(store: EventStore) -> None:
    """No instant falls between them."""
    store.import_events([line(recorded_at=at(day)) for day in (0, 1, 1, 1, 2)], source="s")
    assert [event.recorded_at for event in store.events()] == [START + timedelta(days=day) for day in (0, 1, 1, 1, 2)]
    assert [store.position_at(at(day)) for day in (0, 1, 2)] == [1, 4, 5]


def test_a_record_without_a_time_is_recorded_now(store: EventStore) -> None:
    """After those that have one."""
    store.import_events([line(), {"content": "y", "vector": [1, 2]}], source="s")
    assert [event.recorded_at for event in store.events()] == [START, NOW]


def test_after_an_import_the_history_goes_on(store: EventStore) -> None:
    """A later append is later, though the clock should stand before the imported times."""
    store.import_events([line(recorded_at=at(50))], source="s")
    assert isinstance(store._writer._clock, Clock)
    store._writer._clock.now = START
    event = store.add("y", vector=[1, 2])
    assert event.recorded_at == START + timedelta(days=50, microseconds=1)


def test_without_its_times_an_import_is_one_instant(store: EventStore) -> None:
    """Times that run in any order become what happened in the world, unless that is told already."""
    records = [
        line(recorded_at=at(3)),
        line(recorded_at=at(1)),
        line(recorded_at=at(500)),
        line(recorded_at=at(2), occurred_at="1999-01-01T00:00:00Z"),
        {"content": "y", "vector": [1, 2]},
    ]
    store.import_events(records, source="s", keep_times=False)
    events = list(store.events())
    assert {event.recorded_at for event in events} == {NOW}
    assert [event.occurred_at for event in events] == [
        START + timedelta(days=3),
        START + timedelta(days=1),
        START + timedelta(days=500),
        datetime(1999, 1, 1, tzinfo=timezone.utc),
        None,
    ]


def test_missing_vectors_are_embedded() -> None:
    """In one call for many lines; given ones are kept."""
    calls: list[list[str]] = []

    def embed(texts: list[str]) -> Any:
        calls.append(texts)
        return [[7, len(text)] for text in texts]

    records = [
        line(content="one", vector=None, memory_id="m"),
        line(content="two", vector=[1, 2]),
        line(type="UPDATE", memory_id="m", content="three", vector=None),
    ]
    with EventStore(clock=Clock(NOW), embedder=embed) as store:
        store.import_events(records, source="s")
        assert calls == [["one", "three"]]
        assert [list(event.vector) for event in store.events() if event.vector is not None] == [[7, 3], [1, 2], [7, 5]]


BAD_LINES: list[tuple[Any, str]] = [
    (line(vector=None), "line 3: there is no embedder to turn content into a vector"),
    (line(recorded_at="2025-01-01T00:00:00Z"), "line 3: .* is earlier than the line before"),
    (line(recorded_at="2030-01-01T00:00:00Z"), "line 3: .* lies in the future"),
    (line(recorded_at="2026-01-05"), "line 3: recorded_at '2026-01-05' is not an instant"),
    (line(recorded_at="2026-01-05T00:00:00"), "line 3: .* no time zone"),
    (line(recorded_at=5), "line 3: recorded_at is of type int"),
    (line(occurred_at="then"), "line 3: occurred_at 'then' is not an instant"),
    (line(type="add"), "line 3: type 'add' is not ADD, UPDATE or DELETE"),
    (line(type=""), "line 3: type '' is not"),
    (line(type=5), "line 3: type 5 is not"),
    (line(user="alice"), "line 3: unknown key 'user': put it into metadata"),
    (line(vector=[1, 2, 3]), "line 3: vector has 3 numbers, and this store's vectors have 2"),
    (line(vector=[1, "a"]), "line 3: vector"),
    (line(vector=[0, 0]), "line 3: vector is all zeros"),
    (line(content=None), "line 3: Add: content"),
    (line(content=5), "line 3: Add: content"),
    (line(metadata=[]), "line 3: metadata is of type list"),
    (line(metadata={"n": float("nan")}), "line 3: metadata.n is nan"),
    (line(memory_id=""), "line 3: memory_id is empty"),
    (line(memory_id="m"), "line 3: memory 'm' exists at version 1"),
    (line(type="UPDATE", memory_id="nobody"), "line 3: memory 'nobody' does not exist"),
    (line(type="UPDATE", memory_id="m", content=None, vector=None), "line 3: update of 'm' changes nothing"),
    (line(type="DELETE", memory_id=None), "line 3: Delete: memory_id"),
    (line(event_id="e", content="other"), "line 3: event 'e' is recorded already"),
    (line(salt="00"), "line 3: salt is not 32 hexadecimal digits"),
    (line(salt=5), "line 3: salt is not"),
    (line(salt="00" * 16, payload_digest="zz"), "line 3: payload_digest is not 64 hexadecimal digits"),
    (line(source=""), "line 3: source is empty"),
    ("text", "line 3: a record is of type str"),
    (None, "line 3: a record is of type NoneType"),
    (["content", "x"], "line 3: a record is of type list"),
]


@pytest.mark.parametrize(("bad", "says"), BAD_LINES)
def test_a_bad_record_names_its_line_and_nothing_is_imported(store: EventStore, bad: Any, says: str) -> None:
    """Lines count from 1; those before it are taken back; the store goes on."""
    store.import_events([line(event_id="e", recorded_at="2025-12-01T00:00:00Z")], source="s")
    before = dump(store)
    with pytest.raises(ImportFailed, match=says) as raised:
        store.import_events([line(memory_id="m"), line(), bad, line()], source="s")
    assert raised.value.line == 3
    assert str(raised.value).endswith("nothing was imported")
    assert dump(store) == before
    assert store.import_events([line(memory_id="m"), line(), line()], source="s").imported == 3


def test_a_bad_record_far_down_undoes_all(store: EventStore) -> None:
    """Also what went in with the thousands before."""
    with pytest.raises(ImportFailed, match="line 2345: unknown key") as raised:
        store.import_events((line(**({"bad": 1} if n == 2344 else {})) for n in range(3000)), source="s")
    assert raised.value.line == 2345
    assert store.position == 0


@pytest.mark.parametrize("day", [-1, 0])
def test_an_import_goes_forward_from_the_head(store: EventStore, day: int) -> None:
    """A time at or before that of the last event cannot be recorded; the line and the way out are named."""
    store.import_events([line()], source="s")
    with pytest.raises(ImportFailed, match=r"line 1: .* not later than .* settled.* keep_times=False"):
        store.import_events([line(recorded_at=at(day))], source="s")
    assert store.import_events([line(recorded_at=at(day))], source="s", keep_times=False).imported == 1


def test_an_import_up_to_now_is_taken(store: EventStore) -> None:
    """The clock's own time is not the future."""
    store.import_events([line(recorded_at=NOW)], source="s")
    with pytest.raises(ImportFailed, match="future"):
        store.import_events([line(recorded_at=NOW + timedelta(microseconds=2))], source="s")


@pytest.mark.parametrize("source", ["", None, 5, "x" * 513])
def test_an_import_says_its_source(store: EventStore, source: Any) -> None:
    """It is a mark on every event, so it has to be an id."""
    with pytest.raises(InvalidOperation, match="source"):
        store.import_events([line()], source=source)
    assert store.position == 0


def test_an_error_of_the_records_own_undoes_the_import(store: EventStore) -> None:
    """It comes through as it is."""

    def records() -> Iterator[dict[str, Any]]:
        yield from (line() for _ in range(1500))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.import_events(records(), source="s")
    assert store.position == 0


def test_an_embedder_that_fails_undoes_the_import() -> None:
    """The line that was to be embedded first is named."""
    with EventStore(clock=Clock(NOW), embedder=lambda texts: [[0.0, 0.0] for _ in texts]) as store:
        with pytest.raises(ImportFailed, match=r"line 2: .* all zeros"):
            store.import_events([line(), line(vector=None), line(vector=None)], source="s")
        assert store.position == 0


def test_a_store_in_memory_is_not_read_inside_its_own_import(store: EventStore) -> None:
    """It would see, and remember, what may yet be rolled back; a store in a file sees what was there before."""

    def records() -> Iterator[dict[str, Any]]:
        yield from (line() for _ in range(1001))
        store.count()
        yield line()

    with pytest.raises(InvalidOperation, match="inside its own write"):
        store.import_events(records(), source="s")
    assert store.count() == 0


def test_a_store_in_a_file_can_be_read_inside_its_own_import(tmp_path: Path) -> None:
    """It answers from what is committed."""
    with EventStore(tmp_path / "a.db", clock=Clock(NOW)) as store:
        store.import_events([line(recorded_at=at(0))], source="s")
        seen: list[int] = []

        def records() -> Iterator[dict[str, Any]]:
            for _ in range(1001):
                yield line(recorded_at=at(1))
            seen.append(store.count())
            yield line(recorded_at=at(1))

        store.import_events(records(), source="s")
        assert (seen, store.count()) == ([1], 1003)


def test_a_write_inside_a_write_is_refused(store: EventStore) -> None:
    """A record's maker cannot add to the store that takes the records; nothing is kept of either."""

    def records() -> Iterator[dict[str, Any]]:
        yield line()
        store.add("y", vector=[1, 2])

    with pytest.raises(InvalidOperation, match="inside another one"):
        store.import_events(records(), source="s")
    assert store.position == 0
    assert store.add("y", vector=[1, 2]).position == 1


# -- reading JSON lines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"{", "not JSON"),
        (b'{"content": "x"} {}', "not JSON"),
        (b'{"content": NaN}', "not JSON"),
        (b'{"content": "\xff"}', "not JSON"),
        (b'{"content": "\\ud800"}', "not JSON"),
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"content": "x", "vector": 5}', "give their file with --vectors"),
        (b'{"content": "x", "vector": "text"}', "not a list"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_imported(
    store: EventStore, tmp_path: Path, bad: bytes, says: str
) -> None:
    """Whatever stands before and after it."""
    good = b'{"content": "x", "vector": [1, 2]}\n'
    (tmp_path / "a.jsonl").write_bytes(good * 2 + bad + b"\n" + good)
    with pytest.raises(ImportFailed, match=f"line 3: .*{says}.*nothing was imported") as raised:
        store.import_events(read_json_lines(tmp_path / "a.jsonl"), source="s")
    assert raised.value.line == 3
    assert store.position == 0


def test_a_vector_may_be_a_row_number(store: EventStore, tmp_path: Path) -> None:
    """Of a matrix beside the lines; a list and null stay what they are."""
    lines = [{"content": "a", "vector": 1}, {"content": "b", "vector": [5, 6]}, {"content": "c", "vector": 0}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    matrix = np.array([[1, 2], [3, 4]], np.float32)
    store.import_events(read_json_lines(tmp_path / "a.jsonl", matrix), source="s")
    assert store.vectors()[1].tolist() == [[3, 4], [5, 6], [1, 2]]


@pytest.mark.parametrize("row", [2, -1, True, 1.0, "1", 10**30, {}])
def test_a_row_that_the_matrix_has_not_is_named(store: EventStore, tmp_path: Path, row: Any) -> None:
    """Rows count from 0, and are whole numbers."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"content": "a", "vector": row}))
    with pytest.raises(ImportFailed, match=r"line 1: vector .* is no row of a file of 2"):
        list(read_json_lines(tmp_path / "a.jsonl", np.ones((2, 2), np.float32)))


def test_lines_of_a_file_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    """Named, like one that cannot be read."""
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(StorageError, match="cannot read"):
            list(read_json_lines(path))


def test_an_error_of_an_import_is_an_asof_error_and_a_value_error() -> None:
    """Callers who know neither class catch it all the same."""
    assert issubclass(ImportFailed, AsofError)
    assert issubclass(ImportFailed, ValueError)
