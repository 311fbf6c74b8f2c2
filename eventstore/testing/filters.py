"""Filters over metadata together with an oracle that says what they match: the language, read naively."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from eventstore.testing.values import KEYS, json_values

__all__ = ["CheckedFilter", "filters"]


@dataclass(frozen=True)
class CheckedFilter:
    """A filter, and `matches`, which says what it means without the code that evaluates filters elsewhere."""

    filter: dict[str, Any]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether metadata passes, by docs/reference/filters.md read word by word."""
        return _matches(self.filter, metadata)

    @property
    def everything(self) -> bool:
        """Whether it has no condition at all, so that `delete_where` refuses it."""
        return not self.filter

    def __repr__(self) -> str:
        return f"CheckedFilter({self.filter!r})"


def _matches(filter: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    for key, value in filter.items():
        if key == "AND":
            holds = all(_matches(part, metadata) for part in value)
        elif key == "OR":
            holds = any(_matches(part, metadata) for part in value)
        elif key == "NOT":
            parts = value if isinstance(value, (list, tuple)) else [value]
            holds = not any(_matches(part, metadata) for part in parts)
        else:
            operators = value if isinstance(value, Mapping) else {"eq": value}
            holds = all(
                _accepts(op, metadata[key], operand) if key in metadata else op == "exists" and not operand
                for op, operand in operators.items()
            )
        if not holds:
            return False
    return True


def _accepts(op: str, value: Any, operand: Any) -> bool:
    """The operator on a value that is present."""
    if op == "eq":
        return _equal(value, operand)
    if op == "ne":
        return not _equal(value, operand)
    if op == "in":
        return any(_equal(value, one) for one in operand)
    if op == "nin":
        return not any(_equal(value, one) for one in operand)
    if op == "exists":
        return bool(operand)
    if op == "contains":
        if isinstance(value, str):
            return isinstance(operand, str) and value.find(operand) >= 0
        return isinstance(value, list) and any(_equal(one, operand) for one in value)
    if op == "icontains":
        if isinstance(value, str):
            return value.casefold().find(operand.casefold()) >= 0
        folded = [one.casefold() for one in value if isinstance(one, str)] if isinstance(value, list) else []
        return operand.casefold() in folded
    if _kind(value) != _kind(operand):
        return False
    order: int = (value > operand) - (value < operand)
    return {"gt": order > 0, "gte": order >= 0, "lt": order < 0, "lte": order <= 0}[op]


def _equal(a: Any, b: Any) -> bool:
    """JSON equality, by cases."""
    if isinstance(a, bool) or isinstance(b, bool):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def filters(
    metadata: Iterable[Mapping[str, Any]] = (), *, keys: tuple[str, ...] = KEYS
) -> st.SearchStrategy[CheckedFilter]:
    """Filters whose keys and values occur in `metadata` (those of the memories at hand), and some that do not.

    Every operator, AND, OR and NOT. Without metadata the values are those of the `metadata()` strategy. Shrinks
    to the filter without conditions, `CheckedFilter({})`, which matches everything.
    """
    pairs = [(key, value) for each in metadata for key, value in each.items() if key not in ("AND", "OR", "NOT")]
    # Not `keys` beside them: a filter that meets nothing says little.
    names = sorted({key for key, _ in pairs} | {"nobody has this"}) if pairs else [*keys, "nobody has this"]
    known = [value for _, value in pairs]
    values = st.one_of(st.sampled_from(known), json_values()) if known else json_values()
    conditions = st.tuples(st.sampled_from(names), _operators(values)).map(lambda drawn: {drawn[0]: drawn[1]})
    if pairs:
        own = st.sampled_from(pairs).map(lambda pair: {pair[0]: _plain(pair[1])})
        conditions = st.one_of(own, conditions)
    trees = st.recursive(
        conditions,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"AND": parts}),
            st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"OR": parts}),
            inner.map(lambda part: {"NOT": part}),
            st.tuples(inner, inner).map(lambda two: {**two[0], **two[1]}),
        ),
        max_leaves=4,
    )
    return st.one_of(st.just({}), conditions, trees).map(CheckedFilter)


def _plain(value: Any) -> Any:
    """The value as a filter says it: an object beside a key would be read as operators."""
    return {"eq": value} if isinstance(value, Mapping) else value


def _operators(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ordered = values.filter(lambda value: isinstance(value, (str, int, float)) and not isinstance(value, bool))
    texts = values.filter(lambda value: isinstance(value, str))
    ordered, texts = st.one_of(st.just(1), ordered), st.one_of(st.just("x"), texts)
    return st.one_of(
        values.map(_plain),
        st.booleans().map(lambda there: {"exists": there}),
        st.tuples(st.sampled_from(["eq", "ne"]), values).map(lambda drawn: {drawn[0]: drawn[1]}),
        st.tuples(st.sampled_from(["in", "nin"]), st.lists(values, max_size=3)).map(lambda drawn: {drawn[0]: drawn[1]}),
        st.tuples(st.sampled_from(["gt", "gte", "lt", "lte"]), ordered).map(lambda drawn: {drawn[0]: drawn[1]}),
        st.tuples(ordered, ordered).map(lambda drawn: {"gte": drawn[0], "lt": drawn[1]}),
        values.map(lambda value: {"contains": value}),
        texts.map(lambda text: {"icontains": text}),
    )
