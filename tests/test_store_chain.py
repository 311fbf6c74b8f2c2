"""The hash chain: checked by a second implementation, written from the description of the format alone."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Add, CorruptHistory, EventStore
from eventstore.hashing import GENESIS, event_hash, payload_digest
from tests.profiles import scaled
from tests.store_support import START, Appended, histories, told_to

# -- the second implementation: eventstore/hashing.py's text, and nothing of its code ------------------------


def written(value: int | str | bytes | None) -> bytes:
    """A field: length and bytes, or the length that stands for null."""
    if value is None:
        return bytes([255, 255, 255, 255])
    data = (
        struct.pack("<q", value)
        if isinstance(value, int)
        else value.encode("utf-8")
        if isinstance(value, str)
        else value
    )
    return struct.pack("<I", len(data)) + data


def digest_of(payload: dict[str, Any]) -> bytes:
    fields = [payload[name] for name in ("salt", "content", "metadata", "embedding")]
    return hashlib.sha256(b"asof.payload.1" + b"".join(map(written, fields))).digest()


ORDER = (
    "seq event_id memory_id version prev_seq add_seq embedding_seq type payload_digest recorded_at occurred_at"
    " actor_id role reason correlation_id causation_id source"
).split()


def hash_of(previous: bytes, event: dict[str, Any]) -> bytes:
    return hashlib.sha256(b"asof.event.1" + previous + b"".join(written(event[name]) for name in ORDER)).digest()


def verified(connection: sqlite3.Connection) -> str:
    """The head hash of a history whose every link and payload holds."""
    connection.row_factory = sqlite3.Row
    previous = bytes(32)
    events = [dict(row) for row in connection.execute("SELECT * FROM events ORDER BY seq")]
    payloads = {row["seq"]: dict(row) for row in connection.execute("SELECT * FROM payloads")}
    assert [event["seq"] for event in events] == sorted(payloads) == list(range(1, len(events) + 1))
    for event in events:
        assert digest_of(payloads[event["seq"]]) == event["payload_digest"]
        assert hash_of(previous, event) == event["hash"]
        previous = event["hash"]
    return previous.hex()


# -- what it finds ------------------------------------------------------------------------------------------


@settings(max_examples=scaled(20))
@given(history=histories())
def test_another_program_can_check_a_history(history: list[Appended], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read by plain SQLite, every digest and link holds, and the last is the head."""
    path = str(tmp_path_factory.mktemp("chain") / "a.db")
    with told_to(history, path) as (store, _, _):
        with closing(sqlite3.connect(path)) as connection:
            assert verified(connection) == store.head.hash


anything = st.none() | st.text()
times = st.integers(-(2**62), 2**62)


@settings(max_examples=scaled(200))
@given(
    previous=st.binary(min_size=32, max_size=32),
    numbers=st.tuples(times, times, st.none() | times, times, st.none() | times, times, st.none() | times),
    texts=st.lists(anything, min_size=6, max_size=6),
    ids=st.tuples(st.text(), st.text(), st.text()),
    digest=st.binary(min_size=32, max_size=32),
)
def test_both_implementations_agree_on_any_header(
    previous: bytes, numbers: tuple[Any, ...], texts: list[Any], ids: tuple[str, str, str], digest: bytes
) -> None:
    """Null and empty, negative, NUL characters and every script."""
    seq, version, prev_seq, add_seq, embedding_seq, recorded_at, occurred_at = numbers
    event_id, memory_id, type = ids
    header = (seq, event_id, memory_id, version, prev_seq, add_seq, embedding_seq, type, recorded_at, occurred_at)
    columns = "seq event_id memory_id version prev_seq add_seq embedding_seq type recorded_at occurred_at".split()
    context = "actor_id role reason correlation_id causation_id source".split()
    event = dict(zip([*columns, *context, "payload_digest"], [*header, *texts, digest]))
    assert event_hash(previous, *header, *texts, digest) == hash_of(previous, event)


@given(salt=st.binary(), content=anything, metadata=anything, embedding=st.none() | st.binary())
def test_both_implementations_agree_on_any_payload(
    salt: bytes, content: str | None, metadata: str | None, embedding: bytes | None
) -> None:
    """Whatever it holds."""
    payload = {"salt": salt, "content": content, "metadata": metadata, "embedding": embedding}
    assert payload_digest(salt, content, metadata, embedding) == digest_of(payload)


