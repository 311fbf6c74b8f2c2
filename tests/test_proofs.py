"""Rows checked many at a time: the same verdict as one by one, and the same words about what is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventstore.ranges as module
from eventstore import CorruptHistory, EventStore
from eventstore.checked import CheckedRows
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.instants import FIRST_INSTANT, LAST_INSTANT
from eventstore.proofs import WRONG_TYPE, headers_hold, payloads_hold
from eventstore.ranges import CheckedRanges, Links
from eventstore.reads import Reader
from eventstore.recent import RecentRows
from eventstore.schema import EVENT_COLUMNS
from tests.profiles import scaled
from tests.store_support import Appended, histories, told_to

# -- rows ---------------------------------------------------------------------------------------------------

texts = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["", "\0", "grün☕", "𝄞", "\ud800", "x" * 4095, "x" * 4096, "é" * 70_000]),
)
numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([FIRST_INSTANT, FIRST_INSTANT - 1, LAST_INSTANT, LAST_INSTANT + 1]),
)
blobs = st.binary(max_size=5) | st.sampled_from([bytes(16), bytes(31), bytes(32), bytes(33), bytes(4096)])
anything = st.none() | numbers | st.floats() | texts | blobs
contexts = st.tuples(
    st.none() | st.integers(-5, 5), *[st.none() | st.sampled_from(["ann", "", "é"])] * 6
)  # occurred_at, then texts; often the one before's

COLUMN = {name: number for number, name in enumerate(EVENT_COLUMNS)}


def hash_of(before: Any, row: tuple[Any, ...]) -> bytes | None:
    """What the row's hash should be; None where it holds what cannot be hashed."""
    try:
        return event_hash(before, *row[:-1])
    except WRONG_TYPE:
        return None


def digest_of(payload: tuple[Any, ...]) -> bytes | None:
    """What a payload's digest should be; None where it holds what cannot be hashed."""
    try:
        return payload_digest(*payload[1:])
    except WRONG_TYPE:
        return None


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """The hash before each row, and some rows of `events` linked to each other, whose context often stays the same."""
    before, befores, rows = GENESIS, [], []
    context: Any = (None,) * 7
    for seq in range(1, draw(st.integers(1, 4)) + 1):
        context = draw(st.just(context) | contexts)
        kind = draw(st.sampled_from(["ADD", "UPDATE", "DELETE"]))
        links = draw(st.none() | numbers), draw(numbers), draw(st.none() | numbers)
        ids = draw(st.sampled_from(["e", "é", "x" * 600])), draw(st.sampled_from(["", "m", "☕"]))
        header = (
            seq,
            *ids,
            draw(numbers),
            *links,
            kind,
            draw(st.integers(-9, 9)),
            *context,
            draw(st.binary(min_size=32, max_size=32)),
        )
        befores.append(before)
        before = event_hash(before, *header)
        rows.append((*header, before))
    return befores, rows


@settings(max_examples=scaled(150))
@given(chain=chains())
def test_a_chain_holds(chain: tuple[list[Any], list[tuple[Any, ...]]]) -> None:
    """Whatever can be recorded: every type, with and without links, contexts that change and that stay."""
    assert headers_hold(*chain)


@settings(max_examples=scaled(300))
@given(data=st.data(), chain=chains(), column=st.sampled_from(EVENT_COLUMNS), value=anything, sealed=st.booleans())
def test_headers_hold_where_each_of_them_does(
    data: st.DataObject, chain: tuple[list[Any], list[tuple[Any, ...]]], column: str, value: Any, sealed: bool
) -> None:
    """One value is another one, of any type, and the hashes may have been made anew to suit it."""
    befores, rows = chain
    at = data.draw(st.integers(0, len(rows) - 1))
    changed = list(rows[at])
    changed[COLUMN[column]] = value
    if sealed and column != "hash":
        changed[-1] = hash_of(befores[at], tuple(changed)) or changed[-1]
    rows[at] = tuple(changed)
    if at + 1 < len(rows):
        befores[at + 1] = rows[at][-1]
    assert headers_hold(befores, rows) == all(map(holds, befores, rows))


