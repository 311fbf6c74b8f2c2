"""The filter language over a memory's metadata: one meaning everywhere in the product.

A filter is a JSON-like dict, parsed and checked once by `parse_filter` into a tree of frozen dataclasses:

    {"user_id": "alice", "age": {"gte": 3, "lt": 9}, "NOT": {"topic": {"in": ["spam", "test"]}}}

- A plain value means `eq` (a plain list: the equal list). Several keys, and several operators of one key,
  must all hold. `{}` and None match everything. Keys name top-level members of the metadata: a dot in a key
  is just a dot.
- `{"AND": [f, ...]}`, `{"OR": [f, ...]}` and `{"NOT": f}` stand beside ordinary keys. `{"NOT": [f, ...]}`
  means none of them.
- A missing key matches no operator, `ne` and `nin` included; only `{"exists": false}` matches it. `NOT` is
  plain negation, so `{"NOT": {"user_id": "alice"}}` does match metadata without a `user_id`.
- `eq`, `ne`, `in`, `nin` use JSON equality: typed (`true` is not 1, null equals only null), `1` equals `1.0`,
  lists and objects are compared deeply.
- `gt`, `gte`, `lt`, `lte` compare numbers with numbers and strings with strings (by code point); a value of
  another type than the operand's does not match.
- `contains`: a substring of a string, or an element of a list. `icontains`: the same for text, whatever its
  case (an element is then the whole text).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from eventstore.checks import shown
from eventstore.errors import InvalidFilter

__all__ = ["And", "Condition", "Everything", "Filter", "Not", "Operator", "Or", "json_key", "parse_filter"]

Operator: TypeAlias = Literal["eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "contains", "icontains", "exists"]

_OPERATORS: Final[tuple[str, ...]] = get_args(Operator)
_LOGIC: Final = ("AND", "OR", "NOT")
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}

# Parsing, matching and json_key recurse: these keep them far from Python's recursion limit.
_MAX_LOGIC_DEPTH: Final = 32
_MAX_OPERAND_DEPTH: Final = 100

_Accepts: TypeAlias = Callable[[Any], bool]
_Test: TypeAlias = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Everything:
    """The filter that matches all metadata: what `{}` and None mean."""

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """True."""
        return True


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one metadata key, as `parse_filter` makes it.

    `operand` is the parser's own copy: lists are tuples in it, and changing an object inside it changes
    nothing. `keys` holds its `json_key`, for `in` and `nin` those of its elements, so that an index from
    `json_key(value)` to rows can look up `eq` and `in` (a value is accepted if its key is in `keys`) and `ne`
    and `nin` (if it is not) without asking `accepts`. Two conditions are equal when key, operator and `keys`
    are.
    """

    key: str
    op: Operator
    operand: Any = field(compare=False)
    keys: frozenset[Hashable] = field(init=False, repr=False)
    _accepts: _Accepts = field(init=False, repr=False, compare=False)
    _test: _Test = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        several = self.op in ("in", "nin")
        keys = frozenset(map(json_key, self.operand)) if several else frozenset((json_key(self.operand),))
        accepts = _compile(self.op, self.operand, keys)
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "_accepts", accepts)
        object.__setattr__(self, "_test", _on_key(self.key, accepts, self.accepts_missing))

    @property
    def accepts_missing(self) -> bool:
        """Whether metadata without the key matches: only for `exists: false`."""
        return self.op == "exists" and not self.operand

    def accepts(self, value: Any) -> bool:
        """Whether metadata that has the key with this JSON value matches."""
        return self._accepts(value)

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata, a JSON object, passes the filter. Never raises on JSON."""
        return self._test(metadata)


@dataclass(frozen=True, slots=True)
class And:
    """All of the parts match."""

    parts: tuple[Filter, ...]
    _tests: tuple[_Test, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tests", tuple(map(_test_of, self.parts)))

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata, a JSON object, passes the filter. Never raises on JSON."""
        for test in self._tests:  # noqa: SIM110 -- all() over a generator takes twice the time
            if not test(metadata):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of the parts matches."""

    parts: tuple[Filter, ...]
    _tests: tuple[_Test, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tests", tuple(map(_test_of, self.parts)))

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata, a JSON object, passes the filter. Never raises on JSON."""
        for test in self._tests:  # noqa: SIM110 -- any() over a generator takes twice the time
            if test(metadata):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not match."""

    part: Filter

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether this metadata, a JSON object, passes the filter. Never raises on JSON."""
        return not self.part.matches(metadata)


Filter: TypeAlias = Everything | Condition | And | Or | Not
"""A parsed filter. As set algebra over rows: `And` intersects its parts, `Or` unites them, `Not` is the
complement in all rows, a `Condition` is the rows whose value it accepts (for `exists: false`: the rows
without the key)."""