@settings(max_examples=scaled(200))
@given(
    one=st.tuples(st.binary(max_size=3), anything, anything, st.none() | st.binary(max_size=3)),
    other=st.tuples(st.binary(max_size=3), anything, anything, st.none() | st.binary(max_size=3)),
)
def test_different_payloads_have_different_digests(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """No content can pass into the next field: null, empty and shifted all differ."""
    assert (payload_digest(*one) == payload_digest(*other)) == (one == other)


# -- test vectors: made by the second implementation ---------------------------------------------------------


def test_vectors_of_payload_digests() -> None:
    """Fixed for good: a change here is another format."""
    salt = bytes(range(16))
    embedding = struct.pack("<2f", 1.0, -0.5)
    vectors = [
        payload_digest(salt, "tea", '{"user_id":"alice"}', embedding).hex(),
        payload_digest(salt, None, None, None).hex(),
        payload_digest(salt, "", "{}", b"").hex(),
        payload_digest(salt, "grün\0☕", '{"n":1}', None).hex(),
    ]
    assert vectors == PAYLOAD_VECTORS


def test_vectors_of_event_hashes() -> None:
    """Two links from nothing."""
    digest = payload_digest(bytes(range(16)), "tea", '{"user_id":"alice"}', struct.pack("<2f", 1.0, -0.5))
    first = event_hash(
        GENESIS, 1, "e1", "m1", 1, None, 1, 1, "ADD", 1767225600000000, None,
        "assistant", "tool", "said so", "chat-1", None, None, digest,
    )  # fmt: skip
    ended = payload_digest(bytes(16), None, None, None)
    second = event_hash(
        first, 2, "e2", "m1", 2, 1, 1, None, "DELETE", 1767225600000001, -1,
        None, None, "", None, "e1", "git", ended,
    )  # fmt: skip
    assert [first.hex(), second.hex()] == EVENT_VECTORS


def test_vectors_of_a_whole_history() -> None:
    """A small history whose every generated value is given; embedding_seq and the JSON text are the store's."""
    context = {"memory_id": "m", "source": None, "salt": bytes(range(16)).hex()}
    records: list[dict[str, Any]] = [
        {"type": "ADD", "content": "tea", "vector": [1, -0.5], "metadata": {"b": [1, 2.5, None], "a": "ü"}},
        {"type": "UPDATE", "content": "coffee", "vector": [1, -0.5], "actor_id": "ann", "occurred_at": START},
        {"type": "DELETE", "reason": "asked to"},
    ]
    with EventStore() as store:
        for number, record in enumerate(records, 1):
            record |= {"event_id": str(number), "recorded_at": f"2026-01-01T00:00:00.00000{number}Z", **context}
        store.import_events(records, source="test")
        assert [event.hash for event in store.events()] == HISTORY_VECTORS


PAYLOAD_VECTORS = [
    "0792269eac1d008415b12b9f7c1392881409d9d2809600533cde0af31fdd470d",
    "0d5211db4fe85e0a94079da99863fa8dd4a532c2e54584755d98d24310d121fb",
    "cff887be9c8e9747e5157b3e429c04895ba7ec542193f348c135491bba3c98f5",
    "cf9006ece3933662d065611f107fa8347bd10fdab627c915410d732ea0fabe39",
]
EVENT_VECTORS = [
    "c0cd43b53a7ee0bac9a4c764024bc4635e0b40354291fab1a96f1a57ebf6689a",
    "ee5f810f3ec85c241a53b7f1ea7c5767cc2b9cb5027dd3eb806d0b4c6a0d5400",
]
HISTORY_VECTORS = [
    "735631945adf8fdbbc9c8581a0b17bc0b953cce339f3a0b92f641c550e84b425",
    "c36cd502be393429cc15cfc22ebf335ebb6acbc2eac704c3e4c88d5bbfd09cba",
    "ba33a99845fac406d6d5402d02b3faaab17c88df520a7b321ab57dad152bf1b2",
]


# -- what is wrong shows ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    with EventStore(path) as store:
        store.append(
            [
                Add(content="x", vector=[1, 2], memory_id="m", metadata={"n": 1}),
                Add(content="y", vector=[3, 4], memory_id="n"),
            ]
        )
        store.update("m", metadata={"n": 2})
    return path


def forge(path: Path, statement: str) -> None:
    """Go round the triggers, as someone with the file can."""
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payloads SET content = 'forged' WHERE seq = 1",
        "UPDATE payloads SET metadata = '{\"n\":9}' WHERE seq = 1",
        "UPDATE payloads SET embedding = x'0000000000000000' WHERE seq = 1",
        "UPDATE payloads SET salt = x'00' WHERE seq = 1",
        "DELETE FROM payloads WHERE seq = 1",
    ],
)
@pytest.mark.parametrize(
    "read",
    [
        lambda store: list(store.events()),
        lambda store: list(store.events(memory_id="m", reverse=True)),
        lambda store: store.get("m", as_of=1),
        lambda store: store.memories(as_of=2),
        lambda store: store.history("m"),
        lambda store: store.history("m", after=1),
        lambda store: store.export(f"{store.path}.jsonl"),
    ],
    ids=["events", "events of a memory", "get", "memories", "history", "history after it", "export"],
)
def test_a_changed_payload_is_not_read_as_if_it_were_good(
    path: Path, statement: str, read: Callable[[EventStore], Any]
) -> None:
    """Every read of it says that it is damaged, and how to see more."""
    forge(path, statement)
    with EventStore(path) as store, pytest.raises(CorruptHistory, match="replay verify"):
        read(store)


