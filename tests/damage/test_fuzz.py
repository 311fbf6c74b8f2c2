"""Every parser is fed what is nearly right and what is not at all: only the errors that are promised come out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import eventstore.testing as kit
from eventstore import (
    CorruptHistory,
    EventStore,
    Head,
    ImportFailed,
    InvalidFilter,
    InvalidInstant,
    InvalidMetadata,
    StorageError,
    parse_filter,
    read_json_lines,
)
from eventstore.checked import CheckedRows
from eventstore.events import EventRow, PayloadRow, metadata_of
from eventstore.filters import Everything
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.instants import format_instant, from_microseconds, parse_instant
from projections.checkpoints import Checkpoints, Unusable
from replay.cli.parameters import AS_OF, FILTER, HEAD, VECTOR
from replay.cli.text import one_line
from tests.cli_support import call
from tests.damage.subject import make
from tests.profiles import scaled

# -- what values are made of --------------------------------------------------------------------------------

strange_text = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "AND", "OR", "NOT", "eq", "in", "$or", "a.b", "\0", "\ud800", "é", "𝄞", "__proto__", "1e5"]),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    strange_text,
)
# More digits than Python agrees to print. Made as it is drawn: Hypothesis would print it.
vast = st.sampled_from([1, -1]).map(lambda sign: sign * 10**4400)
strange = st.recursive(
    st.one_of(scalars, st.binary(max_size=3), st.just(object()), st.just({1}), st.just(datetime.now)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strange_text, inner, max_size=3),
    max_leaves=12,
)


def nested(depth: int, leaf: Any = 1, *, key: str | None = None) -> Any:
    """Lists, or objects of one key, `depth` deep."""
    value = leaf
    for _ in range(depth):
        value = [value] if key is None else {key: value}
    return value


INSERTED = [b"[" * 2000, b'{"a":' * 300, b"\n", b"\\ud800", b"NaN", b"9" * 40, b"\0"]


@st.composite
def mutated(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> bytes:
    """A text with a few bytes changed, taken out, doubled or put in."""
    content = bytearray(draw(texts))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.integers(0, 3)):
            case 0:
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=2))
            case 1:
                del content[at : at + draw(st.integers(1, 12))]
            case 2:
                content[at:at] = content[at : at + draw(st.integers(1, 30))]
            case _:
                content[at:at] = draw(
                    st.sampled_from([b"[" * 2000, b'{"a":' * 300, b"\n", b"\\ud800", b"NaN", b"9" * 40])
                )
    return bytes(content)


def only(expected: type[BaseException], function: Callable[..., Any], *given: Any) -> Any:
    """The value, or None where the expected error came out, with words in it; any other error goes on."""
    try:
        return function(*given)
    except expected as error:
        said = error.message if isinstance(error, click.ClickException) else str(error)
    assert said.strip()
    return None


def json_text(value: Any) -> bytes:
    """JSON as Python writes it, with NaN and lone surrogates."""
    return json.dumps(value, default=str).encode("utf-8", "surrogatepass")


# -- filters ------------------------------------------------------------------------------------------------

operators = st.sampled_from(
    ["eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "contains", "icontains", "exists", "EQ"]
)
near_filters = st.recursive(
    st.dictionaries(
        strange_text,
        scalars
        | vast
        | st.dictionaries(operators, scalars | vast | st.lists(scalars, max_size=3) | strange, max_size=2),
        max_size=3,
    ),
    lambda inner: st.dictionaries(
        st.sampled_from(["AND", "OR", "NOT", "and"]), st.lists(inner, max_size=3) | inner, max_size=2
    ),
    max_leaves=8,
)


@given(near_filters | strange, st.dictionaries(strange_text, strange, max_size=3))
@settings(max_examples=scaled(100))
def test_filters(given_filter: Any, metadata: dict[str, Any]) -> None:
    """`InvalidFilter`, or a filter that matches or does not; parsed again, the same one."""
    tree = only(InvalidFilter, parse_filter, given_filter)
    if tree is None:
        return
    assert parse_filter(given_filter) == tree
    if isinstance(tree, Everything):
        assert tree.matches({})
    try:
        json_metadata = json.loads(json.dumps(metadata, allow_nan=False))
    except (TypeError, ValueError):
        json_metadata = {"a": 1}
    assert tree.matches(json_metadata) in (True, False)


@pytest.mark.parametrize("depth", [90, 110, 500, 5000])
def test_deep_values(depth: int) -> None:
    """Nested as deep as is taken, deeper, and deeper than Python goes: in filters, in metadata, in a vector."""
    for deep in (
        nested(depth, {}, key="NOT"),
        {"OR": [nested(depth, {}, key="AND")]},
        {"a": {"eq": nested(depth)}},
        {"a": {"in": nested(depth, key="b")}},
        {"a": nested(depth)},
    ):
        tree = only(InvalidFilter, parse_filter, deep)
        if tree is not None:
            assert not tree.matches({"a": 1})
    for record in (
        {"content": "x", "vector": [1], "metadata": nested(depth, key="a")},
        {"content": "x", "vector": [1], "metadata": {"a": nested(depth)}},
        {"content": "x", "vector": nested(depth)},
        {"content": nested(depth), "vector": [1]},
        {"content": "x", "vector": [1], "occurred_at": nested(depth)},
    ):
        with EventStore() as store:
            assert only(ImportFailed, imported, store, [record]) is None
            assert store.position == 0


def test_metadata_as_deep_as_is_taken() -> None:
    """What an append takes, every read gives back."""
    for depth in range(60, 70):
        for metadata in ({"a": nested(depth)}, nested(depth, {}, key="a"), {"a": [nested(depth, [])]}):
            with EventStore() as store:
                try:
                    store.add("x", vector=[1], memory_id="m", metadata=metadata)
                except InvalidMetadata:
                    continue
                memory = store.get("m")
                assert memory is not None
                assert memory.metadata == metadata
                assert next(store.events()).metadata == metadata


@given(mutated(kit.filters().map(json_text)) | st.binary(max_size=60))
@settings(max_examples=scaled(66))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"a": {"eq": ' + b"[" * 900 + b"]" * 900 + b"}}")
@example(b'{"a": ' + b"9" * 5000 + b"}")
def test_filters_on_the_command_line(text: bytes) -> None:
    """A usage error, or what the library takes."""
    found = only(click.UsageError, FILTER.convert, text.decode("utf-8", "surrogateescape"), None, None)
    if found is not None:
        parse_filter(found)


# -- instants -----------------------------------------------------------------------------------------------

digits = st.text("0123456789", min_size=1, max_size=6)
near_instants = st.one_of(
    st.from_regex(
        r"[0-9]{3,5}-[0-9]{1,2}-[0-9]{1,2}[T tX]?[0-9]{0,2}:?[0-9]{0,2}(:[0-9]{2})?([.,][0-9]{0,12})?"
        r"(Z|z|[+-][0-9:]{0,6})?",
        fullmatch=True,
    ),
    st.from_regex(
        r"(0001|9999)-(01|12)-(01|31)T(00|23|24):(00|59|60)(:(00|59|60))?(Z|[+-][0-9]{2}:[0-9]{2})", fullmatch=True
    ),
    st.text(max_size=30),
    digits,
)


@given(near_instants)
@settings(max_examples=scaled(166))
@example("٢٠٢٦-01-01T00:00:00Z")
@example("9" * 5000)
@example("2026-01-01T00:00:00+99:99")
@example("0001-01-01T00:00:00+14:00")
@example("9999-12-31T23:59:59-23:59")
def test_instants(text: str) -> None:
    """`InvalidInstant` that says what it was called, or microseconds that are written and read as the same."""
    found = only(InvalidInstant, parse_instant, text, "since")
    if found is not None:
        assert parse_instant(format_instant(found)) == found
        assert parse_instant(from_microseconds(found)) == found
    try:
        parse_instant(text, "since")
    except InvalidInstant as error:
        if "since" not in str(error) and "instant" not in str(error):
            pytest.fail(f"{error} does not say what is at fault")


@given(near_instants | st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,12})?[smhdwx]?", fullmatch=True))
@settings(max_examples=scaled(100))
def test_instants_on_the_command_line(text: str) -> None:
    """A usage error, or what the store takes or refuses with its own."""
    found = only(click.UsageError, AS_OF.convert, text, None, None)
    if found is not None:
        with EventStore() as store:
            only(InvalidInstant, store.position_at, found)


@given(strange | vast)
@settings(max_examples=scaled(33))
def test_anything_as_an_instant(value: Any) -> None:
    """`InvalidInstant`, or a position."""
    with EventStore() as store:
        only(InvalidInstant, store.position_at, value)


# -- JSON lines ---------------------------------------------------------------------------------------------

FIELDS = (
    "type memory_id content metadata vector recorded_at occurred_at actor_id role reason event_id correlation_id"
    " causation_id source salt payload_digest embedding_position position version hash prev_position"
).split()
plain_records = st.fixed_dictionaries(
    {"content": st.text(max_size=8), "vector": st.just([1.0, 2.0])},
    optional={
        "memory_id": st.sampled_from(["a", "b"]),
        "type": st.sampled_from(["ADD", "UPDATE", "DELETE"]),
        "metadata": st.dictionaries(st.text(max_size=3), st.integers(-9, 9), max_size=2),
        "recorded_at": st.sampled_from(["2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"]),
        "salt": st.sampled_from(["00" * 16, "0"]),
    },
)
near_records = st.builds(
    lambda record, more: {**record, **more},
    plain_records,
    st.dictionaries(st.sampled_from(FIELDS), strange, max_size=2),
)


def imported(store: EventStore, records: Any) -> Any:
    """What an import returns."""
    return store.import_events(records, source="fuzz")


@given(st.lists(near_records, max_size=3), st.booleans())
@settings(max_examples=scaled(66))
@example([{"content": "x" * 10, "vector": [1e39, 1]}], True)
@example([{"content": "\ud800", "vector": [1]}], True)
@example([{"content": "a\0b", "memory_id": "a\0b", "vector": [1]}], True)
@example([{"content": "x", "vector": [1], "occurred_at": "9" * 5000}], False)
def test_records(records: list[dict[str, Any]], keep_times: bool) -> None:
    """Imported whole, or `ImportFailed` with its line and nothing recorded; what is recorded can be read."""
    with EventStore() as store:
        try:
            store.import_events(records, source="fuzz", keep_times=keep_times)
        except ImportFailed as error:
            refused = error
        else:
            refused = None
        if refused is not None:
            assert f"line {refused.line}" in str(refused)
            assert 1 <= refused.line <= max(1, len(records))
            assert store.position == 0
            return
        events = list(store.events())
        assert len(events) <= len(records)
        store.memories({"a": 1})


@given(
    mutated(st.lists(plain_records, max_size=3).map(lambda all: b"\n".join(orjson.dumps(each) for each in all)))
    | st.binary(max_size=80)
)
@settings(max_examples=scaled(100))
@example(b'{"content": ' + b"[" * 100_000)
@example(b"[" * 100_000 + b"]" * 100_000)
@example(b'{"content": "x", "metadata": {"n": ' + b"9" * 5000 + b"}}")
@example(b'{"content": "x", "metadata": {"n": 1e999}}')
@example(b'{"vector": 1}\n')
@example(b"\n\n{}\n\n")
@example(b"\xef\xbb\xbf{}\n")
@example(b'{"content":"a","content":"b","vector":[1]}')
@example(b'{"content": "\\ud800", "vector": [1]}')
def test_json_lines(content: bytes) -> None:
    """Objects, or `ImportFailed` with its line; imported, or `ImportFailed`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "in.jsonl"
        path.write_bytes(content)
        records = only(ImportFailed, lambda: list(read_json_lines(path)))
        with EventStore() as store:
            only(ImportFailed, lambda: store.import_events(read_json_lines(path), source="fuzz"))
            if records is None:
                assert store.position == 0