def parse_filter(filter: Mapping[str, Any] | None) -> Filter:
    """The parsed form of a filter dict (None: everything), which later changes of the dict do not touch.

    Whatever matches everything by its form (`{}`, an OR with a `{}` in it) comes back as `Everything`;
    otherwise the tree says what the dict says, with lone parts of AND and OR unwrapped.

    Raises InvalidFilter, naming the place (`filter.AND[1].age.gte`), for an unknown operator, an operand of
    the wrong type, an empty AND, OR, NOT or operator object, AND, OR and NOT nested more than 32 deep, and
    anything that is not JSON.
    """
    if filter is None:
        return Everything()
    return _parse(filter, "filter", 0)


def json_key(value: Any) -> Hashable:
    """A hashable key of a JSON value: two values have equal keys exactly when they are equal as JSON.

    `true` and 1 differ, 1 and 1.0 do not; lists (or tuples) and objects are keyed deeply, whatever the order
    of an object's members. Raises TypeError for what is not a JSON value.
    """
    # Strings, numbers and null stand for themselves; the rest become tagged tuples, which are none of these.
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return ("bool", bool(value))
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return ("list", *map(json_key, value))
    if isinstance(value, Mapping):
        return ("object", frozenset((name, json_key(member)) for name, member in value.items()))
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _test_of(part: Filter) -> _Test:
    return part._test if isinstance(part, Condition) else part.matches


def _on_key(key: str, accepts: _Accepts, accepts_missing: bool) -> _Test:
    missing = object()

    def test(metadata: Mapping[str, Any]) -> bool:
        value = metadata.get(key, missing)
        return accepts_missing if value is missing else accepts(value)

    return test


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _compile(op: str, operand: Any, keys: frozenset[Hashable]) -> _Accepts:
    if op == "eq":
        return _equals(operand)
    if op == "ne":
        equals = _equals(operand)
        return lambda value: not equals(value)
    if op == "in":
        return lambda value: json_key(value) in keys
    if op == "nin":
        return lambda value: json_key(value) not in keys
    if op in _ORDER:
        return _ordered(_ORDER[op], operand)
    if op == "contains":
        return _contains(operand)
    if op == "icontains":
        return _icontains(operand)
    if op == "exists":
        return lambda value: cast(bool, operand)
    raise InvalidFilter(f"unknown operator {op!r}; the operators are {', '.join(_OPERATORS)}")


def _equals(operand: Any) -> _Accepts:
    if operand is None or isinstance(operand, bool):
        return lambda value: value is operand
    if isinstance(operand, str):
        return lambda value: isinstance(value, str) and value == operand
    if isinstance(operand, (int, float)):
        return lambda value: _is_number(value) and value == operand
    kind = Mapping if isinstance(operand, Mapping) else (list, tuple)
    key = json_key(operand)
    return lambda value: isinstance(value, kind) and json_key(value) == key


def _ordered(compare: Callable[[Any, Any], bool], operand: Any) -> _Accepts:
    if isinstance(operand, str):
        return lambda value: isinstance(value, str) and compare(value, operand)
    return lambda value: _is_number(value) and compare(value, operand)


def _contains(operand: Any) -> _Accepts:
    equals = _equals(operand)
    is_text = isinstance(operand, str)

    def accepts(value: Any) -> bool:
        if isinstance(value, str):
            return is_text and operand in value
        return isinstance(value, (list, tuple)) and any(map(equals, value))

    return accepts


def _icontains(operand: str) -> _Accepts:
    folded = operand.casefold()

    def accepts(value: Any) -> bool:
        if isinstance(value, str):
            return folded in value.casefold()
        if isinstance(value, (list, tuple)):
            return any(isinstance(element, str) and element.casefold() == folded for element in value)
        return False

    return accepts


def _parse(filter: object, where: str, depth: int) -> Filter:
    if not isinstance(filter, Mapping):
        raise InvalidFilter(f"{where}: a filter is a dict, not {shown(filter)}")
    parts: list[Filter] = []
    for key, value in filter.items():
        _check_name(key, where)
        here = _member(where, key)
        if key in _LOGIC:
            if depth == _MAX_LOGIC_DEPTH:
                raise InvalidFilter(f"{here}: AND, OR and NOT are nested more than {_MAX_LOGIC_DEPTH} deep")
            parts.append(_parse_logic(key, value, here, depth + 1))
        elif isinstance(value, Mapping):
            parts.extend(_parse_operators(key, value, here))
        else:
            _check_plain(key, value, here)
            parts.append(Condition(str(key), "eq", _json_copy(value, here)))
    return _all_of(parts)


