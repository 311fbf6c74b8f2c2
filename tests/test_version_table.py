"""The fold of the history that every read of the past uses: which events are current at which position."""

from __future__ import annotations

import numpy as np
import pytest

from eventstore import CorruptHistory
from eventstore.versions import VersionTable

GOOD = ((1, 0, False), (2, 1, False), (3, 0, False), (4, 2, True), (5, 4, False))


def extend(table: VersionTable, *events: tuple[int, int, bool]) -> None:
    seqs, before, deletes = zip(*events, strict=True)
    table.extend(np.array(seqs, np.int64), np.array(deletes, np.bool_), np.array(before, np.int64))


@pytest.mark.parametrize("cut", range(1, 5))
def test_an_event_is_current_until_the_next_of_its_memory(cut: int) -> None:
    """However the events are cut, and though some come again: added, updated, deleted, added again."""
    table = VersionTable()
    extend(table, *GOOD[:cut])
    extend(table, *GOOD[cut - 1 :])
    assert [table.current(position).tolist() for position in range(6)] == [[], [1], [2], [2, 3], [3], [3, 5]]
    assert [table.count(position) for position in range(6)] == [0, 1, 1, 2, 1, 2]
    assert table.position == 5


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (((7, 0, False),), "a gap after position 5"),
        (((6, 0, False), (8, 0, False)), "a gap after position 5"),
        (((6, 0, False), (8, 0, False), (8, 0, False)), "a gap after position 5"),
        (((6, 6, False),), "follows a later one"),
        (((6, 7, False), (7, 0, False)), "follows a later one"),
    ],
    ids=["a gap before", "a gap inside", "a gap made up for", "itself", "a later one"],
)
def test_what_no_append_can_have_written_is_refused(events: tuple[tuple[int, int, bool], ...], message: str) -> None:
    """And the table stays as it was."""
    table = VersionTable()
    extend(table, *GOOD)
    with pytest.raises(CorruptHistory, match=message):
        extend(table, *events)
    assert table.position == 5
    extend(table, (6, 3, True))
    assert table.current(6).tolist() == [5]


@pytest.mark.parametrize("events", [1, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("before", [0, 1, 1024])
def test_the_table_grows_to_any_length(events: int, before: int) -> None:
    """In one step or two, past what it had room for, and exactly to it."""
    table = VersionTable()
    adds = [(position, 0, False) for position in range(1, before + events + 1)]
    for some in (adds[:before], adds[before:]):
        if some:
            extend(table, *some)
    assert table.current(len(adds)).tolist() == list(range(1, len(adds) + 1))