def test_a_missing_event_is_not_passed_over(path: Path) -> None:
    """A walk through all positions notices the gap."""
    forge(path, "DELETE FROM events WHERE seq = 2")
    with EventStore(path) as store:
        for read in (lambda: list(store.events()), lambda: store.memories(), lambda: store.count(as_of=2)):
            with pytest.raises(CorruptHistory, match="is missing"):
                read()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payloads SET embedding = x'0000000000000000' WHERE seq = 1",
        "UPDATE payloads SET embedding = NULL WHERE seq = 1",
        "DELETE FROM payloads WHERE seq = 1",
    ],
)
def test_a_changed_embedding_is_not_read_as_if_it_were_good(path: Path, statement: str) -> None:
    """Nor where a later event points at it."""
    forge(path, statement)
    with EventStore(path) as store, pytest.raises(CorruptHistory, match="replay verify"):
        store.vectors(["m"])


@pytest.mark.parametrize("name", [name for name in ORDER if name not in ("seq", "payload_digest")])
def test_a_changed_header_breaks_the_chain(path: Path, name: str) -> None:
    """Each column is hashed."""
    value = "7" if name in {"version", "prev_seq", "add_seq", "embedding_seq", "recorded_at", "occurred_at"} else "'z'"
    forge(path, f"UPDATE events SET {name} = {value} WHERE seq = 2")
    with closing(sqlite3.connect(path)) as connection, pytest.raises(AssertionError):
        verified(connection)


@pytest.mark.parametrize("name", [name for name in ORDER if name not in ("seq", "payload_digest")])
def test_a_changed_header_is_not_read_as_if_it_were_good(path: Path, name: str) -> None:
    """Nor is a page of events, a range for a projection, or the memory itself."""
    value = "7" if name in {"version", "prev_seq", "add_seq", "embedding_seq", "recorded_at", "occurred_at"} else "'z'"
    forge(path, f"UPDATE events SET {name} = {value} WHERE seq = 2")
    with EventStore(path) as store:
        for read in (
            lambda: list(store.events()),
            lambda: list(store.events(after=1, upto=2, reverse=True)),
            lambda: store.event_range(0, 3).columns(),
            lambda: list(store.states([2])),
            lambda: store.history(),
        ):
            with pytest.raises(CorruptHistory, match="replay verify"):
                read()


def test_salts_are_not_repeated(path: Path) -> None:
    """Random, 16 bytes each: from a digest alone no content can be guessed."""
    with closing(sqlite3.connect(path)) as connection:
        salts = [row[0] for row in connection.execute("SELECT salt FROM payloads")]
    assert [len(salt) for salt in salts] == [16] * 3
    assert len(set(salts)) == 3
