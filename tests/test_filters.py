"""The filter language: what each operator means, what is refused, and that tree and dict say the same."""

from __future__ import annotations

import copy
import enum
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore.errors import AsofError, InvalidFilter
from eventstore.filters import And, Condition, Everything, Filter, Not, Or, json_key, parse_filter
from eventstore.testing import CheckedFilter


def set_algebra(tree: Filter, rows: list[dict[str, Any]]) -> set[int]:
    """The rows that match, from an inverted index and the tree alone: how a projection evaluates a filter."""
    if isinstance(tree, Everything):
        return set(range(len(rows)))
    if isinstance(tree, And):
        return set.intersection(*(set_algebra(part, rows) for part in tree.parts))
    if isinstance(tree, Or):
        return set.union(*(set_algebra(part, rows) for part in tree.parts))
    if isinstance(tree, Not):
        return set(range(len(rows))) - set_algebra(tree.part, rows)
    index: dict[Any, tuple[Any, set[int]]] = {}
    missing = set()
    for number, row in enumerate(rows):
        if tree.key in row:
            index.setdefault(json_key(row[tree.key]), (row[tree.key], set()))[1].add(number)
        else:
            missing.add(number)
    found = missing if tree.accepts_missing else set()
    return found.union(*(members for value, members in index.values() if tree.accepts(value)))


# -- values from small pools, so that they meet -------------------------------------------------------------

texts = st.sampled_from(["", "a", "A", "ab", "b", "ß", "SS", "\ud800", "é", "🍕", "1", "true", "bool", "list"])
numbers = st.sampled_from([0, -0.0, 1, 1.0, 2, 2.5, -3, 2**53, 2**53 + 1, float(2**53), 10**30, 1e30, 1e308])
scalars = texts | numbers | st.booleans() | st.none()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["", "k", "eq"]), inner, max_size=2),
    max_leaves=4,
)
# Keys that look like the language are ordinary metadata keys too, in the metadata at least.
keys = st.sampled_from(["user_id", "age", "a.b", "", "and", "eq"])
metadatas = st.dictionaries(keys | st.sampled_from(["AND", "NOT"]), values, max_size=5)

operators = st.fixed_dictionaries(
    {},
    optional={
        "eq": values,
        "ne": values,
        "in": st.lists(values, max_size=3),
        "nin": st.lists(values, max_size=3),
        "gt": texts | numbers,
        "gte": texts | numbers,
        "lt": texts | numbers,
        "lte": texts | numbers,
        "contains": scalars | values,
        "icontains": texts,
        "exists": st.booleans(),
    },
).filter(bool)
few_operators = operators.map(lambda chosen: dict(list(chosen.items())[:2]))
plain = scalars | st.lists(scalars, max_size=2)
conditions = st.dictionaries(keys, few_operators | plain, max_size=2)