def holds(before: Any, row: tuple[Any, ...]) -> bool:
    """The slow verdict: what `event_hash` says, and what can be recorded."""
    if row[-1] is None or hash_of(before, row) != row[-1]:
        return False
    instants = [row[COLUMN["recorded_at"]], row[COLUMN["occurred_at"]]]
    return (
        len(row[COLUMN["payload_digest"]]) == len(before) == 32
        and row[COLUMN["type"]] in ("ADD", "UPDATE", "DELETE")
        and all(FIRST_INSTANT <= instant <= LAST_INSTANT for instant in instants if instant is not None)
    )


@pytest.mark.parametrize("other", [None, b"", bytes(31), bytes(33), "\0" * 32, 0])
def test_a_hash_has_32_bytes(other: Any) -> None:
    """What is cut or filled up to that is another value, before a row and in it."""
    header = (1, "e", "m", 1, None, 1, 1, "ADD", 5, *[None] * 7, bytes(32))
    row = (*header, event_hash(GENESIS, *header))
    assert headers_hold([GENESIS], [row])
    assert not headers_hold([other], [row])
    assert not headers_hold([GENESIS], [(*header[:-1], other, row[-1])])


def test_each_row_has_a_hash_before_it() -> None:
    """Fewer of them are not enough."""
    header = (1, "e", "m", 1, None, 1, 1, "ADD", 5, *[None] * 7, bytes(32))
    assert headers_hold([], [])
    assert not headers_hold([], [(*header, event_hash(GENESIS, *header))])


payload_rows = st.tuples(
    st.just(1), st.binary(min_size=16, max_size=16) | blobs, st.none() | texts, st.none() | texts, st.none() | blobs
)  # fmt: skip


@settings(max_examples=scaled(300))
@given(
    data=st.data(), payloads=st.lists(payload_rows, min_size=1, max_size=3), column=st.integers(0, 5), value=anything
)
def test_payloads_hold_where_each_of_them_does(
    data: st.DataObject, payloads: list[tuple[Any, ...]], column: int, value: Any
) -> None:
    """All as recorded, or one value of any type in the place of another; column 5 is the digest in the header."""
    payloads = [(seq, *payload[1:]) for seq, payload in enumerate(payloads, 1)]
    digests: list[Any] = [digest_of(payload) or bytes(32) for payload in payloads]
    at = data.draw(st.integers(0, len(payloads) - 1))
    if data.draw(st.booleans()) and column == 5:
        digests[at] = value
    elif data.draw(st.booleans()):
        payloads[at] = tuple(value if number == column else each for number, each in enumerate(payloads[at]))
    headers = [(seq, *[None] * 15, digest, b"") for seq, digest in enumerate(digests, 1)]
    expected = all(
        digest_of(payload) == digest is not None and payload[0] == seq
        for seq, (payload, digest) in enumerate(zip(payloads, digests, strict=True), 1)
    )
    assert payloads_hold(headers, payloads) == expected
    assert not payloads_hold(headers, payloads[1:])
    assert not payloads_hold(headers, [*payloads, (len(payloads) + 1, b"", None, None, None)])


def test_a_number_is_hashed_as_what_it_is() -> None:
    """5.0 in the place of 5 is another value, whichever of them was hashed before."""
    header = [1, "e", "m", 1, None, 1, 1, "ADD", 5, 5, *[None] * 6, bytes(32)]
    row = (*header, event_hash(GENESIS, *header))
    for column in ("recorded_at", "occurred_at"):
        changed = list(row)
        changed[COLUMN[column]] = 5.0
        assert hash_of(GENESIS, tuple(changed)) is None
        assert not headers_hold([GENESIS, GENESIS], [row, tuple(changed)])


# -- ranges of a file ---------------------------------------------------------------------------------------