def _parse_logic(name: str, value: object, where: str, depth: int) -> Filter:
    if name == "NOT" and isinstance(value, Mapping):
        return Not(_parse(value, where, depth))
    if not isinstance(value, (list, tuple)):
        takes = "a filter or a list of filters" if name == "NOT" else "a list of filters"
        raise InvalidFilter(f"{where}: {name} takes {takes}, not {shown(value)}")
    if not value:
        raise InvalidFilter(f"{where}: {name} of an empty list; leave it out, or give it at least one filter")
    parts = [_parse(part, f"{where}[{number}]", depth) for number, part in enumerate(value)]
    if name == "AND":
        return _all_of(parts)
    return _any_of(parts) if name == "OR" else Not(_any_of(parts))


def _parse_operators(key: str, operators: Mapping[Any, Any], where: str) -> Iterable[Condition]:
    if not operators:
        raise InvalidFilter(
            f"{where}: no operator given; the operators are {', '.join(_OPERATORS)}; "
            'to compare with an empty object write {"eq": {}}'
        )
    for op, operand in operators.items():
        _check_name(op, where)
        if op not in _OPERATORS:
            raise InvalidFilter(
                f"{where}: unknown operator {shown(op)}; the operators are {', '.join(_OPERATORS)}"
                f'{_logic_hint(key)}; to compare with an object write {{"eq": {{...}}}}'
            )
        yield Condition(str(key), cast(Operator, str(op)), _parse_operand(op, operand, _member(where, op)))


def _parse_operand(op: str, operand: object, where: str) -> object:
    if op in ("in", "nin"):
        if not isinstance(operand, (list, tuple, set, frozenset)):
            raise InvalidFilter(f"{where}: {op} takes a list of values, not {shown(operand)}")
        return tuple(_json_copy(element, f"{where}[{number}]") for number, element in enumerate(operand))
    if op == "exists" and not isinstance(operand, bool):
        raise InvalidFilter(f"{where}: exists takes true or false, not {shown(operand)}")
    if op == "icontains" and not isinstance(operand, str):
        raise InvalidFilter(f"{where}: icontains takes a string, not {shown(operand)}")
    if op in _ORDER and not (isinstance(operand, str) or _is_number(operand)):
        raise InvalidFilter(f"{where}: {op} takes a number or a string, not {shown(operand)}")
    return _json_copy(operand, where)


def _all_of(parts: Iterable[Filter]) -> Filter:
    kept = tuple(part for part in parts if not isinstance(part, Everything))
    if not kept:
        return Everything()
    return kept[0] if len(kept) == 1 else And(kept)


def _any_of(parts: list[Filter]) -> Filter:
    if any(isinstance(part, Everything) for part in parts):
        return Everything()
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


def _check_plain(key: str, value: object, where: str) -> None:
    if isinstance(value, (set, frozenset)):
        raise InvalidFilter(f'{where}: a set is not a JSON value; to match any of its values write {{"in": [...]}}')
    # A list of objects under "or" or "$and" is a slip far sooner than a value, and would match nothing.
    is_list_of_filters = isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value)
    if is_list_of_filters and (hint := _logic_hint(key)):
        raise InvalidFilter(f'{where}: a list of objects{hint}; to compare with it write {{"eq": [...]}}')


def _logic_hint(key: str) -> str:
    """What to say to someone who wrote `or` or `$or` for OR."""
    name = key.removeprefix("$").upper()
    return f"; to combine filters write {name} for {key}" if name in _LOGIC else ""


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str):
        raise InvalidFilter(f"{where}: keys are strings, not {shown(name)}")


def _json_copy(value: object, where: str, depth: int = 0) -> object:
    """A copy of the value in builtin types, lists as tuples; InvalidFilter if it is not JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # str() of a str enumeration would be the member's name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidFilter(f"{where}: {value} is not a JSON number")
        return float(value)
    if depth == _MAX_OPERAND_DEPTH:
        raise InvalidFilter(f"{where[:80]}...: a value nested more than {_MAX_OPERAND_DEPTH} deep")
    if isinstance(value, (list, tuple)):
        return tuple(_json_copy(element, f"{where}[{n}]", depth + 1) for n, element in enumerate(value))
    if isinstance(value, Mapping):
        copy: dict[str, object] = {}
        for name, member in value.items():
            _check_name(name, where)
            copy[str.__str__(name)] = _json_copy(member, _member(where, name), depth + 1)
        return copy
    raise InvalidFilter(
        f"{where}: {type(value).__name__} is not a JSON value; "
        "use a string, number, true, false, null, list or object (a time as ISO 8601 text)"
    )


def _member(where: str, name: str) -> str:
    return f"{where}.{name}" if name.isidentifier() and len(name) <= 40 else f"{where}[{shown(name)}]"
