"""What a single row of a checkpoint's vectors is checked with: what shows in it, and what it is, bit for bit."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.vectors import _multipliers, digests_of
from tests.profiles import scaled

DIMENSIONS = (1, 2, 3, 8, 384)


def by_the_book(row: bytes) -> int:
    """As docs/reference/file-format.md says it, in whole numbers."""
    total = 0
    for i in range(len(row) // 4):
        multiplier = int.from_bytes(sha256(i.to_bytes(4, "little")).digest()[:8], "little") | 1
        total += int.from_bytes(row[4 * i : 4 * i + 4], "little") * multiplier
    return total % 2**64


@st.composite
def matrices(draw: st.DrawFn) -> Any:
    """Any bytes, as float32: a recorded vector holds finite numbers, a damaged one whatever there is."""
    dimension, rows = draw(st.sampled_from(DIMENSIONS)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        content = draw(st.binary(min_size=4 * dimension * rows, max_size=4 * dimension * rows))
    else:
        content = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(4 * dimension * rows)
    return np.frombuffer(content, dtype="<f4").reshape(rows, dimension)


@settings(max_examples=scaled(60))
@given(rows=matrices())
def test_a_digest_is_what_the_documentation_says(rows: Any) -> None:
    """Bit for bit: checkpoints are read on other machines."""
    assert digests_of(rows).tolist() == [by_the_book(row.tobytes()) for row in rows]


def test_digests_do_not_depend_on_how_many_rows_are_there_or_how_they_lie() -> None:
    """Across blocks, of rows in any order in memory, and of none."""
    rows = np.random.default_rng(1).normal(size=(200, 5)).astype(np.float32)
    whole = digests_of(rows)
    assert whole.tolist() == [int(digests_of(rows[n : n + 1])[0]) for n in range(200)]
    assert (digests_of(np.asfortranarray(rows)) == whole).all()
    assert (digests_of(rows[::-1]) == whole[::-1]).all()
    assert digests_of(rows[:0]).shape == (0,)


def test_a_known_digest() -> None:
    """A test vector."""
    assert digests_of(np.array([[1.0, -2.5, 0.0]], dtype=np.float32)).tolist() == [8935347932905865216]


@settings(max_examples=scaled(100))
@given(rows=matrices(), place=st.integers(0, 2**31), change=st.integers(1, 2**32 - 1))
def test_any_change_of_one_number_shows(rows: Any, place: int, change: int) -> None:
    """Whichever bits of it."""
    words = rows[:1].view("<u4").copy()
    words[0, place % words.shape[1]] ^= np.uint32(change)
    assert digests_of(words.view("<f4"))[0] != digests_of(rows)[0]


def test_every_flipped_bit_shows() -> None:
    """Of one row."""
    row = np.random.default_rng(2).normal(size=(1, 64)).astype(np.float32)
    flipped = np.repeat(row.view("<u4"), 64 * 32, axis=0)
    flipped[np.arange(64 * 32), np.arange(64 * 32) // 32] ^= np.uint32(1) << (np.arange(64 * 32) % 32).astype(np.uint32)
    assert (digests_of(flipped.view(np.float32)) != digests_of(row)[0]).all()


@pytest.mark.parametrize("dimension", [4096])
def test_two_numbers_exchanged_show_and_so_does_a_bit_flipped_in_both(dimension: int) -> None:
    """For certain: no sum and no difference of two multipliers is a multiple of 2**33."""
    ends = _multipliers(dimension) & np.uint64(2**33 - 1)
    assert (ends % np.uint64(2) == 1).all()
    both = np.concatenate([ends, np.uint64(2**33) - ends])
    assert len(np.unique(both)) == 2 * dimension


@settings(max_examples=scaled(60))
@given(seed=st.integers(0, 2**32), dimension=st.sampled_from([8, 384]), kind=st.integers(0, 4))
def test_what_damage_does_shows(seed: int, dimension: int, kind: int) -> None:
    """Zeros, ones, another row, a part of another row, numbers moved along: each makes another digest."""
    rng = np.random.default_rng(seed)
    row, other = rng.normal(size=(2, 1, dimension)).astype(np.float32)
    cut = int(rng.integers(1, dimension))
    damaged = [
        np.zeros_like(row),
        np.full_like(row.view(np.uint32), 2**32 - 1).view(np.float32),
        other,
        np.concatenate([row[:, :cut], other[:, cut:]], axis=1),
        np.roll(row, cut, axis=1),
    ][kind]
    assert digests_of(damaged)[0] != digests_of(row)[0]
