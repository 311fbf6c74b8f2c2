"""Bad input: one clear error each, of one class, naming the thing at fault; nothing is written, nothing lost."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    Delete,
    DimensionMismatch,
    EmbedderMissing,
    EventStore,
    InvalidFilter,
    InvalidInstant,
    InvalidMetadata,
    InvalidOperation,
    InvalidVector,
    Update,
)
from eventstore import errors as all_errors
from tests.profiles import scaled
from tests.store_support import START, Clock, dump

LATER = START + dt.timedelta(days=1)


@pytest.fixture
def store() -> Iterator[EventStore]:
    """One memory, `m`, of two dimensions."""
    with EventStore(clock=Clock()) as opened:
        opened.add("x", vector=[1, 2], memory_id="m", metadata={"n": 1})
        yield opened


def deep(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return {"a": value}


def add(**given: Any) -> Callable[[EventStore], Any]:
    return lambda store: store.add(**{"content": "y", "vector": [1, 2], **given})


Case = tuple[Callable[[EventStore], Any], type[AsofError], str]

VECTORS: dict[str, Case] = {
    "too long": (add(vector=[1, 2, 3]), DimensionMismatch, "vector has 3 numbers, and this store's vectors have 2"),
    "too short": (add(vector=[1]), DimensionMismatch, "vector has 1 numbers"),
    "empty": (add(vector=[]), InvalidVector, "vector is empty"),
    "empty array": (add(vector=np.empty(0)), DimensionMismatch, "vector has 0 numbers"),
    "NaN": (add(vector=[1, math.nan]), InvalidVector, "vector holds NaN, infinity"),
    "infinity": (add(vector=[1, -math.inf]), InvalidVector, "vector holds NaN, infinity"),
    "infinite as float32": (add(vector=[1, 1e39]), InvalidVector, "too large for float32"),
    "zeros": (add(vector=[0, 0]), InvalidVector, "vector is all zeros"),
    "zeros as float32": (add(vector=[1e-50, 0]), InvalidVector, "vector is all zeros"),
    "NaN in float32": (add(vector=np.array([1, math.nan], "f4")), InvalidVector, "vector holds NaN, infinity"),
    "infinity in float32": (add(vector=np.array([-math.inf, 1], "f4")), InvalidVector, "vector holds NaN, infinity"),
    "zeros in float32": (add(vector=np.zeros(2, "f4")), InvalidVector, "vector is all zeros"),
    "float32, too long": (add(vector=np.ones(3, "f4")), DimensionMismatch, "vector has 3 numbers"),
    "float32, a matrix": (add(vector=np.ones((1, 2), "f4")), InvalidVector, "vector has 2 dimensions"),
    "text": (add(vector="12"), InvalidVector, "vector is of type str"),
    "bytes": (add(vector=b"12345678"), InvalidVector, "vector is of type bytes"),
    "a dict": (add(vector={0: 1, 1: 2}), InvalidVector, "vector is of type dict"),
    "strings": (add(vector=["1", "2"]), InvalidVector, "vector holds"),
    "booleans": (add(vector=[True, False]), InvalidVector, "vector holds bool"),
    "complex": (add(vector=[1j, 2]), InvalidVector, "vector holds complex"),
    "objects": (add(vector=[decimal.Decimal(1), None]), InvalidVector, "vector holds object"),
    "a matrix": (add(vector=[[1, 2]]), InvalidVector, "vector has 2 dimensions"),
    "a number": (add(vector=5), InvalidVector, "vector has 0 dimensions"),
    "ragged": (add(vector=[1, [2]]), InvalidVector, "vector is not an array"),
    "of an update": (lambda s: s.update("m", vector=[1]), DimensionMismatch, "vector has 1 numbers"),
    "NaN in bulk": (
        lambda s: s.add_many(["a", "b"], vectors=[[1, 2], [math.nan, 1]]),
        InvalidVector,
        "row 1 of vectors",
    ),
}

METADATA: dict[str, Case] = {
    "a list": (add(metadata=[1]), InvalidMetadata, "metadata is of type list: give a JSON object"),
    "text": (add(metadata='{"a": 1}'), InvalidMetadata, "metadata is of type str"),
    "a number as key": (add(metadata={1: 2}), InvalidMetadata, "metadata has the key 1 of type int"),
    "null as key": (add(metadata={"a": {None: 2}}), InvalidMetadata, "metadata.a has the key None"),
    "NaN": (add(metadata={"a": math.nan}), InvalidMetadata, "metadata.a is nan"),
    "infinity": (add(metadata={"a": [1, math.inf]}), InvalidMetadata, r"metadata.a\[1\] is inf"),
    "too deep": (add(metadata=deep(65)), InvalidMetadata, "nested more than 64 deep"),
    "far too deep": (add(metadata=deep(5000)), InvalidMetadata, "nested more than 64 deep"),
    "too large a number": (add(metadata={"a": 2**64}), InvalidMetadata, "metadata.a does not fit in 64 bits"),
    "too small a number": (add(metadata={"a": -(2**63) - 1}), InvalidMetadata, "metadata.a does not fit"),
    "a time": (add(metadata={"a": START}), InvalidMetadata, "metadata.a is of type datetime, which is not JSON"),
    "a set": (add(metadata={"a": {1}}), InvalidMetadata, "metadata.a is of type set"),
    "a tuple": (add(metadata={"a": (1,)}), InvalidMetadata, "metadata.a is of type tuple"),
    "bytes": (add(metadata={"a": b"x"}), InvalidMetadata, "metadata.a is of type bytes"),
    "a UUID": (add(metadata={"a": uuid.UUID(int=1)}), InvalidMetadata, "metadata.a is of type UUID"),
    "a numpy number": (add(metadata={"a": np.float64(1)}), InvalidMetadata, "metadata.a is of type float64"),
    "an array": (add(metadata={"a": np.ones(2)}), InvalidMetadata, "metadata.a is of type ndarray"),
    "a decimal": (add(metadata={"a": decimal.Decimal(1)}), InvalidMetadata, "metadata.a is of type Decimal"),
    "a surrogate": (add(metadata={"a": "\ud800"}), InvalidMetadata, "metadata.a has a lone surrogate"),
    "a surrogate in a key": (add(metadata={"\ud800": 1}), InvalidMetadata, "a key of metadata has a lone surrogate"),
    "an object": (add(metadata={"a": object()}), InvalidMetadata, "metadata.a is of type object"),
    "of an update": (lambda s: s.update("m", metadata={"a": {2}}), InvalidMetadata, "metadata.a is of type set"),
    "in bulk": (
        lambda s: s.add_many(["a"], vectors=[[1, 2]], metadatas=[{"a": {2}}]),
        InvalidMetadata,
        "metadata.a is of type set",
    ),
}

IDS: dict[str, Case] = {
    f"{name}, {what}": (add(**{name: value}), InvalidOperation, f"{name} {says}")
    for name in ("memory_id", "event_id", "actor_id", "role", "correlation_id", "causation_id")
    for what, value, says in (
        ("empty", "", "is empty"),
        ("overlong", "x" * 513, "has 513 characters: at most 512"),
        ("with a NUL", "a\0b", "holds a NUL"),
        ("with a surrogate", "\udfff", "has a lone surrogate"),
    )
}

OTHERS: dict[str, Case] = {
    "a number as id": (add(memory_id=5), InvalidOperation, "memory_id"),
    "bytes as id": (add(memory_id=b"m"), InvalidOperation, "memory_id"),
    "a number as content": (add(content=5), InvalidOperation, "content"),
    "bytes as content": (add(content=b"text"), InvalidOperation, "content"),
    "no content": (add(content=None), InvalidOperation, "content"),
    "a surrogate in content": (add(content="a\ud800"), InvalidOperation, "content has a lone surrogate at character 1"),
    "a surrogate in reason": (add(reason="\ud800"), InvalidOperation, "reason has a lone surrogate"),
    "an empty id to update": (lambda s: s.update("", metadata={}), InvalidOperation, "memory_id is empty"),
    "no id to delete": (lambda s: s.delete(None), InvalidOperation, "memory_id"),
    "nothing to update": (lambda s: s.update("m"), InvalidOperation, "update of 'm' changes nothing"),
    "a naive occurred_at": (add(occurred_at=dt.datetime(2026, 1, 1)), InvalidInstant, "no time zone"),
    "no instant as occurred_at": (add(occurred_at="noon"), InvalidInstant, "occurred_at 'noon' is not an instant"),
    "a number as occurred_at": (add(occurred_at=5), InvalidInstant, "occurred_at is of type int"),
    "occurred_at before the year 1": (add(occurred_at="0001-01-01T00:00:00+14:00"), InvalidInstant, "years 1 to 9999"),
    "an empty batch": (lambda s: s.append([]), InvalidOperation, "the append is empty"),
    "an empty bulk": (lambda s: s.add_many([]), InvalidOperation, "contents is empty"),
    "text without embedder": (lambda s: s.add("y"), EmbedderMissing, "there is no embedder to turn content"),
    "bulk without embedder": (lambda s: s.add_many(["y"]), EmbedderMissing, "there is no embedder to turn content"),
    "embed without embedder": (lambda s: s.embed(["y"]), EmbedderMissing, "there is no embedder to turn text"),
    "expected_version 0": (lambda s: s.delete("m", expected_version=0), InvalidOperation, "version is 0"),
    "expected_version true": (lambda s: s.delete("m", expected_version=True), InvalidOperation, "version is True"),
    "expected_version 1.0": (lambda s: s.delete("m", expected_version=1.0), InvalidOperation, "version is 1.0"),
    "expected_position -1": (
        lambda s: s.append([Delete(memory_id="m")], expected_position=-1),
        InvalidOperation,
        "expected_position is -1",
    ),
    "an unknown field": (lambda s: s.append([Add(content="x", user="a")]), InvalidOperation, "user"),
    "delete_where without a filter": (lambda s: s.delete_where(), InvalidOperation, "everything=True"),
}  # fmt: skip

READS: dict[str, Case] = {
    "an unknown operator": (lambda s: s.memories({"n": {"above": 1}}), InvalidFilter, "unknown operator 'above'"),
    "a wrong operand": (lambda s: s.count({"n": {"in": 5}}), InvalidFilter, "in takes a list"),
    "a wrong operand in vectors": (lambda s: s.vectors(filter={"n": {"gt": None}}), InvalidFilter, "gt takes"),
    "a filter that is a list": (lambda s: s.count([]), InvalidFilter, "a filter is a dict"),
    "a filter that is text": (lambda s: s.memories("n"), InvalidFilter, "a filter is a dict"),
    "deleting by a bad filter": (lambda s: s.delete_where({"n": {"lt": []}}), InvalidFilter, "lt takes"),
    "a position beyond the head": (lambda s: s.get("m", as_of=2), InvalidInstant, "position 2 is not in the history"),
    "memories beyond the head": (lambda s: s.memories(as_of=2), InvalidInstant, "position 2"),
    "a count beyond the head": (lambda s: s.count(as_of=2), InvalidInstant, "position 2"),
    "vectors beyond the head": (lambda s: s.vectors(as_of=2), InvalidInstant, "position 2"),
    "events up to beyond the head": (lambda s: s.events(upto=2), InvalidInstant, "position 2"),
    "events after beyond the head": (lambda s: s.events(after=2), InvalidInstant, "position 2"),
    "an export beyond the head": (lambda s: s.export("/nowhere/a", as_of=2), InvalidInstant, "position 2"),
    "a negative position": (lambda s: s.get("m", as_of=-1), InvalidInstant, "position -1"),
    "a naive datetime": (lambda s: s.get("m", as_of=dt.datetime(2026, 1, 1)), InvalidInstant, "no time zone"),
    "an unparsable instant": (lambda s: s.count(as_of="now"), InvalidInstant, "'now' is not an instant"),
    "a future instant": (lambda s: s.count(as_of=LATER), InvalidInstant, "later than the clock"),
    "a future instant as text": (lambda s: s.get("m", as_of=LATER.isoformat()), InvalidInstant, "later than the clock"),
    "events up to a future instant": (lambda s: s.events(upto=LATER), InvalidInstant, "later than the clock"),
    "a position in text": (lambda s: s.count(as_of="1"), InvalidInstant, "'1' is not an instant"),
    "a position in float": (lambda s: s.count(as_of=1.0), InvalidInstant, "as_of is of type float"),
    "a negative start": (lambda s: s.events(after=-1), InvalidOperation, "after is -1"),
    "a start that is no position": (lambda s: s.events(after=True), InvalidOperation, "after is True"),
    "a limit of 0": (lambda s: s.memories(limit=0), InvalidOperation, "limit is 0"),
    "a negative limit": (lambda s: s.events(limit=-1), InvalidOperation, "limit is -1"),
    "a limit in float": (lambda s: s.history("m", limit=1.5), InvalidOperation, "limit is 1.5"),
    "an unknown type": (lambda s: s.events(type="add"), InvalidOperation, "type is 'add'"),
    "an unknown order": (lambda s: s.memories(order="newest"), InvalidOperation, "order is 'newest'"),
    "an order that is no text": (lambda s: s.memories(order=None), InvalidOperation, "order is None"),
    "an empty id": (lambda s: s.get(""), InvalidOperation, "memory_id is empty"),
    "an overlong id": (lambda s: s.get("x" * 513), InvalidOperation, "memory_id has 513"),
    "a number as id": (lambda s: s.events(memory_id=5), InvalidOperation, "memory_id is of type int"),
    "an empty actor": (lambda s: s.events(actor_id=""), InvalidOperation, "actor_id is empty"),
    "a number as correlation": (
        lambda s: s.history(correlation_id=5),
        InvalidOperation,
        "correlation_id is of type int",
    ),
    "text as list of ids": (lambda s: s.vectors("m"), InvalidOperation, "memory_ids is a str"),
    "ids and a filter": (lambda s: s.vectors(["m"], filter={"n": 1}), InvalidOperation, "memory_ids and filter"),
    "text as list of texts": (lambda s: s.embed("text"), InvalidOperation, "texts is a str"),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in (
        ("vector", VECTORS),
        ("metadata", METADATA),
        ("id", IDS),
        ("other", OTHERS),
        ("read", READS),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_one_clear_error(store: EventStore, what: str) -> None:
    """Of exactly this class, naming the thing; not a row is written, and the store works on."""
    action, error, says = CASES[what]
    before = dump(store)
    with pytest.raises(error, match=says) as raised:
        action(store)
    assert type(raised.value) is error
    assert len(str(raised.value)) < 400
    assert dump(store) == before
    assert store.add("y", vector=[1, 2]).position == 2


def test_a_bad_value_is_found_where_an_operation_is_made() -> None:
    """Before there is a store, where the type alone is wrong."""
    for make in (lambda: Add(content=5), lambda: Update(memory_id=None), lambda: Delete(memory_id="m", reasn="x")):
        with pytest.raises(InvalidOperation):
            make()


@pytest.mark.parametrize("dimension", [1, 65_536])
def test_a_vector_has_1_to_65536_numbers(dimension: int) -> None:
    """The ends are taken."""
    with EventStore() as store:
        store.add("x", vector=np.ones(dimension))
        assert store.dimension == dimension
    with EventStore() as store, pytest.raises(InvalidVector, match="a vector has 1 to 65536"):
        store.add("x", vector=np.ones(65_537))


def test_an_embedder_is_held_to_the_same_dimensions() -> None:
    """What no caller could give it cannot make."""
    with EventStore(embedder=lambda texts: np.ones((len(texts), 65_537))) as store:
        with pytest.raises(InvalidVector, match="a vector has 1 to 65536"):
            store.add("x")


def test_every_error_is_an_asof_error_and_a_builtin_one() -> None:
    """So that callers who know neither class catch it all the same."""
    for name in all_errors.__all__:
        kind = getattr(all_errors, name)
        assert issubclass(kind, AsofError)
        assert kind is AsofError or issubclass(kind, (ValueError, KeyError, OSError))


# -- metadata that is taken ---------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


def exactly(value: Any) -> Any:
    """A form in which 1, 1.0, True and -0.0 differ."""
    if isinstance(value, dict):
        return {key: exactly(inner) for key, inner in value.items()}
    return [exactly(inner) for inner in value] if isinstance(value, list) else (type(value), repr(value))


@settings(max_examples=scaled(100))
@given(metadata=st.dictionaries(st.text(), json_values, max_size=5))
def test_any_json_object_comes_back_as_it_was(metadata: dict[str, Any]) -> None:
    """Types, signs and characters; read from the event, the memory and the file."""
    with EventStore() as store:
        event = store.add("x", vector=[1], memory_id="m", metadata=metadata)
        memory = store.get("m")
        assert memory is not None
        for found in (event.metadata, memory.metadata, next(store.events()).metadata):
            assert exactly(found) == exactly(metadata)


@pytest.mark.parametrize(
    "given",
    [MappingProxyType({"a": 1}), OrderedDict(a=1), {"a": 1}],
    ids=lambda given: type(given).__name__,
)
def test_any_mapping_is_an_object(given: Any) -> None:
    """At the top; what is inside has to be plain."""
    with EventStore() as store:
        assert store.add("x", vector=[1], metadata=given).metadata == {"a": 1}
        with pytest.raises(InvalidMetadata):
            store.add("x", vector=[1], metadata={"inside": OrderedDict(a=1)})


class Number(enum.IntEnum):
    ONE = 1


@dataclass
class Plain:
    a: int = 1


@pytest.mark.parametrize("value", [Number.ONE, Plain(), dt.date(2026, 1, 1), np.int64(1), np.str_("x"), frozenset()])
def test_what_would_come_back_as_something_else_is_refused(value: Any) -> None:
    """A serialiser would turn it into JSON quietly."""
    with EventStore() as store, pytest.raises(InvalidMetadata, match=r"metadata\.a is of type"):
        store.add("x", vector=[1], metadata={"a": value})


def test_metadata_may_be_64_deep() -> None:
    """The last level that is taken."""
    with EventStore() as store:
        assert store.add("x", vector=[1], metadata=deep(64)).metadata == deep(64)


def test_metadata_that_holds_itself_is_refused() -> None:
    """It is too deep, and is found to be."""
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with EventStore() as store, pytest.raises(InvalidMetadata, match="nested more than 64 deep"):
        store.add("x", vector=[1], metadata=loop)