FORGERIES = [
    "UPDATE events SET reason = 'x' WHERE seq = {}",
    "UPDATE events SET hash = x'00' WHERE seq = {}",
    "UPDATE events SET hash = zeroblob(32) WHERE seq = {}",
    "UPDATE events SET type = 'MOVE' WHERE seq = {}",
    "UPDATE events SET payload_digest = zeroblob(32) WHERE seq = {}",
    "UPDATE events SET memory_id = CAST(x'ff' AS TEXT) WHERE seq = {}",
    "DELETE FROM events WHERE seq = {}",
    "UPDATE payloads SET content = 'x' WHERE seq = {}",
    "UPDATE payloads SET embedding = zeroblob(8) WHERE seq = {}",
    "UPDATE payloads SET metadata = CAST(x'ff' AS TEXT) WHERE seq = {}",
    "UPDATE payloads SET seq = seq + 100 WHERE seq = {}",
    "DELETE FROM payloads WHERE seq = {}",
]


def outcome(read: Callable[[], Any]) -> Any:
    """The columns that are read, or the words of the error."""
    try:
        found = read()
    except CorruptHistory as error:
        return str(error)
    names = found._fields if isinstance(found, Links) else found.__slots__
    columns = [(name, getattr(found, name)) for name in names]
    return [(name, each.dtype, each.shape, each.tobytes()) for name, each in columns]


def reads_of(store: EventStore, after: int, upto: int, dimension: int) -> list[Any]:
    """What comes of reading a range by column, and its headers alone."""
    ranges = Reader(store._connections, RecentRows())._ranges
    return [outcome(lambda: ranges.columns(after, upto, dimension)), outcome(lambda: ranges.links(after, upto))]


@settings(max_examples=scaled(60))
@given(
    history=histories(failing=False),
    forged=st.lists(st.tuples(st.sampled_from(FORGERIES), st.integers(1, 12)), max_size=3),
    asked=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    block=st.integers(1, 5),
    dimension=st.sampled_from([2, 2, 2, 3]),
)
def test_a_range_is_read_as_row_by_row(
    history: list[Appended],
    forged: list[tuple[str, int]],
    asked: tuple[int, int],
    block: int,
    dimension: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The same columns, or the same words about the same event, wherever the blocks end and whatever was changed."""
    path = tmp_path_factory.mktemp("ranges") / "a.db"
    with told_to(history, str(path)) as (store, _, _):
        head = store.position
    after, upto = sorted(min(position, head) for position in asked)
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement, seq in forged:
            connection.execute(statement.format(seq))
        connection.commit()
    with EventStore(path) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HEADERS_AT_ONCE", block)
        patch.setattr(module, "_BYTES_AT_ONCE", block * (4 * dimension + module._ROW_BYTES))
        in_blocks = reads_of(store, after, upto, dimension)
        patch.setattr(CheckedRanges, "_all_hold", lambda *_: False)
        assert in_blocks == reads_of(store, after, upto, dimension)


def test_a_sound_range_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row is for what does not hold; and no block is larger than the others."""
    path = tmp_path / "a.db"
    with EventStore(path) as store:
        for part in range(5):
            store.add_many(["x"] * 7, vectors=np.eye(7), memory_ids=[f"{part}-{n}" for n in range(7)], reason=str(part))
        store.update("0-1", metadata={"n": 1})
        store.delete("0-2")
    monkeypatch.delattr(CheckedRows, "range")
    monkeypatch.setattr(module, "_HEADERS_AT_ONCE", 5)
    monkeypatch.setattr(module, "_BYTES_AT_ONCE", 5 * (28 + module._ROW_BYTES))
    with EventStore(path) as store:
        asked: list[Any] = []
        original = store._connections.fetch
        monkeypatch.setattr(
            store._connections, "fetch", lambda sql, p=(), **how: (asked.append(p), original(sql, p, **how))[1]
        )
        columns = store.event_range(2, 37).columns()
        blocks = [(low, min(low + 4, 37)) for low in range(3, 38, 5)]
        expected = [block for block in blocks for _ in ("events", "payloads")]
        assert [each for each in asked if each] == [(2, 7), *expected[1:]]  # first with the event before
        assert columns.embeddings.shape == (33, 7)
        assert columns.seqs.tolist() == list(range(3, 38))
        assert columns.is_delete.tolist() == [False] * 34 + [True]
        assert store.count() == 34
