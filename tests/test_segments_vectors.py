"""Vectors of rows in segments: from memory and from files, of few rows and of many, and damage found in either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from projections.codes import Codes
from projections.scoring import quick_norms
from projections.segments import Segment, Segments
from projections.vectors import Damaged, StoredRows, VectorMemory, digests_of

SIZE, PARTS, DIMENSION = 8, 6, 5
ROWS = np.random.default_rng(21).normal(size=(SIZE * PARTS, DIMENSION)).astype(np.float32)


def stored(path: Path, vectors: Any, memory: VectorMemory) -> StoredRows:
    """Vectors in a file."""
    path.write_bytes(vectors.tobytes())
    return StoredRows(path, DIMENSION, digests_of(vectors), memory)


@pytest.fixture
def mixed(tmp_path: Path) -> Segments:
    """Segments of which every other one has its vectors in a file, with no memory to keep them in."""
    memory, segments = VectorMemory(0), Segments("ip", DIMENSION, SIZE)
    segments.add(ROWS)
    for number in range(0, PARTS, 2):
        vectors = ROWS[number * SIZE : (number + 1) * SIZE]
        rows, norms = stored(tmp_path / f"vectors-{number}", vectors, memory), quick_norms(vectors)
        segments.parts[number] = Segment.restored("ip", SIZE, rows, norms, Codes.of("ip", vectors, norms))
    return segments


def test_rows_are_given_in_the_order_that_they_are_asked_for(mixed: Segments) -> None:
    """However many, from wherever, twice if they are asked for twice; and as the caller's own."""
    rng = np.random.default_rng(22)
    for count in (0, 1, 2, 5, 2 * PARTS - 1, 2 * PARTS, 2 * PARTS + 1, 100):
        rows = rng.integers(0, len(ROWS), size=count)
        for some in (rows, np.sort(rows), np.full(count, 3)):
            found = mixed.vectors(some)
            assert found.tobytes() == ROWS[some].tobytes()
            assert (found.shape, found.dtype) == ((count, DIMENSION), np.dtype(np.float32))
            found[:] = 0.0  # what is inside stays as it is
    assert mixed.vectors(np.arange(len(ROWS))).tobytes() == ROWS.tobytes()


@pytest.mark.parametrize("count", [1, 3, 2 * PARTS + 20], ids=["one", "few", "many"])
def test_a_damaged_row_is_found_and_named_when_it_is_asked_for(mixed: Segments, count: int) -> None:
    """Alone, or among a few or many others, wherever it stands among them; others are given as long as few are read."""
    damaged = 2 * SIZE + 3
    rows = mixed.parts[2].vectors
    assert isinstance(rows, StoredRows)
    content = bytearray(rows.path.read_bytes())
    content[3 * 4 * DIMENSION + 7] ^= 1
    rows.path.write_bytes(content)
    rng = np.random.default_rng(23)
    others = np.setdiff1d(np.arange(len(ROWS)), damaged)
    for place in (0, count // 2, count - 1):
        some = rng.choice(others, size=count)
        assert count > 2 * PARTS or mixed.vectors(some).tobytes() == ROWS[some].tobytes()
        some[place] = damaged
        with pytest.raises(Damaged, match="does not hold the vectors") as raised:
            mixed.vectors(some)
        assert (raised.value.rows, raised.value.wrong.tolist()) == (rows, [3])
        assert raised.value.altered


def test_a_file_that_is_cut_short_is_named_when_a_row_past_its_end_is_asked_for(mixed: Segments) -> None:
    """By one row as by many."""
    rows = mixed.parts[4].vectors
    assert isinstance(rows, StoredRows)
    rows.path.write_bytes(rows.path.read_bytes()[: 4 * DIMENSION])
    assert mixed.vectors(np.array([4 * SIZE])).tobytes() == ROWS[4 * SIZE].tobytes()
    for some in ([4 * SIZE + 1], list(range(len(ROWS)))):
        with pytest.raises(Damaged, match="it ends before byte") as raised:
            mixed.vectors(np.array(some))
        assert raised.value.rows is rows


def test_rows_that_are_asked_for_one_by_one_come_into_memory_too(tmp_path: Path) -> None:
    """Once a quarter of a file's have been, if there is room; what the file holds later does not matter then."""
    segments, memory = Segments("ip", DIMENSION, SIZE), VectorMemory(ROWS.nbytes)
    segments.add(ROWS)
    rows = stored(tmp_path / "vectors", ROWS[:SIZE], memory)
    segments.parts[0].vectors = rows
    for number in range(3):
        assert not rows.in_memory
        assert segments.vectors(np.array([number, SIZE])).tobytes() == ROWS[[number, SIZE]].tobytes()
    assert rows.in_memory
    rows.path.write_bytes(b"")
    assert segments.vectors(np.array([5])).tobytes() == ROWS[5].tobytes()
