"""Strategies for what a memory is made of: vectors, contents, metadata. All print as literals."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

__all__ = ["IDS", "KEYS", "contents", "json_values", "memory_ids", "metadata", "vectors"]

IDS = ("a", "b", "c")
"""The memory ids that histories are about by default: few, so that operations meet."""

KEYS = ("user_id", "topic", "n")
"""The metadata keys that are drawn from by default."""

# Denormal, products underflow, not exact in binary, a hair past one, lengths whose squares overflow float32.
_SCALES = (1e-42, 1e-20, 1 / 3, 1.0000001, 3.0, 1e18, 1e37)
_TEXTS = ("tea", "coffee", "Alice prefers tea", "", "naïve 🫖", "nul\0nul", "line\nline", "x" * 300)
# Equal to Python and not to JSON (1, True), and the other way round (1, 1.0).
_VALUES: tuple[Any, ...] = ("alice", "bob", 1, 1.0, True, None, 2.5, -3, "", ["x"], ["x", 1, None], {"deep": ["x"]})


def memory_ids(ids: tuple[str, ...] = IDS) -> st.SearchStrategy[str]:
    """One of a few ids."""
    return st.sampled_from(ids)


def vectors(dim: int, *, allow_zero: bool = False) -> st.SearchStrategy[list[float]]:
    """Vectors of `dim` float32 numbers, as lists of the floats that they are exactly.

    Most are of small whole numbers, which are often equal and tie often in a search; others differ from those in
    the last bit of one number, are denormal, very long or very short, or of any finite numbers. Not all zeros
    unless `allow_zero`. Shrinks to zeros and a single one.
    """
    grid = st.lists(st.sampled_from([0.0, 1.0, -1.0, -0.0]), min_size=dim, max_size=dim)
    scaled = st.tuples(grid, st.sampled_from(_SCALES)).map(lambda drawn: [_float32(x * drawn[1]) for x in drawn[0]])
    near_tie = st.tuples(grid, st.integers(0, dim - 1), st.booleans()).map(_next_to)
    any_at_all = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=dim, max_size=dim)
    found = st.one_of(grid, near_tie, scaled, any_at_all)
    return found if allow_zero else found.filter(any)


def _float32(number: float) -> float:
    return float(np.float32(number))


def _next_to(drawn: tuple[list[float], int, bool]) -> list[float]:
    numbers, at, up = drawn
    there = np.float32(numbers[at])
    moved = float(np.nextafter(there, np.float32(2.0 if up else -2.0)))
    return [*numbers[:at], moved, *numbers[at + 1 :]]


def contents() -> st.SearchStrategy[str]:
    """Texts: a few that meet again, empty, with a NUL, a line break, beyond ASCII, long; and any Unicode."""
    any_text = st.text(st.characters(codec="utf-8"), max_size=20)
    return st.one_of(st.sampled_from(_TEXTS), any_text)


def metadata(keys: tuple[str, ...] = KEYS) -> st.SearchStrategy[dict[str, Any]]:
    """Metadata with few keys and values, so that filters meet them. `1`, `1.0` and `True` are among the values."""
    return st.dictionaries(st.sampled_from(keys), json_values(), max_size=len(keys))


def json_values() -> st.SearchStrategy[Any]:
    """Values of metadata."""
    # A copy of each: who changes the metadata given to a store must not change the next example's.
    return st.sampled_from(range(len(_VALUES))).map(lambda at: _copy(_VALUES[at]))


def _copy(value: Any) -> Any:
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return {key: _copy(each) for key, each in value.items()} if isinstance(value, dict) else value