@given(mutated(st.lists(plain_records, max_size=2).map(lambda all: b"\n".join(orjson.dumps(each) for each in all))))
@settings(max_examples=scaled(10))
def test_json_lines_on_the_command_line(content: bytes) -> None:
    """`replay import jsonl` ends with its own exit codes, and one line that can be shown."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "in.jsonl"
        path.write_bytes(content)
        done = call("import", "jsonl", path, Path(directory) / "new.db")
        assert done.exit_code in (0, 3)
        if done.exit_code:
            assert done.stderr.startswith("error: ")
            assert one_line(done.stderr) == done.stderr.strip()


# -- manifests, heads, vectors ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound one."""
    directory = tmp_path_factory.mktemp("manifest")
    make(directory)
    (path,) = directory.glob("*.index/generation-*.json")
    return path.read_bytes()


@given(data=st.data())
@settings(max_examples=scaled(100))
def test_manifests(manifest: bytes, data: st.DataObject) -> None:
    """`Unusable` with the file's name; or it says the very same as before."""
    content = data.draw(mutated(st.just(manifest)) | st.binary(max_size=80))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "generation-000001.json"
        path.write_bytes(manifest)
        checkpoints = Checkpoints(Path(directory))
        sound = checkpoints.read_manifest(path)
        path.write_bytes(content)
        try:
            found = checkpoints.read_manifest(path)
        except Unusable as error:
            message = str(error)
        else:
            assert found == sound
            return
        assert path.name in message