def with_logic(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    logic = st.fixed_dictionaries({}, optional={"AND": several, "OR": several, "NOT": inner | several})
    return st.builds(lambda ordinary, combined: {**ordinary, **combined}, conditions, logic)


filters = st.recursive(conditions, with_logic, max_leaves=6)


@given(filters, st.lists(metadatas, min_size=1, max_size=5))
def test_a_filter_matches_what_a_naive_evaluator_matches(filter: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    tree = parse_filter(filter)
    assert [CheckedFilter(filter).matches(row) for row in rows] == [tree.matches(row) for row in rows]


@given(filters, st.lists(metadatas, min_size=1, max_size=6))
def test_set_algebra_over_an_inverted_index_finds_the_rows_that_match(
    filter: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    tree = parse_filter(filter)
    assert {n for n, row in enumerate(rows) if tree.matches(row)} == set_algebra(tree, rows)


@given(filters)
def test_the_same_filter_parses_to_equal_trees_of_equal_hash(filter: dict[str, Any]) -> None:
    one, other = parse_filter(filter), parse_filter(copy.deepcopy(filter))
    assert one == other
    assert hash(one) == hash(other)


@given(few_operators, values)
def test_keys_answer_the_equality_operators(chosen: dict[str, Any], value: Any) -> None:
    for op, operand in chosen.items():
        condition = parse_filter({"k": {op: operand}})
        assert isinstance(condition, Condition)
        if op in ("eq", "in"):
            assert (json_key(value) in condition.keys) == condition.accepts(value)
        elif op in ("ne", "nin"):
            assert (json_key(value) not in condition.keys) == condition.accepts(value)


@given(values, values)
@example(1, True)
@example([1], [True])
@example(True, ["bool", True])
@example({"a": 1, "b": 2}, {"b": 2.0, "a": 1.0})
@example([], {})
@example([["a", 1]], {"a": 1})
@example(2**53 + 1, float(2**53))
def test_json_keys_are_equal_exactly_when_the_values_are_equal_as_json(a: Any, b: Any) -> None:
    equal = CheckedFilter({"k": {"eq": b}}).matches({"k": a})
    assert equal == (json_key(a) == json_key(b))
    if equal:
        assert hash(json_key(a)) == hash(json_key(b))


def test_json_key_refuses_what_is_not_json() -> None:
    with pytest.raises(TypeError, match="bytes is not a JSON value"):
        json_key([b"x"])


# -- what each operator means -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter", "matching", "others"),
    [
        (
            {"k": "a"},
            [{"k": "a"}, {"k": "a", "l": 1}],
            [{"k": "A"}, {"k": ["a"]}, {"k": None}, {}, {"K": "a"}],
        ),
        ({"k": None}, [{"k": None}], [{"k": 0}, {"k": False}, {"k": ""}, {}]),
        ({"k": 1}, [{"k": 1}, {"k": 1.0}], [{"k": True}, {"k": "1"}, {"k": [1]}, {}]),
        ({"k": True}, [{"k": True}], [{"k": 1}, {"k": "true"}, {}]),
        ({"k": [1, "a"]}, [{"k": [1.0, "a"]}], [{"k": [True, "a"]}, {"k": ["a", 1]}, {"k": 1}, {}]),
        ({"k": []}, [{"k": []}], [{"k": {}}, {"k": None}, {"k": [None]}]),
        (
            {"k": {"eq": {"a": [1], "b": 2}}},
            [{"k": {"b": 2.0, "a": [1]}}],
            [{"k": {"a": [1]}}, {"k": {"a": [True], "b": 2}}],
        ),
        ({"k": {"eq": {}}}, [{"k": {}}], [{"k": []}, {}]),
        ({"k": {"ne": 1}}, [{"k": 2}, {"k": True}, {"k": None}, {"k": "1"}], [{"k": 1.0}, {}]),
        ({"k": {"in": [1, "a", None]}}, [{"k": 1.0}, {"k": "a"}, {"k": None}], [{"k": True}, {"k": "b"}, {}]),
        ({"k": {"in": [[1], {"a": 1}]}}, [{"k": [1.0]}, {"k": {"a": 1}}], [{"k": 1}, {"k": [[1]]}]),
        ({"k": {"in": []}}, [], [{"k": 1}, {"k": None}, {}]),
        ({"k": {"in": {"a"}}}, [{"k": "a"}], [{"k": "b"}]),
        ({"k": {"nin": [1, "a"]}}, [{"k": True}, {"k": "b"}, {"k": None}], [{"k": 1.0}, {"k": "a"}, {}]),
        ({"k": {"nin": []}}, [{"k": 1}, {"k": None}], [{}]),
        ({"k": {"gt": 1}}, [{"k": 1.5}, {"k": 2**70}], [{"k": 1}, {"k": True}, {"k": "2"}, {"k": None}, {}]),
        ({"k": {"gte": 0}}, [{"k": 0}, {"k": -0.0}], [{"k": -1}, {"k": False}]),
        ({"k": {"lt": "b"}}, [{"k": "a"}, {"k": "B"}, {"k": ""}], [{"k": "b"}, {"k": "é"}, {"k": 0}]),
        ({"k": {"lte": "\uffff"}}, [{"k": "\uffff"}], [{"k": "\U00010000"}]),
        ({"k": {"gte": 3, "lt": 9}}, [{"k": 3}, {"k": 8.9}], [{"k": 2}, {"k": 9}]),
        (
            {"k": {"contains": "ea"}},
            [{"k": "tea"}, {"k": ["ea"]}],
            [{"k": ["tea"]}, {"k": "Ea"}, {"k": {"ea": 1}}],
        ),
        ({"k": {"contains": 1}}, [{"k": [0, 1.0]}], [{"k": [True]}, {"k": "1"}, {"k": 1}, {"k": [[1]]}]),
        ({"k": {"contains": [1]}}, [{"k": [[1]]}], [{"k": [1]}]),
        ({"k": {"contains": ""}}, [{"k": ""}, {"k": "a"}, {"k": [""]}], [{"k": []}, {"k": None}]),
        (
            {"k": {"icontains": "STRASSE"}},
            [{"k": "Hauptstraße 1"}, {"k": ["Straße"]}],
            [{"k": ["Straße 1"]}, {}],
        ),
        ({"k": {"icontains": "a"}}, [{"k": "A"}], [{"k": [1, None]}, {"k": 1}, {"k": {"a": 1}}]),
        ({"k": {"exists": True}}, [{"k": None}, {"k": 0}], [{}, {"l": 1}]),
        ({"k": {"exists": False}}, [{}, {"l": 1}], [{"k": None}, {"k": 0}]),
        ({"k": {"exists": False, "eq": 1}}, [], [{"k": 1}, {}]),
        ({"j": 1, "k": 2}, [{"j": 1, "k": 2}], [{"j": 1}, {"k": 2}, {}]),
        ({"AND": [{"j": 1}, {"k": 2}]}, [{"j": 1, "k": 2}], [{"j": 1}, {"k": 2}]),
        ({"OR": [{"j": 1}, {"k": 2}]}, [{"j": 1}, {"k": 2}], [{"j": 2}, {}]),
        ({"OR": [{"j": 1}, {"k": 2}], "l": 3}, [{"j": 1, "l": 3}], [{"j": 1}, {"l": 3}]),
        ({"NOT": {"k": 1}}, [{"k": 2}, {"k": True}, {}], [{"k": 1}]),
        ({"NOT": [{"j": 1}, {"k": 2}]}, [{}, {"j": 2}], [{"j": 1}, {"k": 2}, {"j": 1, "k": 2}]),
        ({"NOT": {"k": {"ne": 1}}}, [{"k": 1}, {}], [{"k": 2}]),
        ({"NOT": {}}, [], [{}, {"k": 1}]),
        ({"not": 1, "And": "x"}, [{"not": 1, "And": "x"}], [{}]),
        ({"a.b": 1}, [{"a.b": 1}], [{"a": {"b": 1}}]),
        ({"k": "*"}, [{"k": "*"}], [{"k": "a"}]),
        ({"k": {"eq": [{"a": 1}]}}, [{"k": [{"a": 1}]}], []),
        ({"or": {"eq": [{"a": 1}]}}, [{"or": [{"a": 1}]}], []),
    ],
)
def test_what_matches_and_what_does_not(
    filter: dict[str, Any], matching: list[dict[str, Any]], others: list[dict[str, Any]]
) -> None:
    tree = parse_filter(filter)
    assert [True] * len(matching) == [tree.matches(metadata) for metadata in matching]
    assert [False] * len(others) == [tree.matches(metadata) for metadata in others]


@pytest.mark.parametrize("filter", [None, {}, {"AND": [{}, {}]}, {"OR": [{"k": 1}, {}]}])
def test_what_matches_everything_by_its_form_is_everything(filter: dict[str, Any] | None) -> None:
    assert Everything() == parse_filter(filter)
    assert parse_filter(filter).matches({})


def test_lone_parts_are_unwrapped_and_the_tree_shows_the_rest() -> None:
    assert Condition("k", "eq", 1) == parse_filter({"AND": [{"OR": [{"k": 1}]}]})
    assert And((Condition("j", "eq", "x"), Not(Or((Condition("k", "gt", 1), Condition("k", "lt", 0)))))) == (
        parse_filter({"j": "x", "NOT": [{"k": {"gt": 1}}, {"k": {"lt": 0}}]})
    )


def test_conditions_that_differ_by_json_type_are_not_equal() -> None:
    assert parse_filter({"k": 1}) == parse_filter({"k": 1.0})
    assert parse_filter({"k": 1}) != parse_filter({"k": True})
    assert parse_filter({"k": {"in": [1, 2]}}) == parse_filter({"k": {"in": [2, 1, 1]}})


def test_later_changes_of_the_dict_do_not_reach_the_parsed_filter() -> None:
    operand: dict[str, Any] = {"a": [1]}
    filter: dict[str, Any] = {"k": {"eq": operand}, "OR": [{"l": 1}, {"l": 2}]}
    tree = parse_filter(filter)
    operand["a"].append(2)
    filter["OR"].clear()
    assert tree.matches({"k": {"a": [1]}, "l": 2})


def test_any_mapping_serves_as_filter_and_as_metadata() -> None:
    tree = parse_filter(MappingProxyType({"k": MappingProxyType({"eq": MappingProxyType({"a": (1,)})})}))
    assert tree.matches(MappingProxyType({"k": {"a": [1]}}))


def test_values_of_builtin_subclasses_count_as_what_they_subclass() -> None:
    class Color(str, enum.Enum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    tree = parse_filter({"color": Color.RED, "level": {"gte": Level.HIGH}})
    assert tree.matches({"color": "red", "level": 3})
    assert "operand='red'" in repr(tree)


def test_thirty_two_levels_are_enough_and_thirty_three_too_many() -> None:
    def nested(levels: int) -> dict[str, Any]:
        filter: dict[str, Any] = {"k": 1}
        for _ in range(levels):
            filter = {"NOT": filter}
        return filter

    assert parse_filter(nested(32)).matches({"k": 1})
    with pytest.raises(InvalidFilter, match=r"^filter(\.NOT){33}: AND, OR and NOT are nested more than 32 deep"):
        parse_filter(nested(33))
    with pytest.raises(InvalidFilter, match="nested more than 32 deep"):
        parse_filter(nested(100_000))


# -- what is refused ----------------------------------------------------------------------------------------

too_deep: list[Any] = []
too_deep.append(too_deep)


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ([], "filter: a filter is a dict, not []"),
        ("user_id", "filter: a filter is a dict, not 'user_id'"),
        ({1: "a"}, "filter: keys are strings, not 1"),
        ({"k": {1: "a"}}, "filter.k: keys are strings, not 1"),
        ({"k": {"eq": {1: "a"}}}, "filter.k.eq: keys are strings, not 1"),
        ({"k": {}}, "filter.k: no operator given; the operators are eq, ne, in,"),
        ({"k": {}}, 'to compare with an empty object write {"eq": {}}'),
        (
            {"k": {"like": 1}},
            "filter.k: unknown operator 'like'; the operators are eq, ne, in, nin, gt, gte, lt, lte, "
            'contains, icontains, exists; to compare with an object write {"eq": {...}}',
        ),
        ({"k": {"gte": 1, "GT": 2}}, "filter.k: unknown operator 'GT'"),
        ({"k": {"NOT": {"gt": 1}}}, "filter.k: unknown operator 'NOT'"),
        ({"odd key": {"like": 1}}, "filter['odd key']: unknown operator 'like'"),
        ({"not": {"k": 1}}, "to combine filters write NOT for not"),
        ({"$or": [{"k": 1}]}, "filter['$or']: a list of objects; to combine filters write OR for $or"),
        ({"and": [{"k": 1}]}, "filter.and: a list of objects; to combine filters write AND for and; "),
        ({"AND": []}, "filter.AND: AND of an empty list"),
        ({"OR": []}, "filter.OR: OR of an empty list"),
        ({"NOT": []}, "filter.NOT: NOT of an empty list"),
        ({"AND": {"k": 1}}, "filter.AND: AND takes a list of filters, not {'k': 1}"),
        ({"OR": None}, "filter.OR: OR takes a list of filters, not None"),
        ({"NOT": 1}, "filter.NOT: NOT takes a filter or a list of filters, not 1"),
        ({"AND": [{}, None]}, "filter.AND[1]: a filter is a dict, not None"),
        (
            {"AND": [{}, {"age": {"gte": None}}]},
            "filter.AND[1].age.gte: gte takes a number or a string, not None",
        ),
        ({"OR": [{}, {"age": {"like": 1}}]}, "filter.OR[1].age: unknown operator"),
        ({"NOT": {"age": {"lt": True}}}, "filter.NOT.age.lt: lt takes a number or a string, not True"),
        ({"age": {"lte": [1]}}, "filter.age.lte: lte takes a number or a string, not [1]"),
        ({"age": {"gt": math.nan}}, "filter.age.gt: nan is not a JSON number"),
        ({"k": math.inf}, "filter.k: inf is not a JSON number"),
        ({"k": {"in": [1, -math.inf]}}, "filter.k.in[1]: -inf is not a JSON number"),
        ({"k": {"in": "abc"}}, "filter.k.in: in takes a list of values, not 'abc'"),
        ({"k": {"nin": {"a": 1}}}, "filter.k.nin: nin takes a list of values, not {'a': 1}"),
        ({"k": {"in": None}}, "filter.k.in: in takes a list of values, not None"),
        ({"k": {"exists": 1}}, "filter.k.exists: exists takes true or false, not 1"),
        ({"k": {"icontains": 1}}, "filter.k.icontains: icontains takes a string, not 1"),
        (
            {"k": {1, 2}},
            'filter.k: a set is not a JSON value; to match any of its values write {"in": [...]}',
        ),
        ({"k": b"x"}, "filter.k: bytes is not a JSON value; use a string"),
        ({"k": {"eq": {"a": [0, {1, 2}]}}}, "filter.k.eq.a[1]: set is not a JSON value"),
        ({"k": 1j}, "filter.k: complex is not a JSON value"),
        ({"k": too_deep}, ": a value nested more than 100 deep"),
        ({"k": {"exists": 10**5000}}, "filter.k.exists: exists takes true or false, not "),
        ({"k" * 10**6: b"x"}, ": bytes is not a JSON value"),
    ],
)
def test_what_is_no_filter_is_refused_with_the_place_named(filter: Any, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(filter)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_refused_filter_is_an_asof_error_and_a_value_error() -> None:
    with pytest.raises(AsofError) as caught:
        parse_filter({"k": {"like": 1}})
    assert isinstance(caught.value, ValueError)


@given(
    st.recursive(
        scalars | st.floats() | st.binary(max_size=2) | st.sets(st.integers(), max_size=2),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["AND", "OR", "NOT", "k", "eq", "in", "gt", "exists", "like", "or"]),
                inner,
                max_size=3,
            )
        ),
    ),
    st.lists(metadatas, max_size=3),
)
def test_whatever_is_given_is_refused_at_parsing_or_matches_without_error(
    filter: Any, rows: list[Mapping[str, Any]]
) -> None:
    try:
        tree = parse_filter(filter)
    except InvalidFilter:
        return
    for row in rows:
        assert tree.matches(row) in (True, False)
