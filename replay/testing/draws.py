"""What the machine's rules are given: strategies that depend on where the machine is.

So that a rule's arguments are values, which print as code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from eventstore.testing import (
    CheckedFilter,
    Refused,
    filters,
    histories,
    invalid_operations,
    operations,
    vectors,
)
from eventstore.testing.instants import instants_of
from replay.testing.base import MachineBase

__all__ = [
    "batch",
    "filter_of_any_time",
    "filter_of_now",
    "known_vector",
    "memory_id",
    "moment",
    "operation",
    "past_position",
    "refused_operation",
    "vector",
    "vector_list",
]


def _now(strategy: Callable[[Any], st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.runner().flatmap(strategy)


# A strategy is checked when it is first drawn from, which takes longer than drawing: those that can be are kept.
@functools.lru_cache
def _cached_vectors(dim: int) -> st.SearchStrategy[list[float]]:
    return vectors(dim)


@functools.lru_cache
def _cached_lists(dim: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(vectors(dim), min_size=1, max_size=9)


def _batches(machine: MachineBase) -> st.SearchStrategy[Any]:
    ids = tuple(f"{name}{machine.model.position}" for name in "xy")
    drawn = histories(1, 1, dim=machine.dim, ids=ids, text_only=True, context=True)
    return drawn.map(lambda history: history[0])


def _filters(machine: MachineBase) -> st.SearchStrategy[CheckedFilter]:
    return filters([each.metadata or {} for each in machine.model.state().values()])


def _filters_of_any_time(machine: MachineBase) -> st.SearchStrategy[CheckedFilter]:
    """Mostly a single value that some memory has or had: few match it, and others did at another time."""
    known = [each.metadata for each in machine.model.events if each.metadata]
    pairs = [(key, value) for metadata in known for key, value in metadata.items() if key not in ("AND", "OR", "NOT")]
    if not pairs:
        return filters()
    own = st.sampled_from(pairs).map(lambda pair: {pair[0]: {"eq": pair[1]} if _is_object(pair[1]) else pair[1]})
    return st.one_of(own.map(CheckedFilter), own.map(lambda part: CheckedFilter({"NOT": part})), filters(known))


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _refused(machine: MachineBase) -> st.SearchStrategy[Refused]:
    return invalid_operations(machine.model.state(), dim=machine.dim if machine.model.events else None, ids=machine.ids)


def _known_vectors(machine: MachineBase) -> st.SearchStrategy[list[float]]:
    known = [vector for each in machine.model.events if (vector := each.vector) and any(vector)]
    return st.sampled_from(known) if known else _cached_vectors(machine.dim)


operation = _now(
    lambda machine: operations(machine.model.state(), dim=machine.dim, ids=machine.ids, text_only=True, context=True)
)
"""An operation that is valid now."""

batch = _now(_batches)
"""Operations that are valid together, on memories of their own."""

refused_operation = _now(_refused)
"""An operation that is to be refused now."""

vector = _now(lambda machine: _cached_vectors(machine.dim))
vector_list = _now(lambda machine: _cached_lists(machine.dim))

known_vector = _now(_known_vectors)
"""A vector that some event has: it is near to memories that are near to each other."""

moment = _now(lambda machine: instants_of(machine.store, machine.model.events))
"""A moment, as `as_of` takes it."""

filter_of_now = _now(_filters)
"""A filter that some memories of now match."""

filter_of_any_time = _now(_filters_of_any_time)
"""A filter that some memories of now or of another time match."""

past_position = _now(lambda machine: st.integers(1, machine.model.position))
"""The position of an event."""

memory_id = _now(lambda machine: st.sampled_from(list(dict.fromkeys(each.memory_id for each in machine.model.events))))
"""A memory that there is or was."""