@given(strange)
@settings(max_examples=scaled(50))
def test_manifests_of_other_values(value: Any) -> None:
    """Each field in turn holding what it cannot."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "generation-000001.json"
        for field in ("position", "table", "segments", "sha256", "head_hash"):
            path.write_bytes(json_text({field: value, "format": 1}))
            assert only(Unusable, Checkpoints(Path(directory)).read_manifest, path) is None


heads = st.builds(
    lambda position, digest, at: {"position": position, "hash": digest, "recorded_at": at},
    st.integers(0, 2**70) | strange,
    st.just("ab" * 32) | strange_text,
    st.none() | st.just("2026-01-01T00:00:00Z") | strange,
)


@given(
    mutated(
        st.lists(heads, max_size=3).map(lambda all: b"\n".join(json.dumps(each, default=str).encode() for each in all))
    )
    | st.binary(max_size=80)
)
@settings(max_examples=scaled(100))
@example(b"[" * 100_000)
@example(b'{"position": ' + b"9" * 5000 + b', "hash": ""}')
@example(b"{}")
@example(b"[1, 2]")
@example(b"null")
def test_files_of_heads(content: bytes) -> None:
    """A usage error that names the file, or heads that are whole."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "head.json"
        path.write_bytes(content)
        found = only(click.UsageError, HEAD.convert, str(path), None, None)
        for head in found or []:
            assert isinstance(head, Head)
            assert len(bytes.fromhex(head.hash)) == 32
            assert head.position >= 0


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{1,25}:[0-9a-fA-F]{62,66}", fullmatch=True))
@settings(max_examples=scaled(66))
def test_heads_on_the_command_line(text: str) -> None:
    """A usage error, or one head."""
    found = only(click.UsageError, HEAD.convert, text, None, None)
    if found is not None:
        (head,) = found
        assert HEAD.convert(f"{head.position}:{head.hash}", None, None) == found


@given(mutated(st.lists(st.floats(), max_size=4).map(lambda each: json.dumps(each).encode())))
@settings(max_examples=scaled(50))
@example(b"[" * 100_000)
@example(b"[" + b"9" * 5000 + b"]")
def test_vectors_on_the_command_line(text: bytes) -> None:
    """A usage error, or a flat array of finite or other doubles."""
    found = only(click.UsageError, VECTOR.convert, text.decode("utf-8", "surrogateescape"), None, None)
    if found is not None:
        assert found.ndim == 1


# -- rows of the database -----------------------------------------------------------------------------------

values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.just(b"\0" * 32),
)
headers = st.builds(
    lambda row, changes: row._replace(**changes),
    st.just(EventRow(1, "e", "m", 1, None, 1, 1, "ADD", 5, None, None, None, None, None, None, None, b"", b"")),
    st.dictionaries(st.sampled_from(EventRow._fields[1:]), values, max_size=3),
)


class _Rows:
    """Gives one header and one payload, whatever is asked."""

    path = "fuzz.db"

    def __init__(self, header: EventRow, payload: PayloadRow) -> None:
        self._header, self._payload = header, payload

    def fetch(self, sql: str, parameters: Any = (), *, brief: bool = False) -> list[tuple[Any, ...]]:
        """A row of the table that is asked."""
        return [tuple(self._payload)] if "FROM payloads" in sql else [(*self._header, GENESIS)]


@given(headers, st.tuples(values, values, values, values), st.booleans())
@settings(max_examples=scaled(133))
def test_event_headers_and_payloads(header: EventRow, parts: tuple[Any, ...], sealed: bool) -> None:
    """`CorruptHistory` that names the event; or a row that its hash, its digest and the calendar agree with."""
    payload = PayloadRow(1, *parts)
    if sealed:
        try:
            header = header._replace(payload_digest=payload_digest(*parts))
            header = header._replace(hash=event_hash(GENESIS, *header[:-1]))
        except Exception:
            sealed = False
    rows = CheckedRows(_Rows(header, payload))
    found = only(CorruptHistory, rows.headers, [1])
    if found is None:
        return
    assert sealed
    from_microseconds(found[1].recorded_at)
    checked = only(CorruptHistory, rows.payloads, found.values())
    if checked is not None and isinstance(checked[1].metadata, str):
        only(CorruptHistory, metadata_of, checked[1].metadata, 1)


def test_the_longest_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line past the limit is refused by its number, and is never read whole."""
    monkeypatch.setattr("eventstore.transfer.LINE_LIMIT", 2**20)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"content": "x", "vector": [1, 2]}\n' + b'{"content": "' + b"x" * 2**20 + b'"}\n')
    with pytest.raises(ImportFailed, match="line 2: longer than 1 MiB"):
        list(read_json_lines(path))
    with pytest.raises(StorageError):
        list(read_json_lines(tmp_path))
